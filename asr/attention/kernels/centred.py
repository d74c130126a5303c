"""Centred linear attention, fused: keys and values are read once, then queries once, in either direction.

Pass 1 gathers the statistics of the keys and values, pass 2 applies them to the queries; the backward goes
the other way round. Nothing of the size of q is kept but the inputs and the output. Frames are cut into
splits so that a few long utterances fill the GPU too; each split writes its own partial statistics, and
these are merged in a fixed order: no atomics, so results repeat bit for bit.

Without Triton ``refusal`` says so and the rest cannot be called.
"""

from collections.abc import Hashable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.attention.kernels import passes
from asr.attention.kernels.passes import triton

PHIS = ("elu", "relu", "exp", "identity")
GAINS = ("linear", "mala", "inline")
MAX_HEAD_SIZE = 128

# Products of fp32 inputs stay exact to fp32. For half-precision inputs TF32's eleven bits are as many as the
# inputs have or more, and the statistics are centred, so that no large mean eats them up.
PRECISION = {torch.float32: "ieee", torch.bfloat16: "tf32", torch.float16: "tf32"}

# Frames per block and warps per program by D_PAD, chosen so that the registers do not spill (sm_90; fp32 with
# d over 64 does, a little). "ieee" products do not use the tensor cores and need more registers: fewer frames
# on more threads.
TILES = {
    "tf32": {32: (32, 4), 64: (32, 4), 128: (16, 8)},
    "ieee": {32: (16, 8), 64: (16, 8), 128: (16, 16)},
}
STAGES = 2  # one block is fetched while another is worked on
# Programs to aim for: enough to hide the latency of memory, few enough to keep the partials small.
PROGRAMS_PER_SM = 4
INTERPRETER_PROGRAMS = 32  # the interpreter runs them one after the other
MAX_SPLITS = 64  # the merge holds one row of all splits in registers

# Rows beside C in a head's statistics: kbar, vbar and the mean of the rotated keys. The gradients lack the
# last: the mean of centred values is zero, so it has none.
STATISTICS, GRADIENTS = 3, 2


def refusal(q: Tensor, phi: str, gain: str) -> str | None:
    """Why ``centred_attention`` cannot take this call, in a few words; None when it can.

    Args:
        q: the queries (B, N, H, d); k and v must be like it.
        phi, gain: as ``centred_attention`` takes them.
    """
    if triton is None:
        return "Triton is not installed"
    if not q.is_cuda and not triton.knobs.runtime.interpret:
        return "no CUDA device"
    if q.is_cuda and torch.cuda.get_device_capability(q.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if q.dtype not in PRECISION:
        return str(q.dtype).removeprefix("torch.")
    if q.shape[-1] % 2:
        return f"head size {q.shape[-1]} is odd"
    if q.shape[-1] > MAX_HEAD_SIZE:
        return f"head size {q.shape[-1]} is over {MAX_HEAD_SIZE}"
    if phi not in PHIS:
        return f"feature map {phi!r}"
    if gain not in GAINS:
        return f"gain {gain!r}"
    return None


def centred_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    cos_sin: tuple[Tensor, Tensor] | None,
    phi: str,
    gain: str,
) -> Tensor:
    """y_i = vbar + gain(m_i) t_i over the valid frames of each utterance and head, with s = d^-1/2 and

        t_i = s rotate(phi(q_i)) C     C = mean (rotate(phi(k)) - its mean)(v - vbar)^T
        m_i = s phi(q_i) . mean phi(k)     vbar = mean v

    Means are over frames 0 to length - 1. Differentiable once in q, k and v; all sums are in fp32.

    Args:
        q, k, v: (B, N, H, d), d even and at most 128, all float32, bfloat16 or float16, on one device.
            They are read in place if they have the same strides and the last one is 1, else copied.
        lengths: (B,) integers, valid frames of every utterance, 0 to N. What lies beyond changes nothing.
        cos_sin: rotary tables, two (N, d/2) float32: frame n turns the pair of features (2i, 2i + 1) by
            the angle whose cosine and sine stand at (n, i). None: nothing is turned.
        phi: ``elu`` (elu(x) + 1), ``relu``, ``exp`` (exp(min(x, 20))) or ``identity``.
        gain: ``linear`` (1 / m), ``mala`` (1 + 1 / m) or ``inline`` (1). m is held above 1e-12, and with
            rotary tables above 0.01 s |phi(q)| |mean phi(k)|.

    Returns:
        (B, N, H, d) in q's dtype, contiguous; zero on the frames beyond the length.

    Raises:
        ValueError: shapes or dtypes do not fit, or ``refusal`` has an objection.
    """
    if reason := refusal(q, phi, gain):
        raise ValueError(f"the fused attention kernels cannot run: {reason}")
    if not (q.shape == k.shape == v.shape and q.dtype == k.dtype == v.dtype):
        raise ValueError(f"q, k and v differ: {[(tuple(x.shape), x.dtype) for x in (q, k, v)]}")
    b, n, _, d = q.shape
    if lengths.shape != (b,):
        raise ValueError(f"lengths {tuple(lengths.shape)} should be ({b},)")
    cos, sin = cos_sin if cos_sin is not None else (None, None)
    if any(x is not None and (x.shape != (n, d // 2) or x.dtype != torch.float32) for x in (cos, sin)):
        raise ValueError(f"rotary tables should be ({n}, {d // 2}) in float32")
    return _CentredAttention.apply(q, k, v, lengths, cos, sin, phi, gain)


def launch_variant(q: Tensor, phi: str) -> Hashable:
    """What of a call with such queries decides the code: calls with the same share their compiled kernels."""
    (_, splits, _), options = _launch_options(q, phi)
    compiled_in = [value for name, value in options.items() if name not in ("n_frames", "batch_stride")]
    # Triton compiles once more for strides that are not multiples of 16.
    return (*compiled_in, triton.next_power_of_2(splits), q.stride(0) % 16 == 0)


class _CentredAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, lengths, cos, sin, phi, gain):
        if not (q.stride() == k.stride() == v.stride() and q.stride(-1) == 1):
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        lengths = lengths.contiguous()
        cos, sin = (x if x is None else x.contiguous() for x in (cos, sin))
        grid, options = _launch_options(q, phi)
        h, splits, b = grid
        d = q.shape[-1]
        y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        partials = q.new_empty((b, h, splits, d + STATISTICS, d), dtype=torch.float32)
        statistics = q.new_empty((b, h, d + STATISTICS, d), dtype=torch.float32)
        with torch.cuda.device_of(q):
            passes.key_forward[grid](k, v, lengths, cos, sin, partials, **options)
            passes.merge[(d + STATISTICS, h, b)](
                partials,
                lengths,
                statistics,
                q.shape[1],
                splits,
                D=d,
                D_PAD=options["D_PAD"],
                SPLITS_PAD=triton.next_power_of_2(splits),
                SPLIT_FRAMES=options["BLOCKS"] * options["BLOCK_N"],
            )
            passes.query_forward[grid](q, lengths, cos, sin, statistics, y, GAIN=gain, **options)
        ctx.save_for_backward(q, k, v, lengths, cos, sin, statistics)
        ctx.phi, ctx.gain = phi, gain
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        q, k, v, lengths, cos, sin, statistics = ctx.saved_tensors
        dy = dy.contiguous()
        grid, options = _launch_options(q, ctx.phi)
        h, splits, b = grid
        d = q.shape[-1]
        dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
        partials = q.new_empty((b, h, splits, d + GRADIENTS, d), dtype=torch.float32)
        with torch.cuda.device_of(q):
            passes.query_backward[grid](
                q, dy, lengths, cos, sin, statistics, partials, dq, GAIN=ctx.gain, **options
            )
            gradients = partials.sum(2)
            passes.key_backward[grid](k, v, lengths, cos, sin, statistics, gradients, dk, dv, **options)
        return dq, dk, dv, None, None, None, None, None


def _launch_options(q: Tensor, phi: str) -> tuple[tuple[int, int, int], dict]:
    """The grid (H, splits, B) and the arguments that the passes share.

    Blocks per split are a power of two and known to the compiler: it can pipeline the loop over them, and
    the lengths that training meets make only a handful of variants.
    """
    b, n, h, d = q.shape
    d_pad = max(32, triton.next_power_of_2(d))  # tl.dot wants 16, and halves of 16 for the rotation
    if q.is_cuda:
        programs = PROGRAMS_PER_SM * torch.cuda.get_device_properties(q.device).multi_processor_count
    else:
        programs = INTERPRETER_PROGRAMS
    precision = PRECISION[q.dtype]
    block, warps = TILES[precision][d_pad]
    blocks = max(1, triton.cdiv(n, block))
    splits = min(MAX_SPLITS, max(1, programs // max(1, b * h)))
    blocks_per_split = triton.next_power_of_2(triton.cdiv(blocks, splits))
    options = {
        "n_frames": n,
        "batch_stride": q.stride(0),
        "FRAME_STRIDE": q.stride(1),
        "HEAD_STRIDE": q.stride(2),
        "D": d,
        "D_PAD": d_pad,
        "BLOCK_N": block,
        "BLOCKS": blocks_per_split,
        "PHI": phi,
        "PRECISION": precision,
        "HEADS": h,
        "num_warps": warps,
        "num_stages": STAGES,
    }
    return (h, triton.cdiv(blocks, blocks_per_split), b), options
