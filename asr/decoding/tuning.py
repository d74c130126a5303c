"""LM weight and word score, tuned on dev and nowhere else."""

from collections.abc import Callable

from tqdm import tqdm

from asr.errors import UserError

LM_WEIGHTS = (0.3, 0.6, 0.9, 1.2, 1.6)
WORD_SCORES = (-1.0, 0.0, 1.0, 2.0)
START = (0.6, 0.0)


def check_dev(split: str) -> None:
    """Refuse to tune on test data."""
    if split.startswith("test"):
        raise UserError(f"--tune-on {split}: weights are never tuned on test data; name a dev split")


def tune(wer: Callable[[float, float], float]) -> tuple[float, float, dict[tuple[float, float], float]]:
    """Search LM weight and word score by coordinate descent, then once more half-way between.

    Args:
        wer: word error rate on dev at (lm_weight, word_score).

    Returns:
        the best pair, and every pair tried with its error rate. Ties go to the smaller LM weight.
    """
    tried: dict[tuple[float, float], float] = {}
    bar = tqdm(desc="tuning on dev", unit="point", leave=False)

    def best_of(points: list[tuple[float, float]]) -> tuple[float, float]:
        for point in points:
            if point not in tried:
                tried[point] = wer(*point)
                bar.update()
        return min(tried, key=lambda point: (tried[point], point))

    weight, score = best_of([(weight, START[1]) for weight in LM_WEIGHTS])
    weight, score = best_of([(weight, score) for score in WORD_SCORES])
    weight, score = best_of([(round(weight + step, 2), score) for step in (-0.15, 0.15)])
    weight, score = best_of([(weight, score + step) for step in (-0.5, 0.5)])
    bar.close()
    return weight, score, tried
