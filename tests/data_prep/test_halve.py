import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import Utterance
from data_prep.halve import halve


@given(seconds=st.lists(st.tuples(st.integers(0, 9), st.floats(0.5, 20)), min_size=1, max_size=60))
def test_halves_share_no_speaker_and_lose_nothing(seconds):
    utterances = [
        Utterance(str(i), f"/{i}", length, "A", f"s{who}") for i, (who, length) in enumerate(seconds)
    ]
    first, second = halve(utterances)
    assert not {u.speaker for u in first} & {u.speaker for u in second}
    assert sorted([*first, *second], key=lambda u: int(u.id)) == utterances


def test_equal_speakers_make_equal_halves():
    utterances = [Utterance(f"{s}{i}", "/a", 2.0, "A", f"s{s}") for s in range(10) for i in range(5)]
    assert [len(part) for part in halve(utterances)] == pytest.approx([25, 25])
