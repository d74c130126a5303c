"""Compiling the attention kernels before the first step, so that it is not scattered over the first epoch."""

import time
from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import Callback

from asr.attention import fused
from asr.data.batches import make_batches
from asr.model.frames import SAMPLE_RATE, Framing
from asr.training.config import Config


class WarmUp(Callback):
    """Compiles for the batches of an epoch and of dev, on each rank.

    Args:
        config: of the run.
        durations: of the utterances to train on, in seconds.
        dev_durations: of those to validate on.
    """

    def __init__(self, config: Config, durations: Sequence[float], dev_durations: Sequence[float]) -> None:
        self.config, self.durations, self.dev_durations = config, durations, dev_durations

    def on_train_start(self, trainer, task) -> None:
        dtype = core_dtype(trainer.precision)
        attentions = [
            attention
            for attention in task.model.encoder.mechanisms.values()
            if not attention.eager_because(attention.example(1, 1, dtype)[0])
        ]
        if not attentions:
            return
        started = time.monotonic()
        variants = sum(fused.warm_up(attention, self.shapes(), dtype) for attention in attentions)
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)
        if trainer.is_global_zero:
            print(f"attention kernels: {variants} variants, warm in {time.monotonic() - started:.1f} s")

    def shapes(self) -> set[tuple[int, int]]:
        """(utterances, frames) of the batches at each speed; later epochs' differ by little."""
        training, speeds = self.config.training, self.config.model.frontend.speeds
        views = 2 if training.consistency else 1
        framing = self.config.model.framing
        return _shapes(self.durations, training.seconds, framing, speeds, views) | _shapes(
            self.dev_durations, training.seconds, framing
        )


def _shapes(
    durations: Sequence[float],
    seconds: float,
    framing: Framing,
    speeds: Sequence[float] = (1.0,),
    views: int = 1,
) -> set[tuple[int, int]]:
    found = set()
    for batch in make_batches(durations, seconds, rng=None):
        samples = SAMPLE_RATE * max(durations[index] for index in batch)
        found |= {(views * len(batch), framing.encoded(round(samples / speed))) for speed in speeds}
    return found


def core_dtype(precision: str) -> torch.dtype:
    """The dtype of q, k and v under one of Lightning's precisions that ``train`` chooses from."""
    return torch.bfloat16 if precision == "bf16-mixed" else torch.float32
