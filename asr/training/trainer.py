"""Lightning's Trainer, set up for this project, and what of it is switched off."""

import logging
import warnings

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from asr.errors import UserError
from asr.model.device import has_bf16
from asr.training.averaging import Averaging
from asr.training.checkpoint_files import CheckpointFiles
from asr.training.config import Config, TrainingConfig
from asr.training.curves import Curves
from asr.training.kept import LastCheckpoints
from asr.training.progress import TrainingProgress


def make_trainer(config: Config, callbacks: list[Callback]) -> L.Trainer:
    """The Trainer of a run; ``callbacks`` come after those that every run has."""
    training = config.training
    folder = config.out / "checkpoints"
    best = ModelCheckpoint(folder, "best", monitor="dev_wer", enable_version_counter=False)
    kept = LastCheckpoints(folder, training.keep)
    # After best, so that it holds best's score. (save_last would only copy a new best.)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    curves = Curves(config.out / "curves.png")
    averaging = [Averaging(training.average)] if training.average else []
    several = training.devices * training.nodes > 1
    # What of buffers must be the same on all ranks is: there is none to send round before each step.
    strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if several else "auto"
    trainer = L.Trainer(
        **where(training),
        strategy=strategy,
        max_steps=training.steps,
        max_epochs=-1,
        val_check_interval=training.validate_every * training.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10,
        logger=TensorBoardLogger(config.out, name="", version="logs"),
        callbacks=[
            *averaging,
            best,
            kept,
            last,
            LearningRateMonitor(),
            TrainingProgress(),
            curves,
            *callbacks,
        ],
        plugins=[CheckpointFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if several:
        _leave_sigterm_to_us(trainer)
    return trainer


def _leave_sigterm_to_us(trainer: L.Trainer) -> None:
    """Keep Lightning from asking all ranks after every batch whether its own handler has seen SIGTERM.

    SaveInTime replaces that handler, and the answer is waited for on the device. Lightning has no
    public way; this name is private, and was tried with 2.6.6. A version without it fails here, and loudly.
    """
    loop = trainer.fit_loop.epoch_loop
    if not callable(getattr(loop, "_broadcast_sigterm_tensor", None)):
        raise RuntimeError(
            "this version of Lightning looks for SIGTERM in another way: see asr/training/trainer.py"
        )
    loop._broadcast_sigterm_tensor = lambda: None


def where(training: TrainingConfig) -> dict:
    """The Trainer's options that say on what and how a step runs."""
    on_gpu = training.accelerator != "cpu" and torch.cuda.is_available()
    if training.accelerator == "gpu" and not on_gpu:
        raise UserError("--training.accelerator gpu: no GPU that PyTorch can use was found")
    if on_gpu and training.devices > (count := torch.cuda.device_count()):
        raise UserError(f"--training.devices {training.devices}: this machine has {count}")
    device = torch.device("cuda" if on_gpu else "cpu")
    bf16 = training.precision == "bf16" or (training.precision == "auto" and has_bf16(device))
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": training.devices,
        "num_nodes": training.nodes,
        "precision": "bf16-mixed" if bf16 else "32-true",
        "accumulate_grad_batches": training.accumulate,
    }


def quieten_lightning() -> None:
    """Leave its advice for other kinds of project out: devices, tips, workers, endless epochs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*but have no `val_dataloader`.*")  # of a dry run
    warnings.filterwarnings(
        "ignore", ".*in eval mode at the start of training.*"
    )  # as --training.freeze asks
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # what is logged is summed already
