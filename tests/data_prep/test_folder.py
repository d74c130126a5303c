import numpy as np
import pytest
import soundfile

from asr.data.audio import load
from asr.data.manifest import read_manifest
from asr.errors import UserError
from data_prep.folder import main


def write(path, seconds: float, rate: int = 16_000, channels: int = 1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).normal(size=(round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def prepare(tmp_path, *recordings, options=()) -> list:
    out = tmp_path / "data" / "mine.jsonl"
    main(["--recordings", *map(str, recordings), "--out", str(out), "--jobs", "1", *options])
    return read_manifest(out)


def test_folders_files_and_lists_become_utterances_without_text(tmp_path, capsys):
    talks = tmp_path / "talks"
    write(talks / "monday" / "a b.wav", 1.0)
    write(talks / "c.flac", 1.5, rate=44_100, channels=2)
    (tmp_path / "list.txt").write_text(f"{write(tmp_path / 'd.wav', 0.5)}\n")
    found = prepare(tmp_path, talks, tmp_path / "list.txt")
    assert [(item.id, item.text) for item in found] == [("c", ""), ("monday/a_b", ""), ("d", "")]
    assert [item.duration for item in found] == pytest.approx([1.5, 1.0, 0.5])
    for item in found:
        assert item.audio.startswith(str(tmp_path / "data" / "audio" / "mine"))
        assert soundfile.info(item.audio).samplerate == 16_000
    assert "mine: 3 utterances, 0.00 h" in capsys.readouterr().out


def test_a_long_recording_is_cut_into_equal_pieces_that_leave_nothing_out(tmp_path):
    path = write(tmp_path / "talk.wav", 5.3)
    found = prepare(tmp_path, path, options=["--seconds", "2"])
    assert [item.id for item in found] == [f"talk.{number}-of-3" for number in (1, 2, 3)]
    assert [item.duration for item in found] == pytest.approx([5.3 / 3] * 3, abs=2e-4)
    whole = np.concatenate([load(item.audio).numpy() for item in found])
    assert np.array_equal(whole, load(path).numpy())


def test_copies_are_kept_until_the_recording_or_the_cutting_changes(tmp_path):
    path = write(tmp_path / "talk.wav", 3.0)
    (item,) = prepare(tmp_path, path)
    made = (tmp_path / "data" / "audio" / "mine" / "talk.wav").stat().st_mtime_ns
    assert prepare(tmp_path, path) == [item]
    assert (tmp_path / "data" / "audio" / "mine" / "talk.wav").stat().st_mtime_ns == made
    assert len(prepare(tmp_path, path, options=["--seconds", "2"])) == 2
    write(path, 1.0)
    assert prepare(tmp_path, path)[0].duration == 1.0


def test_what_cannot_be_read_is_refused_or_left_out_and_listed(tmp_path):
    good, bad = write(tmp_path / "good.wav", 1.0), tmp_path / "bad.flac"
    bad.write_bytes(b"fLaC")
    with pytest.raises(UserError, match=r"^1 of 2 utterances cannot be used .* first: .*bad.flac: "):
        prepare(tmp_path, good, bad)
    assert not (tmp_path / "data" / "mine.jsonl").exists()
    assert [item.id for item in prepare(tmp_path, good, bad, options=["--skip-bad"])] == ["good"]
    assert (tmp_path / "data" / "mine.excluded.jsonl").read_text().count('"bad"') == 1
    with pytest.raises(UserError, match="1 of 1 utterances cannot be used"):
        prepare(tmp_path, bad, options=["--skip-bad"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recordings", "{tmp}/a", "{tmp}/b"], "has the same id, talk; rename one"),
        (["--recordings", "{tmp}/a", "--seconds", "0"], "--seconds and --jobs must be 1 or more"),
        (["--recordings", "{tmp}/a", "--out", "{tmp}/x.txt"], "x.txt: must end in .jsonl"),
    ],
)
def test_bad_options_are_one_line(tmp_path, options, message):
    for folder in "ab":
        write(tmp_path / folder / "talk.wav", 0.5)
    with pytest.raises(UserError, match=message):
        main(["--out", str(tmp_path / "x.jsonl"), *(option.format(tmp=tmp_path) for option in options)])
    assert not (tmp_path / "x.jsonl").exists()
