"""Sorting and storing columns of numbers that need not fit in memory.

``ExternalSort`` sorts what fits, spills it to disk as a sorted run, and merges the runs block by block.
``Column`` is one column of numbers on disk, appended to in blocks and read back by slices of rows. A *block*
is a ``uint64`` array of shape (columns, records); floats travel in it as their bits.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Block = np.ndarray

# Rows handled at a time by whatever streams blocks: enough that NumPy's cost per call does not show.
_LARGEST_BLOCK = 1 << 19
# Bytes of memory budget for each row of a block: a stage holds some dozens of 8-byte columns at once.
_BUDGET_PER_ROW = 1024


def block_rows(memory: int) -> int:
    """Rows a streaming stage may hold at a time under a budget of ``memory`` bytes."""
    return max(16, min(_LARGEST_BLOCK, memory // _BUDGET_PER_ROW))


class Column:
    """One column of numbers in a file of its own, appended to in blocks, read by slices of rows."""

    def __init__(self, path: Path, dtype: type = np.uint64):
        self.rows = 0
        self._path = path
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        """Add ``values`` at the end."""
        # Not ndarray.tofile: on a full disk that raises an OSError that does not say so.
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.rows += len(values)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` (exclusive, cut at the end of the column)."""
        if not self._file.closed:
            self._file.flush()
        stop = min(stop, self.rows)
        offset = start * self._dtype.itemsize
        return np.fromfile(self._path, self._dtype, max(0, stop - start), offset=offset)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of ``rows``, which ascend; reads the one slice that holds them all."""
        first = int(rows[0])
        return self.read(first, int(rows[-1]) + 1)[rows.astype(np.int64) - first]

    def close(self) -> None:
        """Append no more; reading goes on."""
        self._file.close()

    def delete(self) -> None:
        """Give the disk space back."""
        self._file.close()
        self._path.unlink()


class ExternalSort:
    """Sort records by their first ``keys`` columns, in about ``memory`` bytes.

    Args:
        folder: where runs are spilled; the files are deleted once merged.
        name: a prefix for those files, unique in the folder.
        width: columns of a record.
        keys: how many of them are the key, the most significant first.
        memory: budget in bytes.
        combine: make records of equal key one, whose last column is the sum of theirs.
    """

    def __init__(self, folder: Path, name: str, width: int, keys: int, memory: int, combine: bool = False):
        self._folder, self._name = folder, name
        self._width, self._keys, self._combine = width, keys, combine
        self._rows_out = block_rows(memory)
        # Beside the buffer, sorting holds the permutation, lexsort's work space and one sorted column.
        self._capacity = max(16, memory // (8 * (width + 4)))
        self._buffer = np.empty((width, self._capacity), np.uint64)
        self._filled = 0
        self._runs: list[list[Column]] = []

    def add(self, *columns: np.ndarray) -> None:
        """Add records, given as ``width`` columns of equal length."""
        start, total = 0, len(columns[0])
        while start < total:
            if self._filled == self._capacity:
                self._spill()
            stop = min(total, start + self._capacity - self._filled)
            filled = self._filled + stop - start
            for place, column in zip(self._buffer, columns, strict=True):
                place[self._filled : filled] = column[start:stop]
            self._filled, start = filled, stop

    def blocks(self) -> Iterator[Block]:
        """Yield the records in order, once, in blocks of bounded size."""
        if not self._runs:
            yield from self._cut(self._arrange(self._buffer[:, : self._filled]))
            del self._buffer
            return
        if self._filled:
            self._spill()
        del self._buffer
        yield from self._merge()

    def _spill(self) -> None:
        number = len(self._runs)
        run = [Column(self._folder / f"{self._name}.{number}.{column}") for column in range(self._width)]
        for column, values in zip(run, self._arrange(self._buffer[:, : self._filled]), strict=True):
            column.append(values)
            column.close()  # there may be more runs than a process may have files open
        self._runs.append(run)
        self._filled = 0

    def _arrange(self, block: Block) -> Block:
        """Sort ``block`` in place; return it, with equal keys combined where that is asked for."""
        keys = block[: self._keys]
        order = np.argsort(keys[0]) if self._keys == 1 else np.lexsort(keys[::-1])
        for column in block:
            column[:] = column[order]
        if not self._combine or not block.shape[1]:
            return block
        starts = group_starts(block[: self._keys])
        sums = np.add.reduceat(block[-1], starts)
        for column in block[:-1]:
            column[: len(starts)] = column[starts]
        block[-1, : len(starts)] = sums
        return block[:, : len(starts)]

    def _merge(self) -> Iterator[Block]:
        """Merge the runs: sort all that is not above the least of the runs' last buffered keys.

        Whatever is still on disk is above that bound, or equals it, so what is yielded is in order; and one
        buffer at least is used up each time.
        """
        rows = max(1, self._capacity // (2 * len(self._runs)))
        buffers = [np.empty((self._width, 0), np.uint64) for _ in self._runs]
        position = [0] * len(self._runs)
        while True:
            for i, run in enumerate(self._runs):
                if not buffers[i].shape[1] and position[i] < run[0].rows:
                    buffers[i] = np.stack([c.read(position[i], position[i] + rows) for c in run])
                    position[i] += buffers[i].shape[1]
            ends = [tuple(b[: self._keys, -1]) for b in buffers if b.shape[1]]
            if not ends:
                break
            bound = min(ends)
            taken = [_count_up_to(b[: self._keys], bound) for b in buffers]
            block = np.concatenate([b[:, :n] for b, n in zip(buffers, taken, strict=True)], axis=1)
            buffers = [b[:, n:] for b, n in zip(buffers, taken, strict=True)]
            yield from self._cut(self._arrange(block))
        for run in self._runs:
            for column in run:
                column.delete()

    def _cut(self, block: Block) -> Iterator[Block]:
        for start in range(0, block.shape[1], self._rows_out):
            yield block[:, start : start + self._rows_out]


def group_starts(keys: Block) -> np.ndarray:
    """Return where each run of equal records starts in sorted ``keys`` of shape (columns, records)."""
    changed = np.ones(keys.shape[1], bool)
    if len(changed):
        changed[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return np.flatnonzero(changed)


def whole_groups(blocks: Iterator[Block], key: Callable[[Block], Block]) -> Iterator[Block]:
    """Cut a sorted stream anew so that records of equal ``key(block)`` lie in one block."""
    rest = None
    for block in blocks:
        if rest is not None:
            block = np.concatenate([rest, block], axis=1)
        cut = group_starts(key(block))[-1]
        if cut:
            yield block[:, :cut]
        rest = block[:, cut:].copy()
    if rest is not None:
        yield rest


def _count_up_to(keys: Block, bound: tuple) -> int:
    """How many records of sorted ``keys`` are not above ``bound``."""
    low, high = 0, keys.shape[1]
    for column, value in zip(keys, bound, strict=True):
        equal = column[low:high]
        low, high = (
            low + int(np.searchsorted(equal, value, "left")),
            low + int(np.searchsorted(equal, value, "right")),
        )
    return high
