"""Every program takes FILE.nemo as it takes a checkpoint: LM, captions, words' times, ONNX, figures."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from plain_nemo import TOKENIZER, log_probs, make_config, make_weights, write_nemo

import decode
from asr.checkpoints import onnx_export
from asr.checkpoints.checkpoint import load_model
from asr.data import audio
from asr.data.manifest import Utterance, write_manifest
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.figures import __main__ as figures
from asr.lm import build as lm
from asr.scoring.report import __main__ as report

EIGHT = {"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 12}
CASED = train_tokenizer(["The cat sat.", "A dog-like cat, THE DOG!", "On The Cat? ran R C S."] * 5, 40)
SECONDS = (1.3, 2.9, 2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two archives with random weights, recordings, manifests in capitals that the models hear so, an LM."""
    folder = tmp_path_factory.mktemp("imported")
    generator = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        recordings = []
        for number, seconds in enumerate(SECONDS):
            path = folder / f"{number}.wav"
            soundfile.write(path, 0.1 * generator.normal(size=int(16000 * seconds)), 16000)
            recordings.append(path)
        for name, tokenizer in (("eight", TOKENIZER), ("cased", CASED)):
            config = make_config(**EIGHT)
            weights = make_weights(config, pieces=Tokenizer(tokenizer).pieces)
            mean = log_probs(weights, config, audio.load(recordings[1]), "new").mean(0).float()
            weights["decoder.decoder_layers.0.bias"] -= mean  # so that classes change
            weights["decoder.decoder_layers.0.weight"] *= 3
            weights["decoder.decoder_layers.0.bias"] *= 3
            write_nemo(folder / f"{name}.nemo", config, weights, tokenizer)
        heard = {path: greedy_words(folder / "cased.nemo", path) for path in recordings}
        for split in ("dev", "test"):
            items = [
                Utterance(f"{split}-{path.stem}", str(path), SECONDS[number], plain(heard[path]), "one")
                for number, path in enumerate(recordings)
            ]
            write_manifest(folder / f"{split}.jsonl", items)
        (folder / "lm.txt").write_text("\n".join(map(plain, heard.values())) + "\nTHE CAT SAT\n")
        lm.estimate([folder / "lm.txt"], 2, folder / "lm.bin", estimator="own")
        yield folder


def greedy_words(model, path) -> str:
    """By frames' best classes, without the recipe's decoders."""
    recogniser, recipe = load_model(model)
    samples = audio.load(path)
    with torch.inference_mode():
        best = recogniser(samples[None], torch.tensor([len(samples)]))[0][0].argmax(-1).unique_consecutive()
    return recipe.tokenizer.decode([number for number in best.tolist() if number])


def plain(text: str) -> str:
    """In capitals, without punctuation."""
    return " ".join(re.sub(r"[^A-Z ⁇]", "", text.upper().replace("-", " ")).split())


def evaluate(folder, out, *options):
    weights = ["--lm-weight", "0.5", "--word-score", "0", "--unknown-penalty", "50"]
    given = ["--checkpoint", folder / "cased.nemo", "--data", folder, "--lm", folder / "lm.bin", "--out", out]
    decode.main([*map(str, given), "--splits", "dev", "test", *weights, "--jobs", "1", *options])
    results = json.loads((out / "wer.json").read_text())
    return results, [row["wer"] for row in results["rows"]]


def test_a_model_with_capitals_is_scored_and_helped_in_the_references_case(folder, tmp_path, capsys):
    results, rates = evaluate(folder, tmp_path / "fold")
    said = capsys.readouterr().err
    style = "is in upper case, without punctuation; the model also writes"
    assert f"lm.bin {style}" in said and "looked up so\n" in said
    assert f"dev.jsonl {style}" in said and "scored so\n" in said
    assert results["scored"]["test"] == "in upper case, without punctuation"
    assert rates[0] == rates[2] == 0
    found = {
        name: (tmp_path / "fold" / f"test.{name}.trn").read_text() for name in ("ref", "none.hyp", "lm.hyp")
    }
    assert found["none.hyp"] == found["ref"]
    words = {word for line in found["lm.hyp"].splitlines() for word in line.split()[:-1]}
    assert words and words <= set((folder / "lm.txt").read_text().split())
    assert report.main([str(tmp_path / "fold")]) is None
    results, kept = evaluate(folder, tmp_path / "keep", "--case", "keep")
    said = capsys.readouterr().err
    assert "not looked up so" in said and "not scored so" in said and "scored" not in results
    assert kept[0] > 30


def transcribe(capsys, model, path, *options) -> str:
    assert decode.main(["--checkpoint", str(model), "--audio", str(path), *options]) == 0
    return capsys.readouterr().out


def test_words_have_their_times_in_frames_of_80_ms(folder, capsys):
    path = folder / "1.wav"
    found = json.loads(transcribe(capsys, folder / "eight.nemo", path, "--format", "json"))
    recogniser, _ = load_model(folder / "eight.nemo")
    samples = audio.load(path)
    with torch.inference_mode():
        [frames], _ = recogniser(samples[None], torch.tensor([len(samples)]))
    assert len(frames) == -(-(len(samples) // 160) // 8)
    said = frames.argmax(-1).nonzero().flatten() * 0.08
    words = found["words"]
    assert found["text"] == " ".join(word["text"] for word in words) and len(words) > 1
    assert words[0]["start"] == pytest.approx(float(said[0]), abs=1e-3)
    assert words[-1]["end"] == pytest.approx(min(float(said[-1]) + 0.08, SECONDS[1]), abs=1e-3)
    assert all(float(word["start"] / 0.08) == pytest.approx(round(word["start"] / 0.08)) for word in words)


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_captions_keep_the_model_s_writing_and_end_with_the_recording(form, folder, capsys):
    path = folder / "2.wav"
    shown = transcribe(capsys, folder / "cased.nemo", path, "--format", form)
    times = re.findall(r"(\d\d):(\d\d):(\d\d)[.,](\d{3})", shown)
    ends = [3600 * int(h) + 60 * int(m) + int(s) + int(ms) / 1000 for h, m, s, ms in times]
    assert ends == sorted(ends) and 1.5 < ends[-1] <= 2.0 + 1.0
    lines = [line for line in shown.splitlines() if line and "-->" not in line and line != "WEBVTT"]
    text = " ".join(line for line in lines if not line.isdigit())
    for mark in ("&gt;", "&lt;", "&amp;"):
        assert mark not in text
    assert text == greedy_words(folder / "cased.nemo", path) and text != text.upper()


@pytest.mark.parametrize("waveforms", [False, True])
def test_the_onnx_graph_of_an_import(waveforms, folder, tmp_path, capsys):
    onnx_export.main(
        [str(folder / "eight.nemo"), "--out", str(tmp_path / "m.onnx"), *["--waveforms"] * waveforms]
    )
    import onnx

    facts = {item.key: item.value for item in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert facts["subsampling"] == "8" and facts["features"] == "nemo" and facts["edges"] == "new"


def test_figures_of_an_import(folder, tmp_path):
    options = ["--checkpoint", folder / "eight.nemo", "--audio", folder / "1.wav", "--out", tmp_path / "out"]
    figures.main(["attention", *map(str, options)])
    [study] = json.loads((tmp_path / "out" / "numbers.json").read_text())["checkpoints"]
    assert len(study["layers"]) == 2
    assert all(layer["row_sum"] == pytest.approx([1, 1], abs=1e-4) for layer in study["layers"])
