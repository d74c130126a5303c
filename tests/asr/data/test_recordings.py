"""What --audio names: files, folders, lists."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import Part
from asr.data.recordings import Recording, find_recordings
from asr.errors import UserError


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Path:
    """Recordings of 0.1 s; the current folder is tmp_path."""
    for name in ("talks/b.wav", "talks/inner/a.FLAC", "talks/inner/b.wav", "talks/._b.wav", "c.v2.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        kind = Path(name).suffix[1:].upper()
        soundfile.write(tmp_path / name, np.zeros(1600), 16000, format=kind)
    (tmp_path / "talks" / "notes.txt").write_text("no list\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*arguments) -> list[str]:
    """Paths, or what is wrong."""
    items = find_recordings([Path(argument) for argument in arguments])
    return [str(item.path if isinstance(item, Recording) else item) for item in items]


def test_a_folder_is_walked_in_order(folder):
    assert found("talks") == ["talks/b.wav", "talks/inner/a.FLAC", "talks/inner/b.wav"]
    names = [str(item.name) for item in find_recordings([Path("talks"), Path("c.v2.wav")])]
    assert names == ["b", "inner/a", "inner/b", "c.v2"]


def test_links_to_folders_are_followed_and_loops_end(folder):
    (folder / "elsewhere").mkdir()
    (folder / "talks" / "inner" / "a.FLAC").rename(folder / "elsewhere" / "a.flac")
    (folder / "talks" / "monday").symlink_to(folder / "elsewhere")
    (folder / "talks" / "monday" / "back").symlink_to(folder / "talks")
    assert found("talks") == ["talks/b.wav", "talks/inner/b.wav", "talks/monday/a.flac"]


def test_a_channel_is_taken_of_parts_too(folder):
    soundfile.write("stereo.wav", np.zeros((16000, 2)), 16000)
    line = {"audio_filepath": "stereo.wav", "offset": 0.25, "duration": 0.5, "text": "HI"}
    Path("nemo.jsonl").write_text(json.dumps(line) + "\n")
    parts = {
        name: [item.part for item in find_recordings(["nemo.jsonl"], name)] for name in ("mix", "1", "each")
    }
    assert parts == {
        "mix": [Part(0.25, 0.5)],
        "1": [Part(0.25, 0.5, 1)],
        "each": [Part(0.25, 0.5, 0), Part(0.25, 0.5, 1)],
    }


def test_each_recording_comes_once_and_in_the_order_given(folder):
    assert found("c.v2.wav", folder / "talks" / "inner", "talks", "c.v2.wav") == [
        "c.v2.wav",
        f"{folder}/talks/inner/a.FLAC",
        f"{folder}/talks/inner/b.wav",
        "talks/b.wav",
    ]


@pytest.mark.parametrize("name, prefix", [("list.txt", ""), ("list.LST", ""), ("wav.scp", "some-id  ")])
def test_lists_start_at_their_folder_or_else_at_the_current_one(folder, name, prefix):
    lines = ["b.wav", "", "c.v2.wav", str(folder / "talks" / "inner" / "b.wav"), "gone.wav"]
    (folder / "talks" / name).write_text("\n".join(prefix + line if line else "" for line in lines) + "\r\n")
    assert found(f"talks/{name}") == [
        "talks/b.wav",
        "c.v2.wav",
        f"{folder}/talks/inner/b.wav",
        "gone.wav: no such file",
    ]


def test_a_list_may_name_folders_and_has_spaces_in_paths(folder):
    (folder / "talks" / "b.wav").rename(folder / "talks" / "b c.wav")
    (folder / "list.txt").write_text("talks\n")
    assert found("list.txt")[0] == "talks/b c.wav"
    (folder / "wav.scp").write_text("id talks/b c.wav\n")
    assert found("wav.scp") == ["talks/b c.wav"]


def test_what_is_wrong_stands_in_its_place(folder):
    (folder / "void.txt").write_text("\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "pipe.scp").write_text("id sox a.wav -t wav - |\nonly-an-id\n")
    (folder / "bad.wav").write_bytes(b"RIFF")
    shown = found("void.txt", "gone.txt", "bad.wav", "empty", "binary.txt", "pipe.scp", "c.v2.wav")
    expected = ["an empty list", "No such file", "not audio", "no recording in this folder (.flac "]
    expected += ["not a list of paths", "names a command", "wants an id and the path", "c.v2.wav"]
    assert len(shown) == len(expected)
    for message, words in zip(shown, expected, strict=True):
        assert words in message and "\n" not in message


def test_lengths_and_errors_are_typed(folder):
    good, bad = find_recordings([Path("c.v2.wav"), Path("gone.wav")])
    assert good.seconds == 0.1 and isinstance(bad, UserError)


def test_paths_that_no_system_takes_stop_nothing(folder):
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes((folder / "c.v2.wav").read_bytes())
    long = "x" * 300
    shown = found(f"{long}.wav", f"{long}.txt", os.fsdecode(b"caf\xe9.wav"), "c.v2.wav")
    assert [message.partition(": ")[2] for message in shown[:2]] == ["cannot be read: File name too long"] * 2
    assert shown[2:] == [r"'caf\udce9.wav': a name that is not UTF-8; rename it", "c.v2.wav"]


def test_dots_in_paths_make_no_second_recording(folder):
    assert found("c.v2.wav", "talks/../c.v2.wav") == ["c.v2.wav"]


def test_a_text_that_is_no_list_is_named(folder):
    (folder / "transcript.txt").write_text("\ufeff" + "A WORD AND ANOTHER " * 30)
    assert found("transcript.txt") == [
        "transcript.txt: wants a path on each line, and has 'A WORD AND ANOTHER A WORD AND ANOTHER A  ...'"
    ]
