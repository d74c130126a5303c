"""Progress of training: a bar on a terminal, a line now and then in a log file; figures for TensorBoard."""

import math
import sys
import time
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from asr.data.batches import Batch
from asr.processes import resident_gib


class TrainingProgress(Callback):
    """Steps done, loss, and hours of audio trained on per hour; padding and memory in TensorBoard too.

    Args:
        every: seconds between lines where the output is not a terminal.
    """

    def __init__(self, every: float = 20.0) -> None:
        self.every = every
        self.on_terminal = sys.stderr.isatty()
        self.loss: float | None = None

    def on_train_start(self, trainer, task) -> None:
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            disable=not trainer.is_global_zero or not self.on_terminal,
        )
        self.started = self.last_line = time.monotonic()
        self.first_step = self.logged = trainer.global_step
        self.first_seconds = task.audio_seconds

    def on_train_batch_end(self, trainer, task, outputs: Any, batch: Batch, batch_index: int) -> None:
        step = trainer.global_step
        now = time.monotonic()
        if step % 10 == 0 or self.loss is None:  # reading the loss waits for the device
            loss = float(outputs["loss"].detach()) * task.config.training.accumulate
            # A step without a number (it is skipped) must not stay in the mean.
            known = self.loss is not None and math.isfinite(self.loss) and math.isfinite(loss)
            self.loss = 0.7 * self.loss + 0.3 * loss if known else loss
        elapsed = max(now - self.started, 1e-9)
        rate = (task.audio_seconds - self.first_seconds) / elapsed
        if step % 10 == 0 and step > self.logged:  # once, with several batches a step
            self.logged = step
            trainer.logger.log_metrics(
                {
                    "audio_hours_per_hour": rate,
                    "padding_share": batch.padding,
                    "peak_memory_gib": peak_gib(task.device),
                },
                step,
            )
        shown = f"loss {self.loss:.2f}, {rate:.0f} h of audio per h"
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update(step - self.bar.n)
        due = now - self.last_line >= self.every or step == trainer.max_steps
        if trainer.is_global_zero and not self.on_terminal and due:
            self.last_line = now
            left = elapsed / max(step - self.first_step, 1) * (trainer.max_steps - step)
            print(f"step {step}/{trainer.max_steps}: {shown}, {left / 60:.1f} min left", flush=True)

    def on_validation_end(self, trainer, task) -> None:
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or not trainer.is_global_zero or "dev_wer" not in metrics:
            return
        ctc = f"; by CTC {metrics['dev_ctc_wer']:.1f} %" if "dev_ctc_wer" in metrics else ""
        tqdm.write(
            f"step {trainer.global_step}: dev loss {metrics['dev_loss']:.2f}, "
            f"dev WER {metrics['dev_wer']:.1f} % (greedy{ctc}), "
            f"{task.audio_seconds / 3600:.1f} h of audio seen",
            file=sys.stdout,
        )

    def on_train_end(self, trainer, task) -> None:
        self.bar.close()

    def on_exception(self, trainer, task, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


def peak_gib(device: torch.device) -> float:
    """The most memory that was taken on a GPU so far, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resident_gib(peak=True)
