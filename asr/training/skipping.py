"""Steps whose loss or gradient is not a number: skipped, counted, reported with their utterances."""

import json
from collections import deque
from pathlib import Path

import torch
from torch import Tensor

from asr.errors import UserError

REPORT_EVERY = 10  # steps; a report waits for the device, so it is not made after each


class SkippedSteps:
    """Keeps a non-finite gradient from the weights without asking the device in the loop.

    The fused optimiser skips a step by itself where its ``found_inf`` says so, on the device.

    Args:
        limit: skipped steps in a row after which the run ends.

    Attributes:
        path: file to which every skipped step is written, a line of JSON each; None for none.
        total, in_row: skipped steps of the run, and those at its end.
    """

    path: Path | None = None

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.watched: list[tuple[list[str], Tensor]] = []  # of the batches of the step in progress
        self.steps: deque[tuple[int, list[tuple[list[str], Tensor]], Tensor]] = deque()
        self.in_row = 0

    def watch(self, ids: list[str], losses: Tensor) -> None:
        """Remember a batch's utterances and which of their losses (B,) are finite."""
        self.watched.append((ids, losses.detach().isfinite()))

    def gate(self, optimizer: torch.optim.Optimizer, norm: Tensor, step: int) -> None:
        """Let the optimiser skip step number ``step`` if the gradient's norm is not finite."""
        bad = ~norm.isfinite()
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        self.steps.append((step, self.watched, bad))
        self.watched = []

    def report(self) -> list[str]:
        """Lines on the steps skipped since the last report. Waits for the device.

        Raises:
            UserError: ``limit`` steps in a row were skipped.
        """
        lines = []
        while self.steps:
            step, batches, bad = self.steps.popleft()
            if not bad.item():
                self.in_row = 0
                continue
            self.in_row += 1
            self.total += 1
            named = [
                i for ids, fine in batches for i, good in zip(ids, fine.tolist(), strict=True) if not good
            ]
            record = {"step": step, "not_finite": named, "batch": [i for ids, _ in batches for i in ids]}
            if self.path:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            what = (
                f"loss of {', '.join(named[:5])}"
                if named
                else f"gradient on {', '.join(record['batch'][:5])}"
            )
            lines.append(f"step {step} skipped: {what} is not finite ({self.total} so far, see {self.path})")
            if self.in_row >= self.limit:
                raise UserError(
                    f"{self.in_row} steps in a row had no finite gradient (last: step {step}, {what}). Go "
                    "on with --training.precision fp32, or start a new run from the last checkpoint (--init) "
                    "and lower --training.peak_lr or --training.clip, or lengthen --training.warmup; the "
                    "weights are as they were before the first of these steps"
                )
        return lines
