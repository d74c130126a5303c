"""Saving between validations: every so many minutes, and on Ctrl-C or SIGTERM, which end the run after it."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from asr.training.skipping import REPORT_EVERY

_DUE = 1  # below the signals that are looked for


class SaveInTime(Callback):
    """Saves a checkpoint after a step, when the last one is so many minutes old or a signal ends the run.

    SIGTERM is a cluster's warning before it takes the machine. A second Ctrl-C ends the run at once.
    With several ranks, after the next step whose number is a multiple of ten. A validation that is under
    way, or due after that step, is finished first, and saves: a checkpoint from before it would have the run
    go on without it.

    Args:
        path: where to.
        minutes: greatest age of the last checkpoint; 0 for any.
        validate_every: steps from one validation to the next.

    Attributes:
        stopped: the signal that the run ended for; 0 for none.
    """

    def __init__(self, path: Path, minutes: float, validate_every: int) -> None:
        self.path, self.seconds, self.validate_every = path, 60 * minutes, validate_every
        self.asked = self.stopped = 0
        self.step = 0
        self.saved = time.monotonic()
        self.tells = False

    def on_train_start(self, trainer, task) -> None:
        self.step = trainer.global_step
        self.saved = time.monotonic()
        self.tells = trainer.is_global_zero
        # In the place of Lightning's handler, which ends a run without saving. It restores the first one.
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def on_save_checkpoint(self, trainer, task, checkpoint) -> None:
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if trainer.global_step == self.step:  # within an accumulation: a step is saved whole or not at all
            return
        self.step = trainer.global_step
        # Asking the other ranks waits for the device; they are asked where a report waits for it anyway.
        if trainer.world_size > 1 and self.step % REPORT_EVERY:
            return
        wanted = self._agreed(trainer, task.device)
        validates = self.step % self.validate_every == 0
        if wanted and not validates:
            trainer.save_checkpoint(self.path)
        if wanted not in (0, _DUE):
            self.stopped = wanted
            trainer.should_stop = True
            if not validates:  # it would before it stops, and time is short
                trainer.limit_val_batches = 0

    def _note(self, number: int, _frame) -> None:
        self.asked = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.tells:  # not by print, which the signal may have interrupted
                os.write(
                    sys.__stderr__.fileno(), b"\nCtrl-C: will save and leave; once more: leaves at once\n"
                )

    def _agreed(self, trainer, device: torch.device) -> int:
        """The signal that any rank got, or else whether a checkpoint is due: all save after the same step."""
        due = _DUE if self.seconds and time.monotonic() - self.saved >= self.seconds else 0
        wanted = self.asked or due
        if trainer.world_size == 1:
            return wanted
        return int(trainer.strategy.reduce(torch.tensor(float(wanted), device=device), reduce_op="max"))
