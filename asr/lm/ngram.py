"""Interpolated modified Kneser-Ney n-gram models, estimated in bounded memory and written as ARPA.

The model is Chen and Goodman's (1999, section 4.1.6 and equations 25-27), with the conventions of KenLM's
``lmplz`` (Heafield et al., ACL 2013), so that either program gives the same model:

    count          every n-gram of the highest order, with ``<s>`` repeated before each sentence
    adjusted count below the highest order: how many different words come before the n-gram; an n-gram that
                   begins with ``<s>`` can have no word before it and keeps its count
    discounts      D1, D2, D3+ of each order, from how many n-grams have adjusted count 1, 2, 3, 4
    probability    p(w | h) = (a(h w) - D(a(h w))) / sum_x a(h x) + b(h) p(w | h without its first word)
    backoff        b(h) = sum_x D(a(h x)) / sum_x a(h x), the weight of what the discounts set free

The recursion ends in the uniform 1 / V, where V counts ``</s>`` and ``<unk>`` but not ``<s>``. ``<unk>`` is a
word with count 0.

Representation. The n-grams of one order are the rows of a table, sorted by the last word, then the one before
it, and so on (*suffix order*). A row's key is (row of the n-gram without its first word, its first word), so
one ``uint64`` does at any order, and a lower order's values are read in step with the higher order's.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from asr.errors import UserError
from asr.files import atomic_path
from asr.lm.external_sort import Block, Column, ExternalSort, block_rows, group_starts, whole_groups
from asr.lm.ngram_counts import BOS, EOS, SPECIAL_WORDS, UNK, Packing, count, number_words, progress

MAX_ORDER = 6
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
LEAST = 1e-99  # what is written for a probability or backoff of 0, as SRILM has it

_LINES_PER_BATCH = 50_000
_BACKOFFS_PER_BATCH = 200_000


def estimate(
    sentences: Iterable[str],
    order: int,
    arpa: str | Path,
    *,
    memory: float = 2048,
    prune: Sequence[int] = (),
    vocabulary: Collection[str] | None = None,
) -> list[int]:
    """Estimate a model from ``sentences`` and write it to ``arpa``; return its n-grams of each order.

    Args:
        sentences: one string each, words separated by white space. Read once.
        order: longest n-gram, 1 to 6.
        arpa: the file to write. Temporary files go to a hidden folder beside it.
        memory: MiB to use, the vocabulary apart. What does not fit is sorted on disk.
        prune: a threshold for each order, not decreasing, the last one standing for all that follow.
            n-grams seen no more often than that are left out, their mass given to the backoff.
        vocabulary: if given, n-grams with a word outside it are left out in the same way.

    Raises:
        UserError: no sentence, a sentence with ``<s>``, ``</s>`` or ``<unk>`` in it, or thresholds that are
            not as said.
    """
    if not 1 <= order <= MAX_ORDER:
        raise UserError(f"order {order}: an n-gram model has an order from 1 to {MAX_ORDER}")
    thresholds = check_prune(prune, order)
    budget = int(memory * 2**20)
    arpa = Path(arpa)
    with TemporaryDirectory(dir=arpa.parent, prefix=".ngram-") as name:
        folder = Path(name)
        tokens, words = number_words(sentences, order, Column(folder / "tokens", np.uint32))
        packing = Packing(len(words), order)
        tables = [_Table(folder, n) for n in range(1, order + 1)]
        keep = None if vocabulary is None else _words_to_keep(words, vocabulary)
        grams = count(tokens, order, packing, folder, budget)
        _adjust_counts(grams, packing, tables, thresholds, keep)
        _unigram_probabilities(tables[0])
        for shorter, table in pairwise(tables):
            _probabilities(table, shorter, packing.bits, folder, budget)
        step = min(_LINES_PER_BATCH, block_rows(budget))
        with atomic_path(arpa) as temporary:
            _write_arpa(temporary, tables, words, packing.bits, step)
    return [table.kept for table in tables]


class _Table:
    """The n-grams of one order in suffix order; what is known of them, a column each."""

    def __init__(self, folder: Path, order: int):
        self.order = order
        self.key = Column(folder / f"key{order}")  # row of the suffix << bits | first word
        self.count = Column(folder / f"count{order}")  # adjusted count << 1 | kept (not pruned)
        self.context = Column(folder / f"context{order}")  # row, one order down, without the last word
        self.prob = Column(folder / f"prob{order}", np.float64)
        self.backoff = Column(folder / f"backoff{order}", np.float64)
        self.counts_of_counts = np.zeros(5, np.int64)  # of adjusted counts 0 to 4
        self.kept = 0

    def append(self, key: np.ndarray, adjusted: np.ndarray, kept: np.ndarray) -> None:
        self.key.append(key)
        self.count.append(adjusted << np.uint64(1) | kept.astype(np.uint64))
        small = np.minimum(adjusted, 5).astype(np.int64)
        self.counts_of_counts += np.bincount(small, minlength=6)[:5]
        self.kept += int(kept.sum())

    def discounts(self) -> np.ndarray:
        return _discounts(self.counts_of_counts, self.order)


def check_prune(prune: Sequence[int], order: int) -> list[int]:
    """Return a pruning threshold for each order; UserError unless they are as ``estimate`` says."""
    given = list(prune) or [0]
    if len(given) > order or min(given) < 0 or given != sorted(given):
        raise UserError(
            f"prune {' '.join(map(str, prune))}: give up to {order} thresholds, none below the one before it"
        )
    return given + given[-1:] * (order - len(given))


def _words_to_keep(words: list[bytes], vocabulary: Collection[str]) -> np.ndarray:
    allowed = {word.encode() for word in vocabulary}.union(SPECIAL_WORDS)
    return np.array([word in allowed for word in words])


def _adjust_counts(
    grams: Iterator[Block],
    packing: Packing,
    tables: list[_Table],
    thresholds: list[int],
    keep: np.ndarray | None,
) -> None:
    """Fill in ``key`` and ``count`` of all tables in one pass over the n-grams of the highest order.

    In suffix order all n-grams that end alike are neighbours, at any order at once: each order groups what
    the order above hands down. At the highest order the adjusted count is the count itself.
    """
    specials = np.array([UNK, BOS], np.uint64)
    tables[0].append(specials, np.zeros(2, np.uint64), np.ones(2, bool))
    grams = (np.vstack([block, block[-1]]) for block in grams)
    for table, threshold in zip(tables[:0:-1], thresholds[:0:-1], strict=True):
        grams = _shorten(grams, packing, table, threshold, keep)
    rows = 2
    for block in grams:
        parent = np.zeros(block.shape[1], np.uint64)
        _append(tables[0], packing, block, parent, thresholds[0], keep)
        rows += block.shape[1]
    assert rows == tables[0].key.rows, "a unigram's row is its word's number"


def _shorten(
    grams: Iterator[Block],
    packing: Packing,
    table: _Table,
    threshold: int,
    keep: np.ndarray | None,
) -> Iterator[Block]:
    """Append the n-grams of a stream to ``table``; yield them without their first words.

    A block's columns: the key, the number of different words before the n-gram, and its count.
    """
    order = table.order
    parents = 2 if order == 2 else 0
    for block in whole_groups(grams, lambda block: packing.shorten(block[:-2], order - 1)):
        suffixes = packing.shorten(block[:-2], order - 1)
        starts = group_starts(suffixes)
        sizes = np.diff(starts, append=block.shape[1])
        suffixes = suffixes[:, starts]
        # Padded n-grams have no row of their own.
        is_row = ~packing.padded(suffixes, order - 1)
        rows = parents + np.cumsum(is_row) - 1
        _append(table, packing, block, np.repeat(rows, sizes).astype(np.uint64), threshold, keep)
        parents += int(is_row.sum())
        yield np.vstack([suffixes, sizes.astype(np.uint64), np.add.reduceat(block[-1], starts)])


def _append(
    table: _Table,
    packing: Packing,
    block: Block,
    parent: np.ndarray,
    threshold: int,
    keep: np.ndarray | None,
) -> None:
    keys, before, count = block[:-2], block[-2], block[-1]
    first = packing.word(keys, table.order - 1)
    adjusted = np.where(first == BOS, count, before)
    kept = count > threshold
    if keep is not None:
        for index in range(table.order):
            kept &= keep[packing.word(keys, index)]
    if table.order == 1:
        kept |= first == EOS
    rows = ~packing.padded(keys, table.order)
    key = parent << np.uint64(packing.bits) | first
    table.append(key[rows], adjusted[rows], kept[rows])


def _discounts(counts_of_counts: np.ndarray, order: int) -> np.ndarray:
    """D(0) = 0, D1, D2, D3+ by Chen and Goodman's equation 26, or the fallback where it has no value."""
    n = counts_of_counts.astype(float)
    if n[1:4].all():
        y = n[1] / (n[1] + 2 * n[2])
        j = np.arange(4)
        discounts = np.append(0.0, j[1:] - (j[1:] + 1) * y * n[2:] / n[1:4])
        if (discounts >= 0).all() and (discounts <= j).all():
            return discounts
    d1, d2, d3 = FALLBACK_DISCOUNTS
    print(
        f"too little text to estimate the discounts of order {order}: using {d1:g}, {d2:g}, {d3:g}",
        file=sys.stderr,
    )
    return np.array([0.0, *FALLBACK_DISCOUNTS])


@dataclass
class _Normalised:
    """n-grams grouped by context: what each has of its own, and what its context hands on."""

    starts: np.ndarray  # of the contexts' groups
    own: np.ndarray  # discounted count over the context's total, by n-gram
    backoff: np.ndarray  # by context


def _normalise(value: np.ndarray, starts: np.ndarray, discounts: np.ndarray) -> _Normalised:
    """Discount ``value`` (a table's ``count`` column, context by context) and divide by the totals.

    A pruned n-gram gives all of its count to the backoff, as lmplz has it, so that the model sums to one.
    """
    count, kept = (value >> np.uint64(1)).astype(float), value & np.uint64(1)
    discount = discounts[np.minimum(value >> np.uint64(1), 3)]
    total = np.add.reduceat(count, starts)
    freed = np.add.reduceat(np.where(kept, discount, count), starts)
    sizes = np.diff(starts, append=len(value))
    return _Normalised(starts, (count - discount) / np.repeat(total, sizes), freed / total)


def _unigram_probabilities(table: _Table) -> None:
    """Fill in the unigrams, interpolated with the uniform distribution. All have the empty context."""
    value = table.count.read(0, table.count.rows)
    result = _normalise(value, np.zeros(1, int), table.discounts())
    probabilities = result.own + result.backoff / (table.kept - 1)
    probabilities[BOS] = 1  # never predicted; lmplz writes 0 for its log too
    table.prob.append(probabilities)
    table.context.append(np.zeros(len(value), np.uint64))


def _probabilities(table: _Table, shorter: _Table, bits: int, folder: Path, budget: int) -> None:
    """Fill in ``prob`` and ``context`` of ``table``, and ``backoff`` of the order below.

    Two sorts: by context, to total and discount; then back to suffix order, to interpolate.
    """
    name, discounts = f"{table.order}-grams", table.discounts()
    by_context = _sort_by_context(table, shorter, bits, folder, budget)
    by_row = ExternalSort(folder, "by-row", 4, 1, budget // 3)
    rows = _Finder(shorter.key, block_rows(budget))
    blocks = whole_groups(by_context, lambda block: block[:1])
    for block in progress(blocks, f"discounting {name}", table.key.rows):
        context, row, value = block
        result = _normalise(value, group_starts(context[None]), discounts)
        sizes = np.diff(result.starts, append=len(value))
        context_rows = rows.find(context[result.starts])
        _append_backoffs(shorter.backoff, context_rows, result.backoff)
        backoff = np.repeat(result.backoff, sizes)
        context_row = np.repeat(context_rows, sizes)
        by_row.add(row, context_row, result.own.view(np.uint64), backoff.view(np.uint64))
    _pad_backoffs(shorter.backoff, shorter.key.rows)
    for row, context, own, backoff in progress(by_row.blocks(), f"interpolating {name}", table.key.rows):
        parent = table.key.gather(row) >> np.uint64(bits)
        lower = shorter.prob.gather(parent)
        table.prob.append(own.view(np.float64) + backoff.view(np.float64) * lower)
        table.context.append(context)


def _sort_by_context(table: _Table, shorter: _Table, bits: int, folder: Path, budget: int) -> Iterator[Block]:
    """Yield (key of the context in the order below, row, count), sorted by the context.

    An n-gram's context begins with its own first word; the rest is the context of the n-gram's suffix, whose
    row is known from the order below.
    """
    sorter = ExternalSort(folder, "by-context", 3, 1, budget // 3)
    step, shift = block_rows(budget), np.uint64(bits)
    first_word = np.uint64((1 << bits) - 1)
    for start in range(0, table.key.rows, step):
        key = table.key.read(start, start + step)
        inner = shorter.context.gather(key >> shift)
        row = np.arange(start, start + len(key), dtype=np.uint64)
        sorter.add(inner << shift | key & first_word, row, table.count.read(start, start + step))
    return sorter.blocks()


class _Finder:
    """Finds the rows of keys in a sorted column; keys are asked for in ascending order."""

    def __init__(self, column: Column, step: int):
        self._column, self._step = column, step
        self._start, self._keys = 0, np.empty(0, np.uint64)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows of ``keys``, all of which are in the column."""
        found, done = np.empty(len(keys), np.uint64), 0
        while done < len(keys):
            while not len(self._keys) or self._keys[-1] < keys[done]:
                self._start += len(self._keys)
                self._keys = self._column.read(self._start, self._start + self._step)
            here = int(np.searchsorted(keys, self._keys[-1], "right"))
            found[done:here] = self._start + np.searchsorted(self._keys, keys[done:here])
            done = here
        return found


def _append_backoffs(column: Column, rows: np.ndarray, backoffs: np.ndarray) -> None:
    """Append backoffs of ascending ``rows``; rows left out are no contexts and get 1."""
    start = 0
    while start < len(rows):
        _pad_backoffs(column, int(rows[start]))
        first = column.rows
        # So many rows at a time, however far apart the contexts lie: all that end in </s> are none.
        stop = int(np.searchsorted(rows, np.uint64(first + _BACKOFFS_PER_BATCH)))
        values = np.ones(int(rows[stop - 1]) + 1 - first)
        values[rows[start:stop].astype(np.int64) - first] = backoffs[start:stop]
        column.append(values)
        start = stop


def _pad_backoffs(column: Column, rows: int) -> None:
    while column.rows < rows:
        column.append(np.ones(min(rows - column.rows, _BACKOFFS_PER_BATCH)))


def _write_arpa(path: Path, tables: list[_Table], words: list[bytes], bits: int, step: int) -> None:
    """Write the model in ARPA format, base-10 logarithms, n-grams in suffix order."""
    vocabulary = np.array([word.decode() for word in words], object)
    with path.open("w", encoding="utf-8") as file:
        counts = [f"ngram {table.order}={table.kept}\n" for table in tables]
        file.write("\\data\\\n" + "".join(counts))
        for table in tables:
            file.write(f"\n\\{table.order}-grams:\n")
            highest = table is tables[-1]
            template = "%.7f\t%s\n" if highest else "%.7f\t%s\t%.7f\n"
            starts = range(0, table.key.rows, step)
            for start in progress(starts, f"writing {table.order}-grams"):
                stop = min(start + step, table.key.rows)
                kept = (table.count.read(start, stop) & np.uint64(1)).astype(bool)
                text = _texts(tables[: table.order], start, stop, vocabulary, bits)
                columns = [_log10(table.prob, start, stop, kept), text[kept].tolist()]
                if not highest:
                    columns.append(_log10(table.backoff, start, stop, kept))
                file.writelines(map(template.__mod__, zip(*columns, strict=True)))
        file.write("\n\\end\\\n")


def _texts(tables: list[_Table], start: int, stop: int, vocabulary: np.ndarray, bits: int) -> np.ndarray:
    """The n-grams of rows ``start`` to ``stop`` of the last table as text, an array of ``str``."""
    key = tables[-1].key.read(start, stop)
    first = vocabulary[key & np.uint64((1 << bits) - 1)]
    if len(tables) == 1:
        return first
    parent = (key >> np.uint64(bits)).astype(np.int64)
    suffixes = _texts(tables[:-1], int(parent[0]), int(parent[-1]) + 1, vocabulary, bits)
    return first + " " + suffixes[parent - parent[0]]


def _log10(column: Column, start: int, stop: int, kept: np.ndarray) -> list[float]:
    # Rounding can carry a sum of probabilities past one; a discount of 0, of very little text, leaves such a
    # backoff; adding zero turns -0.0 into 0.0.
    return (np.log10(column.read(start, stop)[kept].clip(LEAST, 1)) + 0.0).tolist()
