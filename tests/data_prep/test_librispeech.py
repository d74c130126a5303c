"""LibriSpeech's layout to manifests: every fault is found, counted and named; none is dropped."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import check, load
from asr.data.manifest import read_manifest
from asr.errors import UserError, run_program
from data_prep import librispeech

SHARED = Path(__file__).parents[3] / "shared" / "data" / "LibriSpeech"


def add_chapter(split, speaker, chapter, texts, suffix="flac"):
    """Write a chapter of noise, an utterance of 0.5 s more each time; return its folder."""
    folder = split / speaker / chapter
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number, text in enumerate(texts):
        id = f"{speaker}-{chapter}-{number:04}"
        noise = 0.1 * rng.standard_normal(8000 * (number + 1))
        soundfile.write(folder / f"{id}.{suffix}", noise, 16000)
        lines.append(f"{id} {text}\n")
    (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def root(tmp_path):
    split = tmp_path / "root" / "LibriSpeech" / "train"
    add_chapter(split, "20", "7", ["ONE", "TWO WORDS", "AND THREE WORDS"])
    add_chapter(split, "3", "8", ["FOUR"], "ogg")
    add_chapter(split.parent / "dev", "5", "9", ["FIVE", "SIX"], "wav")
    return tmp_path / "root"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def prepare(root, out, *more):
    librispeech.main(["--root", str(root), "--out", str(out), "--jobs", "2", *more])


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_prepare(root, out, capsys):
    prepare(root, out)
    assert names(out) == {"train.jsonl", "dev.jsonl"}
    train = read_manifest(out / "train.jsonl")
    assert [u.id for u in train] == ["20-7-0000", "20-7-0001", "20-7-0002", "3-8-0000"]
    assert [u.duration for u in train] == [0.5, 1.0, 1.5, 0.5]
    assert train[2].text == "AND THREE WORDS" and train[3].speaker == "3"
    assert Path(train[3].audio) == root / "LibriSpeech/train/3/8/3-8-0000.ogg"
    printed = capsys.readouterr().out
    assert "train: 4 utterances, 0.00 h, 2 speakers, 0.50 to 1.50 s" in printed

    before = (out / "train.jsonl").read_bytes()
    prepare(root, out)
    assert (out / "train.jsonl").read_bytes() == before


def test_the_folder_above_the_splits_will_do(root, out):
    prepare(root / "LibriSpeech", out, "--splits", "dev")
    assert names(out) == {"dev.jsonl"}


def no_transcript(chapter):
    transcripts = chapter / "20-7.trans.txt"
    lines = transcripts.read_text().splitlines(keepends=True)
    transcripts.write_text("".join(line for line in lines if "0001" not in line))


def no_recording(chapter):
    (chapter / "20-7-0001.flac").unlink()


def no_words(chapter):
    transcripts = chapter / "20-7.trans.txt"
    transcripts.write_text(transcripts.read_text().replace("TWO WORDS", " "))


def cut(chapter):
    path = chapter / "20-7-0001.flac"
    path.write_bytes(path.read_bytes()[:-3000])


def empty_file(chapter):
    (chapter / "20-7-0001.flac").write_bytes(b"")


def no_audio(chapter):
    (chapter / "20-7-0001.flac").write_text("<html>not found</html>")


FAULTS = {
    no_transcript: "recording without transcript",
    no_recording: "transcript without recording",
    no_words: "empty transcript",
    cut: "truncated",
    empty_file: "zero length",
    no_audio: "unreadable",
}


@pytest.mark.parametrize("convert", ["none", "wav"])
@pytest.mark.parametrize("spoil, cause", FAULTS.items())
def test_faults(root, out, capsys, spoil, cause, convert):
    spoil(root / "LibriSpeech/train/20/7")
    with pytest.raises(SystemExit) as exit:
        run_program(lambda: prepare(root, out, "--convert", convert))
    message = capsys.readouterr().err.splitlines()[-1]
    assert exit.value.code == 1
    assert message.startswith(f"error: 1 of 6 utterances cannot be used ({cause}: 1); first: ")
    assert "/20/7/20-7" in message and "--skip-bad" in message
    assert not list(out.glob("*.jsonl"))

    for _ in range(2):
        prepare(root, out, "--skip-bad", "--convert", convert)
        assert f"train: left out 1 ({cause}: 1)" in capsys.readouterr().out
        ids = [u.id for u in read_manifest(out / "train.jsonl")]
        assert ids == ["20-7-0000", "20-7-0002", "3-8-0000"]
        (record,) = map(json.loads, (out / "train.excluded.jsonl").read_text().splitlines())
        assert record.keys() == {"id", "file", "cause", "detail"}
        assert record["id"] == "20-7-0001" and record["cause"] == cause and record["detail"]
        assert not (out / "dev.excluded.jsonl").exists()


def test_faults_are_counted_and_a_mended_corpus_is_not_blamed(root, out, capsys):
    chapter = root / "LibriSpeech/train/20/7"
    whole = (chapter / "20-7-0001.flac").read_bytes()
    cut(chapter)
    (chapter / "20-7-0000.flac").unlink()
    with pytest.raises(UserError, match=r"2 of 6 .*without recording: 1, truncated: 1"):
        prepare(root, out)
    prepare(root, out, "--skip-bad")
    assert len((out / "train.excluded.jsonl").read_text().splitlines()) == 2

    (chapter / "20-7-0001.flac").write_bytes(whole)
    (chapter / "20-7-0000.flac").write_bytes(whole)
    prepare(root, out)
    assert names(out) == {"train.jsonl", "dev.jsonl"}


def test_nothing_left(root, out):
    for path in (root / "LibriSpeech/dev/5/9").glob("*.wav"):
        path.unlink()
    with pytest.raises(UserError, match=r"dev: no utterance of this split can be used"):
        prepare(root, out, "--skip-bad")
    assert not out.exists()


def test_no_root(tmp_path, out):
    with pytest.raises(UserError, match=r"--root .*gone: no such folder; .*LibriSpeech/SPLIT"):
        prepare(tmp_path / "gone", out)
    (tmp_path / "root" / "LibriSpeech" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"--root .*root: no split found; looked for SPLIT/SPEAK"):
        prepare(tmp_path / "root", out)


def test_out_that_cannot_be_written_is_told_at_once(root, out):
    out.write_text("a file")
    for place in (out, out / "below"):
        with pytest.raises(UserError, match=r"out.*: cannot be written"):
            prepare(root, place)


def test_a_split_named_twice_is_written_once(root, out):
    prepare(root, out, "--splits", "dev")
    once = read_manifest(out / "dev.jsonl")
    prepare(root, out, "--splits", "dev", "dev")
    assert read_manifest(out / "dev.jsonl") == once


def test_splits(root, out):
    with pytest.raises(UserError, match="--splits test: no utterance found; splits: dev train"):
        prepare(root, out, "--splits", "dev", "test")
    for path in (root / "LibriSpeech/dev/5/9").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="--splits dev: no utterance found; splits: train"):
        prepare(root, out, "--splits", "dev")
    assert not out.exists()


@pytest.mark.parametrize("line", ["20-8-0003 OTHER CHAPTER", "words", "20-7-0000 AGAIN", "\xff"])
def test_malformed_transcripts_are_named(root, out, line):
    path = root / "LibriSpeech/train/20/7/20-7.trans.txt"
    path.write_bytes(path.read_bytes() + f"{line}\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"20-7\.trans\.txt:4: "):
        prepare(root, out, "--skip-bad")


def test_harmless_oddities(root, out):
    chapter = root / "LibriSpeech/train/20/7"
    path = chapter / "20-7.trans.txt"
    path.write_text(path.read_text().replace(" WORDS", "  WORDS\t").replace("\n", "\r\n") + "\n")
    (chapter / "._20-7-0000.flac").write_bytes(b"what macOS adds to archives")
    (root / "LibriSpeech" / "SPEAKERS.TXT").touch()
    (root / "LibriSpeech" / "archives").mkdir()
    prepare(root, out)
    assert read_manifest(out / "train.jsonl")[1].text == "TWO WORDS"


def test_two_recordings_of_one_utterance(root, out):
    chapter = root / "LibriSpeech/train/20/7"
    (chapter / "20-7-0001.mp3").touch()
    with pytest.raises(UserError, match=r"20-7-0001\.mp3: 20-7-0001\.flac has the same id"):
        prepare(root, out, "--skip-bad")


def test_convert(root, out):
    chapter = root / "LibriSpeech/train/20/7"
    soundfile.write(chapter / "20-7-0001.flac", np.zeros((24000, 2)), 48000)
    prepare(root, out, "--convert", "wav")
    for u in read_manifest(out / "train.jsonl"):
        assert Path(u.audio).parent == out / "audio" / "train" / u.speaker / u.id.split("-")[1]
        info = soundfile.info(u.audio)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert info.duration == u.duration == check(u.audio)
    first = out / "audio/train/20/7/20-7-0000.wav"
    assert load(first).equal(load(chapter / "20-7-0000.flac"))  # 16 bit already: nothing changes

    # What is there is kept, what is older than its source is made anew.
    kept = first.stat().st_mtime_ns
    newer = chapter / "20-7-0001.flac"
    soundfile.write(newer, np.zeros(40000), 16000)
    os.utime(newer, (time.time() + 60, time.time() + 60))
    prepare(root, out, "--convert", "wav")
    assert first.stat().st_mtime_ns == kept
    assert read_manifest(out / "train.jsonl")[1].duration == 2.5


def test_jobs_must_be_positive(root, out):
    with pytest.raises(UserError, match="--jobs 0: must be 1 or more"):
        librispeech.main(["--root", str(root), "--out", str(out), "--jobs", "0"])


def test_ctrl_c_ends_it_cleanly(tmp_path, out):
    chapter = add_chapter(tmp_path / "root" / "long", "1", "1", ["LONG"])
    first = chapter / "1-1-0000.flac"
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000 * 100)
    soundfile.write(first, noise, 16000)
    for number in range(1, 300):
        (chapter / f"1-1-{number:04}.flac").hardlink_to(first)
    texts = "".join(f"1-1-{number:04} LONG\n" for number in range(300))
    (chapter / "1-1.trans.txt").write_text(texts)

    command = [sys.executable, "-m", "data_prep.librispeech", "--root", tmp_path / "root"]
    program = subprocess.Popen(
        [*command, "--out", out, "--jobs", "2"], stderr=subprocess.PIPE, start_new_session=True
    )
    while b"decoding" not in program.stderr.read1():
        assert program.poll() is None
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of the group
    message = program.communicate(timeout=15)[1].decode()
    assert program.returncode == 130
    assert message.splitlines()[-1] == "interrupted" and "Traceback" not in message
    assert names(out) == set()
    with pytest.raises(ProcessLookupError):
        os.killpg(program.pid, 0)  # no worker is left


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared LibriSpeech sample on this machine")
def test_real_chapters(tmp_path, out):
    chapters = sorted(SHARED.glob("train-clean-5/*/*"))[:2]
    for chapter in chapters:
        link = tmp_path / "root" / "train" / chapter.parent.name / chapter.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(chapter)
    prepare(tmp_path / "root", out)
    utterances = read_manifest(out / "train.jsonl")
    assert len(utterances) == sum(len(list(chapter.glob("*.opus"))) for chapter in chapters)
    assert all(1 < u.duration < 20 and u.text.isupper() for u in utterances)


@pytest.fixture
def mini(server, tmp_path, monkeypatch):
    """A web server that has a mini LibriSpeech of half a second a split."""
    for split in ("train-clean-5", "dev-clean-2"):
        add_chapter(tmp_path / "source" / split, "1", "2", ["HELLO THERE"])
        archive = tmp_path / f"{split}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tmp_path / "source" / split, f"LibriSpeech/{split}")
        content = archive.read_bytes()
        server.files[f"/resources/31/{archive.name}"] = content
        monkeypatch.setitem(librispeech.CORPORA["mini"][1], split, len(content))
        monkeypatch.setitem(librispeech.MD5, split, hashlib.md5(content).hexdigest())
    return server


def fetch_mini(root, mirror, *more):
    prepare(root, root / "out", "--download", "mini", "--mirror", mirror, *more)


def test_download_and_prepare(mini, tmp_path, capsys):
    root = tmp_path / "new" / "root"
    fetch_mini(root, mini.url, "--splits", "dev-clean-2")
    assert names(root / "out") == {"dev-clean-2.jsonl"}
    fetch_mini(root, mini.url + "/")  # the other split too
    assert names(root / "out") == {"dev-clean-2.jsonl", "train-clean-5.jsonl"}
    assert read_manifest(root / "out/dev-clean-2.jsonl")[0].text == "HELLO THERE"
    assert len(mini.requests) == 2
    assert "to fetch: 0.00 GB: http://127.0.0.1" in capsys.readouterr().out

    (root / "archives" / "dev-clean-2.tar.gz").unlink()  # unpacked: no longer needed
    fetch_mini(root, mini.url)
    assert len(mini.requests) == 2


def test_download_of_an_unknown_split(mini, tmp_path):
    with pytest.raises(UserError, match="--splits test-clean: not in --download mini: train-clean"):
        fetch_mini(tmp_path, mini.url, "--splits", "test-clean")


def test_download_without_room(mini, tmp_path, monkeypatch):
    monkeypatch.setitem(librispeech.CORPORA["mini"][1], "dev-clean-2", 10**15)
    with pytest.raises(UserError, match=r"too little room: 2020000\.00 GB needed"):
        fetch_mini(tmp_path / "new", mini.url)
    assert not mini.requests and not (tmp_path / "new").exists()


def test_every_archive_has_a_checksum():
    for corpus, (_, sizes) in librispeech.CORPORA.items():
        assert sizes.keys() == (librispeech.SHA256 if corpus == "full" else librispeech.MD5).keys()
