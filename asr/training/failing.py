"""When a run fails: advice for too little memory, and an end for all ranks, not for one."""

import os
import sys
import threading
import time
import traceback
from datetime import timedelta

import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed import TCPStore

from asr.errors import UserError, run_program
from asr.training.config import TrainingConfig

LOOK_EVERY = 0.5  # seconds
GRACE = 5.0  # seconds


def explained(error: Exception, training: TrainingConfig) -> Exception:
    """The error, or in the place of a GPU's out-of-memory error one that says what to do."""
    if not isinstance(error, torch.OutOfMemoryError):
        return error
    return UserError(
        f"--training.seconds {training.seconds:g}: too little GPU memory for a step; lower it (and raise "
        "--training.accumulate as much, for the same step), or --data.max_seconds where single utterances "
        "are too long, or take --training.precision bf16 or a smaller --encoder.size. A run that has begun "
        "keeps its seconds: start a new one from its weights with --init"
    )


class EndTogether(Callback):
    """Ends all ranks when one raises; the first to raise tells its error, the others tell none.

    Without it they wait in the next collective operation: under NCCL until its watchdog wakes, under gloo
    until the connection breaks, of which each then complains. A main thread that waits there cannot act, so
    another of each rank looks into the store in which the ranks met. A run of one process has none of this.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self.training = training
        self.store: TCPStore | None = None
        self.over = threading.Event()
        # Under torchrun the store outlives an attempt.
        self.failed = f"failed {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"

    def setup(self, trainer, task, stage: str) -> None:
        if trainer.world_size > 1:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            self.store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=30))
            self.rank = trainer.global_rank
            # Lightning kills the process that launched others when it sees that one of them failed: with the
            # status of SIGKILL, and maybe before the error is told. That process's own end is enough.
            self.launched = trainer.local_rank > 0 and not torch.distributed.is_torchelastic_launched()
            threading.Thread(target=self._watch, daemon=True).start()

    def teardown(self, trainer, task, stage: str) -> None:
        self.over.set()

    def on_exception(self, trainer, task, exception: BaseException) -> None:
        if self.store is None or not isinstance(exception, Exception):  # Ctrl-C reaches all by itself
            return
        self.over.set()
        try:
            first = self.store.add(self.failed, 1) == 1
        except RuntimeError:  # the rank that holds the store has gone
            first = False
        if not first:
            self._leave()
        for logger in trainer.loggers:
            logger.finalize("failed")
        status = _tell(explained(exception, self.training))
        self.store.set(f"{self.failed}: told", "")
        if self.rank == 0:
            time.sleep(3 * LOOK_EVERY)  # it holds the store, which the others still want to look into
        # Not by way of Lightning's teardown, which waits for a device that may wait for the other ranks.
        self._exit(status)

    def _watch(self) -> None:
        while not self.over.wait(LOOK_EVERY):
            try:
                failed = self.store.check([self.failed])
            except RuntimeError:  # the rank that holds the store has gone: if all is well, the end is near
                failed = not self.over.wait(GRACE)
            if failed and not self.over.is_set():
                self._leave()

    def _leave(self) -> None:
        """End this process without a word; the first rank, whose end is the program's, once all is told."""
        if self.rank == 0:
            try:
                self.store.wait([f"{self.failed}: told"], timedelta(seconds=GRACE))
            except RuntimeError:
                print("error: a process of this run failed and could not say why", file=sys.stderr)
        self._exit(1)

    def _exit(self, status: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if self.launched else status)


def _tell(error: Exception) -> int:
    """Print an error as a program does that ends with it; returns the exit status."""

    def fail() -> None:
        raise error

    try:
        run_program(fail)
    except SystemExit as end:
        return end.code
    except Exception:
        traceback.print_exception(error)
    return 1
