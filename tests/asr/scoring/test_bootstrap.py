"""The bootstrap against plain loops, against all possible draws, and its properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.scoring import bootstrap
from asr.scoring.bootstrap import add_up, compare, interval, resample

# Errors of two systems and words, an utterance a row.
counts = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=12
).map(np.array)


def rate(errors, words):
    return 100 * errors / max(words, 1)


def test_interval_holds_the_rate_and_narrows_with_more_speech():
    few = np.array([(0, 4), (1, 4), (1, 4)])
    low, high = interval(few)
    assert low < 100 * 2 / 12 < high
    low_many, high_many = interval(np.tile(few, (50, 1)))
    assert high_many - low_many < (high - low) / 3


@settings(max_examples=25)
@given(counts=counts, seed=st.integers(0, 99))
def test_compare_equals_plain_loops(counts, seed):
    draws, size = 60, len(counts)
    chosen = np.random.default_rng(seed).integers(size, size=(draws, size))
    differences, better, equal = [], 0, 0
    for draw in chosen:
        first = sum(int(counts[index][0]) for index in draw)
        second = sum(int(counts[index][1]) for index in draw)
        words = sum(int(counts[index][2]) for index in draw)
        differences.append(rate(second, words) - rate(first, words))
        better += second < first
        equal += second == first
    paired = compare(counts, seed, draws)
    assert paired.draws == pytest.approx(differences)
    assert paired.ci95 == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))
    assert (paired.better, paired.equal) == (better / draws, equal / draws)
    first, second, words = counts.sum(0)
    assert paired.difference == pytest.approx(rate(second, words) - rate(first, words))


def test_shares_are_those_of_all_possible_draws():
    counts = np.array([(5, 1, 10), (0, 3, 8), (2, 2, 6), (4, 3, 9)])
    sums = [counts[list(draw)].sum(0) for draw in itertools.product(range(4), repeat=4)]
    better = np.mean([second < first for first, second, _ in sums])
    equal = np.mean([second == first for first, second, _ in sums])
    paired = compare(counts)  # 10 000 draws: a standard error of at most 0.005
    assert paired.better == pytest.approx(better, abs=0.02)
    assert paired.equal == pytest.approx(equal, abs=0.02)
    exact = [100 * (second - first) / words for first, second, words in sums]
    assert paired.draws.mean() == pytest.approx(np.mean(exact), abs=0.5)
    assert paired.ci95 == pytest.approx(tuple(np.percentile(exact, [2.5, 97.5])), abs=3)


@settings(max_examples=25)
@given(counts=counts)
def test_swapping_the_systems_flips_the_sign(counts):
    there, back = compare(counts, draws=200), compare(counts[:, [1, 0, 2]], draws=200)
    assert back.difference == pytest.approx(-there.difference)
    assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
    assert back.equal == there.equal
    assert back.probability_of_improvement == pytest.approx(1 - there.probability_of_improvement)


@settings(max_examples=25)
@given(counts=counts)
def test_identical_systems_do_not_differ(counts):
    paired = compare(counts[:, [0, 0, 2]], draws=200)
    assert (paired.difference, *paired.ci95) == (0, 0, 0)
    assert (paired.better, paired.equal, paired.probability_of_improvement) == (0, 1, 0.5)


def test_draws_in_pieces_are_the_same_draws(monkeypatch):
    counts = np.arange(30).reshape(10, 3)
    whole = resample(counts, 50, 0)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 70)  # seven draws at a time
    assert (resample(counts, 50, 0) == whole).all()


def test_groups_are_added_up():
    found = add_up(np.array([(1, 10), (2, 20), (4, 40)]), ["b", "a", "b"])
    assert found.tolist() == [[2, 20], [5, 50]]


def test_speakers_who_differ_widen_the_interval():
    # Two systems, each better for half of the speakers: sure by utterance, unsure by speaker.
    counts = np.array([(9, 1, 20)] * 60 + [(1, 7, 20)] * 60)
    speakers = [f"s{index // 20}" for index in range(120)]
    narrow, wide = compare(counts).ci95, compare(add_up(counts, speakers)).ci95
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
