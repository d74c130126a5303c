"""Weights in eight bits, to store and to send: a quarter of fp32's bytes. What computes is fp32 again.

A row of a matrix (its first axis, all others together) is w = scale q, with q from -127 to 127 and a scale
in bf16: the greatest |w| of the row over 127, rounded. Next to the integers of NAME, a file has their
NAME:scale. Parameters of one axis or none, such as biases, are in bf16. All else, such as the statistics of
batch normalisation, stays in fp32.
"""

from collections.abc import Collection

import torch
from torch import Tensor

SCALE = ":scale"  # no name in a state dict has a colon


def to_eight_bits(weights: dict[str, Tensor], parameters: Collection[str]) -> dict[str, Tensor]:
    """The same with ``parameters`` in int8 beside their scales (rows,), or in bf16."""
    stored = {}
    for name, value in weights.items():
        if name not in parameters:
            stored[name] = value
        elif value.dim() < 2:
            stored[name] = value.bfloat16()
        else:
            stored[name], stored[name + SCALE] = _rows_to_eight_bits(value)
    return stored


def _rows_to_eight_bits(value: Tensor) -> tuple[Tensor, Tensor]:
    rows = value.float().flatten(1)
    scale = (rows.abs().amax(1) / 127).bfloat16()
    # Steps of the rounded scale: 127 of them still reach the greatest weight, to half a step.
    steps = rows / scale.float().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return steps.round().to(torch.int8).view_as(value), scale


def from_eight_bits(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``to_eight_bits`` was given, in fp32: to half of a scale, or to bf16's rounding.

    Raises:
        ValueError: integers without a finite scale a row, or scales without integers.
    """
    scales = {name.removesuffix(SCALE): value for name, value in stored.items() if name.endswith(SCALE)}
    weights = {name: value for name, value in stored.items() if not name.endswith(SCALE)}
    if scales.keys() != {name for name, value in weights.items() if value.dtype == torch.int8}:
        raise ValueError("eight-bit weights and scales do not belong together")
    for name, value in weights.items():
        if name in scales:
            weights[name] = _rows_from_eight_bits(name, value, scales[name])
        elif value.dtype == torch.bfloat16:
            weights[name] = value.float()
    return weights


def _rows_from_eight_bits(name: str, value: Tensor, scale: Tensor) -> Tensor:
    if value.dim() < 2 or scale.dtype != torch.bfloat16 or scale.shape != value.shape[:1]:
        raise ValueError(f"{name}: has no scale for each row")
    if not scale.isfinite().all():
        raise ValueError(f"{name}: a scale is not finite")
    return (value.flatten(1) * scale.float()[:, None]).view_as(value)
