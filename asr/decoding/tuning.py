"""LM weight and word score, tuned on dev and nowhere else."""

from collections.abc import Callable

from tqdm import tqdm

from asr.errors import UserError

LM_WEIGHTS = (0.2, 0.5, 0.9, 1.4)
WORD_SCORES = (0.0, 1.0, 2.0, 3.0)
UNTUNED = (0.5, 1.0)  # where there is no dev set


Surface = dict[tuple[float, float], float]  # (LM weight, word score) -> WER on dev


def check_dev(split: str) -> None:
    """Refuse to tune on test data."""
    if split.startswith("test"):
        raise UserError(f"--tune-on {split}: weights are never tuned on test data; name a dev split")


def tune(wer: Callable[[float, float], float]) -> tuple[float, float, Surface]:
    """Try a grid of LM weights and word scores, then twice the neighbours of the best, closer each time.

    The two pull against each other (a heavier LM deletes words, a higher score brings them back), so
    searching one after the other gets stuck.

    Args:
        wer: word error rate on dev at (lm_weight, word_score).

    Returns:
        the best pair, and every pair tried with its error rate. Ties go to the smaller LM weight.
    """
    tried: Surface = {}
    points = [(weight, score) for weight in LM_WEIGHTS for score in WORD_SCORES]
    with tqdm(desc="tuning on dev", total=len(points) + 8, unit="point", leave=False, disable=None) as bar:
        for weight_step, score_step in ((0.0, 0.0), (0.2, 0.5), (0.1, 0.25)):
            if tried:
                weight, score = _best(tried)
                points = [(round(weight + step, 3), score) for step in (-weight_step, weight_step)]
                points += [(weight, score + step) for step in (-score_step, score_step)]
            for point in points:
                if point not in tried and point[0] >= 0:
                    tried[point] = wer(*point)
                    bar.update()
    return *_best(tried), tried


def _best(tried: Surface) -> tuple[float, float]:
    return min(tried, key=lambda point: (tried[point], point))


def format_surface(tried: Surface) -> str:
    """The points tried as a table of WER: a line for each LM weight, a column for each word score."""
    weights, scores = (sorted({point[axis] for point in tried}) for axis in (0, 1))
    best = _best(tried)
    lines = ["LM weight \\ word score" + "".join(f"{score:9g}" for score in scores)]
    for weight in weights:
        cells = []
        for point in ((weight, score) for score in scores):
            cell = f"{tried[point]:.2f}" if point in tried else "."
            cells.append(f"{cell}{'*' if point == best else ' '}".rjust(9))
        lines.append(f"{weight:22g}" + "".join(cells).rstrip())
    return "\n".join(lines)
