import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.scoring import bootstrap, score, word_errors, write_trn

sentence = st.lists(st.sampled_from(["A", "B", "CC", "D'S"]), max_size=8).map(" ".join)


@given(pairs=st.lists(st.tuples(sentence.filter(bool), sentence), min_size=1, max_size=8))
def test_rates_equal_jiwers(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    result = score(references, hypotheses)
    assert result.wer == pytest.approx(100 * jiwer.wer(list(references), list(hypotheses)))
    assert result.cer == pytest.approx(100 * jiwer.cer(list(references), list(hypotheses)))
    assert result.sub + result.ins + result.deletions == pytest.approx(result.wer * result.words / 100)


@given(reference=sentence, hypothesis=sentence)
def test_counts_add_up(reference, hypothesis):
    count = word_errors(reference, hypothesis)
    assert count.words == len(reference.split())
    assert len(hypothesis.split()) == count.words - count.deletions + count.insertions
    assert (count.total == 0) == (reference == hypothesis)


def test_interval_holds_the_rate_and_narrows_with_more_speech():
    few = [word_errors("A B C D", hypothesis) for hypothesis in ("A B C D", "A B X D", "A C D")]
    low, high = bootstrap(few)
    assert low < 100 * 2 / 12 < high
    low_many, high_many = bootstrap(few * 50)
    assert high_many - low_many < (high - low) / 3


def test_trn_is_what_sclite_reads(tmp_path):
    write_trn(tmp_path / "x.trn", ["1-2-3", "4"], ["HELLO WORLD", ""])
    assert (tmp_path / "x.trn").read_text() == "HELLO WORLD (1-2-3)\n (4)\n"
