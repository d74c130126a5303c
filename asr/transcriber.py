"""The library: a model that turns recordings into text.

>>> from asr import load
>>> model = load("exp/demo/mala/checkpoints/best.ckpt")
>>> transcript = model.transcribe("talk.flac", timestamps=True)
>>> transcript.text, transcript.words[0].start

``decode.py --audio`` is this with a command line.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from asr.attention.fused import set_mode
from asr.checkpoints.checkpoint import Recipe, load_model
from asr.data.audio import MAX_PEAK, check_rate, resampled
from asr.data.recordings import Recording, Samples, look_at
from asr.decoding import BEAM, EXPANSIONS, TRANSDUCER_BEAM
from asr.decoding.captions import Transcript
from asr.decoding.heads import choose_head
from asr.decoding.hotwords import Hotword
from asr.decoding.nbest import MOST
from asr.decoding.transcription import (
    SEGMENTS,
    Decoder,
    GreedyDecoder,
    LMDecoder,
    TransducerDecoder,
    transcribe,
)
from asr.decoding.tuning import UNTUNED
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError
from asr.model.device import autocast, choose_device, choose_dtype
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model

if TYPE_CHECKING:
    from asr.decoding.beam import BeamPool
    from asr.decoding.transducer_beam import TransducerSearch

_POOLS = 4  # searches that a Transcriber keeps
Audio = str | Path | np.ndarray | Tensor


@dataclass(frozen=True)
class LanguageModel:
    """What beam search takes into account beside the sound: an n-gram LM, how it counts, and hotwords.

    Args:
        path: KenLM binary or ARPA file; None: no LM.
        weights: LM weight, word score, unknown penalty; the tuned ones stand in wer.json. None: untuned ones,
            or without an LM none that count.
        beam: hypotheses kept; 0: as many as are usual for the head.
        jobs: processes that search; with more than 1, the program needs ``if __name__ == "__main__":``.
        fold: whether words are looked up as the LM writes them, whatever the model does.
        expansions: pieces that a transducer may say on a frame.
        ctc_weight: of a hybrid's CTC head, beside its transducer.
        hotwords: words and phrases to expect (``asr.decoding.hotwords.read_hotwords`` reads a file of them).

    Raises:
        ValueError: weights of an LM, and none.
    """

    path: str | Path | None = None
    weights: Weights | None = None
    beam: int = 0
    jobs: int = 1
    fold: bool = True
    expansions: int = EXPANSIONS
    ctc_weight: float = 0.0
    hotwords: tuple[Hotword, ...] = ()

    def __post_init__(self) -> None:
        if self.path is None and self.weights and self.weights.lm_weight:
            raise ValueError(f"{self.weights}, and no LM")

    @property
    def counted(self) -> Weights:
        """The weights, or what is taken in their place."""
        return self.weights or (GREEDY if self.path is None else UNTUNED)


class Transcriber:
    """A model ready to transcribe. ``load`` makes one.

    Args:
        model: in evaluation mode; it is moved to the device.
        recipe: what its checkpoint says about it.
        head: ctc or transducer; empty: the transducer where there is one, but CTC with an LM.
        device, precision: as decode.py has them.
        batch_seconds: audio in a batch; a longer recording is encoded exactly, part by part.
        segment_seconds: a longer recording is cut where it is quiet; 0: none is.

    Raises:
        UserError: there is no such head, or no such device.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        head: str = "",
        device: str = "auto",
        precision: str = "auto",
        batch_seconds: float = 120.0,
        segment_seconds: float = 0.0,
    ) -> None:
        choose_head(recipe.model, head)  # raises where there is no such head
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.model, self.recipe, self.head = model.to(self.device), recipe, head
        self.batch_seconds, self.segment_seconds = batch_seconds, segment_seconds
        self._pools: dict[LanguageModel, BeamPool | TransducerSearch] = {}

    def __enter__(self) -> "Transcriber":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of beam search, where there are some."""
        while self._pools:
            self._pools.popitem()[1].__exit__()

    @overload
    def transcribe(
        self,
        audio: Audio,
        lm: str | Path | LanguageModel | None = None,
        timestamps: bool = False,
        sample_rate: int = SAMPLE_RATE,
        words: Sequence[str | Hotword] = (),
        n_best: int = 0,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        audio: Sequence[Audio],
        lm: str | Path | LanguageModel | None = None,
        timestamps: bool = False,
        sample_rate: int = SAMPLE_RATE,
        words: Sequence[str | Hotword] = (),
        n_best: int = 0,
    ) -> list[Transcript]: ...

    def transcribe(self, audio, lm=None, timestamps=False, sample_rate=SAMPLE_RATE, words=(), n_best=0):
        """What is said in a recording, or in each of several.

        Args:
            audio: the path of a recording, samples, or a list or tuple of these. Samples are (S,) floats in
                [-1, 1] or int16; of any length, as recordings are.
            lm: n-gram LM to search with. Without one, and without ``words`` and ``n_best``: greedily.
            timestamps: whether ``words`` holds the words with start, end (seconds) and confidence.
            sample_rate: of samples, in Hz. (A file says its own.)
            words: hotwords: words or phrases to expect, as text or with a boost of their own (``Hotword``).
            n_best: lines of the n-best lists in ``nbest``, with the parts of their scores; 0: none.

        Returns:
            A transcript (``text``, ``words``, ``duration`` in seconds), or a list of them in the same order.

        Raises:
            UserError: a recording cannot be read, or the LM or a hotword cannot be used; nothing is returned
                then.
        """
        several = isinstance(audio, (list, tuple))
        items = [
            _recording(item, number, sample_rate) for number, item in enumerate(audio if several else [audio])
        ]
        found = []
        for outcome in self.transcribe_each(items, lm, timestamps, words, n_best):
            if isinstance(outcome, UserError):
                raise outcome
            found.append(outcome)
        return found if several else found[0]

    def transcribe_each(
        self,
        recordings: Iterable[Recording | UserError],
        lm: str | Path | LanguageModel | None = None,
        timestamps: bool = True,
        words: Sequence[str | Hotword] = (),
        n_best: int = 0,
    ) -> Iterator[Transcript | UserError]:
        """A transcript for every recording, or what is wrong with it, in order, as they are done.

        Args:
            recordings: as ``find_recordings`` gives them; errors come out as they went in.
            lm, timestamps, words, n_best: see ``transcribe``.
        """
        if not 0 <= n_best <= MOST:
            raise UserError(f"n_best {n_best}: must lie between 0 and {MOST}")
        recordings = list(recordings)  # which are gone through twice
        lm = LanguageModel(lm) if isinstance(lm, (str, Path)) else lm
        if words or n_best:
            lm = lm or LanguageModel()
            more = tuple(Hotword(word) if isinstance(word, str) else word for word in words)
            lm = replace(lm, hotwords=lm.hotwords + more)
        decoder = self._decoder(lm, n_best)
        found = transcribe(recordings, self.model, decoder, self.batch_seconds, self.segment_seconds)
        for _ in recordings:
            with autocast(self.device, self.dtype):  # and not around yield: the caller has its own precision
                outcome = next(found)
            if isinstance(outcome, Transcript) and not timestamps:
                outcome = replace(outcome, words=[])
            yield outcome

    def pool(self, lm: LanguageModel) -> "BeamPool | TransducerSearch":
        """The beam search with an LM and hotwords; the last few are kept, until ``close``."""
        found = self._pools.pop(lm, None) or self._search(lm)
        self._pools[lm] = found  # as the newest
        while len(self._pools) > _POOLS:  # each has its LM in memory
            self._pools.pop(next(iter(self._pools))).__exit__()
        return found

    def _search(self, lm: LanguageModel) -> "BeamPool | TransducerSearch":
        # Numba and KenLM are imported here: greedy decoding does without.
        tokenizer = self.recipe.tokenizer
        if self.chosen_head(lm) == "ctc":
            from asr.decoding.beam import BeamPool

            beam = lm.beam or BEAM
            return BeamPool(lm.path, tokenizer, beam, lm.jobs, fold=lm.fold, hotwords=lm.hotwords)
        from asr.decoding.transducer_beam import TransducerSearch
        from asr.decoding.words import WordModel

        words = None
        if lm.path is not None or lm.hotwords:
            words = WordModel(lm.path, tokenizer, fold=lm.fold, hotwords=lm.hotwords)
        beam, model = lm.beam or TRANSDUCER_BEAM, self.model
        return TransducerSearch(model.transducer, words, beam, lm.expansions, model.head, lm.ctc_weight)

    def _decoder(self, lm: LanguageModel | None, n_best: int) -> Decoder:
        tokenizer, seconds = self.recipe.tokenizer, self.model.framing.seconds
        if self.chosen_head(lm) == "transducer":
            search = (self.pool(lm), lm.counted, n_best) if lm else ()
            return TransducerDecoder(tokenizer, seconds, self.model.transducer, *search)
        if lm is None:
            return GreedyDecoder(tokenizer, seconds)
        together = SEGMENTS * lm.jobs
        return LMDecoder(tokenizer, seconds, self.pool(lm), lm.counted, together, n_best=n_best)

    def chosen_head(self, lm: LanguageModel | None = None) -> str:
        """The head that decodes; raises UserError where it cannot do what is asked for."""
        weights = {"ilm_weight": lm.counted.ilm_weight, "ctc_weight": lm.ctc_weight} if lm else {}
        ctc_only = {"segment_seconds": self.segment_seconds}
        return choose_head(self.recipe.model, self.head, lm is not None, ctc_only, weights)


def load(model: str | Path, kernels: str = "auto", **options: Any) -> Transcriber:
    """Load a model to transcribe with.

    Args:
        model: a checkpoint of train.py, an exported folder, a .nemo file or an unpacked folder of
            Parakeet-CTC, or ``hf:OWNER/NAME`` of the Hugging Face hub. No code of it is run.
        kernels: of attention, in the whole process: auto, eager or fused.
        options: see ``Transcriber``: head, device, precision, batch_seconds, segment_seconds.

    Raises:
        UserError: it cannot be read, or an option does not suit it.
    """
    set_mode(kernels)
    return Transcriber(*load_model(model), **options)


def _recording(item: Audio, number: int, sample_rate: int) -> Recording | UserError:
    """What ``transcribe`` takes as a recording."""
    if isinstance(item, (str, Path)):
        [found] = look_at(Path(item))
        return found
    name = f"array {number}"
    if isinstance(item, np.ndarray):  # reversed, of another byte order or read-only, as PyTorch takes none
        item = np.array(item, item.dtype.newbyteorder("="))
    samples = torch.as_tensor(item)
    if samples.ndim != 1 or not samples.numel():
        raise UserError(
            f"{name}: wants samples (S,) of one channel, and has the shape {tuple(samples.shape)}"
        )
    if samples.dtype == torch.int16:
        samples = samples / 32768
    elif not samples.is_floating_point():
        raise UserError(f"{name}: wants floats in [-1, 1] or int16, and is {samples.dtype}")
    samples = samples.detach().cpu().float()
    if not samples.abs().max() <= MAX_PEAK:  # put this way round, the test catches NaN too
        raise UserError(f"{name}: samples must lie in [-1, 1]")
    check_rate(name, sample_rate)
    samples = torch.cat(list(resampled([samples], sample_rate, SAMPLE_RATE))).clamp(-1, 1)
    return Samples(Path(name), Path(name), len(samples) / SAMPLE_RATE, samples=samples)
