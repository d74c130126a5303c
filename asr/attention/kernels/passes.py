"""The Triton kernels of the fused attention core; ``centred.py`` launches them.

Tiles are (BLOCK_N frames, D_PAD features), D_PAD being the head size d padded to a power of two. Features
are zero in the padding after phi, because phi(0) need not be zero. Statistics of one head are rows of d
numbers: C has the rows 0 to d - 1, then come kbar, vbar and the mean of the rotated keys.

Capital letters are compile-time constants, and so are all bounds of loops: the interpreter of Triton 3.6
cannot loop up to a number of its own under NumPy 2.4. Comparisons let NaN through. Triton is imported if it
is there.
"""

from __future__ import annotations  # so that "tl.constexpr" is not looked up where there is no Triton

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None


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
def _gain(queries, key_mean, cos, SCALE: tl.constexpr, GAIN: tl.constexpr):
    """The gain at m = s phi(q) . kbar and its slope, which is zero where m is held at its floor."""
    m = tl.sum(queries * key_mean[None, :], 1) * SCALE
    floor = tl.full(m.shape, 1e-12, tl.float32)
    if cos is not None:  # LEAST_COSINE of asr/attention/linear.py
        norms = tl.sqrt(tl.sum(queries * queries, 1)) * tl.sqrt(tl.sum(key_mean * key_mean, 0))
        floor = tl.maximum(floor, 0.01 * SCALE * norms)
    inverse = 1.0 / tl.where(m < floor, floor, m)
    slope = tl.where(m < floor, 0.0, -inverse * inverse)
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
def key_forward(
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
        rotated -= block_rotated_mean[None, :]
        # Zero rows in one factor of the product are enough.
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
def merge(
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
def query_forward(
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
        gain, _ = _gain(queries, key_mean, cos, SCALE, GAIN)
        out = tl.where(mask, value_mean[None, :] + gain[:, None] * t, 0.0)
        _store(y + y_origin, frames, n_frames, out, HEADS * D, D, D_PAD)


@_jit
def query_backward(
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
        gain, slope = _gain(queries, key_mean, cos, SCALE, GAIN)
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
def key_backward(
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
        rotated -= rotated_mean[None, :]
        values -= value_mean[None, :]
        d_values = tl.dot(rotated, d_covariance, input_precision=PRECISION) + d_value_mean[None, :]
        d_rotated = tl.dot(values, tl.trans(d_covariance), input_precision=PRECISION)
        d_features = _rotate(d_rotated, frames, present, cos, sin, -1, D) + d_key_mean[None, :]
        d_raw = tl.where(mask, d_features * _phi_slope(raw, PHI), 0.0)
        _store(dk + y_origin, frames, n_frames, d_raw, HEADS * D, D, D_PAD)
        _store(dv + y_origin, frames, n_frames, tl.where(mask, d_values, 0.0), HEADS * D, D, D_PAD)


@_jit
def turn(
    x,
    cos,
    sin,
    y,
    n_frames,
    batch_stride,
    FRAME_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HEADS: tl.constexpr,
    DIRECTION: tl.constexpr,
):
    """One block of frames of one head with rotary positions, and zeros up to WIDTH channels."""
    h, block, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    frames, present, mask = _block(block, n_frames, D, D_PAD, BLOCK_N)
    tile = _load(x + b * batch_stride + h * HEAD_STRIDE, frames, mask, FRAME_STRIDE, D_PAD)
    tile = _rotate(tile, frames, present, cos, sin, DIRECTION, D)
    _store(
        y + b * n_frames * (HEADS * WIDTH) + h * WIDTH, frames, n_frames, tile, HEADS * WIDTH, WIDTH, D_PAD
    )
