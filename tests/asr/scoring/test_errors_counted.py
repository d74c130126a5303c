import unicodedata

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.scoring.errors import (
    align,
    character_errors,
    count_errors,
    oracle_word_error_rate,
    score,
    sum_errors,
    word_error_rate,
    word_errors,
    write_trn,
)

sentence = st.lists(st.sampled_from(["A", "B", "CC", "D'S"]), max_size=8).map(" ".join)
split = st.lists(st.tuples(sentence, sentence), min_size=1, max_size=8)


letters = st.text(st.sampled_from("AÉÜÑ가Ǖ '"), max_size=12)


@given(text=letters, other=letters, forms=st.permutations(["NFC", "NFD"]))
def test_the_form_of_a_letter_is_no_error(tmp_path_factory, text, other, forms):
    reference, hypothesis = (unicodedata.normalize(form, text) for form in forms)
    for count in (word_errors, character_errors):
        assert count(reference, hypothesis).total == 0
        # And counts nowhere else: words and letters are as many.
        assert count(reference, other) == count(hypothesis, other) == count(text, other)
        assert count(other, reference) == count(other, hypothesis)
    assert count_errors(align(reference, hypothesis)).total == 0
    assert all(said == heard for said, heard in align(reference, hypothesis))
    assert score([reference], [hypothesis]).wer == score([reference], [hypothesis]).cer == 0
    folder = tmp_path_factory.mktemp("trn")
    write_trn(folder / "ref.trn", ["a"], [reference])
    write_trn(folder / "hyp.trn", ["a"], [hypothesis])
    assert (folder / "ref.trn").read_bytes() == (folder / "hyp.trn").read_bytes()


@given(pairs=split)
def test_rates_equal_jiwers(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    result = score(references, hypotheses)
    # Without a single reference word, both give the number of insertions as the rate.
    assert result.wer == pytest.approx(100 * jiwer.wer(references, hypotheses))
    assert word_error_rate(references, hypotheses) == result.wer
    assert result.cer == pytest.approx(100 * jiwer.cer(references, hypotheses))
    assert result.sub + result.ins + result.deletions == pytest.approx(
        result.wer * max(result.words, 1) / 100
    )


@given(pairs=split)
def test_alignments_have_jiwers_counts(pairs):
    expected = jiwer.process_words(*map(list, zip(*pairs, strict=True)))
    total = sum_errors([count_errors(align(*pair)) for pair in pairs])
    assert (total.substitutions, total.insertions, total.deletions) == (
        expected.substitutions,
        expected.insertions,
        expected.deletions,
    )
    assert total.words - total.substitutions - total.deletions == expected.hits


@given(reference=sentence, hypothesis=sentence)
def test_an_alignment_holds_both_sides(reference, hypothesis):
    pairs = align(reference, hypothesis)
    assert [said for said, _ in pairs if said] == reference.split()
    assert [heard for _, heard in pairs if heard] == hypothesis.split()
    assert ("", "") not in pairs
    assert count_errors(pairs) == word_errors(reference, hypothesis)


@given(reference=sentence, hypothesis=sentence)
def test_counts_add_up(reference, hypothesis):
    count = word_errors(reference, hypothesis)
    assert count.words == len(reference.split())
    assert len(hypothesis.split()) == count.words - count.deletions + count.insertions
    assert (count.total == 0) == (reference == hypothesis)


def test_blanks_do_not_count():
    assert word_errors(" A\tB  C ", "A B C").total == 0
    assert character_errors(" A\tB  C ", "A B C").total == 0
    assert align("A \t B", "A B") == [("A", "A"), ("B", "B")]


def test_trn_is_what_sclite_reads(tmp_path):
    write_trn(tmp_path / "x.trn", ["1-2-3", "4"], ["HELLO WORLD", ""])
    assert (tmp_path / "x.trn").read_text() == "HELLO WORLD (1-2-3)\n (4)\n"


def test_the_oracle_takes_the_best_of_each_list():
    references = ["A B C D", "E F"]
    lists = [["A X C", "A B C", "X"], ["E F G"]]
    assert oracle_word_error_rate(references, lists) == pytest.approx(100 * 2 / 6)
    assert oracle_word_error_rate(references, [several[:1] for several in lists]) == pytest.approx(
        word_error_rate(references, [several[0] for several in lists])
    )
