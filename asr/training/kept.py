"""The last so many checkpoints of a run (--training.keep)."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only


class LastCheckpoints(ModelCheckpoint):
    """Keeps the last ``keep`` checkpoints, which may be another number than before when a run goes on."""

    def __init__(self, folder: Path, keep: int) -> None:
        # A checkpoint's own steps are the score.
        super().__init__(
            folder,
            "step-{step:08d}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the run; Lightning would never delete again where there are more than it may keep."""
        super().load_state_dict(state_dict)
        if not self.save_top_k or len(self.best_k_models) < self.save_top_k:
            return
        newest = sorted(self.best_k_models, key=self.best_k_models.get)[-self.save_top_k :]
        if rank_zero_only.rank == 0:
            for path in self.best_k_models.keys() - newest:
                Path(path).unlink(missing_ok=True)
        self.best_k_models = {path: self.best_k_models[path] for path in newest}
        self.kth_best_model_path = newest[0]
        self.kth_value = self.best_k_models[newest[0]]
