"""Manifests: what is written is what is read; a bad line is named with its file and number."""

import json
import subprocess
import sys
from functools import partial
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.data.manifest import Utterance, find_splits, read_manifest, write_manifest
from asr.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)
UTTERANCE = st.builds(
    Utterance,
    id=TEXT.filter(lambda id: len(id.split()) == 1 and id == id.strip()),
    audio=NAME.filter(lambda name: name not in (".", "..")),
    duration=st.floats(min_value=1e-3, max_value=1e6),
    text=TEXT.filter(lambda text: not {"\n", "\r"} & set(text)).map(partial(normalize, "NFC")),
    speaker=TEXT,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    utterances=st.lists(UTTERANCE, min_size=1, max_size=5, unique_by=lambda u: u.id),
    inside=st.booleans(),
)
def test_round_trip(tmp_path, utterances, inside):
    folder = (tmp_path if inside else tmp_path.parent / "elsewhere").resolve()
    written = [Utterance(u.id, str(folder / u.audio), u.duration, u.text, u.speaker) for u in utterances]
    write_manifest(tmp_path / "a.jsonl", written)
    assert read_manifest(tmp_path / "a.jsonl") == written


@pytest.mark.parametrize("text", ["NAI\u0308VE E\u0301TE\u0301", "\u1112\u1161\u11ab", "\u212b"])
def test_texts_are_in_one_normal_form(tmp_path, text):
    path = tmp_path / "a.jsonl"
    record = {"id": "e\u0301", "audio": "e\u0301.wav", "duration": 1.0, "text": text, "speaker": "s"}
    path.write_text(json.dumps(record), "utf-8")
    (utterance,) = read_manifest(path)
    assert utterance.text == normalize("NFC", text) != text
    # Names are not text: a file is called what it is called.
    assert utterance.id == "e\u0301" and utterance.audio.endswith("/e\u0301.wav")
    write_manifest(path, [Utterance(**{**record, "audio": str(tmp_path / record["audio"])})])
    assert json.loads(path.read_text("utf-8"))["text"] == normalize("NFC", text)


def test_audio_beside_the_manifest_moves_with_it(tmp_path):
    folder = tmp_path / "data"
    write_manifest(folder / "a.jsonl", [Utterance("1", str(folder / "b/1.wav"), 1.0, "HI", "s")])
    assert json.loads((folder / "a.jsonl").read_text())["audio"] == "b/1.wav"
    folder.rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved/a.jsonl")[0].audio == str(tmp_path / "moved/b/1.wav")


GOOD = {"id": "1", "audio": "1.wav", "duration": 1.0, "text": "HI", "speaker": "s"}


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("{", "not a line of JSON"),
        ("", "not a line of JSON"),
        ("[1, 2]", "not a JSON object"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "text"}), "'text' is missing"),
        (json.dumps({**GOOD, "text": None}), "'text' has the wrong type"),
        (json.dumps({**GOOD, "duration": "1"}), "'duration' has the wrong type"),
        (json.dumps({**GOOD, "duration": True}), "'duration' has the wrong type"),
        (json.dumps({**GOOD, "duration": 0}), "not positive"),
        (json.dumps({**GOOD, "duration": float("nan")}), "not positive"),
        (json.dumps({**GOOD, "id": "0"}), "appears twice"),
        (json.dumps({**GOOD, "duration": float("inf")}), "not positive and finite"),
        (json.dumps({**GOOD, "id": "a b"}), "empty or holds a blank"),
        (json.dumps({**GOOD, "text": "ONE\nTWO"}), "several lines"),
        ("[" * 100_000, "not a line of JSON"),
        ("9" * 5000, "not a line of JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    first = json.dumps({**GOOD, "id": "0"})
    (tmp_path / "a.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:2: .*{complaint}"):
        read_manifest(tmp_path / "a.jsonl")


def test_missing_and_empty(tmp_path):
    with pytest.raises(UserError, match=r"a\.jsonl: no such manifest"):
        read_manifest(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match=r"a\.jsonl: .*no utterance"):
        read_manifest(tmp_path / "a.jsonl")


def test_a_failed_write_leaves_the_old_manifest(tmp_path):
    old = [Utterance("1", str(tmp_path / "1.wav"), 1.0, "HI", "s")]
    write_manifest(tmp_path / "a.jsonl", old)

    def broken():
        yield old[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(tmp_path / "a.jsonl", broken())
    assert read_manifest(tmp_path / "a.jsonl") == old
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "ÉTÉ"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.jsonl: not UTF-8 text"):
        read_manifest(path)


def test_a_folder_above_is_that_of_the_folder_itself_behind_a_link(tmp_path):
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(tmp_path / "real" / "data")
    row = {"id": "a", "audio": "../wav/a.wav", "duration": 1.0, "text": "A", "speaker": "s"}
    (tmp_path / "real" / "data" / "train.jsonl").write_text(json.dumps(row) + "\n")
    for folder in ("real", "home"):
        [found] = read_manifest(tmp_path / folder / "data" / "train.jsonl")
        assert found.audio == str((tmp_path / "real" / "wav" / "a.wav").resolve())


def test_splits_of_every_kind_are_found(tmp_path):
    for name in ("dev.jsonl", "dev-b.jsonl", "dev-b.jsonl.gz", "dev-a.jsonl.gz", "test.jsonl"):
        (tmp_path / name).touch()
    for name in ("dev.excluded.jsonl", "dev.txt", "devices/x", "dev-kaldi/wav.scp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_splits(tmp_path, "dev") == ["dev", "dev-a", "dev-b", "dev-kaldi"]
    assert find_splits(tmp_path, "train") == []


def test_programs_that_only_read_manifests_do_not_wait_for_pytorch():
    code = "import sys, asr.data.tokenizer, asr.lm.build, data_prep.halve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
