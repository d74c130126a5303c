"""Ways to tell attention where a frame stands: rotary, Transformer-XL relative, sinusoids."""

import math
from collections.abc import Callable
from functools import lru_cache, wraps

import torch
from torch import Tensor


def _kept(count: int) -> Callable:
    """Keep the last few results, but for graph export: sizes are symbols then, which no cache takes."""

    def decorate(make: Callable) -> Callable:
        cached = lru_cache(maxsize=count)(make)

        @wraps(make)
        def get(*inputs):
            return make(*inputs) if torch.compiler.is_exporting() else cached(*inputs)

        return get

    return decorate


def rotate(x: Tensor, start: int = 0) -> Tensor:
    """Rotary positions (RoFormer, arXiv 2104.09864, Eq. 34).

    Args:
        x: (..., N, d) with an even d; frame n's pair i turns by n / 10000^(2i/d).
        start: number of the first frame.

    Returns:
        the same shape and dtype.
    """
    cos, sin = rotary_table(x.shape[-2], x.shape[-1], x.device, x.dtype, start)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@_kept(4)  # every layer of an encoder asks for the same one
def rotary_table(
    n: int, dim: int, device: torch.device, dtype: torch.dtype = torch.float32, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, dim / 2) of the angles of frames ``start`` to start + n - 1.

    Angles are made in fp64, so frame 100 000 is as exact as frame 1.
    """
    # A tensor made under inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        position = torch.arange(start, start + n, device=device, dtype=torch.float64)
        angle = torch.outer(position, _frequencies(dim, device))
        return cosine(angle).to(dtype), angle.sin().to(dtype)


def sinusoids(position: Tensor, dim: int) -> Tensor:
    """Sinusoids of "Attention Is All You Need" (3.5): position (N,) to (N, dim), fp64.

    Sines in the first half of the dimensions, cosines in the second.
    """
    angle = torch.outer(position.double(), _frequencies(dim, position.device))
    return torch.cat((angle.sin(), cosine(angle)), dim=-1)


def add_sinusoids(x: Tensor, start: int = 0) -> Tensor:
    """x (B, N, D) plus the sinusoids of positions ``start`` to start + N - 1."""
    position = torch.arange(start, start + x.shape[1], device=x.device)
    return x + sinusoids(position, x.shape[2]).to(x.dtype)


@_kept(2)  # every layer of an encoder asks for the same one
def relative_sinusoids(
    n: int, keys: int, start: int, dim: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sinusoids of the offsets of n queries from frame ``start`` to keys 0 ... keys - 1.

    (n + keys - 1, dim), from the largest offset, start + n - 1, down.
    """
    with torch.inference_mode(False):  # as above
        return sinusoids(torch.arange(start + n - 1, start - keys, -1, device=device), dim).to(dtype)


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by offset into scores by key (Transformer-XL, arXiv 1901.02860, appendix B).

    Args:
        scores: (B, H, n, n + N - 1); column c belongs to the offset start + n - 1 - c (query minus key).

    Returns:
        (B, H, n, N); entry (i, j) is the score of the offset start + i - j.
    """
    b, h, n, offsets = scores.shape
    # One column in front makes every row start one place later when read with one column less.
    padded = torch.nn.functional.pad(scores, (1, 0)).flatten(2)
    return padded[..., n:].view(b, h, n, offsets)[..., : offsets - n + 1]


def cosine(angle: Tensor) -> Tensor:
    """Cosine in fp64, as a sine: ONNX Runtime 1.28, which sherpa-onnx 2.0.1 brings, has no other in fp64."""
    return (angle.double() + math.pi / 2).sin()


def _frequencies(dim: int, device: torch.device) -> Tensor:
    exponent = torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim
    return 10_000.0**-exponent
