"""When a model hears what: its CTC posteriors over the spectrogram, with the words under it."""

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from asr.checkpoints.checkpoint import Recipe
from asr.data.tokenizer import SPACE, Tokenizer
from asr.decoding.alignment import Word, best_path, collapse, forced_path, words_on_path
from asr.decoding.posteriors import log_probs_of
from asr.errors import UserError
from asr.model.classes import BLANK
from asr.model.ctc import frames_needed
from asr.model.frames import HOP, SAMPLE_RATE
from asr.model.frontend import Frontend, FrontendConfig
from asr.model.recogniser import Model

INCHES = 1.0  # of the picture's width for a second; more where words are many
WORD_INCHES = 0.75  # that a word takes, on average
LEAST, MOST = 6.0, 40.0  # inches
ROWS = 3  # on which words alternate, so that short ones next to each other stay apart
LABEL = {"ha": "center", "va": "bottom", "parse_math": False}
COLOURS = [matplotlib.colormaps["tab10"](number) for number in (0, 1, 2, 3, 4, 6, 9)]


@dataclass(frozen=True)
class Alignment:
    """A recording and where the model hears its words.

    Args:
        waveform: (S,) in [-1, 1] at 16 kHz.
        posteriors: (N, classes) of CTC.
        classes, starts, ends: (U,) of the pieces on the path; frames, the end exclusive.
        words: with times in seconds into the waveform.
        tokenizer: of the pieces.
        frame_seconds: that one of the N frames stands for.
    """

    waveform: Tensor
    posteriors: np.ndarray
    classes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    words: list[Word]
    tokenizer: Tokenizer
    frame_seconds: float


def align(model: Model, recipe: Recipe, waveform: Tensor, text: str | None = None) -> Alignment:
    """Where a model hears a text in a waveform (S,), or, without one, what it hears itself (greedily).

    Raises:
        UserError: the model has no CTC head, or the text does not fit into the recording or its alphabet.
    """
    if model.head is None:
        raise UserError("a transducer without a CTC head has no posteriors of CTC to draw")
    [log_probs] = log_probs_of(model, waveform[None], torch.tensor([len(waveform)]))
    tokenizer = recipe.tokenizer
    if text is None:
        path = best_path([log_probs])
    else:
        pieces = tokenizer.encode(text)
        if not pieces or tokenizer.unknown in pieces:
            raise UserError(f"--text {text!r}: the model's pieces do not spell it (upper or lower case?)")
        if frames_needed(pieces) > len(log_probs):
            raise UserError(f"--text: {len(pieces)} pieces do not fit into {len(log_probs)} frames")
        path = forced_path(log_probs, pieces)
    classes, starts, ends, _ = collapse(path)
    seconds = model.framing.seconds
    words = words_on_path(path, tokenizer, seconds)
    return Alignment(waveform, np.exp(log_probs), classes, starts, ends, words, tokenizer, seconds)


def draw_alignment(found: Alignment, title: str = "") -> Figure:
    """Posteriors of the path's pieces and of the blank, the spectrogram, and the words, on one time axis."""
    seconds = len(found.waveform) / SAMPLE_RATE
    width = float(np.clip(max(INCHES * seconds, WORD_INCHES * len(found.words)), LEAST, MOST))
    figure = Figure(figsize=(width, 5.2), layout="constrained", dpi=100)
    heights = {"height_ratios": (1.5, 2.2, 0.9)}
    above, middle, below = figure.subplots(3, 1, sharex=True, gridspec_kw=heights)
    _draw_posteriors(above, found)
    _draw_spectrogram(middle, found.waveform)
    _draw_words(below, found)
    for axes in (above, middle):
        for word in found.words:
            axes.axvline(word.start, color="grey", linewidth=0.5, alpha=0.7)
    above.set(xlim=(0, seconds))
    if title:
        above.set_title(title, fontsize=9, loc="left", parse_math=False)
    return figure


def _draw_posteriors(axes, found: Alignment) -> None:
    middles = (np.arange(len(found.posteriors)) + 0.5) * found.frame_seconds
    axes.plot(middles, found.posteriors[:, BLANK], color="black", linewidth=0.6, alpha=0.4, label="blank")
    numbers = _word_numbers(found)
    for number, piece in enumerate(found.classes):
        # With its neighbouring frames, so that a piece of one frame is a spike and not a dot.
        first, end = max(0, found.starts[number] - 2), found.ends[number] + 2
        colour = COLOURS[numbers[number] % len(COLOURS)]
        height = found.posteriors[first:end, piece]
        axes.fill_between(middles[first:end], height, color=colour, alpha=0.6, linewidth=0)
        place = middles[first + int(height.argmax())]
        name = found.tokenizer.piece(int(piece)).replace(SPACE, "_")
        axes.text(place, 1.06, name, rotation=90, fontsize=7, color=colour, **LABEL)
    axes.set(ylim=(0, 2), yticks=(0, 0.5, 1), ylabel="posterior")
    axes.legend(fontsize=7, loc="upper right")


def _word_numbers(found: Alignment) -> np.ndarray:
    """(U,) which word a piece belongs to."""
    starts = np.array([word.start for word in found.words])
    times = np.round(found.starts * found.frame_seconds, 3)
    return np.searchsorted(starts, times, side="right") - 1


@torch.inference_mode()
def _draw_spectrogram(axes, waveform: Tensor) -> None:
    frontend = Frontend(FrontendConfig())  # the same picture for models of any front end
    mel = frontend.log_mel(waveform[None])[0].T.numpy()
    extent = (0, mel.shape[1] * HOP / SAMPLE_RATE, 0, len(mel))
    low, high = np.quantile(mel, (0.05, 0.999))
    look = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
    axes.imshow(mel, clim=(low, high), extent=extent, **look)
    axes.set(ylabel="mel bin")


def _draw_words(axes, found: Alignment) -> None:
    for number, word in enumerate(found.words):
        row = ROWS - 1 - number % ROWS
        colour = COLOURS[number % len(COLOURS)]
        axes.plot((word.start, word.end), (row, row), color=colour, linewidth=4, solid_capstyle="butt")
        middle = (word.start + word.end) / 2
        axes.text(middle, row + 0.16, word.text, fontsize=8, color=colour, **LABEL)
    axes.set(ylim=(-0.4, ROWS), yticks=(), xlabel="seconds", ylabel="words")
