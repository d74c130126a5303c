"""LM weight, word score and unknown penalty, tuned on dev and nowhere else."""

from collections.abc import Callable
from itertools import product

from tqdm import tqdm

from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError

UNTUNED = Weights(0.3, 1.5, 2.0)  # where there is no dev set
# Where the search begins, its steps along each axis, the coarsest first, and its bounds. Of the ILM weight,
# which only a transducer has, it begins at 0.1: what LM weight there is wants a part of it.
BEGINNING = tuple(Weights(*point) for point in product((0.2, 0.5, 1.0), (0.0, 1.5), (4.0,)))
STEPS = (Weights(0.4, 1.0, 4.0, 0.2), Weights(0.2, 0.5, 2.0, 0.1), Weights(0.1, 0.25, 1.0, 0.05))
LEAST, MOST = Weights(0.0, -5.0, -20.0, 0.0), Weights(5.0, 15.0, 40.0, 2.0)
# LM weight and word score pull against each other (a heavier LM deletes words, a higher score brings them
# back): along the axes alone the search would get stuck in the valley between them.
DIRECTIONS = [
    *(tuple(sign if axis == moved else 0 for axis in range(4)) for moved in range(4) for sign in (-1, 1)),
    (-1, -1, 0, 0),
    (1, 1, 0, 0),
]

Surface = dict[Weights, float]  # WER on dev


def check_dev(split: str) -> None:
    """Refuse to tune on test data."""
    if split.startswith("test"):
        raise UserError(f"--tune-on {split}: weights are never tuned on test data; name a dev split")


def tune(wer: Callable[[Weights], float], internal: bool = False) -> tuple[Weights, Surface]:
    """Try a few points, then go to a better neighbour while there is one, in ever smaller steps.

    So the best point has neighbours all around that were tried, save where LEAST or MOST end the search
    (``at_bounds``). GREEDY is always among the points: nothing worse on dev can come out.

    Args:
        wer: word error rate on dev.
        internal: tune the ILM weight too.

    Returns:
        the best point, and every point tried with its error rate. Ties go to the smaller LM weight.
    """
    tried: Surface = {}
    with tqdm(desc="tuning on dev", unit="point", leave=False, disable=None) as bar:

        def best_with(points: list[Weights]) -> Weights:
            for point in points:
                if point not in tried:
                    tried[point] = wer(point)
                    bar.update()
            return _best(tried)

        first = 0.1 if internal else 0.0
        best = best_with([GREEDY, *(point._replace(ilm_weight=first) for point in BEGINNING)])
        for step in STEPS:
            before = None
            while best != before:
                before, best = best, best_with(_neighbours(best, step, internal))
    return best, tried


def _neighbours(point: Weights, step: Weights, internal: bool) -> list[Weights]:
    """One step away in each direction, within the bounds."""
    moved = (
        Weights(*(round(value + s * size, 3) for value, s, size in zip(point, direction, step, strict=True)))
        for direction in DIRECTIONS
        if internal or not direction[3]
    )
    return [
        other
        for other in moved
        if all(low <= value <= high for low, value, high in zip(LEAST, other, MOST, strict=True))
    ]


def at_bounds(point: Weights) -> list[str]:
    """Which of its numbers a bound of the search kept from going on, as "LM weight 5".

    (An LM or ILM weight of 0 is none: there is nothing beyond.)
    """
    names = ("LM weight", "word score", "unknown penalty", "ILM weight")
    return [
        f"{name} {value:g}"
        for name, value, low, high in zip(names, point, LEAST, MOST, strict=True)
        if value == high or (value == low and low < 0)
    ]


def _best(tried: Surface) -> Weights:
    return min(tried, key=lambda point: (tried[point], point))


def format_surface(tried: Surface) -> str:
    """The points tried as tables of WER.

    A line for each LM weight and a column for each word score, with the best of what was tried there; then
    the penalties, and where there are several the ILM weights, at the best point's other weights.
    """
    best = _best(tried)
    plane: dict[tuple[float, float], float] = {}
    for (weight, score, *_), wer in tried.items():
        plane[weight, score] = min(wer, plane.get((weight, score), wer))
    weights, scores = (sorted({point[axis] for point in plane}) for axis in (0, 1))
    lines = ["LM weight \\ word score" + "".join(f"{score:9g}" for score in scores)]
    for weight in weights:
        cells = [_cell(plane.get((weight, score)), (weight, score) == best[:2]) for score in scores]
        lines.append(f"{weight:22g}" + "".join(cells).rstrip())
    for axis, name in ((2, "unknown penalty"), (3, "ILM weight")):
        others = best[:axis] + best[axis + 1 :]
        line = {p[axis]: wer for p, wer in sorted(tried.items()) if p[:axis] + p[axis + 1 :] == others}
        if axis == 3 and len(line) == 1:
            continue
        lines.append(name.ljust(22) + "".join(f"{value:9g}" for value in line))
        cells = [_cell(wer, value == best[axis]) for value, wer in line.items()]
        lines.append(" " * 22 + "".join(cells).rstrip())
    return "\n".join(lines)


def _cell(wer: float | None, best: bool) -> str:
    return f"{'.' if wer is None else f'{wer:.2f}'}{'*' if best else ' '}".rjust(9)
