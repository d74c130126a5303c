"""Weights tuned on dev."""

import pytest

from asr.decoding.tuning import LEAST, MOST, at_bounds, check_dev, format_surface, tune
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError


def valley(best: tuple[float, float, float]):
    """WER along which LM weight and word score make up for each other, as in real use."""

    def wer(weights: Weights) -> float:
        weight, score, penalty, _ = weights
        across, along = score - best[1] - 2 * (weight - best[0]), weight - best[0]
        return 10 + across**2 + along**2 + 0.01 * (penalty - best[2]) ** 2

    return wer


@pytest.mark.parametrize(
    "best", [(0.9, 1.0, 4.0), (0.3, 2.0, 0.0), (1.5, 0.5, 12.0), (2.5, 6.0, -5.0), (0.4, -3.0, 20.0)]
)
def test_tuning_goes_on_until_the_best_is_inside(best):
    found, tried = tune(valley(best))
    assert tried[found] == min(tried.values()) < 10.1
    assert not at_bounds(found)
    assert found == pytest.approx((*best, 0.0), abs=1.0)
    assert len(tried) < 150


@pytest.mark.parametrize("best", [(9.0, 20.0, 60.0), (3.0, 40.0, 3.0), (1.0, -12.0, -50.0)])
def test_a_bound_that_ends_it_is_named(best):
    found, _ = tune(valley(best))
    assert found.lm_weight == 5.0 or found.word_score in (15.0, -5.0)
    assert at_bounds(found)
    assert all(low <= value <= high for low, value, high in zip(LEAST, found, MOST, strict=True))


@pytest.mark.parametrize("ilm_weight", [0.0, 0.3, 0.75])
def test_the_ilm_weight_is_tuned_where_there_is_one(ilm_weight):
    plain = valley((0.9, 1.0, 4.0))

    def wer(weights: Weights) -> float:
        return plain(weights) + (weights.ilm_weight - ilm_weight) ** 2

    found, tried = tune(wer, internal=True)
    assert found.ilm_weight == pytest.approx(ilm_weight, abs=0.05) and not at_bounds(found)
    lines = format_surface(tried).splitlines()
    assert lines[-2].startswith("ILM weight") and lines[-4].startswith("unknown penalty")
    others = found[:3]
    assert len(lines[-2].split()) - 2 == sum(point[:3] == others for point in tried) == len(lines[-1].split())
    assert not any(point.ilm_weight for point in tune(wer)[1])


def test_an_lm_that_only_harms_is_not_used():
    """Whatever the surface, greedy's words are among what is tried."""
    found, tried = tune(lambda weights: 5.0 if weights == GREEDY else 6.0 + abs(weights.word_score))
    assert found == GREEDY and tried[found] == 5.0 and not at_bounds(found)


def test_tuning_on_test_is_refused():
    with pytest.raises(UserError, match="never tuned on test"):
        check_dev("test-clean")


def test_the_surface_shows_every_plane_and_marks_the_best():
    best, tried = tune(valley((0.7, 0.5, 5.0)))
    lines = format_surface(tried).splitlines()
    shown = {}
    for head, *cells in (line.split() for line in lines[1:-2]):
        columns = lines[0].split()[5:]
        assert len(cells) == len(columns)
        for column, cell in zip(columns, cells, strict=True):
            if cell != ".":
                shown[float(head), float(column)] = float(cell.rstrip("*"))
    points = {point[:2] for point in tried}
    assert shown == {
        point: round(min(wer for other, wer in tried.items() if other[:2] == point), 2) for point in points
    }
    penalties = dict(zip(lines[-2].split()[2:], lines[-1].split(), strict=True))
    assert {float(penalty) for penalty in penalties} == {p[2] for p in tried if p[:2] == best[:2]}
    assert penalties[f"{best.unknown_penalty:g}"] == f"{tried[best]:.2f}*"
    assert sum(line.count("*") for line in lines) == 2
