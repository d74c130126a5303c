"""Transcribing recordings of any format, sample rate and length.

Short recordings go through the model in batches of like length, a window of some batches at a time, so that
transcripts come in the order given and soon. A long one is read, encoded and decoded part by part
(asr/model/long.py, asr/decoding/pauses.py): neither its samples nor its posteriors are ever in memory whole.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from os.path import normpath
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from asr.data import audio
from asr.data.batches import make_batches
from asr.data.recordings import Recording, find_recordings
from asr.data.tokenizer import Tokenizer
from asr.decoding.alignment import Word, best_path, collapse, forced_path, words_on_path
from asr.decoding.beam import BeamPool
from asr.decoding.captions import Transcript, as_json, as_srt, as_text, as_vtt
from asr.decoding.evaluation import log_probs_of
from asr.decoding.pauses import LONGEST, cut_at_pauses
from asr.errors import UserError
from asr.files import atomic_write
from asr.model.frames import FRAME_SECONDS
from asr.model.long import long_log_probs, seconds_bar
from asr.model.recogniser import Model

FORMATS = ("txt", "json", "srt", "vtt")
WINDOW = 8  # batches of short recordings whose transcripts come together
SEGMENTS = 16  # of up to 40 s, that are searched together for each process of beam search

Parts = Iterable[np.ndarray]  # of one recording: log-probabilities (n, classes) fp32, part by part
Spoken = tuple[str, list[Word]]  # a recording's text, and its words with their times


class GreedyDecoder:
    """Recordings' posteriors to what was said, without an LM."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, recordings: Sequence[Parts], seconds: float) -> list[Spoken]:
        """Decode recordings that last so many ``seconds`` in all."""
        return [self._decode(parts) for parts in recordings]

    def _decode(self, parts: Parts) -> Spoken:
        path = best_path(parts)
        return self.tokenizer.decode(collapse(path)[0].tolist()), words_on_path(path, self.tokenizer)


class LMDecoder:
    """Recordings' posteriors to what was said, by beam search with an LM, a segment between pauses at a time.

    Args:
        tokenizer: the acoustic model's.
        pool: to search in; entered.
        lm_weight, word_score: see ``BeamDecoder``.
        together: segments searched at a time.
        longest: frames of a segment at most.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        pool: BeamPool,
        lm_weight: float,
        word_score: float,
        together: int,
        longest: int = LONGEST,
    ) -> None:
        self.tokenizer, self.pool, self.together, self.longest = tokenizer, pool, together, longest
        self.weights = lm_weight, word_score

    def __call__(self, recordings: Sequence[Parts], seconds: float) -> list[Spoken]:
        """Decode recordings that last so many ``seconds`` in all."""
        texts: list[list[str]] = [[] for _ in recordings]
        words: list[list[Word]] = [[] for _ in recordings]
        segments = (
            (number, segment)
            for number, parts in enumerate(recordings)
            for segment in cut_at_pauses(parts, self.longest)
        )
        frames = [0] * len(recordings)  # decoded of each
        with seconds_bar("beam search", seconds) as bar:
            while group := list(islice(segments, self.together)):
                found = self.pool.decode([segment for _, segment in group], *self.weights)
                for (number, segment), text in zip(group, found, strict=True):
                    texts[number] += text.split()
                    words[number] += self._align(segment, text, frames[number])
                    frames[number] += len(segment)
                    bar.update(FRAME_SECONDS * len(segment))
        return [(" ".join(text), times) for text, times in zip(texts, words, strict=True)]

    def _align(self, segment: np.ndarray, text: str, first: int) -> list[Word]:
        # Word by word, as the lexicon spells them.
        pieces = [piece for word in text.split() for piece in self.tokenizer.encode(word)]
        return words_on_path(forced_path(segment, pieces), self.tokenizer, first)


Decoder = GreedyDecoder | LMDecoder


def transcribe(
    recordings: Iterable[Recording | UserError], model: Model, decoder: Decoder, batch_seconds: float
) -> Iterator[Transcript | UserError]:
    """A transcript for every recording, or what is wrong with it, in order.

    Args:
        recordings: as ``find_recordings`` gives them; errors come out as they went in.
        model: in evaluation mode, on the device to use.
        batch_seconds: audio in a batch, padding included; a longer recording is read part by part.
    """
    for window in _windows(recordings, batch_seconds):
        first = window[0]
        if isinstance(first, Recording) and first.seconds > batch_seconds:  # by itself
            yield _transcribe_long(first, model, decoder)
        else:
            yield from _transcribe_short(window, model, decoder, batch_seconds)


def _windows(
    recordings: Iterable[Recording | UserError], batch_seconds: float
) -> Iterator[list[Recording | UserError]]:
    """Some batches of short recordings each, or one long recording."""
    window, seconds = [], 0.0
    for item in recordings:
        length = item.seconds if isinstance(item, Recording) else 0.0
        if window and (length > batch_seconds or seconds > WINDOW * batch_seconds):
            yield window
            window, seconds = [], 0.0
        if length > batch_seconds:
            yield [item]
        else:
            window.append(item)
            seconds += length
    if window:
        yield window


def _transcribe_long(recording: Recording, model: Model, decoder: Decoder) -> Transcript | UserError:
    parts = long_log_probs(model, audio.stream(recording.path), show=recording.path.name)
    try:
        first = next(parts)  # comes when everything is read and encoded
    except audio.AudioError as error:
        return error
    [spoken] = decoder([(part.cpu().numpy() for part in chain([first], parts))], recording.seconds)
    return _transcript(recording, spoken)


def _transcribe_short(
    window: list[Recording | UserError], model: Model, decoder: Decoder, batch_seconds: float
) -> Iterator[Transcript | UserError]:
    recordings = [item for item in window if isinstance(item, Recording)]
    posteriors = _posteriors(recordings, model, batch_seconds)
    readable = [[item] for item in posteriors if not isinstance(item, UserError)]
    spoken = iter(decoder(readable, sum(recording.seconds for recording in recordings)))
    outcomes = iter(posteriors)
    for item in window:
        outcome = next(outcomes) if isinstance(item, Recording) else item
        yield outcome if isinstance(outcome, UserError) else _transcript(item, next(spoken))


def _posteriors(
    recordings: list[Recording], model: Model, batch_seconds: float
) -> list[np.ndarray | UserError]:
    """Log-probabilities (N, classes) of each, or why it cannot be read."""
    found: list[np.ndarray | UserError | None] = [None] * len(recordings)
    lengths = [recording.seconds for recording in recordings]
    with seconds_bar("acoustic model", sum(lengths)) as bar:
        for batch in make_batches(lengths, batch_seconds, rng=None):
            waveforms: dict[int, Tensor] = {}
            for number in batch:
                try:
                    waveforms[number] = audio.load(recordings[number].path)
                except audio.AudioError as error:
                    found[number] = error
            if waveforms:
                samples = torch.tensor([len(waveform) for waveform in waveforms.values()])
                padded = pad_sequence(list(waveforms.values()), batch_first=True)
                rows = log_probs_of(model, padded, samples)
                for number, log_probs in zip(waveforms, rows, strict=True):
                    found[number] = log_probs
            bar.update(sum(lengths[number] for number in batch))
    return found


def _transcript(recording: Recording, spoken: Spoken) -> Transcript:
    text, words = spoken
    # The last frame may reach beyond the last sample.
    end = round(recording.seconds, 3)
    words = [replace(word, end=min(word.end, end)) for word in words]
    return Transcript(str(recording.path), end, text, words)


@dataclass(frozen=True)
class Output:
    """Where transcripts go, and how.

    Args:
        form: one of FORMATS.
        timestamps: whether text has the words' times.
        folder: for a file a recording; None for standard output.
    """

    form: str = "txt"
    timestamps: bool = False
    folder: Path | None = None

    def plan(self, recordings: Sequence[Recording], arguments: Sequence[Path]) -> list[Path]:
        """Each recording's file, in ``folder``.

        Raises:
            UserError: two recordings have one file, or it is one of the ``arguments``.
        """
        taken: dict[Path, Path] = {}
        inputs = {normpath(argument.absolute()) for argument in arguments}
        for recording in recordings:
            target = self.folder / f"{recording.name}.{self.form}"
            if target in taken:
                raise UserError(
                    f"--out {self.folder}: {taken[target]} and {recording.path} would both be written to "
                    f"{target}; transcribe them to two folders, or name the folder above them in --audio"
                )
            if normpath(target.absolute()) in inputs:
                raise UserError(f"--out {self.folder}: would overwrite {target}; name another folder")
            taken[target] = recording.path
        return list(taken)

    def render(self, transcript: Transcript) -> str:
        """A transcript in the format."""
        if self.form == "txt":
            return as_text(transcript, self.timestamps)
        return {"json": as_json, "srt": as_srt, "vtt": as_vtt}[self.form](transcript)

    def show(self, transcript: Transcript) -> str:
        """A transcript in the format, for standard output: text is preceded by the recording's path."""
        if self.form != "txt":
            return self.render(transcript)
        times = self.render(transcript) if self.timestamps else ""
        return f"{transcript.path}: {transcript.text}\n{times}"


def run(
    arguments: Sequence[Path], output: Output, model: Model, decoder: Decoder, batch_seconds: float
) -> int:
    """Transcribe what the command line names; 1 if anything of it could not be, which is said on stderr.

    Raises:
        UserError: outputs would overwrite each other, or several captions files would go to standard output.
    """
    looked_at = tqdm(find_recordings(arguments), desc="recordings", unit="", leave=False, disable=None)
    items = list(looked_at)
    recordings = [item for item in items if isinstance(item, Recording)]
    targets = iter(output.plan(recordings, arguments) if output.folder else [])
    if output.form in ("srt", "vtt") and len(recordings) > 1 and not output.folder:
        raise UserError(f"--format {output.form}: a file holds one recording's captions; give --out a folder")
    failed = written = 0
    for item, outcome in zip(items, transcribe(items, model, decoder, batch_seconds), strict=True):
        target = next(targets, None) if isinstance(item, Recording) else None
        if isinstance(outcome, UserError):
            print(f"error: {outcome}", file=sys.stderr)
            failed += 1
        elif target is None:
            print(output.show(outcome), end="", flush=True)
        else:
            atomic_write(target, output.render(outcome))
            written += 1
    if output.folder:
        print(f"{written} of {len(items)} recordings: transcripts written to {output.folder}")
    return 1 if failed else 0
