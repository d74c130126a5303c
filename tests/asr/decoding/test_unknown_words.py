"""How many words of the references an LM lacks."""

import pytest

from asr.data.style import style_of
from asr.decoding.evaluation import count_unknown


@pytest.mark.parametrize(("style", "expected"), [(None, (4, 5)), (style_of(["HELLO", "THERE"]), (1, 5))])
def test_words_are_looked_up_as_the_lm_writes_them(style, expected):
    references = ["Hello there, Ann", "HELLO", "there"]
    assert count_unknown(references, ["HELLO", "THERE"], style) == expected
