"""Speech recognition with Conformers whose self-attention can be chosen.

As a library: ``from asr import load`` (asr/transcriber.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.transcriber import Hotword, LanguageModel, Transcriber, load

__all__ = ["Hotword", "LanguageModel", "Transcriber", "load"]


def __getattr__(name: str) -> Any:
    """The library when it is asked for, so that importing a part of it does not wait for PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asr import transcriber

    return getattr(transcriber, name)
