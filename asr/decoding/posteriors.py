"""The acoustic model's part of decoding: waveforms to posteriors or encoded frames, in batches.

A recording whose samples are all the same, as of a muted microphone, has the blank in every frame of its
posteriors, whatever the model.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.data.batches import SpeechDataset, collate, make_batches
from asr.data.manifest import Utterance
from asr.data.prefetch import prefetch
from asr.data.tokenizer import Tokenizer
from asr.model.classes import BLANK
from asr.model.long import long_encoded, long_log_probs
from asr.model.recogniser import Model
from asr.model.streaming import Stream

Item = TypeVar("Item")

_NEVER = -1e4  # log-probability; beam search would make NaN of minus infinity times nothing
_PART = 1 << 20  # samples


class _Split:
    """A split after the acoustic model."""

    utterances: list[Utterance]

    @property
    def audio_seconds(self) -> float:
        """Length of the split."""
        return sum(utterance.duration for utterance in self.utterances)

    @property
    def references(self) -> list[str]:
        """What was said."""
        return [utterance.text for utterance in self.utterances]


@dataclass(frozen=True)
class Posteriors(_Split):
    """A split after the encoder and its CTC head."""

    utterances: list[Utterance]
    log_probs: list[np.ndarray]  # (N, classes) fp32 each
    seconds: float  # time it took

    @property
    def outputs(self) -> list[np.ndarray]:
        """What a search reads."""
        return self.log_probs


@dataclass(frozen=True)
class Encoded(_Split):
    """A split after the encoder, for a transducer to decode."""

    utterances: list[Utterance]
    frames: list[np.ndarray]  # (N, D) fp32 each
    seconds: float  # time it took

    @property
    def outputs(self) -> list[np.ndarray]:
        """What a search reads."""
        return self.frames


def pool_splits(parts: Sequence[Posteriors] | Sequence[Encoded], most: int = 0) -> Posteriors | Encoded:
    """Several splits as one, of at most so many utterances, evenly spread; 0: of all."""
    return type(parts[0])(
        spread([utterance for part in parts for utterance in part.utterances], most),
        spread([item for part in parts for item in part.outputs], most),
        sum(part.seconds for part in parts),
    )


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread; 0: all."""
    count = min(most, len(items)) if most else len(items)
    return [items[number * len(items) // count] for number in range(count)]


def compute_posteriors(
    model: Model,
    utterances: list[Utterance],
    tokenizer: Tokenizer,
    batch_seconds: float,
    show: str,
    chunk: int = 0,
) -> Posteriors:
    """Run the acoustic model over utterances, batched by length; results in the given order.

    An utterance longer than a batch goes through the model in parts (asr/model/long.py, streaming.py): the
    same. With a ``chunk``, so many encoded frames see each other and what comes before them, as in a stream.
    """
    args = utterances, tokenizer, batch_seconds, show
    short = partial(log_probs_of, chunk=chunk)
    long = partial(_streamed_log_probs, chunk=chunk) if chunk else _long_log_probs
    return Posteriors(utterances, *_in_batches(model, *args, short, long))


def compute_encoded(
    model: Model, utterances: list[Utterance], tokenizer: Tokenizer, batch_seconds: float, show: str
) -> Encoded:
    """As ``compute_posteriors``, without the CTC head."""
    args = utterances, tokenizer, batch_seconds, show
    return Encoded(utterances, *_in_batches(model, *args, encoded_of, _long_encoded))


def _in_batches(
    model: Model,
    utterances: list[Utterance],
    tokenizer: Tokenizer,
    batch_seconds: float,
    show: str,
    short: Callable[[Model, Tensor, Tensor], list[np.ndarray]],
    long: Callable[[Model, Tensor, str], np.ndarray],
) -> tuple[list[np.ndarray], float]:
    """What ``short`` makes of each batch, ``long`` of an utterance longer than one; the seconds it took."""
    started = time.monotonic()
    dataset = SpeechDataset(utterances, tokenizer)
    batches = make_batches([utterance.duration for utterance in utterances], batch_seconds, rng=None)
    read = prefetch(collate([dataset[index] for index in indices]) for indices in batches)
    found: dict[int, np.ndarray] = {}
    with tqdm(total=len(utterances), desc=show, unit="utt", leave=False, disable=None) as bar:
        for indices, batch in zip(batches, read, strict=True):
            if utterances[indices[0]].duration > batch_seconds:
                rows = [long(model, batch.waveforms[0], batch.ids[0])]
            else:
                rows = short(model, batch.waveforms, batch.lengths)
            found |= zip(indices, rows, strict=True)
            bar.update(len(indices))
    return [found[index] for index in range(len(utterances))], time.monotonic() - started


@torch.inference_mode()
def log_probs_of(model: Model, waveforms: Tensor, lengths: Tensor, chunk: int = 0) -> list[np.ndarray]:
    """Log-probabilities (N, classes) fp32 of each utterance, on the CPU, of a batch (B, S), lengths (B,)."""
    device = next(model.parameters()).device
    rows = _rows(*model(waveforms.to(device), lengths.to(device), chunk))
    alone = zip(rows, waveforms, lengths.tolist(), strict=True)
    return [row if _sounds(waveform[:samples]) else _blanks(row) for row, waveform, samples in alone]


def long_log_probs_of(model: Model, waveform: Tensor | Iterable[Tensor], show: str) -> Iterator[np.ndarray]:
    """``log_probs_of`` one recording of any length, (S,) or its parts in order; part by part (n, classes)."""
    parts = waveform.split(_PART) if isinstance(waveform, Tensor) else waveform
    first, sounds = [], False

    def listened() -> Iterator[Tensor]:
        nonlocal sounds
        for part in parts:
            if len(part):
                first[:] = first or [part[:1]]
                sounds = sounds or _sounds(part) or bool(part[0] != first[0])
            yield part

    for found in long_log_probs(model, listened(), show=show):  # begins when all is read
        row = found.cpu().numpy()
        yield row if sounds else _blanks(row)


def _streamed_log_probs(model: Model, waveform: Tensor, show: str, chunk: int) -> np.ndarray:
    stream = Stream(model, chunk)
    row = torch.cat((stream.feed(waveform), stream.finish())).float().cpu().numpy()
    return row if _sounds(waveform) else _blanks(row)


def _sounds(waveform: Tensor) -> bool:
    """Whether a sample (S,) differs from another one."""
    return bool((waveform != waveform[:1]).any())


def _blanks(log_probs: np.ndarray) -> np.ndarray:
    """Of the shape of (N, classes): blank, and nothing else, in every frame."""
    certain = np.full_like(log_probs, _NEVER)
    certain[:, BLANK] = 0
    return certain


@torch.inference_mode()
def encoded_of(model: Model, waveforms: Tensor, lengths: Tensor) -> list[np.ndarray]:
    """Encoded frames (N, D) fp32 of each utterance, on the CPU, of a batch (B, S), lengths (B,)."""
    device = next(model.parameters()).device
    return _rows(*model.encode(waveforms.to(device), lengths.to(device)))


def _rows(batch: Tensor, lengths: Tensor) -> list[np.ndarray]:
    # A view would keep the whole batch.
    rows = batch.float().cpu().numpy()
    return [row[:length].copy() for row, length in zip(rows, lengths.tolist(), strict=True)]


def _long_encoded(model: Model, waveform: Tensor, show: str) -> np.ndarray:
    return long_encoded(model, waveform, show=show).cpu().numpy()


def _long_log_probs(model: Model, waveform: Tensor, show: str) -> np.ndarray:
    return np.concatenate(list(long_log_probs_of(model, waveform, show)))
