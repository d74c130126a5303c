"""The n-grams of a text, counted in bounded memory: what ``asr.lm.ngram`` estimates its models from."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asr.errors import UserError
from asr.lm.external_sort import Block, Column, ExternalSort, block_rows

UNK, BOS, EOS = range(3)
SPECIAL_WORDS = (b"<unk>", b"<s>", b"</s>")
_SENTENCES_PER_BATCH = 20_000


class Packing:
    """Suffix-ordered n-grams as columns of ``uint64``: the last word in the topmost bits, and so on."""

    def __init__(self, words: int, order: int):
        self.bits = (words - 1).bit_length()
        self._per_column = 64 // self.bits
        self.width = self.columns(order)

    def columns(self, order: int) -> int:
        return -(-order // self._per_column)

    def pack(self, words: Iterable[np.ndarray]) -> Block:
        """Pack an n-gram's words, given from the last to the first."""
        packed = []
        for index, word in enumerate(words):
            shifted = word.astype(np.uint64) << self._shift(index)
            if index % self._per_column:
                packed[-1] |= shifted
            else:
                packed.append(shifted)
        return np.stack(packed)

    def word(self, keys: Block, index: int) -> np.ndarray:
        """The ``index``-th word from the end, counted from 0."""
        mask = np.uint64((1 << self.bits) - 1)
        return (keys[index // self._per_column] >> self._shift(index)) & mask

    def shorten(self, keys: Block, order: int) -> Block:
        """The last ``order`` words of each n-gram."""
        short = keys[: self.columns(order)].copy()
        unused = int(self._shift(order - 1))
        short[-1] &= np.uint64((2**64 - 1) >> unused << unused)
        return short

    def padded(self, keys: Block, order: int) -> np.ndarray:
        """Which n-grams have ``<s>`` beyond the first place: they stand for a shorter n-gram."""
        if order < 2:
            return np.zeros(keys.shape[1], bool)
        return self.word(keys, order - 2) == BOS

    def _shift(self, index: int) -> np.uint64:
        return np.uint64(64 - self.bits * (index % self._per_column + 1))


def number_words(sentences: Iterable[str], order: int, tokens: Column) -> tuple[Column, list[bytes]]:
    """Write the text as word numbers, with ``<s>`` before each sentence and ``</s>`` after it."""
    numbers = _Numbers(zip(SPECIAL_WORDS, (UNK, BOS, EOS), strict=True))
    start, end = b"<s> " * (order - 1), b" </s>\n"
    iterator = iter(sentences)
    with tqdm(desc="reading", unit=" sentences", unit_scale=True, disable=None) as bar:
        while batch := list(islice(iterator, _SENTENCES_PER_BATCH)):
            lines = [line.encode() for line in batch]
            _refuse_special_words(lines)
            text = b"".join([start + line + end for line in lines])
            tokens.append(np.array([numbers[word] for word in text.split()], np.uint32))
            bar.update(len(batch))
    if not tokens.rows:
        raise UserError("the text holds no sentence to estimate a language model from")
    return tokens, list(numbers)


class _Numbers(dict):
    def __missing__(self, word: bytes) -> int:
        self[word] = number = len(self)
        return number


def _refuse_special_words(lines: list[bytes]) -> None:
    for special in (*SPECIAL_WORDS, b"<UNK>"):  # which KenLM takes for <unk>
        for line in lines:
            if special in line and special in line.split():
                text = line.decode()[:60]
                raise UserError(f"the text holds {special.decode()}: remove it from {text!r}")


def count(tokens: Column, order: int, packing: Packing, folder: Path, budget: int) -> Iterator[Block]:
    """Yield the n-grams of the highest order in suffix order: key columns, then the count."""
    width = packing.width
    sorter = ExternalSort(folder, "count", width + 1, width, budget // 2, combine=True)
    step = block_rows(budget)
    for start in progress(range(0, tokens.rows, step), f"counting {order}-grams"):
        # With the last words of the block before it, so that each n-gram is counted, and counted once.
        # The first block begins with order - 1 times <s>.
        begin = max(0, start - order + 1)
        ids = tokens.read(begin, start + step)
        ends = np.flatnonzero(ids != BOS)
        ends = ends[ends >= start - begin]
        keys = packing.pack(ids[ends - back] for back in range(order))
        sorter.add(*keys, np.ones(len(ends), np.uint64))
    return sorter.blocks()


def progress(items: Iterable, description: str, rows: int | None = None) -> Iterator:
    """Pass ``items`` on under a progress bar; of blocks, given the total ``rows``, count the rows."""
    if rows is None:
        yield from tqdm(items, description, disable=None, leave=False)
        return
    with tqdm(desc=description, total=rows, unit_scale=True, disable=None, leave=False) as bar:
        for block in items:
            yield block
            bar.update(block.shape[1])
