"""Text normalisers: what references and hypotheses of other styles are brought to before they are scored.

They are OpenAI's for Whisper (Radford et al., arXiv 2212.04356, appendix C), as the package
whisper-normalizer has them (MIT; the extra ``normalise``). WERs of normalised text are lower than others, and
compare only with WERs by the same normaliser.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version

from asr.data.style import Style
from asr.errors import UserError

# What each does, for --help.
NORMALISERS = {
    "english": "lower case without punctuation, numbers in digits, contractions written out, American "
    "spelling, without fillers (uh, hmm) and what stands in brackets",
    "basic": "for any language: lower case without punctuation and what stands in brackets",
}


class Normaliser:
    """Text to its normal form.

    Args:
        name: one of ``NORMALISERS``.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, name: str) -> None:
        self._normalise = _make(name)
        self.name, self.version = name, version("whisper-normalizer")

    def apply(self, text: str) -> str:
        """The text in its normal form, with single spaces."""
        return " ".join(self._normalise(text).split())

    def __str__(self) -> str:
        return f"normalised ({self.name}, whisper-normalizer {self.version})"


def _make(name: str) -> Callable[[str], str]:
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise UserError(
            f"--normalise {name}: wants the package whisper-normalizer; pip install -e '.[normalise]'"
        ) from None
    return EnglishTextNormalizer() if name == "english" else BasicTextNormalizer(preserve_marks=True)


def as_scored_in(style: Style | Normaliser, references: Sequence[str]) -> list[str]:
    """References as hypotheses in a style are held against them: a normaliser changes both sides."""
    return [style.apply(text) for text in references] if isinstance(style, Normaliser) else list(references)
