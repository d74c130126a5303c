"""Ways to tell attention where a frame stands: rotary, Transformer-XL relative, sinusoids."""

import torch
from torch import Tensor


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (RoFormer, arXiv 2104.09864, Eq. 34).

    Args:
        x: (..., N, d) with an even d; frame n's pair i turns by n / 10000^(2i/d).

    Returns:
        the same shape and dtype. Angles are made in fp64, so frame 100 000 is as exact as frame 1.
    """
    n, d = x.shape[-2:]
    position = torch.arange(n, device=x.device, dtype=torch.float64)
    angle = torch.outer(position, _frequencies(d, x.device))
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def sinusoids(position: Tensor, dim: int) -> Tensor:
    """Sinusoids of "Attention Is All You Need" (3.5): position (N,) to (N, dim), fp64.

    Sines in the first half of the dimensions, cosines in the second.
    """
    angle = torch.outer(position.double(), _frequencies(dim, position.device))
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def add_sinusoids(x: Tensor) -> Tensor:
    """x (B, N, D) plus the sinusoids of positions 0 to N - 1."""
    position = torch.arange(x.shape[1], device=x.device)
    return x + sinusoids(position, x.shape[2]).to(x.dtype)


def relative_sinusoids(n: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoids of the offsets n - 1, ..., 0, ..., -(n - 1): (2n - 1, dim), fp64."""
    return sinusoids(torch.arange(n - 1, -n, -1, device=device), dim)


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by offset into scores by key (Transformer-XL, arXiv 1901.02860, appendix B).

    Args:
        scores: (B, H, N, 2N - 1); column c belongs to the offset N - 1 - c (query minus key).

    Returns:
        (B, H, N, N); entry (i, j) is the score of the offset i - j.
    """
    b, h, n, _ = scores.shape
    # One column in front makes every row start one place later when read with row length 2N - 1.
    padded = torch.nn.functional.pad(scores, (1, 0))
    return padded.reshape(b, h, 2 * n, n)[:, :, 1:].reshape(b, h, n, 2 * n - 1)[..., :n]


def _frequencies(dim: int, device: torch.device) -> Tensor:
    exponent = torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim
    return 10_000.0**-exponent
