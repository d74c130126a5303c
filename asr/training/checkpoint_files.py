"""Lightning's way to this project's checkpoints; apart from them, since decoding does not want Lightning."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from asr.checkpoints.checkpoint import read_checkpoint, write_checkpoint


class CheckpointFiles(CheckpointIO):
    """Writes in one step; reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        write_checkpoint(checkpoint, path)

    def load_checkpoint(self, path, map_location=None, weights_only: bool | None = None) -> dict:
        content = read_checkpoint(path)
        for state in content.get("callbacks", {}).values():
            if isinstance(state, dict) and "dirpath" in state:
                _move(state, Path(path).parent.resolve())
        return content

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)


def _move(state: dict[str, Any], folder: Path) -> None:
    """Let a ModelCheckpoint find its checkpoints in the folder that it was read from: it may have moved."""

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    state["dirpath"] = str(folder)
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = moved(state[name])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
