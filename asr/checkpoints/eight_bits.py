"""Weights in eight bits, to store and to send: a quarter of fp32's bytes. What computes is fp32 again.

A row of a matrix (its first axis, all others together) is w = scale q, with q from -127 to 127 and a scale
in fp32: the greatest |w| of the row over 127. Next to the integers of NAME, a file has their NAME:scale.
"""

from collections.abc import Collection

import torch
from torch import Tensor

SCALE = ":scale"  # no name in a state dict has a colon


def to_eight_bits(weights: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The same with ``names``, of two axes or more, in int8 beside their scales (rows,) in fp32."""
    stored = {}
    for name, value in weights.items():
        if name not in names:
            stored[name] = value
            continue
        rows = value.float().flatten(1)
        scale = rows.abs().amax(1) / 127
        steps = rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        stored[name] = steps.round().to(torch.int8).view_as(value)
        stored[name + SCALE] = scale
    return stored


def from_eight_bits(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``to_eight_bits`` was given, to half of a scale; all that is not int8 as it is.

    Raises:
        ValueError: integers without a finite scale a row, or scales without integers.
    """
    weights = {name: value for name, value in stored.items() if not name.endswith(SCALE)}
    scales = {name.removesuffix(SCALE): value for name, value in stored.items() if name.endswith(SCALE)}
    if scales.keys() != {name for name, value in weights.items() if value.dtype == torch.int8}:
        raise ValueError("eight-bit weights and scales do not belong together")
    for name, scale in scales.items():
        value = weights[name]
        if value.dim() < 2 or scale.dtype != torch.float32 or scale.shape != value.shape[:1]:
            raise ValueError(f"{name}: has no scale for each row")
        if not scale.isfinite().all():
            raise ValueError(f"{name}: a scale is not finite")
        weights[name] = (value.flatten(1) * scale[:, None]).view_as(value)
    return weights
