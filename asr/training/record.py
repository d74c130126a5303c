"""The record of a run in its folder: config.yaml, which says what was run."""

from pathlib import Path

import yaml
from lightning.pytorch.callbacks import Callback

from asr.files import atomic_write
from asr.training.config import Config, dump_config

NAME = "config.yaml"


class RunRecord(Callback):
    """Writes config.yaml when the first step with it is done, so that it never states what was not run.

    Where a run goes on after step N with other options, the file that it had becomes config.until-N.yaml.
    """

    def __init__(self, config: Config) -> None:
        self.path = config.out / NAME
        self.text = dump_config(config)

    def on_train_start(self, trainer, task) -> None:
        self.first = trainer.global_step
        self.due = trainer.is_global_zero

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if self.due and trainer.global_step > self.first:
            self.due = False
            self._write()

    def _write(self) -> None:
        if self.path.exists() and self.first:
            if _essence(self.path.read_text(encoding="utf-8")) == _essence(self.text):
                return
            self.path.replace(self.path.with_name(f"config.until-{self.first}.yaml"))
        atomic_write(self.path, self.text)


def _essence(text: str) -> dict:
    """A configuration without what says how the run came to be started."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return {name: value for name, value in content.items() if name not in ("out", "resume", "init")}


def remove_leftovers(checkpoints: Path) -> None:
    """Remove half-written checkpoints of a run that was killed."""
    for leftover in checkpoints.glob(".*.tmp"):
        leftover.unlink()
