"""What a run begins from: another model's configuration and weights (--init)."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.checkpoints.checkpoint import (
    LAST,
    digest_of_weights,
    read_checkpoint,
    read_last,
    read_origin,
    read_trained,
    unpack_recipe,
    weights_of,
)
from asr.checkpoints.origin import Source, begun_from, joined, taught_by
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.classes import BLANK
from asr.model.config import ModelConfig, model_to_dict
from asr.model.conformer import resolve_size
from asr.model.recogniser import Model

BY_CLASS = ("head.project.", "transducer.prediction.embed.", "transducer.joint.project.")  # a row a class
LEAST_SHARE = 0.5  # of a model's numbers, that must come from the other one
# What may differ without the weights meaning something else.
_FREE = {"size", "dropout", "batch_norm", "speeds"}
_FREE |= {"frequency_masks", "frequency_width", "time_masks", "time_width"}


def model_to_begin_from(init: str, resume: str, out: Path) -> ModelConfig | None:
    """The configuration that a run with --init takes over; of its own last checkpoint where it goes on.

    Raises:
        UserError: what is named cannot be read.
    """
    if not init:
        return None
    path, content = None, {}
    if resume == "auto":
        from lightning.pytorch.utilities import rank_zero_only  # here: a recipe's check need not wait for it

        path, content = read_last(out / "checkpoints" / LAST, rank_zero_only.rank)
    elif resume:
        path, content = resume, read_checkpoint(resume)
    if path is None:
        path, content = init, read_trained(init)
    return unpack_recipe(content, path).model


def digest_of(path: str) -> str:
    """Changes with the weights that ``start_from`` would take."""
    return digest_of_weights(weights_of(read_trained(path)))


def start_from(model: Model, config: ModelConfig, path: str, tokenizer: Tokenizer) -> list[str]:
    """Put the weights of another model into this one, all that both have by name and shape.

    Args:
        model, config: this one.
        path: the other: a checkpoint, an exported folder, or a model to import.
        tokenizer: this one's. Where the other has another, the heads' rows are taken for pieces that both
            have; the rows of the others begin as the mean of these.

    Returns:
        what was not taken over and what differs, in lines.

    Raises:
        UserError: next to nothing fits.
    """
    content = read_trained(path)
    found = unpack_recipe(content, path)
    differences = _differences(config, found.model)
    theirs, ours = weights_of(content), model.state_dict()
    if any(option.startswith("frontend.") for option in differences):  # its filters are not ours
        theirs = {name: value for name, value in theirs.items() if not name.startswith("frontend.")}
        ours = {name: value for name, value in ours.items() if not name.startswith("frontend.")}
    other_pieces = ""
    if found.tokenizer.model != tokenizer.model:
        rows = _shared_classes(found.tokenizer, tokenizer)
        theirs = theirs | _by_piece(theirs, rows, tokenizer.pieces + 1)
        known = len(rows[0]) - 1
        other_pieces = f"{path} has another tokenizer: it knows {known} of {tokenizer.pieces} pieces"
    kept = {
        name: theirs[name]
        for name, value in ours.items()
        if isinstance(theirs.get(name), Tensor) and theirs[name].shape == value.shape
    }
    new, dropped = (_grouped(weights.keys() - kept.keys()) for weights in (ours, theirs))
    listed = ", ".join(f"--{option} {a} (there {b})" for option, (a, b) in differences.items())
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    share = sum(size for name, size in sizes.items() if name in kept) / sum(sizes.values())
    if share < LEAST_SHARE:
        raise UserError(
            f"{path}: weights do not fit the configuration: only {share:.0%} of the model could be taken "
            f"from there ({listed or 'not: ' + new}); options that are not given are its own"
        )
    model.load_state_dict(kept | _silent_locals(ours, kept), strict=False)
    lines = [f"not as in {path}: {listed}"] if listed else []
    if other_pieces:
        taken = any(name.startswith(BY_CLASS) for name in kept)
        lines.append(other_pieces + ("; the others begin as their mean" if taken else ""))
    if new or dropped:
        parts = f"new: {new or 'nothing'}; dropped: {dropped or 'nothing'}"
        lines.append(f"{share:.1%} of the model taken from {path}; {parts}")
    return lines


def _shared_classes(there: Tokenizer, here: Tokenizer) -> tuple[list[int], list[int]]:
    """The blank, and the pieces that both tokenizers have: as classes of either."""
    known = {there.piece(number): number for number in range(1, there.pieces + 1)}
    shared = [number for number in range(1, here.pieces + 1) if here.piece(number) in known]
    return [BLANK, *(known[here.piece(number)] for number in shared)], [BLANK, *shared]


def _by_piece(
    theirs: dict[str, Tensor], rows: tuple[list[int], list[int]], classes: int
) -> dict[str, Tensor]:
    """What has a row a class, for so many classes of another tokenizer; a new piece's is the others' mean."""
    there, here = rows
    translated = {}
    for name in [name for name in theirs if name.startswith(BY_CLASS)]:
        taken = theirs[name][there]
        translated[name] = taken.mean(0).expand(classes, *taken.shape[1:]).clone()
        translated[name][here] = taken
    return translated


def _silent_locals(ours: dict[str, Tensor], kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the local terms (LePE) that the other model lacks, adding to what it learnt without them."""
    new = [name.removesuffix("weight") for name in ours.keys() - kept.keys() if name.endswith("lepe.weight")]
    return {
        f"{term}{part}": torch.zeros_like(ours[term + part]) for term in new for part in ("weight", "bias")
    }


def origin_of(init: str, teacher: str, attention: str, modules: bool = False) -> list[Source]:
    """The models of others that a new run's model is made from.

    Args:
        init, teacher: models that it begins and learns from, if any.
        attention: the new model's.
        modules: whether it learns module by module.
    """
    begun, taught = [], []
    if init:
        content = read_trained(init)
        before = unpack_recipe(content, init).model.attention
        begun = begun_from(content["origin"], attention, before)
    if teacher:
        taught = taught_by(read_origin(teacher), modules)
    return joined(begun, taught)


def _differences(here: ModelConfig, there: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Options of encoder and front end under which the same weights would mean something else."""
    plain = [model_to_dict(replace(config, encoder=resolve_size(config.encoder))) for config in (here, there)]
    return {
        f"{section}.{name}": (ours, plain[1][section][name])
        for section in ("encoder", "frontend")
        for name, ours in plain[0][section].items()
        if name not in _FREE and ours != plain[1][section][name]
    }


def _grouped(names: Iterable[str]) -> str:
    """Names of weights, those of all blocks counted as one."""
    counts = Counter(re.sub(r"blocks\.\d+\.", "blocks.*.", name) for name in sorted(names))
    shown = [name if count == 1 else f"{name} ({count})" for name, count in counts.items()]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
