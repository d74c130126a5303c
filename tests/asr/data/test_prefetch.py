"""Reading ahead changes when items are made, and nothing else."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.prefetch import prefetch


@given(count=st.integers(0, 20), ahead=st.integers(1, 5))
def test_the_items_in_their_order(count, ahead):
    assert list(prefetch(iter(range(count)), ahead)) == list(range(count))


@given(asked=st.integers(0, 10), ahead=st.integers(1, 4))
def test_no_more_than_so_many_are_made_ahead(asked, ahead):
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    ahead_of = prefetch(items(), ahead)
    for _ in range(asked):
        next(ahead_of)
    ahead_of.close()
    assert len(made) <= (asked + ahead if asked else 0)


def test_an_error_comes_in_its_place_and_the_thread_ends():
    def items():
        yield 1
        raise KeyError("broken")

    before = threading.active_count()
    found = prefetch(items())
    assert next(found) == 1
    with pytest.raises(KeyError, match="broken"):
        next(found)
    assert threading.active_count() == before


def test_the_next_is_made_while_the_first_is_worked_on():
    second = threading.Event()

    def items():
        yield 1
        second.set()
        yield 2

    for _ in prefetch(items()):
        assert second.wait(10)
