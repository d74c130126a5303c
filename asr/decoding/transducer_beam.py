"""A transducer's beam search, frame by frame, for a batch of utterances, with an n-gram LM over words.

After each frame there are at most ``beam`` sequences of pieces for each utterance, each with the probability
of all the ways to it that the beam kept. Within a frame each says up to ``expansions`` pieces and then the
blank (icefall's modified beam search says one piece or the blank; here the blank is paid for, so that with
room enough the probability is the whole lattice's, exactly the one of ``Transducer.loss``). The joint and the
prediction network run on the sequences of all utterances together, on the transducer's device.

    score(pieces) = ln P(pieces | audio) - ilm_weight ln P_ilm(pieces) + words' and the end's (``Weights``)
                    + ctc_weight ln P_ctc(pieces | audio)

P_ilm, what the transducer expects without hearing anything, is the joint network's with the encoded frame set
to zero, without the blank (Meng et al., arXiv 2011.01991: ILME). CTC's is exact, of all alignments, and
counts at the end, among the sequences that the search has found.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from asr.attention.base import at_least_fp32
from asr.decoding import EXPANSIONS, TRANSDUCER_BEAM
from asr.decoding.label_looping import Hypothesis, greedy_in_batches
from asr.decoding.nbest import Parts, Scored
from asr.decoding.weights import GREEDY, Weights
from asr.decoding.words import Reader, Reading, WordModel, log_add
from asr.errors import UserError
from asr.model.classes import BLANK
from asr.model.ctc import CTCHead
from asr.model.transducer import Transducer

FLOOR = -12.0  # nats: pieces less likely than this in a frame are not tried
TOGETHER = 16  # utterances


class Found(NamedTuple):
    """A sequence of pieces that the search found."""

    said: Hypothesis
    parts: Parts  # of the score by which they are ordered

    @property
    def score(self) -> float:
        """In nats."""
        return self.parts.score

    @property
    def scored(self) -> Scored:
        """Without the frames."""
        return Scored(self.said.classes, self.parts)


class Prefix:
    """A sequence of pieces."""

    __slots__ = ("before", "bonus", "frame", "ilm", "log_prob", "piece", "reading", "row", "spelling")

    def __init__(
        self,
        before: "Prefix | None",
        piece: int,
        frame: int,
        log_prob: float,
        ilm: float,
        reading: Reading | None,
    ) -> None:
        self.before, self.piece = before, piece  # all pieces but the last; the last
        self.frame, self.log_prob = frame, log_prob  # on which it came first, and how likely it was there
        self.ilm = ilm  # weighted ln P_ilm
        self.reading = reading  # None without an LM
        self.bonus = (reading.prospect if reading else 0.0) - ilm  # what it is ranked by besides P
        self.row = 0  # of the networks' states
        self.spelling = 0  # number of its pieces among those that were ever in the beam

    @property
    def key(self) -> tuple[int, int]:
        """Of its pieces: the number of all but the last, and the last."""
        return (self.before.spelling, self.piece) if self.before else (-1, BLANK)

    def said(self) -> Hypothesis:
        """Its pieces."""
        backwards, prefix = [], self
        while prefix.before:
            backwards.append((prefix.piece, prefix.frame, prefix.log_prob))
            prefix = prefix.before
        columns = zip(*backwards[::-1], strict=True) if backwards else ((), (), ())
        return Hypothesis(*map(list, columns))


Beam = dict[Prefix, float]  # with their log-probabilities
Candidate = tuple[float, float, Prefix]  # rank, log-probability, and what has them


class _Networks:
    """The prediction network's states of all utterances' prefixes, a row each."""

    def __init__(self, transducer: Transducer, utterances: int, ilm: bool) -> None:
        self.transducer, self._ilm = transducer, ilm
        self._device = transducer.joint.encoder.weight.device
        self._predicted, self._state, self.internal = self._step(
            torch.full((utterances, 1), BLANK, device=self._device), None
        )

    def _step(self, classes: Tensor, state) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        joint = self.transducer.joint
        predicted, state = self.transducer.prediction.step(classes, state)
        predicted, internal = joint.prediction(predicted[:, 0]), None
        if self._ilm:
            nothing = joint.encoder(torch.zeros_like(joint.encoder.weight[:1]))
            internal = at_least_fp32(joint(nothing, predicted))
            internal[:, BLANK] = -math.inf
            internal = internal.log_softmax(-1)
        return predicted, state, internal

    def log_probs(self, encoded: Tensor, rows: list[int]) -> tuple[Tensor, Tensor | None]:
        """What comes next (n, classes), and what would without the frame, given encoded frames (n, joint)."""
        rows = torch.tensor(rows, device=self._device)
        logits = self.transducer.joint(encoded, self._predicted[rows])
        internal = None if self.internal is None else self.internal[rows]
        return at_least_fp32(logits).log_softmax(-1), internal

    def add(self, prefixes: Sequence[Prefix]) -> None:
        """Rows for new prefixes, whose ``before`` have rows."""
        parents = torch.tensor([prefix.before.row for prefix in prefixes], device=self._device)
        classes = torch.tensor([[prefix.piece] for prefix in prefixes], device=self._device)
        state = tuple(part[:, parents] for part in self._state)
        predicted, state, internal = self._step(classes, state)
        for row, prefix in enumerate(prefixes, len(self._predicted)):
            prefix.row = row
        self._predicted = torch.cat((self._predicted, predicted))
        self._state = tuple(torch.cat(parts, 1) for parts in zip(self._state, state, strict=True))
        if internal is not None:
            self.internal = torch.cat((self.internal, internal))

    def keep(self, prefixes: Sequence[Prefix]) -> None:
        """Forget all other rows."""
        if len(prefixes) == len(self._predicted):
            return
        rows = torch.tensor([prefix.row for prefix in prefixes], device=self._device)
        self._predicted = self._predicted[rows]
        self._state = tuple(part[:, rows] for part in self._state)
        self.internal = None if self.internal is None else self.internal[rows]
        for row, prefix in enumerate(prefixes):
            prefix.row = row


class TransducerSearch:
    """Encoded frames to pieces. It stands where ``BeamPool`` does for CTC.

    Args:
        transducer: in evaluation mode, on the device to use.
        words: LM and hotwords; None for neither.
        beam: sequences kept after each frame.
        expansions: pieces on a frame at most.
        ctc: weighs in at the end where ``ctc_weight`` is not 0; of the same encoder.
        ctc_weight: factor on CTC's log-probability.
        floor: nats; pieces less likely in a frame are not tried.

    Raises:
        UserError: the transducer has durations (TDT), which only greedy decoding knows.

    Attributes:
        style: the LM's, where the model also writes otherwise; else None.
    """

    def __init__(
        self,
        transducer: Transducer,
        words: WordModel | None = None,
        beam: int = TRANSDUCER_BEAM,
        expansions: int = EXPANSIONS,
        ctc: CTCHead | None = None,
        ctc_weight: float = 0.0,
        floor: float = FLOOR,
    ) -> None:
        if transducer.config.durations:
            raise UserError(
                "beam search: not with a transducer's durations (TDT); decode without an LM, hotwords and "
                "n-best lists"
            )
        self.transducer, self.words = transducer, words
        self.style = words.style if words else None
        self.hotwords = bool(words and words.phrases.first)
        self.beam, self.expansions, self.floor = beam, expansions, floor
        self.ctc, self.ctc_weight = ctc, ctc_weight

    def __enter__(self) -> "TransducerSearch":
        return self

    def __exit__(self, *_) -> None:
        pass

    def decode(self, frames: Sequence[np.ndarray], weights: Weights, show: str = "") -> list[list[int]]:
        """The classes of each utterance's best pieces, given encoded frames (N, D).

        With ``GREEDY``, and without hotwords, those of greedy decoding. ``show`` names a progress bar.
        """
        if weights == GREEDY and not self.hotwords:
            return [found.classes for found in greedy_in_batches(self.transducer, frames)]
        return [found[0].said.classes for found in self.find(frames, weights, show)]

    def n_best(
        self, frames: Sequence[np.ndarray], weights: Weights, count: int, show: str = ""
    ) -> list[list[Scored]]:
        """As ``find``, as ``BeamPool`` gives it; of whatever texts, up to ``count`` among them or all."""
        return [[item.scored for item in found] for found in self.find(frames, weights, show)]

    @torch.inference_mode()
    def find(self, frames: Sequence[np.ndarray], weights: Weights, show: str = "") -> list[list[Found]]:
        """All that is in the beam at each utterance's end, the best first."""
        order = sorted(range(len(frames)), key=lambda number: -len(frames[number]))
        found: dict[int, list[Found]] = {}
        with tqdm(
            total=len(frames), desc=show, unit="utt", leave=False, disable=None if show else True
        ) as bar:
            for first in range(0, len(order), TOGETHER):
                batch = order[first : first + TOGETHER]
                several = _Batch(self, [torch.from_numpy(frames[number]) for number in batch], weights).run()
                found |= zip(batch, several, strict=True)
                bar.update(len(batch))
        return [found[number] for number in range(len(frames))]


class _Batch:
    """The search over utterances (N, D) that go through the networks together, the longest first.

    Args:
        search: its settings.
        frames: encoded, of each.
        weights: how the LMs count.
    """

    def __init__(self, search: TransducerSearch, frames: list[Tensor], weights: Weights) -> None:
        self.search, self.weights = search, weights
        self.reader = Reader(search.words, weights) if search.words else None
        joint, self.lengths = search.transducer.joint, [len(item) for item in frames]
        self.x = pad_sequence(frames, batch_first=True).to(joint.encoder.weight.device)
        self.encoded = joint.encoder(self.x.to(joint.encoder.weight.dtype))
        self.networks = _Networks(search.transducer, len(frames), ilm=weights.ilm_weight != 0)
        self.beams: list[Beam] = []
        # Numbers of all sequences that were ever in an utterance's beam, by their keys.
        self.spellings: list[dict[tuple[int, int], int]] = [{} for _ in frames]
        for number in range(len(frames)):
            nothing = Prefix(None, BLANK, 0, 0.0, 0.0, self.reader.start() if self.reader else None)
            nothing.row = number
            self.beams.append({nothing: 0.0})

    def run(self) -> list[list[Found]]:
        """All that is in the beam at each utterance's end, the best first."""
        for n in range(self.x.shape[1]):
            there = sum(n < length for length in self.lengths)
            self.beams[:there] = self._frame(n, self.beams[:there])
            self.networks.keep([prefix for beam in self.beams for prefix in beam])
        return [
            self._judge(x[:length], beam)
            for x, length, beam in zip(self.x, self.lengths, self.beams, strict=True)
        ]

    def _frame(self, n: int, beams: list[Beam]) -> list[Beam]:
        """The beams of the utterances that last so long, after frame n."""
        # Those that there are, by their pieces, so that two ways to the same are found out.
        known = [{prefix.key: prefix for prefix in beam} for beam in beams]
        ended: list[Beam] = [{} for _ in beams]
        for said in range(self.search.expansions + 1):
            flat = [
                (number, prefix, mass) for number, beam in enumerate(beams) for prefix, mass in beam.items()
            ]
            if not flat:
                break
            at = torch.tensor([number for number, *_ in flat], device=self.encoded.device)
            log_probs, internal = self.networks.log_probs(
                self.encoded[at, n], [prefix.row for _, prefix, _ in flat]
            )
            for (number, prefix, mass), blank in zip(flat, log_probs[:, BLANK].tolist(), strict=True):
                ended[number][prefix] = log_add(ended[number].get(prefix, -math.inf), mass + blank)
            if said < self.search.expansions:
                candidates = self._longer(n, flat, log_probs, internal, known)
                beams = [self._prune(*both) for both in zip(candidates, ended, strict=True)]
                self._register(beams, known)
        return [_best(beam, self.search.beam) for beam in ended]

    def _longer(
        self,
        n: int,
        flat: list[tuple[int, Prefix, float]],
        log_probs: Tensor,
        internal: Tensor | None,
        known: list[dict[tuple[int, int], Prefix]],
    ) -> list[list[Candidate]]:
        """Each prefix with each likely piece more, by utterance."""
        ilms = torch.zeros_like(log_probs) if internal is None else self.weights.ilm_weight * internal
        worth = (log_probs - ilms).masked_fill(log_probs < self.search.floor, -math.inf)
        worth[:, BLANK] = -math.inf
        pieces = worth.topk(min(self.search.beam, worth.shape[1] - 1), -1).indices
        columns = (part.gather(-1, pieces).tolist() for part in (worth, log_probs, ilms))
        candidates: list[list[Candidate]] = [[] for _ in known]
        for (number, prefix, mass), *choices in zip(flat, pieces.tolist(), *columns, strict=True):
            for piece, value, log_prob, ilm in zip(*choices, strict=True):
                if value == -math.inf or (self.reader and not self.search.words.lexicon.is_text[piece]):
                    continue
                longer = known[number].get((prefix.spelling, piece))
                if longer is None:
                    reading = self.reader.go_on(prefix.reading, piece) if self.reader else None
                    longer = Prefix(prefix, piece, n, log_prob, prefix.ilm + ilm, reading)
                candidates[number].append((mass + log_prob + longer.bonus, mass + log_prob, longer))
        return candidates

    def _prune(self, candidates: list[Candidate], ended: Beam) -> Beam:
        """A beam of the best, less those that could not stay beside what has ended the frame."""
        most = self.search.beam
        ranks = sorted((mass + prefix.bonus for prefix, mass in ended.items()), reverse=True)
        least = ranks[most - 1] if len(ranks) >= most else -math.inf
        candidates.sort(key=lambda candidate: -candidate[0])
        return {prefix: mass for rank, mass, prefix in candidates[:most] if rank > least}

    def _register(self, beams: list[Beam], known: list[dict[tuple[int, int], Prefix]]) -> None:
        """Number new prefixes, and give them rows of the networks."""
        new = []
        for beam, theirs, spellings in zip(beams, known, self.spellings[: len(beams)], strict=True):
            for prefix in beam:
                if prefix.key not in theirs:
                    theirs[prefix.key] = prefix
                    prefix.spelling = spellings.setdefault(prefix.key, len(spellings) + 1)
                    new.append(prefix)
        if new:
            self.networks.add(new)

    def _judge(self, x: Tensor, beam: Beam) -> list[Found]:
        """What is left at the end, with the last word, the end and CTC counted; x (N, D) encoded."""
        search = self.search
        said = [prefix.said() for prefix in beam]
        by_ctc = [0.0] * len(said)
        if search.ctc_weight:
            found = ctc_log_likelihoods(search.ctc(x[None])[0], [item.classes for item in said])
            if any(map(math.isfinite, found)):  # else there are too few frames for any of them
                by_ctc = [search.ctc_weight * ctc for ctc in found]
        found = []
        for (prefix, mass), item, ctc in zip(beam.items(), said, by_ctc, strict=True):
            words = search.words.explain(item.classes, self.weights) if search.words else (0.0, 0.0, 0.0)
            found.append(Found(item, Parts(mass, *words, -prefix.ilm, ctc)))
        return sorted(found, key=lambda item: -item.score)


def _best(beam: Beam, count: int) -> Beam:
    """The prefixes of the best ranks."""
    kept = sorted(beam.items(), key=lambda item: -(item[1] + item[0].bonus))[:count]
    return dict(kept)


def ctc_log_likelihoods(log_probs: Tensor, pieces: Sequence[Sequence[int]]) -> list[float]:
    """ln P_ctc of each sequence of classes, of all its alignments, given log-probabilities (N, classes).

    Minus infinity where there are fewer frames than it needs.
    """
    count, frames = len(pieces), len(log_probs)
    targets = torch.tensor(
        [piece for item in pieces for piece in item], device=log_probs.device, dtype=torch.long
    )
    losses = F.ctc_loss(
        log_probs[:, None].double().expand(-1, count, -1),
        targets,
        torch.full((count,), frames),
        torch.tensor([len(item) for item in pieces]),
        blank=BLANK,
        reduction="none",
    )
    return (-losses).tolist()
