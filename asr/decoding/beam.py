"""Beam search over a lexicon with a word n-gram LM, by flashlight-text, on run-averaged posteriors."""

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
from flashlight.lib.text.decoder import (
    CriterionType,
    LexiconDecoder,
    LexiconDecoderOptions,
    SmearingMode,
    Trie,
)
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary
from tqdm import tqdm

from asr import lm
from asr.errors import UserError
from asr.heads.ctc import BLANK
from asr.tokenizer import Tokenizer

BEAM = 100
BEAM_TOKENS = 10  # pieces tried per frame; measured to cost no accuracy
BEAM_THRESHOLD = 25.0  # nats below the best at which a hypothesis is dropped


class BeamDecoder:
    """Log-probabilities of one utterance to words.

    Args:
        lm_path: KenLM binary or ARPA file.
        tokenizer: the acoustic model's; it spells the LM's words.
        beam: hypotheses kept.
    """

    def __init__(self, lm_path: str | Path, tokenizer: Tokenizer, beam: int = BEAM) -> None:
        self.beam = beam
        self.silence = tokenizer.pieces + 1  # a column of its own: never a real piece
        words = lm.vocabulary(lm_path)
        self._words = Dictionary()
        self._words.add_entry("<unk>")
        for word in words:
            self._words.add_entry(word)
        self._lm = KenLM(str(lm_path), self._words)
        self._trie = Trie(self.silence + 1, self.silence)
        start = self._lm.start(False)
        for word in words:
            index = self._words.get_index(word)
            spelling = tokenizer.encode(word)
            # A word with letters that the acoustic model never saw cannot be recognised.
            if tokenizer.unknown not in spelling:
                self._trie.insert(spelling, index, self._lm.score(start, index)[1])
        self._trie.smear(SmearingMode.MAX)

    def decode(self, log_probs: np.ndarray, lm_weight: float, word_score: float) -> str:
        """The best word sequence.

        Args:
            log_probs: (N, classes) fp32, natural logarithms.
            lm_weight: factor on the LM's natural log-probability.
            word_score: added for every word, in nats.
        """
        merged = merge_runs(log_probs)
        silence = np.full((len(merged), 1), -1e4, np.float32)
        emissions = np.ascontiguousarray(np.concatenate((merged, silence), axis=1), np.float32)
        options = LexiconDecoderOptions(
            beam_size=self.beam,
            beam_size_token=BEAM_TOKENS,
            beam_threshold=BEAM_THRESHOLD,
            lm_weight=lm_weight * math.log(10),  # KenLM's logarithms are decimal
            word_score=word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=CriterionType.CTC,
        )
        decoder = LexiconDecoder(
            options, self._trie, self._lm, self.silence, BLANK, self._words.get_index("<unk>"), [], False
        )
        results = decoder.decode(emissions.ctypes.data, *emissions.shape)
        if not results:
            return ""
        return " ".join(self._words.get_entry(index) for index in results[0].words if index >= 0)


def merge_runs(log_probs: np.ndarray) -> np.ndarray:
    """Average each run of frames whose likeliest class is the same piece into one frame.

    flashlight's lexicon decoder charges ``sil`` instead of the piece when a finished word's last piece
    goes on for another frame, so pieces longer than a frame at a word's end would be penalised. A
    repeated piece has a blank in between and stays apart.

    Args:
        log_probs: (N, classes).

    Returns:
        (M, classes), M <= N; blank frames as they were.
    """
    if not len(log_probs):
        return log_probs
    best = log_probs.argmax(1)
    starts = np.flatnonzero(np.concatenate(([True], (best[1:] != best[:-1]) | (best[1:] == BLANK))))
    lengths = np.diff(np.append(starts, len(best)))
    return np.add.reduceat(log_probs, starts) / lengths[:, None].astype(log_probs.dtype)


class BeamPool:
    """Beam search in worker processes; each builds its own decoder once. Use it in a with statement.

    Raises:
        UserError: the LM cannot be used, with this tokeniser or at all.
    """

    def __init__(self, lm_path: str | Path, tokenizer: Tokenizer, beam: int = BEAM, jobs: int = 1) -> None:
        check_vocabulary(lm_path, tokenizer)
        self._arguments = (str(lm_path), tokenizer.model, beam)
        self._jobs = jobs

    def __enter__(self) -> "BeamPool":
        # "spawn": a fork would copy torch's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._jobs, context, _start_worker, self._arguments)
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def decode(
        self, posteriors: Sequence[np.ndarray], lm_weight: float, word_score: float, show: str = ""
    ) -> list[str]:
        """Decode every utterance; ``show`` names a progress bar."""
        quiet = None if show else True  # None: no bar where the output is not a terminal
        tasks = ((item, lm_weight, word_score) for item in posteriors)
        try:
            results = self._pool.map(_decode_task, tasks, chunksize=4)
            bar = tqdm(results, total=len(posteriors), desc=show, unit="utt", leave=False, disable=quiet)
            return list(bar)
        except BrokenProcessPool:
            raise UserError("a beam-search process died (out of memory?); try fewer --jobs") from None


def check_vocabulary(lm_path: str | Path, tokenizer: Tokenizer) -> None:
    """Load the LM and see that it and the tokeniser are about the same words; UserError otherwise."""
    lm.load(lm_path)
    words = lm.vocabulary(lm_path)
    sample = words[:: max(1, len(words) // 1000)]
    lost = sum(tokenizer.unknown in tokenizer.encode(word) for word in sample)
    if 2 * lost > len(sample):
        raise UserError(
            f"--lm {lm_path}: the tokeniser cannot spell {100 * lost / len(sample):.0f} % of its words "
            f"(such as {sample[0]!r}); build the LM from text in the transcripts' case and alphabet"
        )


_decoder: BeamDecoder | None = None


def _start_worker(lm_path: str, tokenizer_model: bytes, beam: int) -> None:
    global _decoder
    torch.set_num_threads(1)
    _decoder = BeamDecoder(lm_path, Tokenizer(tokenizer_model), beam)


def _decode_task(task: tuple[np.ndarray, float, float]) -> str:
    return _decoder.decode(*task)
