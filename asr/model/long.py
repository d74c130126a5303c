"""Audio of any length, exactly: features and encoder go over a recording chunk by chunk, layer by layer.

Convolutions get the frames beside a chunk that they need. Attention first summarises all chunks, then
answers the queries of each (asr/attention/base.py); the linear family's summaries are a few small matrices
whatever the length, softmax's are all keys and values. What grows with the recording is its features (115 MB
an hour, twice that for a moment), two arrays of one layer's activations (2 x 52 MB for size S), and its
samples (230 MB as fp32) unless they come in parts.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from asr.attention import Frames
from asr.attention.base import at_least_fp32
from asr.model.conformer import ConformerBlock, Encoder, Subsampling
from asr.model.frames import FFT, HOP, Framing, subsampled
from asr.model.frontend import Frontend, as_float
from asr.model.recogniser import Model

Advance = Callable[[int], None]  # told of encoder frames that a pass is done with
CHUNK = 1024  # encoder frames, 41 or 82 s: small enough for caches, large enough to keep cores busy


def long_log_probs(
    model: Model, waveform: Tensor | Iterable[Tensor], chunk: int = CHUNK, show: str = ""
) -> Iterator[Tensor]:
    """Log-probabilities of one recording, the same as ``model``'s but for rounding.

    Args:
        model: in evaluation mode.
        waveform: (S,) in [-1, 1] at 16 kHz, on any device; or its parts in order, of any lengths.
        chunk: encoder frames at a time.
        show: title of a progress bar; none where it is empty or output is not a terminal.

    Yields:
        (n, classes) fp32 on the model's device for consecutive chunks of n frames.
    """
    encoded = long_encoded(model, waveform, chunk, show)
    for start, end in _spans(len(encoded), chunk):
        with torch.inference_mode():  # not around the yield: the caller's code is none of its business
            log_probs = model.log_probs(encoded[None, start:end])[0]
        yield log_probs


@torch.inference_mode()
def long_encoded(
    model: Model, waveform: Tensor | Iterable[Tensor], chunk: int = CHUNK, show: str = ""
) -> Tensor:
    """Encoded frames (N, D) of one recording, on the model's device; for the rest see ``long_log_probs``."""
    features = long_features(model.frontend, waveform, model.framing.factor * chunk)
    return encode_long(model.encoder, features, chunk, show)


@torch.inference_mode()
def long_features(frontend: Frontend, waveform: Tensor | Iterable[Tensor], chunk: int) -> Tensor:
    """Normalised log-mel features (T, F) of a waveform (S,) or its parts, ``chunk`` frames at a time."""
    features = long_log_mel(frontend, waveform, chunk)
    if frontend.config.normalise == "running":
        heard = None
        for start, end in _spans(len(features), chunk):
            part = features[None, start:end]
            found, heard = frontend.running(part, part.new_ones(part.shape[:2], dtype=torch.bool), heard)
            features[start:end] = found[0]
        return features
    total = len(features)
    # Sums of a million frames are exact to fp32 only in fp64.
    mean = torch.zeros(frontend.config.mels, dtype=torch.float64, device=features.device)
    for start, end in _spans(total, chunk):
        mean += features[start:end].sum(0, dtype=torch.float64) / total
    squares = torch.zeros_like(mean)
    for start, end in _spans(total, chunk):
        features[start:end] -= mean.to(features)
        squares += features[start:end].square().sum(0, dtype=torch.float64)
    features /= frontend.divisor(squares, total).to(features)
    return features


@torch.inference_mode()
def long_log_mel(frontend: Frontend, waveform: Tensor | Iterable[Tensor], chunk: int) -> Tensor:
    """``long_features`` before they are normalised."""
    device = frontend.mel.spectrogram.window.device
    parts = waveform.split(chunk * HOP) if isinstance(waveform, Tensor) else waveform
    prepared = frontend.prepare_parts(map(as_float, parts))
    return torch.cat([frontend.log_mel(samples.to(device)[None])[0] for samples in _windows(prepared, chunk)])


def _windows(parts: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
    """The samples of ``chunk`` 10 ms frames at a time, and what is left; windows overlap, so these do too."""
    held, whole = torch.empty(0), (chunk - 1) * HOP + FFT
    first = True
    for part in parts:
        held = torch.cat((held.to(part), part))
        while len(held) >= whole:
            yield held[:whole]
            held, first = held[chunk * HOP :], False
    if first or len(held) >= FFT:  # a recording shorter than a window has a frame too
        yield held[: max(0, len(held) - FFT) // HOP * HOP + FFT]


@torch.inference_mode()
def encode_long(encoder: Encoder, features: Tensor, chunk: int = CHUNK, show: str = "") -> Tensor:
    """Features (T, F) of one recording to encoded frames (N, D), N = ceil(T / factor).

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
    factor = encoder.subsampling.factor
    spans = _spans(subsampled(len(features), factor), chunk)
    frame_seconds = Framing(factor=factor).seconds
    passes = 1 + len(encoder.blocks)
    with seconds_bar(show, frame_seconds * spans[-1][1]) as bar:

        def advance(frames: int) -> None:
            bar.update(frame_seconds * frames / passes)

        x = _subsample(encoder.subsampling, features, encoder.dim, spans, advance)
        spare = torch.empty_like(x)
        for block in encoder.blocks:
            _pass_block(block, x, spare, spans, advance)
    return x


def seconds_bar(show: str, seconds: float) -> tqdm:
    """A progress bar over seconds of audio; none where ``show`` is empty or output is no terminal."""
    layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    hidden = not show or None  # None: tqdm looks whether it writes to a terminal
    return _Bar(desc=show, total=seconds, bar_format=layout, leave=False, disable=hidden)


class _Bar(tqdm):
    def update(self, n: float) -> None:
        super().update(min(n, self.total - self.n))  # tqdm warns where rounding leads beyond the end


def _subsample(subsampling: Subsampling, features: Tensor, dim: int, spans, advance: Advance) -> Tensor:
    x = features.new_empty(spans[-1][1], dim)
    for start, end in spans:
        # One encoded frame more on either side, and away with it: it saw zeros in its neighbours' place.
        first = max(0, start - 1)
        part = features[subsampling.factor * first : subsampling.factor * (end + 1)]
        encoded, _ = subsampling(part[None], torch.tensor([len(part)], device=x.device))
        x[start:end] = encoded[0, start - first : end - first]
        advance(end - start)
    return x


def _pass_block(block: ConformerBlock, x: Tensor, spare: Tensor, spans, advance: Advance) -> None:
    """One block, x (N, D) to x; ``spare`` (N, D) is overwritten too."""
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
        if number < attention.PASSES - 1:
            summary = attention.combine(parts)
    for (start, end), known in zip(spans, attention.spread(parts), strict=True):
        first, last = max(0, start - attention.halo), min(n, end + attention.halo)
        frames = _frames(first, last, x)
        projected = attention.project(block.attention_norm(x[None, first:last]), frames)
        own = slice(start - first, end - first)
        q, k, v = (at_least_fp32(y[:, :, own]) for y in projected[1:])
        y = attention.answer(q, k, v, known, _frames(start, end, x))
        # On the halo only the values are wanted.
        y = F.pad(y, (0, 0, start - first, last - end))
        y = attention.finish(projected, y, token.to(x.dtype), frames)
        spare[start:end] = x[start:end] + y[0, own]
    del parts, known
    for start, end in spans:
        left, right = max(0, start - block.convolution.halo), min(n, end + block.convolution.halo)
        y = block.after_attention(spare[None, left:right], _frames(left, right, x).valid)
        x[start:end] = y[0, start - left : end - left]
        advance(end - start)


def _frames(start: int, end: int, x: Tensor) -> Frames:
    """Frames ``start`` to ``end`` of the recording x (N, D)."""
    valid = torch.ones(1, end - start, dtype=torch.bool, device=x.device)
    return Frames(valid, torch.tensor([len(x)], device=x.device), start)


def _spans(n: int, chunk: int) -> list[tuple[int, int]]:
    return [(start, min(start + chunk, n)) for start in range(0, n, chunk)]
