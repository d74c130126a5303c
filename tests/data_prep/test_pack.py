"""Packing: the samples are the recordings'; whatever interrupts it, running it again goes on."""

import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import duration, load
from asr.data.batches import read_samples
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.packed import quantise
from asr.errors import UserError, run_program
from asr.files import locked
from data_prep import pack

SUFFIXES = ["flac", "wav", "flac", "ogg", "flac", "wav", "flac"]  # of the recordings
SHARDS = ["train.00000.pcm", "train.00001.pcm", "train.00002.pcm", "train.00003.pcm"]


@pytest.fixture
def data(tmp_path):
    """A split of seven recordings, 0.3 to 0.9 s long, one of them stereo at 48 kHz."""
    rng = np.random.default_rng(0)
    utterances = []
    for number, suffix in enumerate(SUFFIXES):
        path = tmp_path / "data" / "audio" / f"u{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.clip(0.3 * rng.standard_normal(1600 * (number + 3)), -1, 1)
        samples[:2] = -1, 1  # full scale on either side
        stereo = np.repeat(samples, 6).reshape(-1, 2)
        soundfile.write(path, *((stereo, 48000) if number == 5 else (samples, 16000)))
        utterances.append(Utterance(f"u{number}", str(path), duration(path), f"TEXT {number}", "s"))
    write_manifest(tmp_path / "data" / "train.jsonl", utterances)
    return tmp_path / "data"


def run(data, *more, hours=1.35 / 3600):
    options = ["--data", str(data), "--splits", "train", "--shard-hours", str(hours), "--jobs", "2"]
    pack.main([*options, *more])


def change(data, edit):
    """Write the manifest anew with ``edit`` of its utterances."""
    write_manifest(data / "train.jsonl", edit(read_manifest(data / "train.jsonl")))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("train.*")}


def check(data):
    """Everything is there, and right."""
    assert names(data / "packed") == [*SHARDS, "train.jsonl", "train.shards.json"]
    sources = read_manifest(data / "train.jsonl")
    packed = read_manifest(data / "packed" / "train.jsonl")
    for source, utterance in zip(sources, packed, strict=True):
        place = {"audio": source.audio, "offset": None, "samples": None}
        assert dataclasses.replace(utterance, **place) == source
        content = np.fromfile(utterance.audio, "<i2")[utterance.offset :][: utterance.samples]
        assert np.array_equal(content, quantise(load(source.audio).numpy()))
        if soundfile.info(source.audio).subtype == "PCM_16" and source.id != "u5":
            assert np.array_equal(content, soundfile.read(source.audio, dtype="int16")[0])


def test_samples_are_those_of_the_recordings(data, capsys):
    run(data)
    check(data)
    told = capsys.readouterr().out
    assert "train: 7 utterances, 0.00 h, 0 of 4 files packed before\n" in told
    records = [json.loads(line) for line in (data / "packed" / "train.jsonl").read_text().splitlines()]
    assert [record["audio"] for record in records] == sorted(record["audio"] for record in records)
    assert records[0]["audio"] == SHARDS[0] and records[0]["offset"] == 0 < records[1]["offset"]


def test_a_packed_split_packs_to_the_same(data):
    run(data)
    run(data / "packed", "--out", str(data / "again"))
    for shard in SHARDS:
        assert (data / "again" / shard).read_bytes() == (data / "packed" / shard).read_bytes()


def test_again_does_nothing_and_says_so(data, capsys):
    run(data)
    before = times(data / "packed")
    moved = data.rename(data.with_name("moved"))
    shutil.rmtree(moved / "audio")  # all that is needed is in the packed files
    run(moved)
    assert times(moved / "packed") == before
    assert "train.jsonl: packed already\n" in capsys.readouterr().out


def test_a_mended_text_packs_nothing_anew(data):
    run(data)
    before = times(data / "packed")
    change(data, lambda utterances: [dataclasses.replace(item, text="OTHER") for item in utterances])
    run(data)
    assert {name for name, time in times(data / "packed").items() if time == before[name]} == set(SHARDS)
    check(data)


def test_a_longer_and_a_shorter_list(data):
    whole = read_manifest(data / "train.jsonl")
    change(data, lambda utterances: utterances[:6])
    run(data)
    before = times(data / "packed")
    change(data, lambda _: whole)
    run(data)
    check(data)
    assert times(data / "packed")[SHARDS[0]] == before[SHARDS[0]]
    run(data, hours=1)  # and what is no longer named goes
    assert names(data / "packed") == [SHARDS[0], "train.jsonl", "train.shards.json"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil, fault", [(cut, "bytes long, not"), (flip, r"checksum \(sha256\)")])
def test_a_damaged_file_is_named(data, spoil, fault):
    run(data)
    victim = data / "packed" / SHARDS[1]
    spoil(victim)
    with pytest.raises(UserError, match=rf"{SHARDS[1]}: damaged: .*{fault}.*delete it and run again"):
        run(data, "--verify")
    before = times(data / "packed")
    victim.unlink()
    run(data, "--verify")
    check(data)
    after = times(data / "packed")
    assert {name for name in SHARDS if after[name] != before[name]} == {SHARDS[1]}


def test_verify_says_what_it_did(data, capsys):
    run(data, "--verify")
    assert "verified" not in capsys.readouterr().out
    run(data, "--verify")
    assert "4 files verified" in capsys.readouterr().out


def test_a_damaged_record_is_named(data):
    run(data)
    for content in ("{", "[]", '{"train.00000.pcm": {}}'):
        (data / "packed" / "train.shards.json").write_text(content)
        with pytest.raises(UserError, match=r"train\.shards\.json: damaged; delete it"):
            run(data)


@pytest.mark.parametrize(
    "spoil, fault",
    [
        (Path.unlink, "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "truncated"),
        (lambda path: soundfile.write(path, np.zeros(99), 16000), "in its manifest"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named(data, spoil, fault):
    victim = data / "audio" / "u4.flac"
    good = victim.read_bytes()
    spoil(victim)
    with pytest.raises(UserError, match=rf"u4\.flac: .*{fault}") as error:
        run(data)
    assert "\n" not in str(error.value)
    assert set(names(data / "packed")) <= {*SHARDS, "train.shards.json"}  # no manifest, nothing half
    victim.write_bytes(good)
    run(data)
    check(data)


def test_no_room(data, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(UserError, match=r"too little room: 0\.00 GB needed"):
        run(data)
    assert names(data / "packed") == []


def test_two_at_once(data):
    with (
        locked(data / "packed" / "shards"),
        pytest.raises(UserError, match="packed/shards: another program is at work on it"),
    ):
        run(data)
    run(data)


def test_bad_options(data):
    for options, message in (
        (["--out", str(data)], "--out .*: is --data itself"),
        (["--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--shard-hours", "nan"], "--shard-hours nan: must be more than 0"),
        (["--splits", "moon"], r"moon\.jsonl: no such manifest"),
    ):
        with pytest.raises(UserError, match=message):
            run(data, *options)
    assert names(data) == ["audio", "train.jsonl"]


def start(main, log):
    """Run ``main`` as a program: a process group of its own, its messages going to ``log``."""

    def program():
        os.setsid()
        sys.stderr = log.open("w", buffering=1)
        run_program(main)

    process = multiprocessing.get_context("fork").Process(target=program)
    process.start()
    return process


def test_a_killed_run_is_gone_on_with(data, tmp_path, monkeypatch):
    def deadly(utterance):
        if utterance.id == "u5":
            while not (data / "packed" / "train.shards.json").exists():  # one file is whole
                time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(30)
        return read_samples(utterance)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "read_samples", deadly)
        process = start(lambda: run(data), tmp_path / "log")
        process.join()
    assert process.exitcode == -signal.SIGKILL
    with locked(data / "packed" / "shards"):  # until its workers have seen that it died
        pass
    recorded = json.loads((data / "packed" / "train.shards.json").read_text())
    before = times(data / "packed")
    assert recorded and "train.jsonl" not in before
    assert list((data / "packed").glob(".train.*.tmp"))  # what it was at
    run(data)
    check(data)
    assert all(times(data / "packed")[name] == before[name] for name in recorded)


def test_ctrl_c_ends_it_cleanly(data, tmp_path, monkeypatch):
    def slow(utterance):
        (tmp_path / "begun").touch()
        time.sleep(0.3)
        return read_samples(utterance)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "read_samples", slow)
        process = start(lambda: run(data), tmp_path / "log")
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        process.join()
    assert process.exitcode == 130
    message = (tmp_path / "log").read_text()
    assert message.splitlines()[-1] == "interrupted" and "Traceback" not in message
    assert set(names(data / "packed")) <= {*SHARDS, "train.shards.json"}
    run(data)
    check(data)


def test_a_full_disk_is_told_and_leaves_nothing_half(data, tmp_path):
    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        run(data)

    process = start(small_files_only, tmp_path / "log")
    process.join()
    assert process.exitcode == 1
    message = (tmp_path / "log").read_text().splitlines()[-1]
    assert message.startswith("error: no room to write ") and ".pcm" in message
    assert set(names(data / "packed")) <= {*SHARDS, "train.shards.json"}
    run(data)  # somebody made room
    check(data)


def test_splits_in_folders_leave_others_of_their_name_alone(data):
    (data / "grammar").mkdir()
    items = read_manifest(data / "train.jsonl")
    write_manifest(data / "grammar" / "train.jsonl", items)

    def files(folder):
        return sorted(path.name for path in folder.glob("*.pcm"))

    run(data)
    options = ["--data", str(data), "--splits", "grammar/train", "--jobs", "1", "--shard-hours"]
    pack.main([*options, str(1.35 / 3600)])
    pack.main([*options, "1"])
    assert files(data / "packed") == SHARDS and files(data / "packed" / "grammar") == SHARDS[:1]
    check_only = read_manifest(data / "packed" / "grammar" / "train.jsonl")
    assert [item.id for item in check_only] == [item.id for item in items]
