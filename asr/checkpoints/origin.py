"""The models of others that a model was made from, which who shares it has to name (CC BY 4.0, section 3 a).

An import makes the first entry; training that begins from such a model, or learns from one, takes it over and
says what was changed. Checkpoints and exported folders hold the entries, and model cards show them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.errors import UserError

Source = dict[str, str]  # texts by name, in the order of a model card's table

USED, CHANGED = "used", "changed"
TEACHER = "as a teacher"
TEACHER_OF_MODULES = "as a teacher of every module"


def checked(value: Any, path: str | Path) -> list[Source]:
    """What a file says of its origin; an import of before has one source that is no list.

    Raises:
        UserError: it is something else; ``path`` is named.
    """
    sources = [] if value is None else [value] if isinstance(value, dict) else value
    if not isinstance(sources, list) or not all(
        isinstance(source, dict) and all(isinstance(text, str) for pair in source.items() for text in pair)
        for source in sources
    ):
        raise UserError(f"{path}: origin is not lists of texts by name")
    return sources


def begun_from(origin: Sequence[Source], attention: str, before: str) -> list[Source]:
    """The sources of a model that begins from another one's weights and is trained on.

    Args:
        origin: the other's.
        attention, before: the model's mechanism, and the other's.
    """
    exchanged = f"attention {before} exchanged for {attention}, " if attention != before else ""
    found = []
    for source in origin:
        if source.get(USED, "").startswith(TEACHER):  # which it stays, whatever becomes of the weights
            found.append(source)
            continue
        earlier = source.get(CHANGED)
        if earlier is None:
            changed = f"{exchanged}trained on by this recipe"
        else:
            changed = f"{earlier}; then {exchanged}trained on" if exchanged else earlier
        used = source.get(USED, "its weights were begun from")
        found.append({**source, USED: used, CHANGED: changed})
    return found


def taught_by(origin: Sequence[Source], modules: bool = False) -> list[Source]:
    """The sources of a model that learns from another one's outputs.

    Args:
        origin: the other's.
        modules: whether each module learns what the same one of the other makes of the same inputs, which
            finds the other's weights again (RESULTS.md, "From nothing, with a teacher").
    """
    used, learnt = TEACHER, "learnt from its outputs; none of its weights was taken over"
    if modules:
        used = TEACHER_OF_MODULES
        learnt = (
            "its modules learnt one by one, which finds its weights again but for the order of hidden units"
        )
    return [{**source, USED: used, CHANGED: source.get(CHANGED, learnt)} for source in origin]


def joined(*origins: Sequence[Source]) -> list[Source]:
    """Each source once."""
    found: list[Source] = []
    for source in (source for origin in origins for source in origin):
        if source not in found:
            found.append(source)
    return found
