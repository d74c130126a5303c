"""Training: the LightningModule, the optimiser and its schedule, and the run as a whole."""

import hashlib
import logging
import math
import random
import warnings
from contextlib import ExitStack
from dataclasses import asdict

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from tqdm import tqdm

from asr.attention.fused import set_mode
from asr.averaging import Averaging
from asr.checkpoint import (
    LAST,
    PREVIOUS,
    check_same,
    check_tokenizer,
    load_weights,
    pack_recipe,
    read_checkpoint,
    read_last,
    read_trained,
    unpack_recipe,
)
from asr.checkpoint_files import CheckpointFiles
from asr.config import Config, TrainingConfig, dump_config
from asr.data import (
    Batch,
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
from asr.decoding.greedy import greedy
from asr.distributed import sum_over_ranks, world_size
from asr.dry_run import dry_run
from asr.errors import UserError
from asr.files import atomic_write, locked
from asr.manifest import Utterance
from asr.model import Model
from asr.progress import TrainingProgress
from asr.scoring import word_errors
from asr.skipping import REPORT_EVERY, SkippedSteps
from asr.termination import STATUS, SaveOnTermination
from asr.tokenizer import Tokenizer


class TrainingTask(L.LightningModule):
    """One training run's model, loss, optimiser and validation."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.model = Model(config.model, tokenizer.pieces)
        self.audio_seconds = 0.0
        self.dev = [0.0] * 4  # on this rank, of the validation in progress: nats, pieces, errors, words
        self.batch_number = 0  # of the next one, on this rank
        self.data_digest = ""  # of the utterances trained on
        self.skipped = SkippedSteps(config.training.skip_limit)

    def on_fit_start(self) -> None:
        name = "skipped.jsonl" if self.global_rank == 0 else f"skipped.{self.global_rank}.jsonl"
        self.skipped.path = None if self.config.dry_run else self.config.out / name

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        # Dropout and augmentation are a function of seed and batch too: a resumed run draws the same.
        key = f"{self.config.training.seed} {self.batch_number} {self.global_rank}"
        torch.manual_seed(random.Random(key).getrandbits(63))
        self.batch_number += 1

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss, losses = training_loss(self.model, batch, self.config.training)
        self.skipped.watch(batch.ids, losses)
        self.log("train_loss", loss)
        return loss

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.trainer.training:
            self.audio_seconds += batch.seconds * self.trainer.world_size
        return batch

    def validation_step(self, batch: Batch, index: int) -> None:
        log_probs, lengths = self.model(batch.waveforms, batch.lengths)
        losses = self.model.head.loss(log_probs, lengths, batch.targets, batch.target_lengths)
        # An utterance with more pieces than frames has no CTC path; dev is not filtered.
        able = losses.isfinite()
        counts = [losses[able].sum().item(), batch.target_lengths[able].sum().item(), 0, 0]
        for classes, reference in zip(greedy(log_probs, lengths), batch.texts, strict=True):
            count = word_errors(reference, self.tokenizer.decode(classes))
            counts[2:] = counts[2] + count.total, counts[3] + count.words
        self.dev = [a + b for a, b in zip(self.dev, counts, strict=True)]

    def on_validation_epoch_end(self) -> None:
        totals = sum_over_ranks(torch.tensor(self.dev, dtype=torch.float64, device=self.device))
        nats, pieces, errors, words = totals.tolist()
        self.dev = [0.0] * 4
        self.log("dev_loss", nats / max(pieces, 1))  # the same on every rank, as is the next
        self.log("dev_wer", 100 * errors / max(words, 1))
        self.log("audio_hours", self.audio_seconds / 3600)

    def configure_optimizers(self):
        config = self.config.training
        named = list(self.model.named_parameters())
        matrices = {name for name, p in named if p.ndim > 1 and name.endswith("weight")}
        decayed = [p for name, p in named if name in matrices]
        rest = [p for name, p in named if name not in matrices]  # biases, norms, scales
        optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": rest, "weight_decay": 0.0}],
            lr=config.peak_lr,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, config))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, **_) -> None:
        # Lightning's own refuses a fused optimiser under bf16, for a reason that concerns fp16 only.
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.training.clip)
        self.skipped.gate(self.optimizers(use_pl_optimizer=False), norm, self.global_step + 1)

    def on_train_batch_end(self, outputs, batch: Batch, index: int) -> None:
        if self.global_step % REPORT_EVERY == 0:
            self.report_skipped()

    def on_train_end(self) -> None:
        self.report_skipped()

    def report_skipped(self) -> None:
        """Say which steps were skipped; raises UserError where they are too many."""
        for line in self.skipped.report():
            tqdm.write(line)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["recipe"] = pack_recipe(self.config.model, self.tokenizer)
        checkpoint["training"] = asdict(self.config.training)
        checkpoint["data_digest"] = self.data_digest
        checkpoint["audio_seconds"] = self.audio_seconds
        self.report_skipped()
        checkpoint["skipped"] = [self.skipped.total, self.skipped.in_row]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.audio_seconds = checkpoint["audio_seconds"]
        self.skipped.total, self.skipped.in_row = checkpoint.get("skipped", (0, 0))


def training_loss(model: Model, batch: Batch, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """The loss to descend, in nats a piece, and each utterance's share (B,) of it before that division.

    Divided by the pieces of all ranks over their number: the mean of the ranks' gradients is then the
    gradient of the whole batch, however its pieces are spread.
    """
    views = 2 if config.consistency else 1
    middle: list[Tensor] | None = [] if config.intermediate else None
    log_probs, lengths = model(batch.waveforms, batch.lengths, views, middle)
    targets, target_lengths = batch.targets.repeat(views, 1), batch.target_lengths.repeat(views)
    losses = model.head.loss(log_probs, lengths, targets, target_lengths)
    if middle:  # intermediate CTC (Lee and Watanabe, arXiv 2102.03216)
        inner = model.head.loss(model.head(middle[0]), lengths, targets, target_lengths)
        losses = (1 - config.intermediate) * losses + config.intermediate * inner
    losses = losses.view(views, -1).mean(0)
    if config.consistency:
        losses = losses + config.consistency * model.head.consistency(log_probs, lengths)
    pieces = sum_over_ranks(batch.target_lengths.sum())
    return losses.sum() * world_size() / pieces, losses


def lr_factor(step: int, config: TrainingConfig) -> float:
    """Learning rate at a step as a share of the peak: linear warm-up, then noam's or cosine's fall."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "noam":
        return math.sqrt(max(config.warmup, 1) / max(step, 1))
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


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
    trainer = _make_trainer(config)
    steps_done = content.get("global_step", 0)
    sampler.start = steps_done * config.training.accumulate * trainer.world_size
    dev_batches = _share_of_dev(config, dev, trainer)
    task.batch_number = steps_done * config.training.accumulate
    with ExitStack() as stack:
        if rank_zero_only.rank == 0:
            stack.enter_context(locked(config.out / "checkpoints", wait=False))
            _announce(config, task, trainer.strategy.root_device, durations, excluded)
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
    device: torch.device,
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
    print(f"attention core: {task.model.encoder.attention_core(device)}")


def _quieten_lightning() -> None:
    """Leave its advice for other kinds of project out: devices, tips, workers, endless epochs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*but have no `val_dataloader`.*")  # of a dry run
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # what is logged is summed already


def _make_trainer(config: Config) -> L.Trainer:
    training = config.training
    folder = config.out / "checkpoints"
    best = ModelCheckpoint(folder, "best", monitor="dev_wer", enable_version_counter=False)
    # After best, so that it holds best's score. (save_last would only copy a new best.)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    several = training.devices * training.nodes > 1
    # Batch statistics are of all ranks already: there is no buffer to send round before each step.
    strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if several else "auto"
    callbacks = [best, last, LearningRateMonitor(), TrainingProgress(), SaveOnTermination(folder / LAST)]
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
