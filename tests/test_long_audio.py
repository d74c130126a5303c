"""benchmarks/long_audio.py."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from long_audio import keep, mechanisms

from asr.errors import UserError

ABOUT = {"model": "encoder S", "where": "2 CPU cores", "chunk": 1024}


def row(attention="mala", minutes=1.0, at_once=False, seconds=1.0):
    return {"attention": attention, "minutes": minutes, "at_once": at_once, "cpu_seconds": seconds}


def test_rows_are_kept_and_measured_again(tmp_path):
    path = tmp_path / "new" / "length.json"
    rows = [row("softmax"), row(minutes=10.0), row(), row(at_once=True), row(seconds=2.0)]
    for item in rows:
        keep(path, ABOUT, item)
    found = json.loads(path.read_text())
    assert found.pop("rows") == [rows[4], rows[3], rows[1], rows[0]]
    assert found == ABOUT


def test_a_checkpoint_has_its_own_attention():
    named = {"attention": ["mala"]}
    assert mechanisms(Namespace(checkpoint=Path("pretrained/linear"), **named)) == ["linear"]
    assert mechanisms(Namespace(checkpoint=None, **named)) == ["mala"]


def test_rows_of_another_machine_are_refused(tmp_path):
    keep(tmp_path / "length.json", ABOUT, row())
    before = (tmp_path / "length.json").read_text()
    with pytest.raises(UserError, match="another where"):
        keep(tmp_path / "length.json", ABOUT | {"where": "one GPU"}, row("softmax"))
    assert (tmp_path / "length.json").read_text() == before


def test_what_is_no_file_of_rows_is_refused(tmp_path):
    for content in ("[]", "no JSON", '{"rows": 1}'):
        (tmp_path / "length.json").write_text(content)
        with pytest.raises(UserError, match="not what this program writes"):
            keep(tmp_path / "length.json", ABOUT, row())
