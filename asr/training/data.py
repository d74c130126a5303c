"""What a run trains and validates on, read and checked."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

from asr.data.batches import (
    Excluded,
    Transcripts,
    frames_lacking,
    make_batches,
    read_splits,
    split_trainable,
)
from asr.data.joining import Joined, join_utterances
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.training.config import Config, TrainingConfig


class TrainingData:
    """The utterances of a run.

    Args:
        config: of the run.
        tokenizer: decides, with the frames that CTC needs if there is CTC, what can be trained on.

    Attributes:
        train: utterances to train on, consecutive ones joined where --data.join says so.
        dev: to validate on.
        excluded: those left out of training.
        lost: number of utterances of dev with more tokens than frames, which have no CTC loss.

    Raises:
        UserError: a split is missing or damaged, or nothing is left of it.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config = config.data
        if config.training.uses_transcripts and not tokenizer.spells:
            raise UserError(
                f"--data.tokenizer {config.data.tokenizer}: imported without what says how to spell words; "
                "import the model again with --tokenizer, from its .nemo file, or train without transcripts "
                "(--training.ctc 0)"
            )
        kept: list[Utterance]
        self.excluded: list[Excluded]
        kept, self.excluded = split_trainable(
            read_splits(config.data.folder, config.data.train),
            tokenizer,
            config.model.framing,
            config.data.max_seconds,
            fastest=max(config.model.frontend.speeds),
            transcripts=_transcripts(config.training),
            frames_for_pieces=config.training.ctc > 0,
        )
        if not kept:
            raise UserError(f"--data.folder {config.data.folder}: no utterance can be trained on")
        if config.training.uses_transcripts and not any(utterance.transcribed for utterance in kept):
            raise UserError(
                f"--data.train {' '.join(config.data.train)}: no utterance has a transcript; "
                "--training.ctc 0 trains on what the teacher says alone"
            )
        self.train: Sequence[Utterance | Joined] = kept
        if config.data.join:
            self.train = join_utterances(kept, config.data.join)
        self.dev = read_splits(config.data.folder, [config.data.dev])
        if not any(utterance.transcribed for utterance in self.dev):
            raise UserError(f"--data.dev {config.data.dev}: no utterance has a word to validate on")
        framing = config.model.framing
        self.lost = 0
        if "ctc" in config.model.heads:
            lacking = (frames_lacking(tokenizer.encode(u.text), u.duration, framing) for u in self.dev)
            self.lost = sum(frames > 0 for frames in lacking)

    @property
    def untranscribed(self) -> list[Utterance | Joined]:
        """Those to train on that have no transcript."""
        return [utterance for utterance in self.train if not utterance.transcribed]

    @property
    def durations(self) -> list[float]:
        """Of the utterances to train on, in seconds."""
        return [utterance.duration for utterance in self.train]

    @cached_property
    def digests(self) -> dict[str, str]:
        """What changes with the batches and with what is validated on; checkpoints keep it."""
        return {"data_digest": _digest(self.train), "dev_digest": _digest(self.dev)}

    def dev_batches(self, seconds: float, rank: int, ranks: int) -> list[list[int]]:
        """The batches of dev that a rank validates on; at least one, or it would not join in the sums."""
        durations = [utterance.duration for utterance in self.dev]
        while len(batches := make_batches(durations, seconds, rng=None)) < ranks:
            if len(batches) == len(self.dev):
                raise UserError(
                    f"--data.dev {self.config.dev}: {len(self.dev)} utterances cannot be shared out over "
                    f"{ranks} processes"
                )
            seconds /= 2
        return batches[rank::ranks]


def _transcripts(training: TrainingConfig) -> Transcripts:
    if not training.uses_transcripts:
        return "unread"
    return "welcome" if training.distils else "needed"


def _digest(utterances: Sequence[Utterance | Joined]) -> str:
    """Changes with what decides the batches: the utterances, their order, durations and texts."""
    listed = "".join(f"{item.id} {item.duration} {item.text}\n" for item in utterances)
    return hashlib.sha256(listed.encode()).hexdigest()
