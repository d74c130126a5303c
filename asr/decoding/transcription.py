"""Transcribing recordings of any format, sample rate and length.

Short recordings go through the model in batches of like length, a window of some batches at a time, so that
transcripts come in the order given and soon. A long one is read, encoded and decoded part by part
(asr/model/long.py, asr/decoding/pauses.py): neither its samples nor its posteriors are ever in memory whole.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from asr.data import MIX, audio
from asr.data.batches import make_batches
from asr.data.prefetch import prefetch
from asr.data.recordings import Recording, fault, find_recordings
from asr.data.tokenizer import Tokenizer
from asr.decoding.alignment import Word, best_path, collapse, forced_path, words_of_pieces, words_on_path
from asr.decoding.captions import Transcript, as_ctm, as_json, as_srt, as_text, as_vtt
from asr.decoding.label_looping import Hypothesis, greedy_in_batches
from asr.decoding.nbest import Alternative, NBest, alternatives
from asr.decoding.pauses import LONGEST, cut_at_pauses
from asr.decoding.posteriors import encoded_of, log_probs_of, long_log_probs_of
from asr.decoding.segments import segment_log_probs
from asr.decoding.weights import GREEDY, Weights
from asr.errors import FULL, UserError, report
from asr.files import atomic_write
from asr.model.long import long_encoded, seconds_bar
from asr.model.recogniser import Model
from asr.model.transducer import Transducer

if TYPE_CHECKING:
    from asr.decoding.beam import BeamPool  # with Numba, which greedy decoding does without
    from asr.decoding.transducer_beam import TransducerSearch

WINDOW = 8  # batches of short recordings whose transcripts come together
SEGMENTS = 16  # of up to 40 s, that are searched together for each process of beam search

# Of one recording, part by part, fp32: CTC's log-probabilities (n, classes), a transducer's frames (n, D).
Parts = Iterable[np.ndarray]


class Spoken(NamedTuple):
    """What was said in a recording."""

    text: str
    words: list[Word]  # with their times
    nbest: tuple[NBest, ...] = ()  # of each part that was searched at once


# Errors that are not about one recording: of an option or a process, of memory, of a device.
_EVERYONES = (UserError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)

Item, Result = TypeVar("Item"), TypeVar("Result")


class GreedyDecoder:
    """Recordings' posteriors to what was said, by CTC's best path, without an LM.

    Args:
        tokenizer: the acoustic model's.
        frame_seconds: that one of its frames stands for.
    """

    def __init__(self, tokenizer: Tokenizer, frame_seconds: float) -> None:
        self.tokenizer, self.frame_seconds = tokenizer, frame_seconds

    def __call__(self, recordings: Sequence[Parts], seconds: float) -> list[Spoken]:
        """Decode recordings that last so many ``seconds`` in all."""
        return [self._decode(parts) for parts in recordings]

    def _decode(self, parts: Parts) -> Spoken:
        path = best_path(parts)
        text = self.tokenizer.decode(collapse(path)[0].tolist())
        return Spoken(text, words_on_path(path, self.tokenizer, self.frame_seconds))


class LMDecoder:
    """Recordings' posteriors to what was said, by beam search, a segment between pauses at a time.

    Args:
        tokenizer: the acoustic model's.
        frame_seconds: that one of its frames stands for.
        pool: to search in; entered.
        weights: how the LM counts.
        together: segments searched at a time.
        longest: seconds of a segment at most.
        n_best: lines of the n-best list of each segment; 0: no list.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        frame_seconds: float,
        pool: "BeamPool",
        weights: Weights,
        together: int,
        longest: float = LONGEST,
        n_best: int = 0,
    ) -> None:
        self.tokenizer, self.frame_seconds, self.weights = tokenizer, frame_seconds, weights
        self.pool, self.together, self.longest = pool, together, round(longest / frame_seconds)
        self.n_best = n_best

    def __call__(self, recordings: Sequence[Parts], seconds: float) -> list[Spoken]:
        """Decode recordings that last so many ``seconds`` in all."""
        texts: list[list[str]] = [[] for _ in recordings]
        words: list[list[Word]] = [[] for _ in recordings]
        lists: list[list[NBest]] = [[] for _ in recordings]
        segments = (
            (number, segment)
            for number, parts in enumerate(recordings)
            for segment in cut_at_pauses(parts, self.longest)
        )
        frames = [0] * len(recordings)  # decoded of each
        with seconds_bar("beam search", seconds) as bar:
            while group := list(islice(segments, self.together)):
                found = self._search([segment for _, segment in group])
                for (number, segment), (pieces, several) in zip(group, found, strict=True):
                    texts[number] += self.tokenizer.decode(pieces).split()
                    if several:
                        start, end = frames[number], frames[number] + len(segment)
                        lists[number].append(
                            NBest(start * self.frame_seconds, end * self.frame_seconds, several)
                        )
                    path = forced_path(segment, pieces)
                    words[number] += words_on_path(path, self.tokenizer, self.frame_seconds, frames[number])
                    frames[number] += len(segment)
                    bar.update(self.frame_seconds * len(segment))
        spoken = zip(texts, words, lists, strict=True)
        return [Spoken(" ".join(text), times, tuple(several)) for text, times, several in spoken]

    def _search(self, segments: list[np.ndarray]) -> list[tuple[list[int], tuple[Alternative, ...]]]:
        """The pieces of each, and its n-best list where one is wanted."""
        if not self.n_best:
            return [(pieces, ()) for pieces in self.pool.decode(segments, self.weights)]
        return [
            (found[0].pieces if found else [], alternatives(found, self.tokenizer, self.n_best))
            for found in self.pool.n_best(segments, self.weights, self.n_best)
        ]


class TransducerDecoder:
    """Recordings' encoded frames to what was said, by a transducer: greedily, or by beam search.

    Of a recording of any length it is one search: what was said before goes on to count.

    Args:
        tokenizer: the acoustic model's.
        frame_seconds: that one of its frames stands for.
        transducer: the acoustic model's.
        search: greedy without it.
        weights: how the LM counts.
        n_best: lines of the n-best list; 0: no list.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        frame_seconds: float,
        transducer: Transducer,
        search: "TransducerSearch | None" = None,
        weights: Weights = GREEDY,
        n_best: int = 0,
    ) -> None:
        self.tokenizer, self.frame_seconds, self.transducer = tokenizer, frame_seconds, transducer
        self.search, self.weights, self.n_best = search, weights, n_best

    def __call__(self, recordings: Sequence[Parts], seconds: float) -> list[Spoken]:
        """Decode recordings that last so many ``seconds`` in all."""
        frames = [np.concatenate(list(parts)) for parts in recordings]
        search = self.search
        if not search or (self.weights == GREEDY and not (search.hotwords or self.n_best)):
            return [self._spoken(item) for item in greedy_in_batches(self.transducer, frames)]
        spoken = []
        for item, found in zip(frames, search.find(frames, self.weights), strict=True):
            several = alternatives((one.scored for one in found), self.tokenizer, self.n_best)
            lists = (NBest(0.0, len(item) * self.frame_seconds, several),) if self.n_best else ()
            spoken.append(self._spoken(found[0].said)._replace(nbest=lists))
        return spoken

    def _spoken(self, said: Hypothesis) -> Spoken:
        starts = np.array(said.frames, int)
        columns = np.array(said.classes, int), starts, starts + 1, np.array(said.log_probs)
        words = words_of_pieces(*columns, self.tokenizer, self.frame_seconds)
        return Spoken(self.tokenizer.decode(said.classes), words)


Decoder = GreedyDecoder | LMDecoder | TransducerDecoder


def transcribe(
    recordings: Iterable[Recording | UserError],
    model: Model,
    decoder: Decoder,
    batch_seconds: float,
    segment_seconds: float = 0.0,
) -> Iterator[Transcript | UserError]:
    """A transcript for every recording, or what is wrong with it, in order.

    Args:
        recordings: as ``find_recordings`` gives them; errors come out as they went in.
        model: in evaluation mode, on the device to use.
        batch_seconds: audio in a batch, padding included; a longer recording is read part by part.
        segment_seconds: a recording longer than this is cut where it is quiet, and its segments of at most so
            much are encoded apart; 0: no recording is.
    """
    long = min(batch_seconds, segment_seconds or batch_seconds)
    for window in _windows(recordings, batch_seconds, long):
        first = window[0]
        if isinstance(first, Recording) and first.seconds > long:  # by itself
            yield _transcribe_long(first, model, decoder, batch_seconds, segment_seconds)
        else:
            yield from _transcribe_short(window, model, decoder, batch_seconds)


def _windows(
    recordings: Iterable[Recording | UserError], batch_seconds: float, long: float
) -> Iterator[list[Recording | UserError]]:
    """Some batches of short recordings each, or one longer than ``long`` seconds."""
    window, seconds = [], 0.0
    for item in recordings:
        length = item.seconds if isinstance(item, Recording) else 0.0
        if window and (length > long or seconds > WINDOW * batch_seconds):
            yield window
            window, seconds = [], 0.0
        if length > long:
            yield [item]
        else:
            window.append(item)
            seconds += length
    if window:
        yield window


def _transcribe_long(
    recording: Recording, model: Model, decoder: Decoder, batch_seconds: float, segment_seconds: float
) -> Transcript | UserError:
    def decode(items: list[Recording]) -> list[Spoken]:
        [item] = items
        samples, name = prefetch(item.stream()), item.path.name
        if isinstance(decoder, TransducerDecoder):
            parts = iter([long_encoded(model, samples, show=name).cpu().numpy()])
        elif segment_seconds:
            together = max(1, int(batch_seconds / segment_seconds))
            parts = segment_log_probs(model, samples, segment_seconds, together)
        else:
            parts = long_log_probs_of(model, samples, show=name)
        first = next(parts)  # in one pass it comes when everything is read and encoded
        return decoder([chain([first], parts)], recording.seconds)

    [outcome] = _each(decode, [recording])
    return _transcript(recording, outcome)


def _transcribe_short(
    window: list[Recording | UserError], model: Model, decoder: Decoder, batch_seconds: float
) -> Iterator[Transcript | UserError]:
    recordings = [item for item in window if isinstance(item, Recording)]
    seconds = sum(recording.seconds for recording in recordings)
    outputs_of = encoded_of if isinstance(decoder, TransducerDecoder) else log_probs_of
    found = _encode(recordings, model, batch_seconds, outputs_of)
    parts = {item: [outcome] for item, outcome in found.items() if isinstance(outcome, np.ndarray)}
    spoken = _each(lambda several: decoder(several, seconds), list(parts.values()))
    outcomes = found | dict(zip(parts, spoken, strict=True))
    for item in window:
        yield _transcript(item, outcomes[item]) if isinstance(item, Recording) else item


def _encode(
    recordings: list[Recording],
    model: Model,
    batch_seconds: float,
    outputs_of: Callable[[Model, Tensor, Tensor], list[np.ndarray]],
) -> dict[Recording, np.ndarray | Exception]:
    """What ``outputs_of`` makes of each, (N, ...), or why there is nothing."""

    def encode(waveforms: list[Tensor]) -> list[np.ndarray]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        return outputs_of(model, pad_sequence(waveforms, batch_first=True), lengths)

    seconds = [recording.seconds for recording in recordings]
    batches = [[recordings[i] for i in batch] for batch in make_batches(seconds, batch_seconds, rng=None)]
    found: dict[Recording, np.ndarray | Exception] = {}
    with seconds_bar("acoustic model", sum(seconds)) as bar:
        for batch in prefetch(map(_load, batches)):
            waveforms = {item: outcome for item, outcome in batch.items() if isinstance(outcome, Tensor)}
            encoded = _each(encode, list(waveforms.values()))
            found |= batch | dict(zip(waveforms, encoded, strict=True))
            bar.update(sum(recording.seconds for recording in batch))
    return found


def _load(recordings: list[Recording]) -> dict[Recording, Tensor | Exception]:
    """Samples (S,) of each, or why there are none."""

    def load(items: list[Recording]) -> list[Tensor]:
        return [item.load() for item in items]

    return {recording: _each(load, [recording])[0] for recording in recordings}


def _each(work: Callable[[list[Item]], list[Result]], items: list[Item]) -> list[Result | Exception]:
    """``work`` on all items at once; where that fails, on each by itself, with errors in the results' places.

    Raises:
        _EVERYONES: what would stop any recording.
    """
    if not items:
        return []
    try:
        return work(items)
    except audio.AudioError as error:
        return [error]
    except _EVERYONES:
        raise
    except Exception as error:  # whatever one recording does, the others are transcribed
        return [error] if len(items) == 1 else [_each(work, [item])[0] for item in items]


def _transcript(recording: Recording, outcome: Spoken | Exception) -> Transcript | UserError:
    if isinstance(outcome, Exception):
        return fault(recording.path, outcome)
    text, words, lists = outcome
    # The last frame may reach beyond the last sample.
    start, length = recording.part.start, round(recording.seconds, 3)
    words = [
        replace(word, start=round(start + word.start, 3), end=round(start + min(word.end, length), 3))
        for word in words
    ]
    lists = tuple(
        replace(part, start=round(start + part.start, 3), end=round(start + min(part.end, length), 3))
        for part in lists
    )
    path, channel = str(recording.path), recording.part.channel
    return Transcript(path, length, text, words, recording.id, round(start, 3), channel, lists)


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

    def plan(self, recordings: Sequence[Recording], arguments: Sequence[Path]) -> dict[Recording, Path]:
        """Each recording's file, in ``folder``: NAME.FORMAT, or where several have that, NAME.ENDING.FORMAT.

        Raises:
            UserError: two recordings have one file, or it is one of the ``arguments``, or a text beside its
                recording.
        """
        inputs = {normpath(argument.absolute()) for argument in arguments}
        targets = {recording: self.folder / f"{recording.name}.{self.form}" for recording in recordings}
        shared = Counter(targets.values())
        taken: dict[Path, Recording] = {}
        for recording, target in targets.items():
            if shared[target] > 1 and not recording.id:
                target = targets[recording] = target.with_name(
                    f"{recording.name.name}{recording.path.suffix}.{self.form}"
                )
            if target in taken:
                both = f"{taken[target].label} and {recording.label}"
                raise UserError(
                    f"--out {self.folder}: {both} would both be written to {target}; transcribe them to two "
                    "folders, or name the folder above them in --audio"
                )
            if normpath(target.absolute()) in inputs:
                raise UserError(f"--out {self.folder}: would overwrite {target}; name another folder")
            beside = target.parent.resolve() == recording.path.parent.resolve()
            if self.form == "txt" and beside and target.exists():
                raise UserError(
                    f"--out {self.folder}: would overwrite {target}, which may be the recording's own "
                    "transcript; name another folder"
                )
            taken[target] = recording
        return targets

    def deliver(self, transcript: Transcript, target: Path | None) -> UserError | None:
        """Write a transcript to its file, or to standard output; what is wrong if it will not go there.

        Raises:
            OSError: the disk is full, or nobody reads standard output any more.
        """
        try:
            if target is None:
                print(self.show(transcript), end="", flush=True)
            else:
                atomic_write(target, self.render(transcript))
        except UnicodeEncodeError as error:
            return UserError(f"{transcript.label}: standard output takes {error.encoding} only; give --out")
        except OSError as error:
            if isinstance(error, BrokenPipeError) or error.errno in FULL:
                raise
            return UserError(f"{target or transcript.label}: cannot be written: {error.strerror}")

    def render(self, transcript: Transcript) -> str:
        """A transcript in the format."""
        if self.form == "txt":
            return as_text(transcript, self.timestamps)
        return {"json": as_json, "ctm": as_ctm, "srt": as_srt, "vtt": as_vtt}[self.form](transcript)

    def show(self, transcript: Transcript) -> str:
        """A transcript in the format, for standard output: text is preceded by the recording's path."""
        if self.form != "txt":
            return self.render(transcript)
        times = self.render(transcript) if self.timestamps else ""
        return f"{transcript.label}: {transcript.text}\n{times}"


def run(
    arguments: Sequence[Path],
    output: Output,
    transcribed: Callable[[Sequence[Recording | UserError]], Iterator[Transcript | UserError]],
    channel: str = MIX,
) -> int:
    """Transcribe what the command line names; 1 if anything of it could not be, which is said on stderr.

    Args:
        arguments, channel: see ``find_recordings``.
        output: where transcripts go.
        transcribed: recordings to transcripts, in order, as ``transcribe`` does.

    Raises:
        UserError: outputs would overwrite each other, or several captions files would go to standard output.
    """
    found = find_recordings(arguments, channel)
    items = list(tqdm(found, desc="recordings", unit="", leave=False, disable=None))
    recordings = [item for item in items if isinstance(item, Recording)]
    if output.form in ("srt", "vtt") and len(recordings) > 1 and not output.folder:
        raise UserError(f"--format {output.form}: a file holds one recording's captions; give --out a folder")
    targets = output.plan(recordings, arguments) if output.folder else {}
    failed = 0
    for item, outcome in zip(items, transcribed(items), strict=True):
        error = outcome if isinstance(outcome, UserError) else output.deliver(outcome, targets.get(item))
        if error:
            failed += report(str(error))
    if output.folder:
        done = len(items) - failed
        print(f"{done} of {len(items)} recordings: transcripts written to {output.folder}")
    return 1 if failed else 0
