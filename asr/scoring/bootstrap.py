"""How far an error rate would move on other speech of the same kind: the bootstrap.

As many utterances as there are get drawn with replacement and the rate is computed again, over and over
(Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004).
Two systems are compared on the same draws, so that what is hard for both cancels. One speaker's utterances
are alike; drawing whole speakers instead of utterances takes that into account.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000  # enough for the ends of an interval
PAIRED_DRAWS = 10_000  # for the share of draws, which is quoted to a tenth of a percent
_AT_ONCE = 4_000_000  # drawn indices held in memory


@dataclass(frozen=True)
class Paired:
    """The second system against the first, in percent points of error rate; negative is better."""

    difference: float
    ci95: tuple[float, float]
    better: float  # share of draws in which the second has the lower rate, 0 to 1
    equal: float  # and in which the two have the same
    draws: np.ndarray  # (draws,) differences

    @property
    def probability_of_improvement(self) -> float:
        """Share of draws in which the second is better, a tie counting half: 0.5 says no difference."""
        return self.better + self.equal / 2


def interval(counts: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of an error rate in percent.

    Args:
        counts: (G, 2), errors and reference words of every utterance, or of every speaker.
    """
    errors, words = resample(counts, draws, seed).T
    low, high = np.percentile(_rate(errors, words), [2.5, 97.5])
    return float(low), float(high)


def compare(counts: np.ndarray, seed: int = 0, draws: int = PAIRED_DRAWS) -> Paired:
    """Paired bootstrap of two systems on the same utterances.

    Args:
        counts: (G, 3), errors of the first system, of the second, and reference words.
    """
    first, second, words = resample(counts, draws, seed).T
    found = second - first  # whole numbers: a tie is a tie
    differences = _rate(found, words)
    low, high = np.percentile(differences, [2.5, 97.5])
    total = counts.sum(0)
    return Paired(
        difference=float(_rate(total[1] - total[0], total[2])),
        ci95=(float(low), float(high)),
        better=float((found < 0).mean()),
        equal=float((found == 0).mean()),
        draws=differences,
    )


def resample(counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Draw G of the G rows of ``counts`` (G, C) with replacement and add them up: (draws, C)."""
    rng = np.random.default_rng(seed)
    sums = np.empty((draws, counts.shape[1]), counts.dtype)
    step = max(1, _AT_ONCE // len(counts))
    for start in range(0, draws, step):
        chosen = rng.integers(len(counts), size=(min(step, draws - start), len(counts)))
        for column, values in enumerate(counts.T):
            sums[start : start + step, column] = values[chosen].sum(1)
    return sums


def add_up(counts: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Rows of ``counts`` (G, C) that share a group, added up: (groups, C)."""
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((place.max() + 1, counts.shape[1]), counts.dtype)
    np.add.at(sums, place, counts)
    return sums


def _rate(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return 100 * errors / np.maximum(words, 1)
