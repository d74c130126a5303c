"""Normalisers, and reports by them."""

import json
import sys

import pytest

from asr.data.style import Style
from asr.errors import UserError
from asr.scoring.normalise import NORMALISERS, Normaliser, as_scored_in
from asr.scoring.report import __main__ as program
from asr.scoring.report.report import make_report
from asr.scoring.report.results import Decoded, decoded_path, write_decoded

SAME = {
    "english": [
        ("Mr. Smith's colour, he didn't say: twenty-one!", "MISTER SMITH'S COLOR HE DID NOT SAY 21"),
        ("uh, I paid $20.50 (laughs)", "i paid twenty dollars and fifty cents"),
    ],
    "basic": [("Été à l'heure!", "ÉTÉ À L HEURE"), ("हिन्दी।", "हिन्दी")],
}


@pytest.mark.parametrize(
    ("name", "one", "other"), [(name, *pair) for name, pairs in SAME.items() for pair in pairs]
)
def test_texts_of_other_styles_become_the_same(name, one, other):
    pytest.importorskip("whisper_normalizer")
    normaliser = Normaliser(name)
    assert normaliser.apply(one) == normaliser.apply(other) == normaliser.apply(normaliser.apply(one))
    assert normaliser.apply("") == "" and str(normaliser).startswith(
        f"normalised ({name}, whisper-normalizer 0.1"
    )


def test_a_normaliser_changes_references_and_a_style_does_not():
    pytest.importorskip("whisper_normalizer")
    assert as_scored_in(Normaliser("english"), ["Two dogs."]) == ["2 dogs"]
    assert as_scored_in(Style("upper"), ["Two dogs."]) == ["Two dogs."]


@pytest.mark.parametrize("name", NORMALISERS)
def test_without_the_package_a_line_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(UserError, match=f"--normalise {name}: wants the package whisper-normalizer"):
        Normaliser(name)


@pytest.fixture
def folders(tmp_path):
    """The same speech, with references and hypotheses in two styles."""
    texts = {"one": ("Two dogs ran.", "Two dogs, ran!"), "other": ("TWO DOGS RAN", "2 DOGS RUN")}
    for name, (reference, hypothesis) in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "wer.json").write_text(
            json.dumps({"attention": name, "rows": [{"split": "test", "lm": "none"}]})
        )
        write_decoded(decoded_path(tmp_path / name, "test", "none"), [Decoded("a", reference, hypothesis)])
    return tmp_path / "one", tmp_path / "other"


def test_a_report_compares_what_is_normalised(folders, tmp_path, capsys):
    pytest.importorskip("whisper_normalizer")
    with pytest.raises(UserError, match=r"two references; .* --normalise"):
        make_report(*folders)
    one, other = make_report(*folders, normaliser=Normaliser("english")).systems
    assert one.tables[0].words.rate == 0 and other.tables[0].words.rate == pytest.approx(100 / 3)
    program.main([*map(str, folders), "--out", str(tmp_path / "report"), "--normalise", "english"])
    assert "test normalised (english, whisper-normalizer" in capsys.readouterr().out
