"""Points of training curves, from the checkpoints that keep them."""

from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path

from asr.checkpoints.checkpoint import read_checkpoint
from asr.errors import UserError
from asr.training.curves import Points


def read_points(run: Path) -> Points:
    """Of a run's folder (its last checkpoint's), or of a checkpoint.

    Raises:
        UserError: there is no such checkpoint, or no curve in it.
    """
    checkpoint = run / "checkpoints" / "last.ckpt" if run.is_dir() else run
    state = read_checkpoint(checkpoint).get("callbacks", {}).get("Curves")
    if not state or not state.get("dev"):
        raise UserError(f"{checkpoint}: no points of curves; they are kept from a run's first validation on")
    return Points(state["training"], state["dev"])


def run_names(runs: Sequence[Path]) -> list[str]:
    """What tells the runs apart: their paths without the folders that all have in common."""
    if len(runs) == 1:
        return [str(runs[0])]
    if len(set(runs)) < len(runs):
        raise UserError("one run is named twice")
    common = commonpath([run.absolute() for run in runs])
    return [str(run.absolute().relative_to(common)) for run in runs]
