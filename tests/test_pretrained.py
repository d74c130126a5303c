"""The models in the repository: they transcribe its recording, and say where they come from."""

import re

import pytest
from programs import ROOT

from asr import load
from asr.checkpoints.checkpoint import read_origin
from asr.scoring.errors import word_errors

PRETRAINED = ROOT / "pretrained"
NAMES = ("softmax", "mala", "linear")
SPOKEN = (
    "A MAN'S ESTIMATES OF VALUE BETRAY SOMETHING OF THE STRUCTURE OF HIS SOUL AND WHEREIN IT SEES ITS "
    "CONDITIONS OF LIFE ITS INTRINSIC NEEDS"
)


@pytest.mark.parametrize("name", NAMES)
def test_it_transcribes_a_recording_of_a_person(name):
    found = load(PRETRAINED / name).transcribe(PRETRAINED / "recording.opus").text
    assert word_errors(SPOKEN, found.upper()).total <= 10, found  # 7 and 8 of 24 when they were made


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_what_it_is_made_of(name):
    card = (PRETRAINED / name / "README.md").read_text()
    for text in (
        "CC BY 4.0",
        "NVIDIA",
        "stt_en_conformer_ctc_small",
        "train-clean-5",
        "Common Voice",
        "h heard",
    ):
        assert text in card, text
    assert re.search(r"\| test \| none \| \d+\.\d\d \| \d+\.\d - \d+\.\d \|", card)  # WER with its interval
    (source,) = read_origin(PRETRAINED / name)
    assert source["used"] == "as a teacher"


def test_all_of_them_take_at_most_40_mb():
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) < 40e6
