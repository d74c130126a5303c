import random

import pytest

from data_prep.phrases import draw_phrases, draw_sentences, split_phrases


@pytest.mark.parametrize(
    ("sentence", "phrases"),
    [
        ("THE OLD MAN CAME", ("THE OLD MAN CAME",)),
        ("Well, said he; it's  late!", ("WELL", "SAID HE", "IT'S LATE")),
        ("A well-known man -- a sailor -- came.", ("A WELL KNOWN MAN", "A SAILOR", "CAME")),
        ("'Tis true, 'Peter' said", ("'TIS TRUE", "PETER SAID")),
        ("It’s the sailors’ ship", ("IT'S THE SAILORS' SHIP",)),
        ("IN 1815 HE CAME", None),
        ("Ça va", None),
        ("ALONE", None),
        ("SO " * 21, None),
        ("?", None),
    ],
)
def test_punctuation_parts_a_sentence(sentence, phrases):
    assert split_phrases(sentence) == phrases


def test_pauses_come_before_joining_words_and_leave_no_word_alone():
    words = "THE MAN CAME HOME LATE AND HIS WIFE SAID THAT SHE HAD WAITED BUT SHE HAD SLEPT".split()
    rng = random.Random(1)
    drawn = [draw_phrases(words, rng) for _ in range(200)]
    assert all(" ".join(phrases).split() == words for phrases in drawn)
    parts = [phrase for phrases in drawn if len(phrases) > 1 for phrase in phrases]
    assert all(len(phrase.split()) >= 2 for phrase in parts)
    later = [phrase.split()[0] for phrases in drawn for phrase in phrases[1:]]
    assert sum(word in ("AND", "THAT", "BUT") for word in later) > 0.7 * len(later) > 100
    assert draw_phrases(["YES", "SIR"], rng) == ("YES SIR",)


def test_every_usable_sentence_is_as_likely_to_be_drawn():
    sentences = [f"NUMBER {'I' * number}" for number in range(1, 21)] + ["12 MEN", "ALONE"]
    rng = random.Random(1)
    counts = dict.fromkeys(sentences, 0)
    for _ in range(2000):
        drawn = draw_sentences(iter(sentences), 5, rng)
        assert len(set(drawn)) == 5
        for (text,) in drawn:
            counts[text] += 1
    assert counts.pop("12 MEN") == counts.pop("ALONE") == 0
    assert all(400 < number < 600 for number in counts.values())
    assert sorted(draw_sentences(sentences, 100, rng)) == sorted((text,) for text in sentences[:20])
