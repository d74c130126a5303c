"""Chunks: frames that see each other and what comes before them, but nothing later.

A chunk is made into a row of its own, with the few frames before it that a convolution wants and zeros in
the place of what comes after it (dynamic chunk convolution, arXiv 2304.09325). So all chunks go at once in
training, and one by one, with the frames before them kept, as speech arrives: with the same result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def windows(x: Tensor, chunk: int, halo: int, before: Tensor | None = None) -> Tensor:
    """Chunks with their neighbourhood.

    Args:
        x: (B, N, D); the last chunk is filled up with zeros.
        chunk: frames of one.
        halo: frames on either side.
        before: (B, halo, D), the frames before the first; None for zeros.

    Returns:
        (B, C, halo + chunk + halo, D), the last ``halo`` frames zero.
    """
    b, n, d = x.shape
    before = x.new_zeros(b, halo, d) if before is None else before.to(x.dtype)
    padded = torch.cat((before, F.pad(x, (0, 0, 0, -n % chunk))), 1)
    cut = padded.unfold(1, halo + chunk, chunk).transpose(2, 3)
    return F.pad(cut, (0, 0, 0, halo))


def convolve(conv: nn.Conv2d, x: Tensor, chunk: int = 0, before: Tensor | None = None) -> Tensor:
    """A depthwise convolution of odd width (k, 1) over x (B, N, D), to (B, N, D).

    With a chunk, frames see none after their own chunk; ``before`` as in ``windows``.
    """
    if not chunk:
        return conv(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    n = x.shape[1]
    cut = windows(x, min(chunk, n), conv.kernel_size[0] // 2, before)
    # The windows bring their own padding.
    y = F.conv2d(cut.flatten(0, 1).transpose(1, 2)[..., None], conv.weight, conv.bias, groups=conv.groups)
    return y[..., 0].transpose(1, 2).unflatten(0, cut.shape[:2]).flatten(1, 2)[:, :n]


def last_frames(x: Tensor, count: int, before: Tensor | None) -> Tensor:
    """The last ``count`` frames (B, count, D) of ``before`` (B, count, D) and x (B, N, D); None for zeros."""
    if x.shape[1] < count:
        before = x.new_zeros(x.shape[0], count, x.shape[2]) if before is None else before
        x = torch.cat((before, x), 1)
    return x[:, x.shape[1] - count :].clone()  # not a view, which would keep all of x


def running_means(
    x: Tensor, valid: Tensor, chunk: int, total: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Means of x (B, N, D) over the valid frames up to the end of each chunk, and the new ``total``.

    Args:
        x, valid: (B, N, D) and (B, N).
        chunk: frames of one.
        total, count: sum (B, D) in fp64, and number, of earlier frames; None for none.

    Returns:
        (B, C, D) and (B, D), fp64.
    """
    n = x.shape[1]
    kept = F.pad(x.double() * valid[..., None], (0, 0, 0, -n % chunk))
    number = F.pad(valid.double(), (0, -n % chunk))
    sums = kept.unflatten(1, (-1, chunk)).sum(2).cumsum(1)
    sums = sums if total is None else sums + total[:, None]
    counts = number.unflatten(1, (-1, chunk)).sum(2).cumsum(1) + count
    return sums / counts.clamp(min=1)[..., None], sums[:, -1].detach()


def visible(n: int, chunk: int, device: torch.device) -> Tensor:
    """(n, n) bool: whether frame i (row) sees frame j; all see all where the chunk is 0."""
    number = torch.arange(n, device=device) // (chunk or max(n, 1))
    return number[:, None] >= number
