"""Options that are numbers, each declared with the range it must lie in.

A model's configuration may come from anyone, and its numbers decide how much memory and time the model takes.
"""

from dataclasses import field, fields, is_dataclass
from typing import Any

from asr.errors import UserError


def bounded(default: Any, least: float, most: float) -> Any:
    """A dataclass's field: a number, or a tuple of numbers, from ``least`` to ``most``."""
    return field(default=default, metadata={"bounds": (least, most)})


def check_bounds(options: Any, name: str) -> None:
    """Raise UserError for the first number of a dataclass, or of one in it, that is out of its bounds.

    Args:
        options: the dataclass.
        name: the option on the command line that it belongs to, without dashes.
    """
    for item in fields(options):
        option, value = f"{name}.{item.name}", getattr(options, item.name)
        if is_dataclass(value):
            check_bounds(value, option)
        if "bounds" in item.metadata:
            least, most = item.metadata["bounds"]
            numbers = value if isinstance(value, (list, tuple)) else (value,)
            if not all(least <= number <= most for number in numbers):
                raise UserError(f"--{option} {value}: out of range; it goes from {least:g} to {most:g}")
