"""The mean of several checkpoints' weights, as icefall and WeNet decode with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.checkpoints.checkpoint import read_checkpoint, unpack_recipe, weights_of
from asr.errors import UserError


def average(paths: Sequence[Path], last: int = 0, best: int = 0) -> tuple[dict[str, Any], list[Path]]:
    """Average checkpoints of one run.

    Args:
        paths: the checkpoints.
        last: take the last N of them, by their steps; 0 for all.
        best: take the N with the lowest WER on dev; 0 for all.

    Returns:
        The content of the latest one that was taken, with the mean of the weights with which each is decoded,
        taken in fp64, as ``average``, and the paths of those taken. What counts (whole numbers) is the
        latest one's.

    Raises:
        UserError: one cannot be read, has no WER where the best are asked for, or is of another run or model
            than the others; fewer than two are left, or fewer than were asked for; one is given twice.
    """
    found = {path: _summary(path) for path in paths}
    runs = {path: run for path, (_, _, run) in found.items()}
    for path, run in runs.items():
        if not run:
            raise UserError(f"{path}: does not say of which run it is; made before checkpoints did")
        if run != runs[paths[0]]:
            raise UserError(f"{path}: of another run than {paths[0]}; only checkpoints of one run average")
    ordered = sorted(found, key=lambda path: found[path][0])
    if best:
        without = [path for path in ordered if found[path][1] is None]
        if without:
            raise UserError(f"{without[0]}: not from a validation, so it has no WER on dev to be the best by")
        ordered = sorted(ordered, key=lambda path: found[path][1])[:best]
        ordered.sort(key=lambda path: found[path][0])
    elif last:
        ordered = ordered[-last:]
    steps = [found[path][0] for path in ordered]
    if len(steps) < max(2, best, last) or len(set(steps)) < len(steps):
        raise UserError(
            f"{' '.join(map(str, paths))}: {len(set(steps))} checkpoints of different steps to average, but "
            f"{max(2, best, last)} are wanted; train.py --training.keep N keeps the last N"
        )
    return _mean(ordered), ordered


def _summary(path: Path) -> tuple[int, float | None, str]:
    """Steps, WER on dev and the run's name."""
    content = read_checkpoint(path)
    return content["global_step"], content.get("dev_wer"), content.get("run", "")


def _mean(paths: Sequence[Path]) -> dict[str, Any]:
    content = read_checkpoint(paths[-1])
    recipe, weights = unpack_recipe(content, paths[-1]), weights_of(content)
    sums = {name: value.double() for name, value in weights.items() if value.is_floating_point()}
    for path in paths[:-1]:
        other = read_checkpoint(path)
        found = unpack_recipe(other, path)
        if found.model != recipe.model or found.tokenizer.model != recipe.tokenizer.model:
            raise UserError(f"{path}: another model or tokenizer than {paths[-1]}; their mean is no model")
        for name, value in weights_of(other).items():
            if name in sums:
                sums[name] += value
    means: dict[str, Tensor] = {n: (total / len(paths)).to(weights[n].dtype) for n, total in sums.items()}
    if not all(torch.isfinite(value).all() for value in means.values()):
        raise UserError(f"{' '.join(map(str, paths))}: their mean is not finite; one of them has diverged")
    return content | {"average": weights | means}
