"""Centred linear attention, fused: keys and values are read once, then queries once, in either direction.

Pass 1 gathers the statistics of the keys and values, pass 2 applies them to the queries; the backward goes
the other way round. Nothing of the size of q is kept but the inputs and the output. Frames are cut into
splits so that a few long utterances fill the GPU too; each split writes its own partial statistics, and
these are merged in a fixed order: no atomics, so results repeat bit for bit.

Tiles are (BLOCK_N frames, D_PAD features), D_PAD being the head size d padded to a power of two. Features
are zero in the padding after phi, because phi(0) need not be zero.

Triton is imported if it is there; without it ``refusal`` says so and the rest cannot be called.
"""

from __future__ import annotations  # so that "tl.constexpr" is not looked up where there is no Triton

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

PHIS = ("elu", "relu", "exp", "identity")
GAINS = ("linear", "mala", "inline")
MAX_HEAD_SIZE = 128

# Products of fp32 inputs stay exact to fp32. For half-precision inputs TF32's eleven bits are more than the
# inputs have, and the statistics are centred, so that no large mean eats them up.
PRECISION = {torch.float32: "ieee", torch.bfloat16: "tf32", torch.float16: "tf32"}

# Frames per block and warps per program by D_PAD, the largest that stay in the registers (sm_90). "ieee"
# products do not use the tensor cores: they need more registers, so fewer frames on more threads.
TILES = {
    "tf32": {32: (32, 4), 64: (32, 4), 128: (16, 8)},
    "ieee": {32: (16, 8), 64: (16, 8), 128: (16, 16)},
}
STAGES = 2  # one block is fetched while another is worked on
# Programs to aim for: enough to hide the latency of memory, few enough to keep the partials small.
PROGRAMS_PER_SM = 4
INTERPRETER_PROGRAMS = 32  # the interpreter runs them one after the other
MAX_SPLITS = 64  # the merge holds one row of all splits in registers

# Statistics of one head are rows of d numbers: C has the rows 0 to d - 1, then come kbar, vbar and the mean
# of the rotated keys. Their gradients lack the last: the mean of centred values is zero, so it has none.
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
        gain: ``linear`` (1 / m), ``mala`` (1 + 1 / m) or ``inline`` (1). m is clamped at 1e-12.

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
            _key_forward[grid](k, v, lengths, cos, sin, partials, **options)
            _merge[(d + STATISTICS, h, b)](
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
            _query_forward[grid](q, lengths, cos, sin, statistics, y, GAIN=gain, **options)
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
            _query_backward[grid](
                q, dy, lengths, cos, sin, statistics, partials, dq, GAIN=ctx.gain, **options
            )
            gradients = partials.sum(2)
            _key_backward[grid](k, v, lengths, cos, sin, statistics, gradients, dk, dv, **options)
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


# The kernels. Capital letters are compile-time constants, and so are all bounds of loops: the interpreter
# of Triton 3.6 cannot loop up to a number of its own under NumPy 2.4. Comparisons let NaN through.


def _jit(function):
    """Compile when called. One variant serves all values of these arguments."""
    return triton.jit(function, do_not_specialize=("n_frames", "splits")) if triton else function


@_jit
def _phi(x, PHI: tl.constexpr):
    if PHI == "elu":
        y = tl.where(x > 0, x + 1, tl.exp(tl.where(x > 0, 0.0, x)))
    elif PHI == "relu":
        y = tl.where(x < 0, 0.0, x)
    elif PHI == "exp":
        y = tl.exp(tl.where(x > 20, 20.0, x))
    else:
        y = x
    return y


@_jit
def _phi_slope(x, PHI: tl.constexpr):
    if PHI == "elu":
        slope = tl.exp(tl.where(x > 0, 0.0, x))
    elif PHI == "relu":
        slope = tl.where(x > 0, 1.0, 0.0)
    elif PHI == "exp":
        slope = tl.where(x > 20, 0.0, tl.exp(x))
    else:
        slope = tl.full(x.shape, 1.0, tl.float32)
    return slope


@_jit
def _gain(m, GAIN: tl.constexpr):
    """The gain at m and its slope, which is zero where m is clamped."""
    inverse = 1.0 / tl.where(m < 1e-12, 1e-12, m)
    slope = tl.where(m < 1e-12, 0.0, -inverse * inverse)
    if GAIN == "linear":
        gain = inverse
    elif GAIN == "mala":
        gain = 1.0 + inverse
    else:
        gain = tl.full(m.shape, 1.0, tl.float32)
        slope = tl.full(m.shape, 0.0, tl.float32)
    return gain, slope


@_jit
def _rotate(x, frames, present, cos, sin, DIRECTION: tl.constexpr, D: tl.constexpr):
    """Turn the pairs (2i, 2i + 1) of x (BLOCK_N, D_PAD) forwards (DIRECTION 1) or back (-1)."""
    if cos is not None:
        PAIRS: tl.constexpr = x.shape[1] // 2
        pair = tl.arange(0, PAIRS)
        offsets = frames.to(tl.int64)[:, None] * (D // 2) + pair[None, :]
        mask = present[:, None] & (pair < D // 2)[None, :]
        c = tl.load(cos + offsets, mask=mask, other=0.0)
        s = tl.load(sin + offsets, mask=mask, other=0.0) * DIRECTION
        even, odd = tl.split(tl.reshape(x, (x.shape[0], PAIRS, 2)))
        x = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), x.shape)
    return x


@_jit
def _features(x, mask, frames, present, cos, sin, D: tl.constexpr, PHI: tl.constexpr):
    """phi(x) and rotate(phi(x)), both zero outside the mask."""
    features = tl.where(mask, _phi(x, PHI), 0.0)
    return features, _rotate(features, frames, present, cos, sin, 1, D)


@_jit
def _mask(rows, D: tl.constexpr, D_PAD: tl.constexpr):
    """The mask of a tile whose rows exist where ``rows`` holds."""
    return rows[:, None] & (tl.arange(0, D_PAD) < D)[None, :]


@_jit
def _block(index, length, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr):
    """A block of frames: their numbers, which of them are valid, and the mask of their tiles."""
    frames = index * BLOCK_N + tl.arange(0, BLOCK_N)
    present = frames < length
    return frames, present, _mask(present, D, D_PAD)


@_jit
def _tile(base, rows, STRIDE: tl.constexpr, D_PAD: tl.constexpr):
    """Pointers to some rows, in 64 bits: long recordings have more than 2^31 elements."""
    return base + rows.to(tl.int64)[:, None] * STRIDE + tl.arange(0, D_PAD)[None, :]


@_jit
def _load(base, rows, mask, STRIDE: tl.constexpr, D_PAD: tl.constexpr):
    """Rows as an fp32 tile, zero outside the mask."""
    return tl.load(_tile(base, rows, STRIDE, D_PAD), mask=mask, other=0.0).to(tl.float32)


@_jit
def _store(base, rows, n_rows, tile, STRIDE: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr):
    """Write those rows of a tile that exist."""
    mask = _mask(rows < n_rows, D, D_PAD)
    tl.store(_tile(base, rows, STRIDE, D_PAD), tile.to(base.dtype.element_ty), mask=mask)


@_jit
def _load_matrix(base, D: tl.constexpr, D_PAD: tl.constexpr):
    i = tl.arange(0, D_PAD)
    return _load(base, i, _mask(i < D, D, D_PAD), D, D_PAD)


@_jit
def _store_matrix(base, matrix, D: tl.constexpr, D_PAD: tl.constexpr):
    _store(base, tl.arange(0, D_PAD), D, matrix, D, D, D_PAD)


@_jit
def _load_row(base, row, D: tl.constexpr, D_PAD: tl.constexpr):
    i = tl.arange(0, D_PAD)
    return tl.load(base + row * D + i, mask=i < D, other=0.0)


@_jit
def _store_row(base, row, value, D: tl.constexpr, D_PAD: tl.constexpr):
    i = tl.arange(0, D_PAD)
    tl.store(base + row * D + i, value, mask=i < D)


@_jit
def _key_forward(
    k,
    v,
    lengths,
    cos,
    sin,
    partials,
    n_frames,
    batch_stride,
    FRAME_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
    PHI: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Means and co-moment of the keys and values of one split.

    Every block is centred on its own means and then merged (Chan et al., 1979), so that nothing cancels.
    """
    h, split, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.minimum(tl.load(lengths + b).to(tl.int32), n_frames)
    origin = b * batch_stride + h * HEAD_STRIDE
    seen = 0.0
    key_mean = tl.full((D_PAD,), 0.0, tl.float32)
    rotated_mean = tl.full((D_PAD,), 0.0, tl.float32)
    value_mean = tl.full((D_PAD,), 0.0, tl.float32)
    comoment = tl.full((D_PAD, D_PAD), 0.0, tl.float32)
    for i in range(BLOCKS):
        frames, present, mask = _block(split * BLOCKS + i, length, D, D_PAD, BLOCK_N)
        raw = _load(k + origin, frames, mask, FRAME_STRIDE, D_PAD)
        values = _load(v + origin, frames, mask, FRAME_STRIDE, D_PAD)
        keys, rotated = _features(raw, mask, frames, present, cos, sin, D, PHI)

        count = tl.sum(present.to(tl.float32), 0)
        block_share = 1.0 / tl.maximum(count, 1.0)
        block_rotated_mean = tl.sum(rotated, 0) * block_share
        block_value_mean = tl.sum(values, 0) * block_share
        rotated = tl.where(mask, rotated - block_rotated_mean[None, :], 0.0)
        values = tl.where(mask, values - block_value_mean[None, :], 0.0)

        weight = count / tl.maximum(seen + count, 1.0)
        rotated_step = block_rotated_mean - rotated_mean
        value_step = block_value_mean - value_mean
        comoment = tl.dot(tl.trans(rotated), values, comoment, input_precision=PRECISION)
        comoment += (rotated_step * (seen * weight))[:, None] * value_step[None, :]
        key_mean += (tl.sum(keys, 0) * block_share - key_mean) * weight
        rotated_mean += rotated_step * weight
        value_mean += value_step * weight
        seen += count
    partial = partials + ((b * HEADS + h) * tl.num_programs(1) + split) * (D + 3) * D
    _store_matrix(partial, comoment, D, D_PAD)
    _store_row(partial, D, key_mean, D, D_PAD)
    _store_row(partial, D + 1, value_mean, D, D_PAD)
    _store_row(partial, D + 2, rotated_mean, D, D_PAD)


@_jit
def _merge(
    partials,
    lengths,
    statistics,
    n_frames,
    splits,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    SPLIT_FRAMES: tl.constexpr,
):
    """One row of the statistics of one head, from those of its splits."""
    row, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.minimum(tl.load(lengths + b).to(tl.int32), n_frames)
    head = b * tl.num_programs(1) + h
    split = tl.arange(0, SPLITS_PAD)
    count = tl.minimum(tl.maximum(length - split * SPLIT_FRAMES, 0), SPLIT_FRAMES)
    weight = count.to(tl.float32) / tl.maximum(length, 1)
    base = partials + head * splits * ((D + 3) * D) + split * ((D + 3) * D)
    columns = tl.arange(0, D_PAD)[None, :]
    mask = _mask(split < splits, D, D_PAD)
    rows = tl.load(base[:, None] + row * D + columns, mask=mask, other=0.0)
    if row < D:  # of C: the splits' own co-moments and that of their means
        value_means = tl.load(base[:, None] + (D + 1) * D + columns, mask=mask, other=0.0)
        value_steps = value_means - tl.sum(value_means * weight[:, None], 0)[None, :]
        key_means = tl.load(base + (D + 2) * D + row, mask=split < splits, other=0.0)
        key_steps = key_means - tl.sum(key_means * weight, 0)
        merged = tl.sum(rows, 0) / tl.maximum(length, 1)
        merged += tl.sum((weight * key_steps)[:, None] * value_steps, 0)
    else:
        merged = tl.sum(rows * weight[:, None], 0)
    _store_row(statistics + head * ((D + 3) * D), row, merged, D, D_PAD)


@_jit
def _query_forward(
    q,
    lengths,
    cos,
    sin,
    statistics,
    y,
    n_frames,
    batch_stride,
    FRAME_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
    PHI: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
    GAIN: tl.constexpr,
):
    """The output of one split."""
    h, split, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.minimum(tl.load(lengths + b).to(tl.int32), n_frames)
    SCALE: tl.constexpr = D**-0.5
    head = statistics + (b * HEADS + h) * ((D + 3) * D)
    covariance = _load_matrix(head, D, D_PAD)
    key_mean = _load_row(head, D, D, D_PAD)
    value_mean = _load_row(head, D + 1, D, D_PAD)
    origin = b * batch_stride + h * HEAD_STRIDE
    y_origin = b * n_frames * (HEADS * D) + h * D
    for i in range(BLOCKS):
        frames, present, mask = _block(split * BLOCKS + i, length, D, D_PAD, BLOCK_N)
        raw = _load(q + origin, frames, mask, FRAME_STRIDE, D_PAD)
        queries, rotated = _features(raw, mask, frames, present, cos, sin, D, PHI)
        t = tl.dot(rotated, covariance, input_precision=PRECISION) * SCALE
        gain, _ = _gain(tl.sum(queries * key_mean[None, :], 1) * SCALE, GAIN)
        out = tl.where(mask, value_mean[None, :] + gain[:, None] * t, 0.0)
        _store(y + y_origin, frames, n_frames, out, HEADS * D, D, D_PAD)


@_jit
def _query_backward(
    q,
    dy,
    lengths,
    cos,
    sin,
    statistics,
    partials,
    dq,
    n_frames,
    batch_stride,
    FRAME_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
    PHI: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
    GAIN: tl.constexpr,
):
    """dq of one split, and the split's share of the gradients of C, kbar and vbar."""
    h, split, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.minimum(tl.load(lengths + b).to(tl.int32), n_frames)
    SCALE: tl.constexpr = D**-0.5
    head = statistics + (b * HEADS + h) * ((D + 3) * D)
    transposed = tl.trans(_load_matrix(head, D, D_PAD))
    key_mean = _load_row(head, D, D, D_PAD)
    origin = b * batch_stride + h * HEAD_STRIDE
    y_origin = b * n_frames * (HEADS * D) + h * D
    d_covariance = tl.full((D_PAD, D_PAD), 0.0, tl.float32)
    d_key_mean = tl.full((D_PAD,), 0.0, tl.float32)
    d_value_mean = tl.full((D_PAD,), 0.0, tl.float32)
    for i in range(BLOCKS):
        frames, present, mask = _block(split * BLOCKS + i, length, D, D_PAD, BLOCK_N)
        raw = _load(q + origin, frames, mask, FRAME_STRIDE, D_PAD)
        d_out = _load(dy + y_origin, frames, mask, HEADS * D, D_PAD)
        queries, rotated = _features(raw, mask, frames, present, cos, sin, D, PHI)

        # dy . t = s rotate(phi(q)) . (C dy): the forward's product is not needed again.
        back = tl.dot(d_out, transposed, input_precision=PRECISION) * SCALE
        gain, slope = _gain(tl.sum(queries * key_mean[None, :], 1) * SCALE, GAIN)
        d_m = slope * tl.sum(rotated * back, 1) * SCALE
        weighted = rotated * (gain * SCALE)[:, None]
        d_covariance = tl.dot(tl.trans(weighted), d_out, d_covariance, input_precision=PRECISION)
        d_key_mean += tl.sum(queries * d_m[:, None], 0)
        d_value_mean += tl.sum(d_out, 0)

        d_features = _rotate(back * gain[:, None], frames, present, cos, sin, -1, D)
        d_features += d_m[:, None] * key_mean[None, :]
        d_raw = tl.where(mask, d_features * _phi_slope(raw, PHI), 0.0)
        _store(dq + y_origin, frames, n_frames, d_raw, HEADS * D, D, D_PAD)
    partial = partials + ((b * HEADS + h) * tl.num_programs(1) + split) * ((D + 2) * D)
    _store_matrix(partial, d_covariance, D, D_PAD)
    _store_row(partial, D, d_key_mean, D, D_PAD)
    _store_row(partial, D + 1, d_value_mean, D, D_PAD)


@_jit
def _key_backward(
    k,
    v,
    lengths,
    cos,
    sin,
    statistics,
    gradients,
    dk,
    dv,
    n_frames,
    batch_stride,
    FRAME_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
    PHI: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
):
    """dk and dv of one split."""
    h, split, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.minimum(tl.load(lengths + b).to(tl.int32), n_frames)
    share = 1.0 / tl.maximum(length, 1).to(tl.float32)
    head = b * HEADS + h
    value_mean = _load_row(statistics + head * ((D + 3) * D), D + 1, D, D_PAD)
    rotated_mean = _load_row(statistics + head * ((D + 3) * D), D + 2, D, D_PAD)
    d_head = gradients + head * ((D + 2) * D)
    d_covariance = _load_matrix(d_head, D, D_PAD) * share
    d_key_mean = _load_row(d_head, D, D, D_PAD) * share
    d_value_mean = _load_row(d_head, D + 1, D, D_PAD) * share
    origin = b * batch_stride + h * HEAD_STRIDE
    y_origin = b * n_frames * (HEADS * D) + h * D
    for i in range(BLOCKS):
        frames, present, mask = _block(split * BLOCKS + i, length, D, D_PAD, BLOCK_N)
        raw = _load(k + origin, frames, mask, FRAME_STRIDE, D_PAD)
        values = _load(v + origin, frames, mask, FRAME_STRIDE, D_PAD)
        _, rotated = _features(raw, mask, frames, present, cos, sin, D, PHI)
        rotated = tl.where(mask, rotated - rotated_mean[None, :], 0.0)
        values = tl.where(mask, values - value_mean[None, :], 0.0)

        d_values = tl.dot(rotated, d_covariance, input_precision=PRECISION) + d_value_mean[None, :]
        d_rotated = tl.dot(values, tl.trans(d_covariance), input_precision=PRECISION)
        d_features = _rotate(d_rotated, frames, present, cos, sin, -1, D) + d_key_mean[None, :]
        d_raw = tl.where(mask, d_features * _phi_slope(raw, PHI), 0.0)
        _store(dk + y_origin, frames, n_frames, d_raw, HEADS * D, D, D_PAD)
        _store(dv + y_origin, frames, n_frames, tl.where(mask, d_values, 0.0), HEADS * D, D, D_PAD)
