"""Beam search over the LM's words, in this process or in several. The search itself is in search.py."""

import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import starmap
from pathlib import Path

import kenlm
import numpy as np
from tqdm import tqdm

from asr.data.tokenizer import Tokenizer
from asr.decoding import BEAM, lexicon, lexicon_cache, search
from asr.decoding.lexicon import ROOT, Lexicon, make_lexicon, spell, unigrams
from asr.errors import UserError
from asr.lm import files as lm_files
from asr.model.ctc import BLANK
from asr.processes import start_worker

ALONE = 7500  # frames, 5 minutes: searched in about the time that a process takes to start
MEMORY = 2**19  # LM scores remembered from utterance to utterance, a few hundred bytes each
ROOM = 2**16  # for so many at first, a power of two


class BeamDecoder:
    """Log-probabilities of one utterance to words.

    Args:
        lm_path: KenLM binary or ARPA file.
        tokenizer: the acoustic model's; it spells the LM's words.
        beam: hypotheses kept.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all.
    """

    def __init__(self, lm_path: str | Path, tokenizer: Tokenizer, beam: int = BEAM) -> None:
        self._model = lm_files.load(lm_path)
        words = lm_files.vocabulary(lm_path)
        check_vocabulary(lm_path, words, tokenizer)

        def make() -> dict[str, np.ndarray]:
            likelihoods = unigrams(self._model, words)
            return make_lexicon(spell(words, likelihoods, tokenizer), likelihoods)._asdict()

        sources = Path(lexicon.__file__).read_bytes(), "\n".join(words).encode()
        self._lexicon = Lexicon(**lexicon_cache.kept(lm_path, tokenizer.digest, sources, make))
        self._words = [*words, "</s>"]  # by number
        self._classes = tokenizer.pieces + 1
        self._beam = search.make_prefixes(beam)
        self._work = search.make_workspace(beam, self._classes)
        self._weights = lru_cache(1)(self._make_weights)
        self._forget()

    def decode(self, log_probs: np.ndarray, lm_weight: float, word_score: float) -> str:
        """The best word sequence; see ``decode_scored``."""
        return self.decode_scored(log_probs, lm_weight, word_score)[0]

    def decode_scored(self, log_probs: np.ndarray, lm_weight: float, word_score: float) -> tuple[str, float]:
        """The best word sequence and its score in nats (asr/decoding/prefix_beam.py says which).

        Args:
            log_probs: (N, classes) fp32, natural logarithms.
            lm_weight: factor on the LM's natural logarithm.
            word_score: added for every word, in nats.

        Raises:
            ValueError: another number of classes than the tokenizer has.
        """
        if log_probs.shape[1] != self._classes:
            raise ValueError(f"log_probs of {log_probs.shape[1]} classes; the tokenizer has {self._classes}")
        if self._remembered > MEMORY:
            self._forget()
        weights = self._weights(lm_weight, word_score)
        probs = np.exp(log_probs.astype(np.float64))
        histories = search.make_histories(1 + len(self._beam.node) * (len(probs) + 1))
        beam, work = self._beam, self._work
        work.log_scale[0] = 0.0
        work.begun[:] = 0
        beam.node[0], beam.history[0], beam.state[0], beam.last[0] = ROOT, 0, 0, BLANK
        beam.blank[0], beam.piece[0] = 1.0, 0.0
        frame, size, count = 0, 1, 1
        while True:
            frame, size, count, missing = search.advance(
                probs, frame, beam, size, count, histories, self._lexicon, self._memory, weights, work
            )
            if not missing:
                break
            self._ask(np.unique(work.missing[:missing]))
        return self._best(size, histories, weights)

    def _make_weights(self, lm_weight: float, word_score: float) -> search.Weights:
        decimal = lm_weight * math.log(10)
        alone, ahead = (
            np.exp(decimal * likelihood + word_score)
            for likelihood in (self._lexicon.alone, self._lexicon.best)
        )
        ahead[ROOT] = 1.0  # no word is in the making there
        # (A negative weight makes likely words rarer than they are by themselves.)
        surprise = search.SURPRISE ** abs(lm_weight)
        return search.Weights(decimal, word_score, len(self._words), surprise, alone, ahead)

    def _best(self, size: int, histories: search.Histories, weights: search.Weights) -> tuple[str, float]:
        """The best prefix whose last word is finished; where there is none, the best, less that word."""
        beam, best, best_score = self._beam, 0, -math.inf
        finished = [i for i in range(size) if beam.node[i] == ROOT]
        ends = [beam.state[i] * weights.words + weights.words - 1 for i in finished]
        self._ask(np.array([key for key in set(ends) if search.find(self._memory, key) < 0], np.int64))
        for i, end in zip(finished, ends, strict=True):
            end_score = self._memory.score[search.find(self._memory, end)]
            score = math.log(beam.blank[i] + beam.piece[i]) + weights.lm * end_score
            if score > best_score:
                best, best_score = int(beam.history[i]), score
        if not finished and size:
            rank = (beam.blank[:size] + beam.piece[:size]) * weights.ahead[beam.node[:size]]
            best, best_score = int(beam.history[rank.argmax()]), math.log(rank.max())
        words = []
        while best:
            words.append(self._words[histories.word[best]])
            best = histories.parent[best]
        return " ".join(reversed(words)), float(best_score + self._work.log_scale[0])

    def _ask(self, keys: np.ndarray) -> None:
        """Ask the LM for scores that are not in memory. A key is state * words + word."""
        scores, numbers = [], []
        states, words = np.divmod(keys, len(self._words))
        for state, word in zip(states.tolist(), words.tolist(), strict=True):
            after = kenlm.State()
            scores.append(self._model.BaseScore(self._states[state], self._words[word], after))
            numbers.append(self._numbers.setdefault(after, len(self._states)))
            if len(self._numbers) > len(self._states):
                self._states.append(after)
        self._remembered += len(keys)
        if 2 * self._remembered > len(self._memory.key):
            room = search.power_of_two(4 * self._remembered)
            full, self._memory = self._memory, search.make_memory(room)
            taken = full.key != search.EMPTY
            search.remember(self._memory, full.key[taken], full.score[taken], full.state[taken])
        search.remember(self._memory, keys, np.array(scores, np.float64), np.array(numbers, np.int64))

    def _forget(self) -> None:
        start = kenlm.State()
        self._model.BeginSentenceWrite(start)
        self._states, self._numbers = [start], {start: 0}
        self._memory = search.make_memory(ROOM)
        self._remembered = 0


class BeamPool:
    """Beam search in this process, and where there is much to do in others. Use it in a with statement.

    Args:
        lm_path, tokenizer, beam: see ``BeamDecoder``; each process builds its own once.
        jobs: processes to start; with 1, there is no other than this one.
        alone: frames that are decoded before they start.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all.
    """

    def __init__(
        self,
        lm_path: str | Path,
        tokenizer: Tokenizer,
        beam: int = BEAM,
        jobs: int = 1,
        alone: int = ALONE,
    ) -> None:
        # Says what is wrong with the LM, and compiles the search once and not in each process.
        self._decoder = BeamDecoder(lm_path, tokenizer, beam)
        self._decoder.decode(np.zeros((1, tokenizer.pieces + 1), np.float32), 0.0, 0.0)
        # Few bytes: a process that starts takes what does not fit into a pipe only when it has imported
        # everything, and this one would wait for each in turn.
        self._arguments = (str(lm_path), tokenizer.model, beam)
        self._jobs, self._alone = jobs, alone
        self._frames = 0  # asked for so far
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "BeamPool":
        return self

    def __exit__(self, *_) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        # "spawn": a fork would copy torch's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._jobs, context, _start_worker, self._arguments)
        # Ctrl-C is this process's business. Its children are started here, one for each task, and inherit
        # that the signal is held back; this process gets it afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(self._jobs):
                self._pool.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def decode(
        self, posteriors: Sequence[np.ndarray], lm_weight: float, word_score: float, show: str = ""
    ) -> list[str]:
        """Decode every utterance; ``show`` names a progress bar."""
        quiet = None if show else True  # None: no bar where the output is not a terminal
        tasks = ((item, lm_weight, word_score) for item in posteriors)
        self._frames += sum(map(len, posteriors))
        if self._jobs > 1 and self._frames > self._alone and not self._pool:
            self._start()
            self._decoder = None  # theirs do
        try:
            if self._pool:
                results = self._pool.map(_decode_task, tasks, chunksize=4)
            else:
                results = starmap(self._decoder.decode, tasks)
            bar = tqdm(results, total=len(posteriors), desc=show, unit="utt", leave=False, disable=quiet)
            return list(bar)
        except BrokenProcessPool:
            raise UserError("a beam-search process died (out of memory?); try fewer --jobs") from None
        finally:
            lm_files.verify(self._arguments[0])  # all of them map it: an LM changed meanwhile is the cause


def check_vocabulary(lm_path: str | Path, words: list[str], tokenizer: Tokenizer) -> None:
    """See that an LM's words and the tokenizer are of the same language and case; UserError otherwise."""
    sample = words[:: max(1, len(words) // 1000)]
    lost = sum(tokenizer.unknown in tokenizer.encode(word) for word in sample)
    if 2 * lost > len(sample):
        raise UserError(
            f"--lm {lm_path}: the tokenizer cannot spell {100 * lost / len(sample):.0f} % of its words "
            f"(such as {sample[0]!r}); build the LM from text in the transcripts' case and alphabet"
        )


_decoder: BeamDecoder | None = None


def _start_worker(lm_path: str, tokenizer_model: bytes, beam: int) -> None:
    global _decoder
    start_worker()
    _decoder = BeamDecoder(lm_path, Tokenizer(tokenizer_model), beam)


def _decode_task(task: tuple[np.ndarray, float, float]) -> str:
    return _decoder.decode(*task)
