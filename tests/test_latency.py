"""How long after its end a word is shown, as benchmarks/latency.py counts it."""

from latency import Shown, delays

from asr.scoring.errors import align


def test_a_word_is_shown_from_when_it_stays_and_final_from_when_it_is():
    shown = [
        Shown(0.5, ["THE"], 0),
        Shown(1.0, ["A", "CAT"], 0),
        Shown(1.5, ["THE", "CAT"], 1),
        Shown(2.0, ["THE", "CAT", "SAT"], 2),
        Shown(2.5, ["THE", "CAT", "SAT"], 3),
    ]
    found = delays(shown, [0.25, 0.75, 1.75], align("THE CAT SAT", "THE CAT SAT"))
    assert found.shown == [1.25, 0.25, 0.25] and found.final == [1.25, 1.25, 0.75]


def test_wrong_words_do_not_count_and_places_go_on():
    shown = [Shown(1.0, ["OH", "THE", "BAT"], 2), Shown(2.0, ["OH", "THE", "BAT", "SAT"], 4)]
    pairs = align("THE CAT JUST SAT", "OH THE BAT SAT")
    found = delays(shown, [0.5, 1.0, 1.25, 1.5], pairs)
    assert found.shown == [0.5, 0.5] and found.final == [0.5, 0.5]
