"""Audio of any length, exactly: features and encoder go over a recording chunk by chunk, layer by layer.

Convolutions get the frames beside a chunk that they need. Attention first summarises all chunks, then
answers the queries of each (asr/attention/base.py); the linear family's summaries are a few small matrices
whatever the length, softmax's are all keys and values. What grows with the recording is its samples (230 MB
an hour as fp32), its features (115 MB) and two arrays of one layer's activations (2 x 52 MB for size S).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from asr.attention import Frames
from asr.attention.base import at_least_fp32
from asr.conformer import ConformerBlock, Encoder, Subsampling, halve
from asr.frontend import FFT, HOP, SMALLEST_DEVIATION, Frontend, frame_lengths
from asr.model import Model

CHUNK = 1024  # encoder frames, 41 s: small enough for caches, large enough to keep cores busy


def long_log_probs(model: Model, waveform: Tensor, chunk: int = CHUNK, show: str = "") -> Iterator[Tensor]:
    """Log-probabilities of one recording, the same as ``model``'s but for rounding.

    Args:
        model: in evaluation mode.
        waveform: (S,) in [-1, 1] at 16 kHz, on any device.
        chunk: encoder frames at a time.
        show: title of a progress bar; none where it is empty or output is not a terminal.

    Yields:
        (n, classes) fp32 on the model's device for consecutive chunks of n frames of 40 ms.
    """
    with torch.inference_mode():
        features = long_features(model.frontend, waveform, 4 * chunk)
        encoded = encode_long(model.encoder, features, chunk, show)
        del features
    for start, end in _spans(len(encoded), chunk):
        with torch.inference_mode():  # not around the yield: the caller's code is none of its business
            log_probs = model.head(encoded[None, start:end])[0]
        yield log_probs


@torch.inference_mode()
def long_features(frontend: Frontend, waveform: Tensor, chunk: int) -> Tensor:
    """Normalised log-mel features (T, F) of a waveform (S,), ``chunk`` frames at a time."""
    device = frontend.mel.spectrogram.window.device
    total = frame_lengths(len(waveform))
    features = torch.empty(total, frontend.config.mels, device=device)
    # Sums of a million frames are exact to fp32 only in fp64.
    mean = torch.zeros(frontend.config.mels, dtype=torch.float64, device=device)
    for start, end in _spans(total, chunk):
        samples = waveform[start * HOP : (end - 1) * HOP + FFT].to(device)
        features[start:end] = frontend.log_mel(samples[None])[0]
        mean += features[start:end].sum(0, dtype=torch.float64) / total
    variance = torch.zeros_like(mean)
    for start, end in _spans(total, chunk):
        features[start:end] -= mean.float()
        variance += features[start:end].square().sum(0, dtype=torch.float64) / total
    features /= variance.sqrt().clamp(min=SMALLEST_DEVIATION).float()
    return features


@torch.inference_mode()
def encode_long(encoder: Encoder, features: Tensor, chunk: int = CHUNK, show: str = "") -> Tensor:
    """Features (T, F) of one recording to encoded frames (N, D), N = ceil(T / 4).

    Args:
        encoder: in evaluation mode; on whose device the features must be.
        features: as the frontend makes them.
        chunk, show: see ``long_log_probs``.

    Raises:
        ValueError: the encoder is in training mode, whose batch statistics no chunk knows.
    """
    if encoder.training:
        raise ValueError("encode_long wants an encoder in evaluation mode")
    # As a core is elsewhere, in fp32 whatever the caller's autocast.
    with torch.autocast(features.device.type, enabled=False):
        return _encode(encoder, features, chunk, show)


def _encode(encoder: Encoder, features: Tensor, chunk: int, show: str) -> Tensor:
    spans = _spans(halve(halve(len(features))), chunk)
    hidden = not show or None  # None: tqdm decides by whether it writes to a terminal
    with tqdm(total=len(spans) * (1 + len(encoder.blocks)), desc=show, leave=False, disable=hidden) as bar:
        x = _subsample(encoder.subsampling, features, encoder.dim, spans, bar)
        spare = torch.empty_like(x)
        for block in encoder.blocks:
            _pass_block(block, x, spare, spans, bar)
            x, spare = spare, x
    return x


def _subsample(subsampling: Subsampling, features: Tensor, dim: int, spans, bar: tqdm) -> Tensor:
    x = features.new_empty(spans[-1][1], dim)
    for start, end in spans:
        # One encoded frame more on either side, and away with it: it saw zeros in its neighbours' place.
        first = max(0, start - 1)
        part = features[4 * first : 4 * (end + 1)]
        encoded, _ = subsampling(part[None], torch.tensor([len(part)], device=x.device))
        x[start:end] = encoded[0, start - first : end - first]
        bar.update()
    return x


def _pass_block(block: ConformerBlock, x: Tensor, out: Tensor, spans, bar: tqdm) -> None:
    """One block from x (N, D), which is overwritten, to out (N, D)."""
    attention, n = block.attention, len(x)
    token = torch.zeros(1, x.shape[1], dtype=torch.float64, device=x.device)
    summary = None
    for number in range(attention.PASSES):
        parts = []
        for start, end in spans:
            if number == 0:
                x[start:end] = block.before_attention(x[start:end])
                token += block.attention_norm(x[start:end]).sum(0, dtype=torch.float64) / n
            frames = _frames(start, end, x)
            projected = attention.project(block.attention_norm(x[None, start:end]), frames)
            q, k, v = (at_least_fp32(y) for y in projected[1:])
            parts.append(attention.summarise(q, k, v, frames, summary))
        summary = attention.combine(parts)
    del parts
    for start, end in spans:
        # Attention must be right on the convolution's halo too, for which it needs its own around that.
        left, right = max(0, start - block.convolution.halo), min(n, end + block.convolution.halo)
        first, last = max(0, left - attention.halo), min(n, right + attention.halo)
        frames = _frames(first, last, x)
        projected = attention.project(block.attention_norm(x[None, first:last]), frames)
        y = attention.attend(at_least_fp32(projected.q), summary, frames)
        y = attention.finish(projected, y, token.to(x.dtype), frames)
        y = (x[None, first:last] + y)[:, left - first : right - first]
        y = block.after_attention(y, _frames(left, right, x).valid)
        out[start:end] = y[0, start - left : end - left]
        bar.update()


def _frames(start: int, end: int, x: Tensor) -> Frames:
    """Frames ``start`` to ``end`` of the recording x (N, D)."""
    valid = torch.ones(1, end - start, dtype=torch.bool, device=x.device)
    return Frames(valid, torch.tensor([len(x)], device=x.device), start)


def _spans(n: int, chunk: int) -> list[tuple[int, int]]:
    return [(start, min(start + chunk, n)) for start in range(0, n, chunk)]
