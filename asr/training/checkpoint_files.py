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
        return read_checkpoint(path)

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)
