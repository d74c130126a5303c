import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import Utterance, write_manifest
from asr.errors import UserError
from data_prep.halve import halve, main


@given(seconds=st.lists(st.tuples(st.integers(0, 9), st.floats(0.5, 20)), min_size=1, max_size=60))
def test_halves_share_no_speaker_and_lose_nothing(seconds):
    utterances = [
        Utterance(str(i), f"/{i}", length, "A", f"s{who}") for i, (who, length) in enumerate(seconds)
    ]
    first, second = halve(utterances)
    assert not {u.speaker for u in first} & {u.speaker for u in second}
    assert sorted([*first, *second], key=lambda u: int(u.id)) == utterances


def test_what_would_be_lost_is_named(tmp_path):
    for name in ("a", "b"):
        items = [Utterance(f"{s}", f"/{name}{s}", 2.0, "A", f"{name}{s}") for s in range(2)]
        write_manifest(tmp_path / f"{name}.jsonl", items)
    manifests, out = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], str(tmp_path / "x.jsonl")
    for options, message in (
        ([*manifests, "--out", out, str(tmp_path / "y.jsonl")], "--manifest: 0 is in it twice"),
        ([manifests[0], "--out", out, out], r"--out .*x\.jsonl: named twice"),
    ):
        with pytest.raises(UserError, match=message):
            main(["--manifest", *options])
    assert not (tmp_path / "x.jsonl").exists()


def test_equal_speakers_make_equal_halves():
    utterances = [Utterance(f"{s}{i}", "/a", 2.0, "A", f"s{s}") for s in range(10) for i in range(5)]
    assert [len(part) for part in halve(utterances)] == pytest.approx([25, 25])
