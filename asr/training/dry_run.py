"""What a training run would take, from a few timed steps. Nothing is written."""

import statistics
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from asr.data.batches import make_batches
from asr.training.config import Config
from asr.training.progress import peak_gib
from asr.training.warm_up import WarmUp, core_dtype

STEPS, WARM_UP = 8, 3


class _Stopwatch(Callback):
    """Seconds of each step, device included."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.audio: list[float] = []

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        if trainer.global_step == len(self.ends):  # within an accumulation
            return
        if task.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.audio.append(task.audio_seconds)


def dry_run(config: Config, task: L.LightningModule, loader, durations: list[float], options: dict) -> None:
    """Print parameters, hours, steps, memory and projected time.

    Args:
        task: with its model.
        loader: training batches.
        durations: of the utterances to train on, in seconds.
        options: the Trainer's for the real run (accelerator, devices, precision ...).
    """
    training, hours = config.training, sum(durations) / 3600
    batches = len(make_batches(durations, training.seconds, rng=None))
    ranks = training.devices * training.nodes
    a_step = training.accumulate * ranks  # batches
    passed = training.steps * a_step
    watch = _Stopwatch()
    trainer = L.Trainer(
        **options,
        max_steps=STEPS,
        max_epochs=-1,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[watch, WarmUp(config, durations, durations)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, loader)
    if not trainer.is_global_zero:
        return
    seconds = statistics.median(
        b - a for a, b in zip(watch.ends[WARM_UP:], watch.ends[WARM_UP + 1 :], strict=False)
    )
    audio = (watch.audio[-1] - watch.audio[WARM_UP]) / (watch.ends[-1] - watch.ends[WARM_UP])
    parameters = sum(p.numel() for p in task.model.parameters()) / 1e6
    print(f"{config.model.attention}, {parameters:.2f} M parameters")
    core = task.model.encoder.attention_core(trainer.strategy.root_device, core_dtype(trainer.precision))
    print(f"attention core: {core}")
    print(f"training audio: {hours:.2f} h, {len(durations)} utterances, {batches} batches an epoch")
    print(
        f"steps: {training.steps} of {a_step} batches of up to {training.seconds:g} s, "
        f"{passed * hours / batches:,.1f} h of audio, {passed / batches:.1f} epochs"
    )
    kind = " of GPU memory" if task.device.type == "cuda" else ""
    print(f"memory: {peak_gib(task.device):.1f} GiB{kind} at its peak in {STEPS} steps")
    print(f"timed: {1e3 * seconds:.0f} ms a step, {audio:,.0f} x real time")
    whole, epoch = _duration(training.steps * seconds), _duration(batches / a_step * seconds)
    print(f"projected: {whole} of training, {epoch} an epoch; validation comes on top")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
