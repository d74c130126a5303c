"""SIGTERM, a cluster's warning before it takes the machine: finish the step, save, leave."""

import signal
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

STATUS = 128 + signal.SIGTERM  # what a shell reports for it: a script must not go on to its next stage
_AGREE_EVERY = 10  # steps between the ranks' asking each other


class SaveOnTermination(Callback):
    """Saves a checkpoint after the step in which SIGTERM came, and ends the run.

    Args:
        path: where to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = self.stopped = False

    def on_train_start(self, trainer, task) -> None:
        # In the place of Lightning's handler, which ends a run without saving. It restores the first one.
        signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if self._agreed(trainer, task.device):
            trainer.save_checkpoint(self.path)
            self.stopped = True
            trainer.should_stop = True

    def _note(self, _signal, _frame) -> None:
        self.asked = True

    def _agreed(self, trainer, device: torch.device) -> bool:
        """Whether any rank was asked; all must stop after the same step."""
        if trainer.world_size == 1:
            return self.asked
        if trainer.global_step % _AGREE_EVERY:
            return False
        asked = torch.tensor(float(self.asked), device=device)
        return bool(trainer.strategy.reduce(asked, reduce_op="sum") > 0)
