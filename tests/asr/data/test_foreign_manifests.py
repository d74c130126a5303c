"""Manifests of lhotse, NeMo and Kaldi are read as ours are, and run nothing."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import Part
from asr.data.batches import read_samples
from asr.data.manifest import find_manifest, read_manifest, write_manifest
from asr.data.recordings import Recording, find_recordings
from asr.errors import UserError

RATE = 8000


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Path:
    """A call of two sides, 4 s, and a talk of one, 2 s; the current folder is another one."""
    rng = np.random.default_rng(0)
    (tmp_path / "wav").mkdir()
    soundfile.write(tmp_path / "wav" / "call.wav", 0.1 * rng.normal(size=(4 * RATE, 2)), RATE)
    soundfile.write(tmp_path / "wav" / "talk.flac", 0.1 * rng.normal(size=2 * RATE), RATE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def lines(path: Path, *records: dict) -> Path:
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def recording(id: str, path, seconds: float, channels: int = 1, **more) -> dict:
    source = {"type": "file", "channels": list(range(channels)), "source": str(path)}
    samples = round(seconds * RATE)
    known = {"sampling_rate": RATE, "num_samples": samples, "duration": seconds}
    return {"id": id, "sources": [source], **known, "channel_ids": list(range(channels)), **more}


def supervision(id: str, recording: str, start: float, seconds: float, text: str, **more) -> dict:
    return {"id": id, "recording_id": recording, "start": start, "duration": seconds, "text": text, **more}


def cut(
    id: str, start: float, seconds: float, recording: dict, *supervisions: dict, channel=0, **more
) -> dict:
    known = {"id": id, "start": start, "duration": seconds, "channel": channel, "type": "MonoCut"}
    return {**known, "supervisions": list(supervisions), "recording": recording, **more}


def kaldi(folder: Path, **files: str) -> Path:
    place = folder / "kaldi"
    place.mkdir()
    for name, text in files.items():
        (place / name.replace("_", ".")).write_text(text)
    return place


def shown(path: Path) -> list[tuple]:
    return [(u.id, Path(u.audio).name, u.duration, u.text, u.speaker, u.part) for u in read_manifest(path)]


CALL = ("call.wav", 1.5, "HELLO THERE", "ann", Part(0.5, 1.5, 1))
TALK = ("talk.flac", 2.0, "GOOD MORNING", "bob", Part())


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_cuts_of_lhotse(folder, name):
    call, talk = recording("r1", "wav/call.wav", 4.0, 2), recording("r2", folder / "wav/talk.flac", 2.0)
    said = supervision("s1", "r1", 0.0, 0.7, "HELLO", speaker="ann", channel=1)
    more = supervision("s2", "r1", 0.7, 0.8, "THERE", speaker="ann", channel=1)
    first = cut("a 1", 0.5, 1.5, call, more, said, channel=1)
    second = cut("b", 0.0, 2.0, talk, supervision("s3", "r2", 0.0, 2.0, "GOOD MORNING", speaker="bob"))
    mono = {**second, "id": "c", "supervisions": []}
    assert shown(lines(folder / name, first, second, mono)) == [
        ("a_1", *CALL),
        ("b", *TALK),
        ("c", "talk.flac", 2.0, "", "unknown", Part()),
    ]


@pytest.mark.parametrize("asked", ["recordings", "supervisions"])
def test_recordings_and_supervisions_of_lhotse(folder, asked):
    call, talk = recording("r1", "wav/call.wav", 4.0, 2), recording("r2", "wav/talk.flac", 2.0)
    lines(folder / "mine_recordings_dev.jsonl.gz", talk, call)
    said = supervision("s1", "r1", 0.5, 1.5, "HELLO THERE", speaker="ann", channel=1)
    more = supervision("s2", "r2", 0.0, 2.0, "GOOD MORNING", speaker="bob", channel=0)
    lines(folder / "mine_supervisions_dev.jsonl.gz", said, more)
    assert shown(folder / f"mine_{asked}_dev.jsonl.gz") == [("s1", *CALL), ("s2", *TALK)]
    (folder / "mine_supervisions_dev.jsonl.gz").rename(folder / "supervisions.jsonl.gz")
    found = shown(folder / "mine_recordings_dev.jsonl.gz")
    assert [item[:3] for item in found] == [("r2", "talk.flac", 2.0), ("r1", "call.wav", 4.0)]
    with pytest.raises(UserError, match=r"without the recordings beside them \(recordings.jsonl.gz\)"):
        read_manifest(folder / "supervisions.jsonl.gz")


def test_a_manifest_of_nemo(folder):
    path = lines(
        folder / "train.jsonl",
        {"audio_filepath": "wav/talk.flac", "duration": 2.0, "text": "GOOD MORNING", "speaker": "bob"},
        {"audio_filepath": "wav/call.wav", "offset": 0.5, "duration": 1.5, "text": "HELLO"},
        {"audio_filepath": str(folder / "wav/call.wav"), "offset": 3, "duration": None},
    )
    assert shown(path) == [
        ("talk", *TALK),
        ("call-1", "call.wav", 1.5, "HELLO", "unknown", Part(0.5, 1.5)),
        ("call-2", "call.wav", 1.0, "", "unknown", Part(3, 1.0)),
    ]


def test_ids_that_nemo_lacks_are_no_other_recordings_names(folder):
    names = ["a/x.wav", "b/x.wav", "a/x-1.wav"]
    path = lines(
        folder / "x.jsonl", *({"audio_filepath": name, "duration": 1.0, "text": "A"} for name in names)
    )
    assert [item.id for item in read_manifest(path)] == ["x-2", "x-3", "x-1"]


@pytest.mark.parametrize("named", ["kaldi", "kaldi/wav.scp"])
def test_a_folder_of_kaldi(folder, named):
    scp = f"r1 ../wav/call.wav\nr2 {folder}/wav/talk.flac\n"
    place = kaldi(folder, wav_scp=scp, text="r1 HELLO  THERE\nr2 GOOD MORNING\n", utt2spk="r2 bob\n")
    assert shown(folder / named) == [
        ("r1", "call.wav", 4.0, "HELLO THERE", "unknown", Part()),
        ("r2", *TALK),
    ]
    (place / "segments").write_text("u1 r1 0.5 2.0\nu2 r2 1 -1\n")
    (place / "text").write_text("u1\tHELLO\n")
    assert shown(folder / named) == [
        ("u1", "call.wav", 1.5, "HELLO", "unknown", Part(0.5, 1.5)),
        ("u2", "talk.flac", 1.0, "", "unknown", Part(1.0, 1.0)),
    ]


def test_a_split_may_be_any_of_them_and_its_sound_is_the_part(folder):
    assert find_manifest(folder, "kaldi") == folder / "kaldi.jsonl"
    kaldi(folder, wav_scp="r1 ../wav/call.wav\n", segments="u1 r1 0.5 2.0\n")
    [found] = read_manifest(find_manifest(folder, "kaldi"))
    assert len(read_samples(found)) == 24_000
    write_manifest(folder / "ours.jsonl", [found])
    assert read_manifest(folder / "ours.jsonl") == [found]
    lines(folder / "zipped.jsonl.gz", json.loads((folder / "ours.jsonl").read_text()))
    assert read_manifest(find_manifest(folder, "zipped")) == [found]
    assert find_manifest(folder.parent, f"{folder.name}/zipped") == folder / "zipped.jsonl.gz"


def test_manifests_are_recordings_to_transcribe(folder):
    call = recording("r1", "wav/call.wav", 4.0, 2)
    path = lines(folder / "cuts.jsonl", cut("x/a", 0.5, 1.5, call, channel=1), cut("../b", 0.0, 1.0, call))
    place = kaldi(folder, wav_scp="r1 ../wav/talk.flac\n", segments="u1 r1 0.5 2.0\n")
    first, bad, last = find_recordings([path, place])
    assert first == Recording(
        folder / "wav/call.wav", Path("x/a"), 1.5, Part(0.5, 1.5, 1), "x/a", "", "unknown"
    )
    assert len(first.load()) == 24_000 and first.label == "x/a"
    assert "its id '../b' cannot name a file in a folder" in str(bad)
    assert (last.label, last.part) == ("u1", Part(0.5, 1.5))
    [listed] = find_recordings([place / "wav.scp"])
    assert (listed.label, listed.part, listed.seconds) == ("r1", Part(), 2.0)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("mix", [("call", None), ("talk", None)]),
        ("each", [("call.0", 0), ("call.1", 1), ("talk", None)]),
        ("0", [("call", 0), ("talk", 0)]),
        ("1", [("call", 1), ("talk", 1)]),
    ],
)
def test_channels(folder, channel, expected):
    found = list(find_recordings([folder / "wav"], channel))
    assert [(str(item.name), item.part.channel) for item in found] == expected
    if channel == "1":
        with pytest.raises(UserError, match=r"talk.flac: no channel 1: it has 1"):
            found[1].load()


CALLED = recording("r1", "wav/call.wav", 4.0, 2)
PIPED = {**CALLED, "sources": [{"type": "command", "channels": [0], "source": "touch ran"}]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"audio_filepath": 3}, "field 'audio_filepath' has the wrong type: 3"),
        ({"audio_filepath": "wav/talk.flac", "duration": "2"}, "field 'duration' has the wrong type: '2'"),
        (cut("a", 0.0, 1.0, PIPED), "comes from a command, and is not fetched or run; save it to files"),
        (cut("a", 0.0, 1.0, {**CALLED, "sources": []}), "the recording has no sources"),
        (cut("a", 0.0, 1.0, {**CALLED, "transforms": [1]}), "a recording with transforms; save its sound"),
        (cut("a", 0.0, 1.0, CALLED, channel=5), "the recording has no channel 5"),
        (cut("a", 0.0, 1.0, CALLED, type="MixedCut"), "a MixedCut, which is computed; save its sound"),
        (cut("a", 0.0, 1.0, None), "field 'recording' is missing"),
        (cut("a", 0.0, -1.0, CALLED), r"duration -1.0 is not positive"),
        (cut("a", -1.0, 1.0, CALLED), r"start and channel must be 0 or more"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(folder, record, message):
    path = lines(folder / "cuts.jsonl", record)
    with pytest.raises(UserError, match=rf"^{path}:1: .*{message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("scp", "segments", "message"),
    [
        ("r1 touch ran |", None, "wav.scp:1: names a command, and commands in a list are not run"),
        ("r1 | touch ran", None, "wav.scp:1: names a command"),
        ("r1 a.ark:17", None, "wav.scp:1: .* archives are not read"),
        ("r1", None, "wav.scp:1: wants an id and the path"),
        ("r1 a.wav\nr1 b.wav", None, "wav.scp:2: r1 appears twice"),
        ("r1 a.wav", "u1 r2 0 1", "segments:1: no recording r2 in"),
        ("r1 a.wav", "u1 r1 0 x", "segments:1: wants an id, a recording, its start and its end"),
    ],
)
def test_kaldi_files_that_are_wrong(folder, scp, segments, message):
    place = kaldi(folder, wav_scp=scp, **({"segments": segments} if segments else {}))
    with pytest.raises(UserError, match=message):
        read_manifest(place)
    assert not list(folder.rglob("ran"))


def test_a_damaged_gzip_file(folder):
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: not a gzip file, or a damaged one"):
        read_manifest(folder / "a.jsonl.gz")


def test_what_lhotse_itself_writes(folder):
    lhotse = pytest.importorskip("lhotse", reason="not among our packages")
    recordings = lhotse.RecordingSet.from_dir(folder / "wav", "*.*")
    segments = [
        lhotse.SupervisionSegment(f"s-{item.id}", item.id, 0.5, 1.0, text="HELLO", speaker="ann")
        for item in recordings
    ]
    supervisions = lhotse.SupervisionSet.from_segments(segments)
    recordings.to_file(folder / "recordings.jsonl.gz")
    supervisions.to_file(folder / "supervisions.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions).trim_to_supervisions(keep_overlapping=False)
    cuts.to_file(folder / "cuts.jsonl.gz")
    for name in ("recordings", "cuts"):
        found = read_manifest(folder / f"{name}.jsonl.gz")
        assert [(Path(u.audio).stem, u.part.start, u.part.seconds, u.text) for u in found] == [
            ("call", 0.5, 1.0, "HELLO"),
            ("talk", 0.5, 1.0, "HELLO"),
        ]
        assert [len(read_samples(u)) for u in found] == [16_000] * 2
