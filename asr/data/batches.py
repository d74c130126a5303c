"""From manifests to padded batches: filtering, duration buckets, collation."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from asr.data.audio import load
from asr.data.joining import Joined, join_samples
from asr.data.manifest import Utterance, find_manifest, read_manifest
from asr.data.nonspeech import NonSpeech
from asr.data.packed import read_packed
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import atomic_write
from asr.model.ctc import frames_needed
from asr.model.frames import SAMPLE_RATE, Framing
from asr.processes import ignore_interrupts

Transcripts = Literal["needed", "welcome", "unread"]


class Batch(NamedTuple):
    """Padded utterances."""

    ids: list[str]
    waveforms: Tensor  # (B, S) fp32 in [-1, 1]; int16 where all are packed (the frontend takes both)
    lengths: Tensor  # (B,) samples; on the CPU wherever the batch is, as is target_lengths
    targets: Tensor  # (B, U) classes, padded with 0
    target_lengths: Tensor  # (B,)
    texts: list[str]
    # (B,) bool, on the CPU; None where all are. (A transcript may be empty.)
    transcribed: Tensor | None = None

    @property
    def seconds(self) -> float:
        """Audio in the batch, without padding."""
        return self.lengths.sum().item() / SAMPLE_RATE

    @property
    def padding(self) -> float:
        """Share of the waveforms that is padding."""
        return 1 - self.lengths.sum().item() / self.waveforms.numel()

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with waveforms and targets on a device, which is not waited for.

        Lengths stay: CTC asks for them on the CPU, and would fetch them back in every step.
        """
        waveforms, targets = (x.to(device, non_blocking=True) for x in (self.waveforms, self.targets))
        return self._replace(waveforms=waveforms, targets=targets)


@dataclass(frozen=True)
class Excluded:
    """An utterance left out, and why."""

    id: str
    audio: str
    cause: str
    detail: str


def split_trainable(
    utterances: list[Utterance],
    tokenizer: Tokenizer,
    framing: Framing,
    max_seconds: float,
    fastest: float,
    transcripts: Transcripts = "needed",
    frames_for_pieces: bool = True,
) -> tuple[list[Utterance], list[Excluded]]:
    """Part the utterances that can be trained on from those that cannot.

    Args:
        framing: the model's.
        max_seconds: the longest utterance taken.
        fastest: greatest factor of speed perturbation; it shortens an utterance by as much.
        transcripts: needed; welcome (an utterance without a word is kept for what a teacher says of it, one
            whose words do not fit is not); or unread (only its length matters).
        frames_for_pieces: whether every piece needs a frame, as CTC has it.
    """
    kept, excluded = [], []
    for utterance in utterances:
        cause = detail = None
        classes = tokenizer.encode(utterance.text)
        lacking = frames_lacking(classes, utterance.duration / fastest, framing)
        if transcripts == "unread" or (transcripts == "welcome" and not utterance.transcribed):
            if utterance.duration > max_seconds:
                cause, detail = "too long", f"{utterance.duration:.1f} s"
        elif not utterance.transcribed:
            cause, detail = "empty text", "the transcript has no word"
        elif tokenizer.unknown in classes:
            cause, detail = "letters that the tokenizer lacks", utterance.text
        elif utterance.duration > max_seconds:
            cause, detail = "too long", f"{utterance.duration:.1f} s"
        elif frames_for_pieces and lacking > 0:
            cause, detail = "more tokens than frames", f"{lacking} frames more would do"
        if cause:
            excluded.append(Excluded(utterance.id, utterance.audio, cause, detail))
        else:
            kept.append(utterance)
    return kept, excluded


def frames_lacking(classes: list[int], seconds: float, framing: Framing) -> int:
    """Encoder frames that so much audio is short of for these classes; above 0, CTC's loss is infinite."""
    return frames_needed(classes) - framing.encoded(int(seconds * SAMPLE_RATE))


def write_excluded(path: str | Path, excluded: list[Excluded]) -> str:
    """List them in a file of JSON lines; returns a sentence that counts them by cause."""
    atomic_write(path, "".join(json.dumps(vars(item)) + "\n" for item in excluded))
    causes = Counter(item.cause for item in excluded)
    return ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))


def read_samples(utterance: Utterance | Joined) -> np.ndarray:
    """The utterance at 16 kHz: (S,) fp32 in [-1, 1], or int16, a view of its file, where it is packed.

    Raises:
        UserError: it cannot be read, or is not as long as its manifest says.
    """
    if isinstance(utterance, Joined):
        return join_samples([read_samples(part) for part in utterance.parts])
    if utterance.offset is None:
        samples = load(utterance.audio, SAMPLE_RATE, utterance.part).numpy()
    else:
        samples = read_packed(utterance.audio, utterance.offset, utterance.samples)
    seconds = len(samples) / SAMPLE_RATE
    # Batches are sized, and utterances too short for their text found, by the manifest's figure.
    if abs(seconds - utterance.duration) > 0.02:
        raise UserError(
            f"{utterance.audio}: {seconds:.2f} s long, but {utterance.duration:.2f} s in its manifest; "
            "prepare the data again"
        )
    return samples


class SpeechDataset(Dataset):
    """Utterances by index: samples (S,) as ``read_samples`` gives them, classes (U,), the utterance.

    Classes are None where there is no transcript. Indices beyond the utterances are clips of ``nonspeech``,
    without end, whose transcripts are empty.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance | Joined],
        tokenizer: Tokenizer,
        nonspeech: NonSpeech | None = None,
    ) -> None:
        self.utterances = utterances
        self.tokenizer = tokenizer
        self.nonspeech = nonspeech

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Tensor | None, Utterance | Joined]:
        if self.nonspeech and index >= len(self.utterances):
            number = index - len(self.utterances)
            nothing = torch.empty(0, dtype=torch.long)
            return self.nonspeech.samples(number), nothing, self.nonspeech.utterance(number)
        utterance, classes = self.utterances[index], None
        if utterance.transcribed:
            classes = torch.tensor(self.tokenizer.encode(utterance.text), dtype=torch.long)
        return read_samples(utterance), classes, utterance


def collate(items: list[tuple[np.ndarray, Tensor | None, Utterance | Joined]]) -> Batch:
    """Pad waveforms and classes with zeros. Waveforms stay int16 where all of them are."""
    waveforms, classes, utterances = zip(*items, strict=True)
    transcribed = [found is not None for found in classes]
    targets = [torch.empty(0, dtype=torch.long) if found is None else found for found in classes]
    return Batch(
        ids=[utterance.id for utterance in utterances],
        waveforms=_pad(waveforms),
        lengths=torch.tensor([len(waveform) for waveform in waveforms]),
        targets=torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        target_lengths=torch.tensor([len(target) for target in targets]),
        texts=[utterance.text for utterance in utterances],
        transcribed=None if all(transcribed) else torch.tensor(transcribed),
    )


def some_speech(
    utterances: Sequence[Utterance | Joined], seconds: float, tokenizer: Tokenizer
) -> SpeechDataset:
    """About so many seconds of it, evenly from the whole list."""
    step = max(1, round(sum(item.duration for item in utterances) / seconds))
    return SpeechDataset(utterances[::step], tokenizer)


def _pad(waveforms: Sequence[np.ndarray]) -> Tensor:
    packed = all(waveform.dtype == np.int16 for waveform in waveforms)
    shape = len(waveforms), max(map(len, waveforms))
    padded = torch.empty(shape, dtype=torch.int16 if packed else torch.float32)
    for row, waveform in zip(padded.numpy(), waveforms, strict=True):
        if waveform.dtype != row.dtype:  # a packed one among others
            waveform = waveform / np.float32(32768)
        row[: len(waveform)] = waveform  # from the file's map to its place in the batch in one copy
        row[len(waveform) :] = 0
    return padded


def make_batches(durations: list[float], seconds: float, rng: random.Random | None) -> list[list[int]]:
    """Group utterances of like duration into batches of at most ``seconds``, padding included.

    An utterance longer than ``seconds`` makes a batch of its own.

    Args:
        durations: of each utterance, in seconds.
        rng: shuffles the batches, and who meets whom; None keeps the order by duration.
    """

    def blurred(index: int) -> float:
        return durations[index] * (rng.uniform(0.9, 1.1) if rng else 1.0)

    batches: list[list[int]] = []
    longest = 0.0
    for index in sorted(range(len(durations)), key=blurred):
        longest = max(longest, durations[index])
        if not batches or longest * (len(batches[-1]) + 1) > seconds:
            batches.append([])
            longest = durations[index]
        batches[-1].append(index)
    if rng:
        rng.shuffle(batches)
    return batches


class TrainingSampler(Sampler[list[int]]):
    """Endless batches, epoch after epoch: batch number k is a function of the seed and k alone.

    So a run that stopped after k batches goes on from there (``start_at``). With several processes, each
    takes every W-th batch.

    Args:
        durations: of the utterances, in seconds.
        seconds: a batch's size; see ``make_batches``.
        seed: another one, other batches.
        nonspeech: clips that come beside the utterances, other ones in every epoch; clip n has the index
            len(durations) + n.
    """

    def __init__(
        self, durations: list[float], seconds: float, seed: int, nonspeech: NonSpeech | None = None
    ) -> None:
        self.durations, self.seconds, self.seed, self.nonspeech = durations, seconds, seed, nonspeech
        self.start_at(0)

    def start_at(self, number: int, place: tuple[int, int] | None = None) -> None:
        """Begin with batch ``number``.

        Args:
            place: what ``place(number)`` was where a run stopped. Without it all epochs before are built
                again, to count their batches: 0.4 s each at LibriSpeech's size.
        """
        self.start = number
        epoch, index = place or (0, number)
        self.begun = [(number - index, epoch)]  # the first batch's number of every epoch begun

    def place(self, number: int) -> tuple[int, int]:
        """Batch ``number``, no earlier than the one begun with, as an epoch and batches after its first."""
        first, epoch = max(entry for entry in self.begun if entry[0] <= number)
        return epoch, number - first

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one pass over the data."""
        draw = random.Random(f"{self.seed}/{number}")
        if not self.nonspeech:
            return make_batches(self.durations, self.seconds, draw)
        speech, clips = len(self.durations), self.nonspeech.an_epoch
        numbers = range(number * clips, (number + 1) * clips)
        durations = [*self.durations, *(self.nonspeech.utterance(n).duration for n in numbers)]
        batches = make_batches(durations, self.seconds, draw)
        # The loss is divided by the pieces of a batch, of which clips alone have none.
        kept = (batch for batch in batches if min(batch) < speech)
        return [[index if index < speech else index + numbers.start for index in batch] for batch in kept]

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = 0, 1
        if torch.distributed.is_initialized():
            rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return islice(self._stream(), rank, None, processes)

    def _stream(self) -> Iterator[list[int]]:
        first, epoch = self.begun[0]
        self.begun = []
        for number in count(epoch):
            self.begun.append((first, number))
            batches = self.epoch(number)
            yield from batches[max(0, self.start - first) :]
            first += len(batches)


class FixedBatches(Sampler[list[int]]):
    """A list of batches, in order."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def make_loader(dataset: SpeechDataset, sampler: Sampler[list[int]], workers: int) -> DataLoader:
    """A DataLoader over batches; pins memory where there is a GPU."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=ignore_interrupts,  # training saves before it ends, and its step wants a batch
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def read_splits(folder: str | Path, splits: list[str]) -> list[Utterance]:
    """The utterances of every split named, in ``folder`` (``find_manifest``)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--data.folder {folder}: no such folder; prepare the data first")
    return [item for split in splits for item in read_manifest(find_manifest(folder, split))]
