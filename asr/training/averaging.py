"""Exponential moving average of the weights, which validation and decoding use in place of the last ones."""

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaging(Callback):
    """Keeps average = decay average + (1 - decay) weights after every optimiser step (Polyak averaging).

    The decay rises with the steps, (1 + t) / (10 + t) up to ``decay``, so that the random weights of the
    beginning are soon forgotten. A step costs one fused pass over the weights and no synchronisation
    (Lightning's own averaging asks the device for a counter every step). Checkpoints hold it as ``average``.

    Args:
        decay: near 1; 0.999 averages over about the last 1000 steps.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.loaded: dict[str, Tensor] | None = None
        self.step = 0

    def on_fit_start(self, trainer, task) -> None:
        self.average = [value.detach().clone() for value in task.model.state_dict().values()]
        if self.loaded is not None:
            for mine, name in zip(self.average, task.model.state_dict(), strict=True):
                mine.copy_(self.loaded[name])
            self.loaded = None

    def on_train_start(self, trainer, task) -> None:
        self.step = trainer.global_step  # which a resumed run knows only now
        self.weights = list(task.model.state_dict().values())  # gathered once, not every step

    @torch.no_grad()
    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if trainer.global_step > self.step:  # not within an accumulation
            self.step = trainer.global_step
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            get_ema_multi_avg_fn(decay)(self.average, self.weights, None)

    def on_validation_epoch_start(self, trainer, task) -> None:
        self._swap()

    def on_validation_epoch_end(self, trainer, task) -> None:
        self._swap()

    def on_save_checkpoint(self, trainer, task, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = dict(zip(task.model.state_dict(), self.average, strict=True))

    def on_load_checkpoint(self, trainer, task, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint.get("average")

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self.average, self.weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
