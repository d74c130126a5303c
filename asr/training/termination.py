"""SIGTERM, a cluster's warning before it takes the machine: finish the step, save, leave."""

import signal
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from asr.training.skipping import REPORT_EVERY

STATUS = 128 + signal.SIGTERM  # what a shell reports for it: a script must not go on to its next stage


class SaveOnTermination(Callback):
    """Saves a checkpoint after the step in which SIGTERM came, and ends the run.

    With several ranks, after the next step whose number is a multiple of ten. A validation that is under
    way is finished first.

    Args:
        path: where to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = self.stopped = False
        self.step = 0

    def on_train_start(self, trainer, task) -> None:
        self.step = trainer.global_step
        # In the place of Lightning's handler, which ends a run without saving. It restores the first one.
        signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if trainer.global_step == self.step:  # within an accumulation: a step is saved whole or not at all
            return
        self.step = trainer.global_step
        # Asking the other ranks waits for the device; they are asked where a report waits for it anyway.
        due = trainer.world_size == 1 or self.step % REPORT_EVERY == 0
        if due and self._agreed(trainer, task.device):
            trainer.save_checkpoint(self.path)
            self.stopped = True
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # it would validate before it stops, and time is short

    def _note(self, _signal, _frame) -> None:
        self.asked = True

    def _agreed(self, trainer, device: torch.device) -> bool:
        """Whether any rank was asked; all must stop after the same step."""
        if trainer.world_size == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=device)
        return bool(trainer.strategy.reduce(asked, reduce_op="sum") > 0)
