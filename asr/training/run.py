"""A training run, from its configuration to its last checkpoint."""

import hashlib
import logging
import warnings
from contextlib import ExitStack

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from asr.attention.fused import set_mode
from asr.checkpoints.checkpoint import (
    LAST,
    PREVIOUS,
    check_same,
    check_tokenizer,
    load_weights,
    read_checkpoint,
    read_last,
    read_trained,
    unpack_recipe,
)
from asr.data.batches import (
    Excluded,
    FixedBatches,
    SpeechDataset,
    TrainingSampler,
    frames_lacking,
    make_batches,
    make_loader,
    read_splits,
    split_trainable,
    write_excluded,
)
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import atomic_write, locked
from asr.training.averaging import Averaging
from asr.training.checkpoint_files import CheckpointFiles
from asr.training.config import Config, TrainingConfig, dump_config
from asr.training.dry_run import dry_run
from asr.training.progress import TrainingProgress
from asr.training.task import TrainingTask
from asr.training.termination import STATUS, SaveOnTermination
from asr.training.warm_up import WarmUp, core_dtype


def train(config: Config) -> None:
    """Run training as configured; leaves config.yaml, checkpoints and logs in ``config.out``.

    A dry run leaves nothing and prints what the real one would take.

    Raises:
        UserError: anything wrong with the data, the options, or the checkpoint to go on from; another
            training at work in ``config.out``.
    """
    L.seed_everything(config.training.seed, workers=True, verbose=False)
    set_mode(config.training.kernels)
    _quieten_lightning()
    tokenizer = Tokenizer.load(config.data.tokenizer)
    task = TrainingTask(config, tokenizer)
    if config.training.compile:
        task.model.encoder.compile_blocks()
    checkpoint, content = (None, {}) if config.dry_run else _find_checkpoint(config, tokenizer)
    if config.init and not checkpoint:
        other = read_trained(config.init)
        check_tokenizer(config.init, unpack_recipe(other, config.init), tokenizer)
        load_weights(task.model, other, config.init)

    utterances, excluded = split_trainable(
        read_splits(config.data.folder, config.data.train),
        tokenizer,
        config.data.max_seconds,
        fastest=max(config.model.frontend.speeds),
    )
    if not utterances:
        raise UserError(f"--data.folder {config.data.folder}: no utterance can be trained on")
    dev = read_splits(config.data.folder, [config.data.dev])
    if not any(utterance.text.strip() for utterance in dev):
        raise UserError(f"--data.dev {config.data.dev}: no utterance has a word to validate on")
    durations = [utterance.duration for utterance in utterances]
    task.data_digest = _digest(utterances)
    if content.get("data_digest", task.data_digest) != task.data_digest:
        raise UserError(
            f"--data.train {' '.join(config.data.train)}: not the utterances that {checkpoint} was trained "
            "on (other splits or texts, another --data.max_seconds, or data prepared again); start a new run "
            "from its weights with --init"
        )
    sampler = TrainingSampler(durations, config.training.seconds, config.training.seed)
    loader = make_loader(SpeechDataset(utterances, tokenizer), sampler, config.data.workers)
    if config.dry_run:
        dry_run(config, task, loader, durations, _where(config.training))
        return
    trainer = _make_trainer(config, WarmUp(config, durations, [utterance.duration for utterance in dev]))
    steps_done = content.get("global_step", 0)
    sampler.start = steps_done * config.training.accumulate * trainer.world_size
    dev_batches = _share_of_dev(config, dev, trainer)
    task.batch_number = steps_done * config.training.accumulate
    with ExitStack() as stack:
        if rank_zero_only.rank == 0:
            stack.enter_context(locked(config.out / "checkpoints", wait=False))
            _announce(config, task, trainer, durations, excluded)
            if lost := sum(frames_lacking(tokenizer.encode(u.text), u.duration) > 0 for u in dev):
                print(f"not in dev loss: {lost} of {len(dev)} utterances, with more tokens than frames")
        try:
            trainer.fit(
                task,
                loader,
                make_loader(SpeechDataset(dev, tokenizer), FixedBatches(dev_batches), config.data.workers),
                ckpt_path=checkpoint,
            )
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    if any(isinstance(item, SaveOnTermination) and item.stopped for item in trainer.callbacks):
        if trainer.is_global_zero:
            print(f"SIGTERM: saved after step {trainer.global_step}; the same command goes on from there")
        raise SystemExit(STATUS)


def _digest(utterances: list[Utterance]) -> str:
    """Changes with what decides the batches: the utterances, their order, durations and texts."""
    listed = "".join(f"{item.id} {item.duration} {item.text}\n" for item in utterances)
    return hashlib.sha256(listed.encode()).hexdigest()


def _share_of_dev(config: Config, dev: list[Utterance], trainer: L.Trainer) -> list[list[int]]:
    """The batches of dev that this rank validates on; at least one, or it would not join in the sums."""
    durations = [utterance.duration for utterance in dev]
    seconds = config.training.seconds
    while len(batches := make_batches(durations, seconds, rng=None)) < trainer.world_size:
        if len(batches) == len(dev):
            raise UserError(
                f"--data.dev {config.data.dev}: {len(dev)} utterances cannot be shared out over "
                f"{trainer.world_size} processes"
            )
        seconds /= 2
    return batches[trainer.global_rank :: trainer.world_size]


def _announce(
    config: Config,
    task: TrainingTask,
    trainer: L.Trainer,
    durations: list[float],
    excluded: list[Excluded],
) -> None:
    """Write what the run is to its folder, and say it."""
    for leftover in (config.out / "checkpoints").glob(".*.tmp"):  # of a run that was killed
        leftover.unlink()
    atomic_write(config.out / "config.yaml", dump_config(config))
    listed = config.out / "excluded.jsonl"
    causes = write_excluded(listed, excluded)
    if excluded:
        print(f"left out of training: {causes} (listed in {listed})")
    parameters = sum(p.numel() for p in task.model.parameters()) / 1e6
    print(
        f"training {config.model.attention}, {parameters:.2f} M parameters, on {sum(durations) / 3600:.2f} h "
        f"({len(durations)} utterances) for {config.training.steps} steps"
    )
    core = task.model.encoder.attention_core(trainer.strategy.root_device, core_dtype(trainer.precision))
    print(f"attention core: {core}")


def _quieten_lightning() -> None:
    """Leave its advice for other kinds of project out: devices, tips, workers, endless epochs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*but have no `val_dataloader`.*")  # of a dry run
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # what is logged is summed already


def _make_trainer(config: Config, warm_up: WarmUp) -> L.Trainer:
    training = config.training
    folder = config.out / "checkpoints"
    best = ModelCheckpoint(folder, "best", monitor="dev_wer", enable_version_counter=False)
    # After best, so that it holds best's score. (save_last would only copy a new best.)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    several = training.devices * training.nodes > 1
    # Batch statistics are of all ranks already: there is no buffer to send round before each step.
    strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if several else "auto"
    callbacks = [best, last, LearningRateMonitor(), TrainingProgress(), SaveOnTermination(folder / LAST)]
    callbacks.append(warm_up)
    if training.average:
        callbacks.insert(0, Averaging(training.average))
    trainer = L.Trainer(
        **_where(training),
        strategy=strategy,
        max_steps=training.steps,
        max_epochs=-1,
        val_check_interval=training.validate_every * training.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10,
        logger=TensorBoardLogger(config.out, name="", version="logs"),
        callbacks=callbacks,
        plugins=[CheckpointFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Lightning asks all ranks after every batch whether its own handler, which SaveOnTermination replaces,
    # has seen SIGTERM, and waits for the device to answer.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    return trainer


def _where(training: TrainingConfig) -> dict:
    """The Trainer's options that say on what and how a step runs."""
    on_gpu = training.accelerator != "cpu" and torch.cuda.is_available()
    if training.accelerator == "gpu" and not on_gpu:
        raise UserError("--training.accelerator gpu: no GPU that PyTorch can use was found")
    bf16 = training.precision == "bf16" or (training.precision == "auto" and _has_bf16(on_gpu))
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": training.devices,
        "num_nodes": training.nodes,
        "precision": "bf16-mixed" if bf16 else "32-true",
        "accumulate_grad_batches": training.accumulate,
    }


def _has_bf16(on_gpu: bool) -> bool:
    """Whether bf16 is fast there: in tensor cores, or AVX-512 BF16 or AMX instructions on a CPU."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _find_checkpoint(config: Config, tokenizer: Tokenizer) -> tuple[str | None, dict]:
    """The checkpoint that --resume means, checked to fit this run, and its content; None, {} for none."""
    last = config.out / "checkpoints" / LAST
    if not config.resume:
        if last.exists() or last.with_name(PREVIOUS).exists():
            raise UserError(
                f"--out {config.out} holds a run already; go on with --resume auto, or name another"
            )
        return None, {}
    if config.resume == "auto":
        path, content = read_last(last, rank_zero_only.rank)
        if path is None:
            return None, {}
    else:
        path, content = config.resume, read_checkpoint(config.resume)
    check_same(path, unpack_recipe(content, path), config.model, tokenizer)
    # The first two would say one thing and do another (the optimiser's own state wins); the others
    # would put different batches in the place of those not seen yet.
    for name in ("peak_lr", "weight_decay", "seconds", "seed", "accumulate", "devices", "nodes"):
        here, there = getattr(config.training, name), content["training"][name]
        if here != there:
            raise UserError(f"--training.{name} {here}: {path} was trained with {there}; they must agree")
    return str(path), content
