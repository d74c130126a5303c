"""YAML that anyone may have written: plain values, and no more of them than the file's size lets expect."""

from typing import Any

import yaml

MOST = 1_000_000  # values, those of aliases counted wherever they stand


def read_yaml(text: str) -> Any:
    """The content; raises ValueError where it is not of plain values, or its aliases make it too large.

    A few hundred bytes may name a list of lists of lists, ten times each: shown in a message it would fill
    the memory.
    """
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if _count(found, {}) > MOST:
        raise ValueError("its aliases make it too large")
    return found


def _count(value: Any, known: dict[int, float]) -> float:
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # of what holds itself
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in inside)
    return known[id(value)]
