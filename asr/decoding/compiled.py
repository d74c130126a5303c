"""Machine code by Numba, and the hash tables that it uses: open addressing in arrays of powers of two."""

from collections.abc import Callable

import numba
import numpy as np

EMPTY = -1  # in a slot that is free
_SPREAD = np.int64(0x9E3779B97F4A7C1)  # spreads keys over a table


def compiled(function: Callable) -> Callable:
    """Machine code, kept on disk where there is a folder that may be written to."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)


def power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()


@compiled
def slot_of(table: np.ndarray, key: int) -> int:
    """Where in a table a key is looked for first; then come the following slots."""
    return ((key * _SPREAD) >> 20) & (len(table) - 1)
