"""Going on with a run: from which checkpoint, and whether it would be the same run."""

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_only

from asr.checkpoints.checkpoint import (
    LAST,
    PREVIOUS,
    check_same,
    read_checkpoint,
    read_last,
    unpack_recipe,
)
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.training.beginning import digest_of
from asr.training.config import Config, TrainingConfig
from asr.training.data import TrainingData
from asr.training.distillation import Teacher

# Another value of these would make it another run from there: other batches in the place of those not seen
# yet, another objective, or another way of descending it. So would other steps under the cosine schedule.
FIXED = (
    *("seconds", "seed", "accumulate", "devices", "nodes", "nonspeech"),
    *("consistency", "intermediate", "variational_noise", "chunks", "chunk_share"),
    *(
        "ctc",
        "transducer",
        "freeze",
        "distil_posteriors",
        "distil_encoder",
        "distil_blocks",
        "distil_stages",
        "distil_attention",
        "distil_modules",
    ),
    *("taught_modules", "shuffle_minutes", "distil_masks", "splice", "distil_start"),
    *("optimiser", "peak_lr", "warmup", "schedule", "weight_decay", "clip", "average"),
)
# These decide how far, on what, how exactly and how closely watched the same run goes on.
# The teacher's path may change; what lies there may not (``check_teacher``). step_seconds is another word
# for accumulate.
FREE = (
    *("steps", "skip_limit", "validate_every", "keep", "precision", "kernels", "compile", "accelerator"),
    *("checkpoint_minutes", "step_seconds", "teacher", "teacher_memory"),
)

_ADVICE = "start a new run from its weights: --init {} and another --out"


class Before(NamedTuple):
    """The checkpoint that a run goes on from."""

    path: str
    content: dict[str, Any]

    @property
    def steps(self) -> int:
        """Done so far."""
        return self.content["global_step"]

    def changes(self, training: TrainingConfig) -> list[str]:
        """What the run goes on with that it did not have before, as --option NEW (was OLD)."""
        pairs = ((name, getattr(training, name), self.content["training"].get(name)) for name in FREE)
        return [f"--training.{name} {new} (was {old})" for name, new, old in pairs if old not in (None, new)]


def find_before(config: Config, tokenizer: Tokenizer) -> Before | None:
    """The checkpoint that --resume means; None for none.

    Raises:
        UserError: going on from it with this configuration would make another run, or there is a run in
            ``config.out`` that --resume does not name.
    """
    last = config.out / "checkpoints" / LAST
    if config.dry_run:
        return None
    holds_a_run = last.exists() or last.with_name(PREVIOUS).exists()
    elsewhere = config.resume != "auto" and Path(config.resume).resolve().parent != last.parent.resolve()
    if holds_a_run and elsewhere:
        raise UserError(f"--out {config.out} holds a run already; go on with --resume auto, or name another")
    if not config.resume:
        return None
    if config.resume == "auto":
        path, content = read_last(last, rank_zero_only.rank)
        if path is None:
            return None
    else:
        path, content = config.resume, read_checkpoint(config.resume)
    before = Before(str(path), content)
    check_same(path, unpack_recipe(content, path), config.model, tokenizer)
    _check_options(before, config)
    return before


def _check_options(before: Before, config: Config) -> None:
    training, trained = config.training, before.content["training"]
    if not isinstance(trained, dict):
        raise UserError(f"{before.path}: does not say how it was trained")
    for name in (*FIXED, *(["steps"] if training.schedule == "cosine" else [])):
        # Made before there was such an option, it was trained as the option's default leaves it.
        here, there = getattr(training, name), trained.get(name, getattr(TrainingConfig(), name))
        if there != here:
            raise _another_run(before, f"--training.{name} {here}", f"was trained with {there}")
    if training.steps < before.steps:  # else the run would end at once, as if it had done as it was told
        raise UserError(
            f"--training.steps {training.steps}: {before.path} has done {before.steps} already: raise them, "
            f"or {_ADVICE.format(before.path)}"
        )
    if config.init and config.init != before.content.get("init", config.init):
        began = before.content["init"] or "random weights"
        raise _another_run(before, f"--init {config.init}", f"began from {began}")


def check_data(before: Before, config: Config, data: TrainingData) -> None:
    """Raise UserError unless the run was trained and validated on this data so far."""
    options = {
        "data_digest": (f"--data.train {' '.join(config.data.train)}", "was trained on"),
        "dev_digest": (f"--data.dev {config.data.dev}", "was validated on"),
    }
    for name, (option, what) in options.items():
        if before.content.get(name, data.digests[name]) != data.digests[name]:
            raise UserError(
                f"{option}: not the utterances that {before.path} {what} (other splits or texts, another "
                f"--data.max_seconds or --data.join, or data prepared again); {_ADVICE.format(before.path)}"
            )


def check_teacher(before: Before, config: Config, teacher: Teacher | None) -> None:
    """Raise UserError unless this teacher, or none, has taught the run so far."""
    digest = teacher.digest if teacher else ""
    if before.content.get("teacher_digest", "") != digest:
        there = "was taught by another model" if before.content.get("teacher_digest") else "had no teacher"
        raise _another_run(before, f"--training.teacher {config.training.teacher}", there)


def check_init(before: Before, config: Config) -> None:
    """Raise UserError where other weights lie there now than the run began from."""
    began = before.content.get("init_digest")
    if config.init and began and Path(config.init).exists() and digest_of(config.init) != began:
        raise _another_run(before, f"--init {config.init}", "began from other weights than lie there now")


def check_unchanged(before: Before | None, config: Config) -> None:
    """Raise UserError where another program has gone on with the run since it was looked at.

    To be called with the run's lock.
    """
    if config.resume in ("", "auto"):
        _, content = read_last(config.out / "checkpoints" / LAST)
        if content.get("global_step") != (before.steps if before else None):
            raise UserError(f"--out {config.out}: another program has just trained there; start again")


def _another_run(before: Before, here: str, there: str) -> UserError:
    return UserError(
        f"{here}: {before.path} {there}, and this would make it another run; leave it as it was, or "
        f"{_ADVICE.format(before.path)}"
    )
