"""The library: the same words as decode.py, from paths, arrays and lists."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import decode
from asr import LanguageModel, Transcriber, load
from asr.checkpoints.folder import write_folder
from asr.data import audio
from asr.data.manifest import read_manifest
from asr.data.recordings import Samples, find_recordings
from asr.data.tokenizer import Tokenizer
from asr.decoding.weights import Weights
from asr.errors import UserError
from asr.lm import build as lm
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig

DOCS = Path(__file__).parents[2] / "docs"
WEIGHTS = ["--lm-weight", "0.5", "--word-score", "1", "--unknown-penalty", "3"]


def write_model(folder, tokenizer, head: str = "ctc") -> Path:
    """An untrained model that says something."""
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=5)
    small = TransducerConfig(hidden=8, joint=8)
    config = ModelConfig("mala", "auto", None, encoder, FrontendConfig(mels=20), head, small)
    model = Model(config, tokenizer.pieces)
    with torch.no_grad():
        project = model.head.project if model.head else model.transducer.joint.project
        project.weight *= 12
        project.bias[0] += 3
    write_folder(folder, config, tokenizer, model.state_dict(), False, (0, 0.0), "")
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return Tokenizer.load(corpus / "tokenizer.model")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("library") / "model", tokenizer)


@pytest.fixture(scope="module")
def paths(corpus) -> list[Path]:
    return [Path(item.audio) for item in read_manifest(corpus / "test.jsonl")[:4]]


@pytest.fixture(scope="module")
def lm_path(corpus, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "2gram.bin"
    lm.main(["--text", str(corpus / "train.jsonl"), "--order", "2", "--out", str(path)])
    return path


@pytest.fixture(scope="module")
def model(folder) -> Transcriber:
    return load(folder)


@pytest.mark.parametrize("with_lm", [False, True])
def test_it_says_what_decode_says(model, folder, paths, lm_path, with_lm, capsys):
    command = ["--checkpoint", str(folder), "--format", "json", "--audio", *map(str, paths)]
    options = ["--lm", str(lm_path), "--jobs", "1", *WEIGHTS] if with_lm else []
    assert decode.main([*command, *options]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    language_model = LanguageModel(lm_path, Weights(0.5, 1.0, 3.0)) if with_lm else None
    found = model.transcribe(paths, language_model, timestamps=True)
    assert [item.text for item in found] == [line["text"] for line in printed]
    assert [[vars(word) for word in item.words] for item in found] == [line["words"] for line in printed]
    assert all(item.text for item in found) and (with_lm or len({item.text for item in found}) > 1)


def test_a_path_samples_and_lists_of_them_are_alike(model, paths):
    whole = model.transcribe(paths[0], timestamps=True)
    assert whole.words and str(whole) == whole.text and whole.path == str(paths[0])
    samples = audio.load(paths[0])
    integers = (samples * 32768).round().to(torch.int16)
    for item in (samples, samples.numpy(), samples.double(), integers.numpy()):
        found = model.transcribe(item, timestamps=True)
        assert (found.text, found.words, found.duration) == (whole.text, whole.words, whole.duration)
    assert model.transcribe(paths[0]).words == [] and model.transcribe([]) == []
    several = model.transcribe([paths[1], samples, str(paths[0]), paths[0]])
    assert [item.text for item in several[1:]] == [whole.text] * 3
    assert several[0].text == model.transcribe(paths[1]).text


def test_recordings_may_come_one_by_one(model, folder, paths):
    listed = list(find_recordings(paths))
    assert list(model.transcribe_each(find_recordings(map(str, paths)))) == list(
        model.transcribe_each(listed)
    )
    assert len(listed) == len(paths) > 1


def test_samples_of_another_rate_and_length(model, folder, paths):
    samples = torch.cat([audio.load(path, 48_000) for path in paths])
    whole = model.transcribe(samples, sample_rate=48_000, timestamps=True)
    assert whole.duration == pytest.approx(len(samples) / 48_000, abs=1e-3)
    in_parts = load(folder, batch_seconds=1.0).transcribe(samples, sample_rate=48_000, timestamps=True)
    assert in_parts.text == whole.text and in_parts.words == whole.words


def test_arrays_as_files_and_pipes_give_them(model, paths, recwarn):
    samples = (audio.load(paths[0]) * 32768).round().short().numpy()
    found = model.transcribe(samples)
    backwards = np.ascontiguousarray(samples[::-1])
    for item in (samples.astype(">i2"), np.frombuffer(samples.tobytes(), np.int16), backwards[::-1]):
        assert model.transcribe(item) == found
    assert not recwarn.list


@pytest.mark.parametrize("rate", [44_101, 44_100.0])
def test_any_rate_is_resampled_as_files_are(model, paths, rate, tmp_path):
    samples = audio.load(paths[0], 44_100)
    soundfile.write(tmp_path / "a.wav", samples.numpy(), int(rate), "FLOAT")
    assert model.transcribe(samples, sample_rate=rate).text == model.transcribe(tmp_path / "a.wav").text


@pytest.mark.parametrize("rate", [0, -8000, 3999, 768_001, float("nan")])
def test_rates_that_no_recording_has_are_refused(model, rate):
    with pytest.raises(UserError, match=f"array 0: a sample rate of {rate} Hz, not between 4000 and 768000"):
        model.transcribe(np.zeros(100), sample_rate=rate)


def test_recordings_of_one_name_are_told_apart(model, paths):
    items = [Samples(Path("a"), Path("a"), 3.0, samples=audio.load(path)) for path in paths]
    expected = [model.transcribe(item.samples).text for item in items]
    assert [found.text for found in model.transcribe_each(items)] == expected
    assert len(set(expected)) > 1


def test_searches_that_are_kept_are_few(model, paths, lm_path):
    def texts(hotwords):
        return [model.transcribe(paths[0], lm=lm_path, words=[word]).text for word in hotwords]

    hotwords = ["A", "THE", "HAT", "CAT", "DOG", "A HAT"]
    assert texts(hotwords) == texts(hotwords) and len(model._pools) == 4


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("gone.wav", "gone.wav: no such file"),
        (np.zeros((2, 100)), r"array 0: wants samples \(S,\) of one channel, and has the shape \(2, 100\)"),
        (np.zeros(0), "array 0: wants samples"),
        (np.zeros(10, int), "array 0: wants floats"),
        (np.array([0.0, np.nan]), r"array 0: samples must lie in \[-1, 1\]"),
        (np.array([0.0, 8000.0]), r"array 0: samples must lie in \[-1, 1\]"),
    ],
)
def test_what_is_no_recording_is_named(model, item, message):
    with pytest.raises(UserError, match=message):
        model.transcribe(item)


def test_heads(tokenizer, tmp_path, paths, lm_path):
    hybrid = load(write_model(tmp_path / "hybrid", tokenizer, "hybrid"))
    assert hybrid.chosen_head() == "transducer" and hybrid.chosen_head(LanguageModel(lm_path)) == "ctc"
    assert hybrid.transcribe(paths[0], lm_path).text
    only = write_model(tmp_path / "transducer", tokenizer, "transducer")
    assert load(only).transcribe(paths[0], lm_path).text
    with pytest.raises(UserError, match="segment_seconds 20: not with a transducer yet"):
        load(only, segment_seconds=20).transcribe(paths[0])
    with pytest.raises(UserError, match="head ctc: the model has none"):
        load(only, head="ctc")


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("transducer", {"ctc_weight": 0.3}, "^ctc_weight 0.3: the model has no CTC head"),
        ("hybrid", {"ctc_weight": 0.3}, "^ctc_weight 0.3: of a transducer's beam search"),
        ("ctc", {"weights": Weights(1, 0, 0, 0.2)}, "^ilm_weight 0.2: of a transducer's beam search"),
    ],
)
def test_weights_that_do_not_suit_the_head_are_refused(
    tokenizer, tmp_path, paths, lm_path, head, options, message
):
    model = load(write_model(tmp_path / head, tokenizer, head))
    with pytest.raises(UserError, match=message):
        model.transcribe(paths[0], LanguageModel(lm_path, **options))


def test_importing_the_package_loads_no_torch():
    program = "import sys, asr; assert 'torch' not in sys.modules; asr.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(ImportError):
        from asr import nothing  # noqa: F401


def test_the_example_of_the_docs_runs(folder, paths, lm_path, tmp_path, monkeypatch, capsys):
    text = (DOCS / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(folder)
    for name, path in zip(("talk.wav", "monday.wav", "tuesday.wav"), paths, strict=False):
        (tmp_path / name).symlink_to(path)
    for name in (lm_path.name, f"{lm_path.name}.sha256"):
        (tmp_path / name.replace("2gram", "3gram")).write_bytes((lm_path.parent / name).read_bytes())
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out.count("\n") >= 3
