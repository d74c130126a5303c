"""The acoustic model's part of decoding: waveforms to posteriors, in batches of like length.

A recording whose samples are all the same, as of a muted microphone, is blank in every frame, whatever the
model.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.data.batches import SpeechDataset, collate, make_batches
from asr.data.manifest import Utterance
from asr.data.prefetch import prefetch
from asr.data.tokenizer import Tokenizer
from asr.model.ctc import BLANK
from asr.model.long import long_log_probs
from asr.model.recogniser import Model

_NEVER = -1e4  # log-probability; beam search would make NaN of minus infinity times nothing
_PART = 1 << 20  # samples


@dataclass(frozen=True)
class Posteriors:
    """A split after the acoustic model."""

    utterances: list[Utterance]
    log_probs: list[np.ndarray]  # (N, classes) fp32 each
    seconds: float  # time it took

    @property
    def audio_seconds(self) -> float:
        """Length of the split."""
        return sum(utterance.duration for utterance in self.utterances)

    @property
    def references(self) -> list[str]:
        """What was said."""
        return [utterance.text for utterance in self.utterances]


def pool_posteriors(parts: Sequence[Posteriors]) -> Posteriors:
    """Several splits as one."""
    return Posteriors(
        [utterance for part in parts for utterance in part.utterances],
        [item for part in parts for item in part.log_probs],
        sum(part.seconds for part in parts),
    )


def compute_posteriors(
    model: Model, utterances: list[Utterance], tokenizer: Tokenizer, batch_seconds: float, show: str
) -> Posteriors:
    """Run the acoustic model over utterances, batched by length; results in the given order.

    An utterance longer than a batch goes through the model in chunks (asr/model/long.py): the same.
    """
    started = time.monotonic()
    dataset = SpeechDataset(utterances, tokenizer)
    batches = make_batches([utterance.duration for utterance in utterances], batch_seconds, rng=None)
    read = prefetch(collate([dataset[index] for index in indices]) for indices in batches)
    found: dict[int, np.ndarray] = {}
    with tqdm(total=len(utterances), desc=show, unit="utt", leave=False, disable=None) as bar:
        for indices, batch in zip(batches, read, strict=True):
            if utterances[indices[0]].duration > batch_seconds:
                rows = [_in_chunks(model, batch.waveforms[0], batch.ids[0])]
            else:
                rows = log_probs_of(model, batch.waveforms, batch.lengths)
            found |= zip(indices, rows, strict=True)
            bar.update(len(indices))
    log_probs = [found[index] for index in range(len(utterances))]
    return Posteriors(utterances, log_probs, time.monotonic() - started)


@torch.inference_mode()
def log_probs_of(model: Model, waveforms: Tensor, lengths: Tensor) -> list[np.ndarray]:
    """Log-probabilities (N, classes) fp32 of each utterance, on the CPU, of a batch (B, S), lengths (B,)."""
    device = next(model.parameters()).device
    log_probs, frames = model(waveforms.to(device), lengths.to(device))
    log_probs = log_probs.cpu().numpy()
    found = []
    for row, frame_count, waveform, samples in zip(
        log_probs, frames.tolist(), waveforms, lengths.tolist(), strict=True
    ):
        row = row[:frame_count].copy()  # a view would keep the whole batch
        found.append(row if _sounds(waveform[:samples]) else _blanks(row))
    return found


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


def _sounds(waveform: Tensor) -> bool:
    """Whether a sample (S,) differs from another one."""
    return bool((waveform != waveform[:1]).any())


def _blanks(log_probs: np.ndarray) -> np.ndarray:
    """Of the shape of (N, classes): blank, and nothing else, in every frame."""
    certain = np.full_like(log_probs, _NEVER)
    certain[:, BLANK] = 0
    return certain


def _in_chunks(model: Model, waveform: torch.Tensor, show: str) -> np.ndarray:
    return np.concatenate(list(long_log_probs_of(model, waveform, show)))
