"""n-best lists, hotwords and normalisers through decode.py, and as the library gives them."""

import json

import pytest
import torch

import decode
from asr import LanguageModel, load
from asr.checkpoints.folder import write_folder
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.hotwords import Hotword
from asr.decoding.nbest import Alternative, Parts, Scored, alternatives
from asr.decoding.options import parse
from asr.decoding.weights import Weights
from asr.errors import UserError
from asr.lm import build as lm
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig
from asr.scoring.errors import word_error_rate

WEIGHTS = ["--lm-weight", "0.5", "--word-score", "1", "--unknown-penalty", "3"]


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return Tokenizer.load(corpus / "tokenizer.model")


@pytest.fixture(scope="module")
def lm_path(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "2gram.bin"
    lm.main(["--text", str(corpus / "train.jsonl"), "--order", "2", "--out", str(path)])
    return path


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """Three utterances."""
    folder = tmp_path_factory.mktemp("data")
    lines = (corpus / "test.jsonl").read_text().splitlines()[:3]
    records = [{**json.loads(line), "audio": str(corpus / json.loads(line)["audio"])} for line in lines]
    (folder / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module", params=["ctc", "transducer"])
def model(request, tokenizer, tmp_path_factory):
    """An untrained model that says something."""
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=5)
    small = TransducerConfig(hidden=8, joint=8)
    config = ModelConfig("mala", "auto", None, encoder, FrontendConfig(mels=20), request.param, small)
    model = Model(config, tokenizer.pieces)
    with torch.no_grad():
        project = model.head.project if model.head else model.transducer.joint.project
        project.weight *= 12
        project.bias[0] += 3 if model.head else 12
    folder = tmp_path_factory.mktemp("model") / request.param
    write_folder(folder, config, tokenizer, model.state_dict(), False, (0, 0.0), "")
    return folder


def decoded(model, data, out, *options) -> dict:
    command = ["--checkpoint", model, "--data", data, "--splits", "test", "--out", out, "--jobs", 1, *options]
    assert decode.main([str(part) for part in command]) == 0
    return json.loads((out / "wer.json").read_text())


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_list_has_each_text_once_and_the_parts_that_count(tokenizer):
    one, other = tokenizer.encode("CAT"), tokenizer.encode("OLD")
    found = [Scored(one, Parts(-1.0)), Scored(one, Parts(-2.0)), Scored(other, Parts(-3.0, -1.0, 0.5, 2.0))]
    best, second = alternatives(found, tokenizer, 5)
    assert best == Alternative(tokenizer.decode(one), Parts(-1.0)) and alternatives(found, tokenizer, 1) == (
        best,
    )
    assert best.as_record() == {"text": best.text, "score": -1.0, "acoustic": -1.0, "lm": 0.0, "words": 0.0}
    assert second.as_record() | {"text": ""} == {
        "text": "", "score": -1.5, "acoustic": -3.0, "lm": -1.0, "words": 0.5, "hotwords": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("with_lm", [True, False])
def test_lists_beside_the_results(model, data, lm_path, tmp_path, capsys, with_lm):
    (tmp_path / "names.txt").write_text("market\t3\nbrave alice\n")
    options = ["--lm", lm_path, *WEIGHTS] if with_lm else []
    options += ["--n-best", 4, "--words", tmp_path / "names.txt", "--words-boost", 2]
    about = decoded(model, data, tmp_path / "out", *options)
    name = "2gram+names" if with_lm else "none+names"
    assert [row["lm"] for row in about["rows"]] == ["none", name]
    assert about["hotwords"] == {"file": str(tmp_path / "names.txt"), "words": 2, "boost": 2.0}
    rows, lists = (lines_of(tmp_path / "out" / f"test.{name}.{end}") for end in ("jsonl", "nbest.jsonl"))
    assert [row["id"] for row in rows] == [item["id"] for item in lists]
    for row, item in zip(rows, lists, strict=True):
        several = item["alternatives"]
        texts = [other["text"] for other in several]
        assert item["ref"] == row["ref"] and 1 < len(several) <= 4 == len(set(texts)) + 4 - len(several)
        assert texts[0] == row["hyp"]
        scores = [other["score"] for other in several]
        assert scores == sorted(scores, reverse=True)
        for other in several:
            parts = sum(value for key, value in other.items() if key not in ("text", "score"))
            assert parts == pytest.approx(other["score"], abs=1e-3)
            assert bool(other["lm"]) == with_lm
    oracle = about["rows"][1]["oracle_wer"]
    assert 0 < oracle <= about["rows"][1]["wer"]
    assert f"test, {name}: oracle WER of 4-best lists {oracle:.2f} %" in capsys.readouterr().out


def test_one_best_lists_have_the_wer_of_the_search(model, data, tmp_path):
    about = decoded(model, data, tmp_path, "--n-best", 1)
    row = about["rows"][1]
    assert row["lm"] == "none+beam" and row["oracle_wer"] == pytest.approx(row["wer"])


@pytest.mark.parametrize("with_lm", [True, False])
def test_the_library_gives_what_decode_writes(model, data, lm_path, tmp_path, capsys, with_lm):
    (tmp_path / "names.txt").write_text("market\n")
    paths = [item.audio for item in read_manifest(data / "test.jsonl")[:2]]
    command = ["--checkpoint", model, "--format", "json", "--jobs", 1, "--n-best", 3, "--audio", *paths]
    command += ["--words", tmp_path / "names.txt"] + (["--lm", lm_path, *WEIGHTS] if with_lm else [])
    assert decode.main([str(part) for part in command]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    language_model = LanguageModel(lm_path, Weights(0.5, 1.0, 3.0)) if with_lm else None
    with load(model) as library:
        found = library.transcribe(paths, language_model, words=["market"], n_best=3, timestamps=True)
        assert found == library.transcribe(
            paths, language_model, words=[Hotword("market")], n_best=3, timestamps=True
        )
    for transcript, line in zip(found, printed, strict=True):
        assert transcript.text == line["text"]
        [part] = transcript.nbest
        assert [item.as_record() for item in part.alternatives] == line["nbest"][0]["alternatives"]
        assert part.alternatives[0].text == transcript.text and 1 < len(part.alternatives) <= 3
        assert part.start == line["nbest"][0]["start"] == 0.0
        assert part.end == line["nbest"][0]["end"] == pytest.approx(transcript.duration, abs=0.04)


def test_what_the_library_refuses(model, data):
    [path, *_] = [item.audio for item in read_manifest(data / "test.jsonl")]
    library = load(model)
    with pytest.raises(UserError, match="n_best -1: must lie between"):
        library.transcribe(path, n_best=-1)
    with pytest.raises(UserError, match="hotword 'ß': the model cannot write"):
        library.transcribe(path, words=["ß"])
    with pytest.raises(ValueError, match="no LM"):
        LanguageModel(weights=Weights(0.5, 0.0, 0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--audio a.wav --n-best 3", "--n-best wants --data, or --audio with --format json"),
        ("--stream - --n-best 3", "--n-best wants --data"),
        ("--audio a.wav --n-best -1 --format json", "--n-best -1: must lie between 0 and 1000"),
        ("--audio a.wav --words-boost 3", "--words-boost wants --words"),
        ("--audio a.wav --words w --words-boost 0", "--words-boost 0: must lie above 0"),
        ("--audio a.wav --words none.txt", "--words none.txt: rename it"),
        ("--audio a.wav --words gone.txt", "gone.txt: cannot be read"),
        ("--audio a.wav --normalise english", "--normalise wants --data"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        parse(["--checkpoint", "x", *options.split()], "")


def test_a_normaliser_changes_the_scores_and_not_the_transcripts(model, data, tmp_path, capsys):
    pytest.importorskip("whisper_normalizer")
    plain = decoded(model, data, tmp_path / "plain")
    normal = decoded(model, data, tmp_path / "normal", "--normalise", "english")
    assert "scored" not in plain and normal["scored"]["test"].startswith(
        "normalised (english, whisper-normalizer"
    )
    before, after = (lines_of(tmp_path / name / "test.none.jsonl") for name in ("plain", "normal"))
    from asr.scoring.normalise import Normaliser

    normaliser = Normaliser("english")
    for one, other in zip(before, after, strict=True):
        assert other["ref"] == normaliser.apply(one["ref"]) and other["hyp"] == normaliser.apply(one["hyp"])
    wer = word_error_rate([row["ref"] for row in after], [row["hyp"] for row in after])
    assert normal["rows"][0]["wer"] == pytest.approx(wer)
    assert normal["scored"]["test"] in (tmp_path / "normal" / "report.txt").read_text()
