"""Rotary positions in one pass over queries or keys, for softmax's half-precision kernels.

In eager PyTorch the same takes nine kernels forward, which would cost more than the attention they are for.
Pairs are turned in fp32 and rounded once. Held to the formula in Triton's interpreter; not run on a GPU yet.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.attention.kernels import passes
from asr.attention.kernels.passes import triton

BLOCK_N = 32  # frames of a program


def usable(x: Tensor) -> bool:
    """Whether ``turn`` can take such queries or keys."""
    return triton is not None and (x.is_cuda or triton.knobs.runtime.interpret)


def turn(x: Tensor, cos: Tensor, sin: Tensor, width: int) -> Tensor:
    """Turn the pair (2i, 2i + 1) of frame n by the angle whose cosine and sine stand at (n, i).

    Args:
        x: (B, N, H, d), d even, of any float dtype but fp64.
        cos, sin: (N, d/2) float32.
        width: channels of the result, at least d; the others are zero.

    Returns:
        (B, N, H, width) in x's dtype, contiguous. Differentiable once in x.
    """
    return _Turn.apply(x, cos, sin, width)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin, width):
        ctx.save_for_backward(cos, sin)
        ctx.d = x.shape[-1]
        return _launch(x, cos, sin, ctx.d, width, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        return _launch(dy, *ctx.saved_tensors, ctx.d, ctx.d, -1), None, None, None


def _launch(x: Tensor, cos: Tensor, sin: Tensor, d: int, width: int, direction: int) -> Tensor:
    """The first d channels of x turned forwards (direction 1) or back (-1): (B, N, H, width)."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    b, n, h, _ = x.shape
    y = torch.empty((b, n, h, width), dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        passes.turn[(h, triton.cdiv(n, BLOCK_N), b)](
            x,
            cos.contiguous(),
            sin.contiguous(),
            y,
            n,
            x.stride(0),
            FRAME_STRIDE=x.stride(1),
            HEAD_STRIDE=x.stride(2),
            D=d,
            WIDTH=width,
            D_PAD=max(32, triton.next_power_of_2(width)),
            BLOCK_N=BLOCK_N,
            HEADS=h,
            DIRECTION=direction,
        )
    return y
