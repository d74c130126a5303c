"""Beam search with an n-gram LM, in this process or in several. The search itself is in search.py."""

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
from asr.decoding import BEAM, search
from asr.decoding.alignment import best_path, collapse
from asr.decoding.compiled import EMPTY, power_of_two
from asr.decoding.lexicon import ROOT
from asr.decoding.weights import GREEDY, Weights
from asr.decoding.words import WordModel
from asr.errors import UserError
from asr.lm import files as lm_files
from asr.processes import start_worker

ALONE = 7500  # frames, 5 minutes: searched in about the time that a process takes to start
MEMORY = 2**19  # LM scores remembered from utterance to utterance, a few hundred bytes each
ROOM = 2**16  # for so many at first, a power of two


class BeamDecoder:
    """Log-probabilities of one utterance to words.

    Args:
        lm_path: KenLM binary or ARPA file.
        tokenizer: the acoustic model's; its pieces spell the words, those of the LM and others.
        beam: hypotheses kept.
        mapped: share the LM's memory with other processes; see ``asr.lm.files.load``.
        fold: look words up as the LM's are written, whatever case and punctuation the model writes. What
            comes out is written as the model does.

    Attributes:
        style: the LM's, where the model also writes otherwise; else None.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all.
    """

    def __init__(
        self,
        lm_path: str | Path,
        tokenizer: Tokenizer,
        beam: int = BEAM,
        mapped: bool = False,
        fold: bool = True,
    ) -> None:
        lm = WordModel(lm_path, tokenizer, mapped, fold)
        self.style, self._start = lm.style, lm.start
        self._model, self._words, self._alone, self._lexicon = lm.model, lm.words, lm.alone, lm.lexicon
        self._classes = tokenizer.pieces + 1
        self._beam = search.make_prefixes(beam)
        self._work = search.make_workspace(beam, self._classes)
        self._factors = lru_cache(1)(self._make_factors)
        self._forget()

    def decode(self, log_probs: np.ndarray, weights: Weights) -> list[int]:
        """The classes of the best pieces, without blanks. With ``GREEDY``, those of the best path."""
        if weights == GREEDY:
            return collapse(best_path([log_probs]))[0].tolist() if len(log_probs) else []
        return self.decode_scored(log_probs, weights)[0]

    def decode_scored(self, log_probs: np.ndarray, weights: Weights) -> tuple[list[int], float]:
        """The best pieces and their score in nats (asr/decoding/prefix_beam.py says which).

        Args:
            log_probs: (N, classes) fp32, natural logarithms.
            weights: how the LM counts.

        Raises:
            ValueError: another number of classes than the tokenizer has.
        """
        if log_probs.shape[1] != self._classes:
            raise ValueError(f"log_probs of {log_probs.shape[1]} classes; the tokenizer has {self._classes}")
        if self._remembered > MEMORY:
            self._forget()
        factors = self._factors(weights)
        probs = np.exp(log_probs.astype(np.float64))
        spellings = search.make_spellings(1 + len(self._beam.node) * (len(probs) + 1))
        search.begin(self._beam, spellings, self._work)
        frame, size, count = 0, 1, 1
        while True:
            frame, size, count, missing = search.advance(
                probs,
                frame,
                self._beam,
                size,
                count,
                spellings,
                self._lexicon,
                self._memory,
                factors,
                self._work,
            )
            if not missing:
                return self._best(size, spellings, factors)
            self._ask(np.unique(self._work.missing[:missing]))

    def _make_factors(self, weights: Weights) -> search.Factors:
        unknown = len(self._words) - 2
        in_words = np.full(unknown + 1, weights.of_word(0.0, False))
        in_words[unknown] = weights.of_word(0.0, True)
        alone = np.exp(weights.decimal * self._alone + in_words)
        longer = np.isfinite(self._lexicon.below)
        # (A negative weight makes the likeliest word below the one that counts least: a bad guess, no more.)
        below = np.exp(weights.decimal * np.where(longer, self._lexicon.below, 0.0) + weights.word_score)
        below = np.maximum(np.where(longer, below, 0.0), alone[unknown])
        below[ROOT] = 0.0  # no word is in the making there
        ahead = np.maximum(alone[self._lexicon.word], below)
        ahead[ROOT] = 1.0
        surprise = search.SURPRISE ** abs(weights.lm_weight)
        return search.Factors(
            weights.decimal, in_words, len(self._words), surprise, ahead, below, float(ahead.max())
        )

    def _best(
        self, size: int, spellings: search.Spellings, factors: search.Factors
    ) -> tuple[list[int], float]:
        """The pieces of the best prefix, its last word and the end counted."""
        if not size:
            return [], -math.inf
        beam = self._beam
        ends = [int(state) * factors.words + factors.words - 1 for state in beam.ended[:size]]
        self._ask(np.array([key for key in set(ends) if search.find(self._memory, key) < 0], np.int64))
        end_scores = np.array([self._memory.score[search.find(self._memory, end)] for end in ends])
        masses = (beam.blank[:size] + beam.piece[:size]) * beam.word[:size]
        with np.errstate(divide="ignore"):
            scores = np.log(masses) + factors.lm * end_scores
        best = int(scores.argmax())
        number, pieces = int(beam.spelling[best]), []
        while number:
            pieces.append(int(spellings.piece[number]))
            number = spellings.parent[number]
        return pieces[::-1], float(scores[best] + self._work.log_scale[0])

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
            room = power_of_two(4 * self._remembered)
            full, self._memory = self._memory, search.make_memory(room)
            taken = full.key != EMPTY
            search.remember(self._memory, full.key[taken], full.score[taken], full.state[taken])
        search.remember(self._memory, keys, np.array(scores, np.float64), np.array(numbers, np.int64))

    def _forget(self) -> None:
        start = self._start()
        self._states, self._numbers = [start], {start: 0}
        self._memory = search.make_memory(ROOM)
        self._remembered = 0


class BeamPool:
    """Beam search in this process, and where there is much to do in others. Use it in a with statement.

    Args:
        lm_path, tokenizer, beam: see ``BeamDecoder``; each process builds its own once.
        jobs: processes to start; with 1, there is no other than this one.
        alone: frames that are decoded before they start.
        fold: see ``BeamDecoder``.

    Attributes:
        style: ``BeamDecoder``'s.

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
        fold: bool = True,
    ) -> None:
        # Says what is wrong with the LM, and compiles the search once and not in each process.
        self._decoder = BeamDecoder(lm_path, tokenizer, beam, fold=fold)
        self.style = self._decoder.style
        self._decoder.decode_scored(np.zeros((1, tokenizer.pieces + 1), np.float32), GREEDY)
        # Few bytes: a process that starts takes what does not fit into a pipe only when it has imported
        # everything, and this one would wait for each in turn.
        self._arguments = (str(lm_path), tokenizer.model, beam, fold)
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

    def decode(self, posteriors: Sequence[np.ndarray], weights: Weights, show: str = "") -> list[list[int]]:
        """``BeamDecoder.decode`` of every utterance; ``show`` names a progress bar."""
        quiet = None if show else True  # None: no bar where the output is not a terminal
        tasks = ((item, weights) for item in posteriors)
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
            if self._pool:  # its processes map the LM: one that changed meanwhile is the cause
                lm_files.verify(self._arguments[0])


_decoder: BeamDecoder | None = None


def _start_worker(lm_path: str, tokenizer_model: bytes, beam: int, fold: bool) -> None:
    global _decoder
    start_worker()
    _decoder = BeamDecoder(lm_path, Tokenizer(tokenizer_model), beam, mapped=True, fold=fold)


def _decode_task(task: tuple[np.ndarray, Weights]) -> list[int]:
    return _decoder.decode(*task)
