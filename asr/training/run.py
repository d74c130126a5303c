"""A training run, from its configuration to its last checkpoint."""

import signal
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from asr.attention.fused import set_mode
from asr.checkpoints.checkpoint import LAST
from asr.data.batches import FixedBatches, SpeechDataset, TrainingSampler, make_loader, write_excluded
from asr.data.nonspeech import NonSpeech
from asr.data.tokenizer import Tokenizer
from asr.files import locked
from asr.training.beginning import digest_of, origin_of, start_from
from asr.training.calibration import calibrate_on
from asr.training.config import Config, check_beginning
from asr.training.data import TrainingData
from asr.training.distillation import load_teacher
from asr.training.dry_run import dry_run
from asr.training.failing import EndTogether, explained
from asr.training.record import RunRecord, remove_leftovers
from asr.training.resuming import (
    Before,
    check_data,
    check_init,
    check_teacher,
    check_unchanged,
    find_before,
)
from asr.training.streaming import check_chunks, set_prior
from asr.training.task import TrainingTask
from asr.training.termination import SaveInTime
from asr.training.trainer import make_trainer, quieten_lightning, where
from asr.training.unit_streams import unit_streams_on
from asr.training.warm_up import WarmUp, core_dtype


def train(config: Config) -> None:
    """Run training as configured; leaves config.yaml, checkpoints and logs in ``config.out``.

    A dry run leaves nothing and prints what the real one would take.

    Raises:
        UserError: anything wrong with the data, the options, or the checkpoint to go on from; another
            training at work in ``config.out``.
        SystemExit: with status 130 after Ctrl-C, 143 after SIGTERM.
    """
    L.seed_everything(config.training.seed, workers=True, verbose=False)
    set_mode(config.training.kernels)
    quieten_lightning()
    tokenizer = Tokenizer.load(config.data.tokenizer)
    before = find_before(config, tokenizer)
    check_beginning(config.training, config.model, bool(before or config.init))
    data = TrainingData(config, tokenizer)
    task = TrainingTask(config, tokenizer)
    check_chunks(task.model.encoder, config.training)
    task.digests = dict(data.digests)
    task.teacher = load_teacher(config.training, config.model, tokenizer)
    if config.model.frontend.normalise == "running" and not before:
        found = set_prior(task.model, data.train, tokenizer)  # which --init replaces, where it has one
        if rank_zero_only.rank == 0:
            print(found)
    if before:
        check_data(before, config, data)
        check_teacher(before, config, task.teacher)
        check_init(before, config)
        task.digests["init_digest"] = before.content.get("init_digest", "")
        task.init = before.content.get("init", "")
        task.run = before.content.get("run", task.run)
        task.origin = before.content["origin"]
    elif config.init:
        task.digests["init_digest"] = digest_of(config.init)
        for line in start_from(task.model, config.model, config.init, tokenizer):
            if rank_zero_only.rank == 0:
                print(line)
    if not before:
        task.origin = origin_of(
            config.init, config.training.teacher, config.model.attention, config.training.distil_modules > 0
        )
    if config.training.scales_teacher:
        unit_streams_on(task.teacher.model, data.train, tokenizer)
    if config.training.teacher_memory and not config.dry_run:
        task.teacher.remember(Path(config.training.teacher_memory))
    if config.training.distil_start == "nearest" and not before:
        found = calibrate_on(task.model, task.teacher, data.train, tokenizer)
        if rank_zero_only.rank == 0:
            print(found)
    if config.training.compile:
        task.model.encoder.compile_blocks()

    training = config.training
    nonspeech = NonSpeech(data.durations, training.nonspeech, training.seed)
    task.sampler = TrainingSampler(data.durations, training.seconds, training.seed, nonspeech)
    loader = make_loader(SpeechDataset(data.train, tokenizer, nonspeech), task.sampler, config.data.workers)
    try:
        if config.dry_run:
            dry_run(config, task, loader, data.durations, where(config.training))
        else:
            _fit(config, task, loader, data, before)
    except torch.OutOfMemoryError as error:
        raise explained(error, config.training) from None


def _fit(config: Config, task: TrainingTask, loader, data: TrainingData, before: Before | None) -> None:
    training = config.training
    path = config.out / "checkpoints" / LAST
    saving = SaveInTime(path, training.checkpoint_minutes, training.validate_every)
    warm_up = WarmUp(config, data.durations, [utterance.duration for utterance in data.dev])
    callbacks = [saving, RunRecord(config), EndTogether(config.training), warm_up]
    trainer = make_trainer(config, callbacks)
    if before:
        task.batch_number = before.steps * config.training.accumulate
        task.sampler.start_at(task.batch_number * trainer.world_size, before.content.get("place"))
    share = data.dev_batches(config.training.seconds, trainer.global_rank, trainer.world_size)
    dev = make_loader(SpeechDataset(data.dev, task.tokenizer), FixedBatches(share), config.data.workers)
    if rank_zero_only.rank == 0:
        with locked(config.out / "checkpoints", wait=False):
            check_unchanged(before, config)
            _announce(config, task, trainer, data, before)
            _run(trainer, task, loader, dev, before)
    else:
        _run(trainer, task, loader, dev, before)
    if saving.stopped:
        if trainer.is_global_zero:
            name = "Ctrl-C" if saving.stopped == signal.SIGINT else "SIGTERM"
            print(f"{name}: saved after step {trainer.global_step}; --resume auto goes on from there")
        raise SystemExit(
            128 + saving.stopped
        )  # as a shell reports it: a script must not go on to its next stage


def _run(trainer: L.Trainer, task: TrainingTask, loader, dev, before: Before | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, loader, dev, ckpt_path=before.path if before else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


def _announce(
    config: Config, task: TrainingTask, trainer: L.Trainer, data: TrainingData, before: Before | None
) -> None:
    """Clear the run's folder of what a killed one left, and say what the run is."""
    remove_leftovers(config.out / "checkpoints")
    listed = config.out / "excluded.jsonl"
    causes = write_excluded(listed, data.excluded)
    if data.excluded:
        print(f"left out of training: {causes} (listed in {listed})")
    parameters = sum(p.numel() for p in task.model.parameters()) / 1e6
    head = "" if config.model.head == "ctc" else f" with a {config.model.head} head"
    print(
        f"training {config.model.attention}{head}, {parameters:.2f} M parameters, on "
        f"{sum(data.durations) / 3600:.2f} h ({len(data.train)} utterances) for {config.training.steps} steps"
    )
    if config.training.uses_transcripts and data.untranscribed:
        hours = sum(utterance.duration for utterance in data.untranscribed) / 3600
        count = len(data.untranscribed)
        print(f"without a transcript, taught by the teacher alone: {count} of them, {hours:.2f} h")
    core = task.model.encoder.attention_core(trainer.strategy.root_device, core_dtype(trainer.precision))
    print(f"attention core: {core}")
    if task.teacher:
        teacher = task.teacher.model
        size = sum(p.numel() for p in teacher.parameters()) / 1e6
        mechanisms = ",".join(teacher.encoder.mechanisms)
        print(f"teacher: {config.training.teacher}, {mechanisms}, {size:.2f} M parameters")
    if before and (changes := before.changes(config.training)):
        print(f"going on after step {before.steps} with {', '.join(changes)}")
    if data.lost:
        print(f"not in dev loss: {data.lost} of {len(data.dev)} utterances, with more tokens than frames")
