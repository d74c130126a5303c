"""python -m data_prep.words."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from programs import ROOT, SURE

from asr.checkpoints.checkpoint import read_checkpoint
from asr.data.manifest import read_manifest, write_manifest
from asr.training.config import parse_config
from asr.training.run import train
from asr.transcriber import load


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    options = ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model"), *SURE]
    train(parse_config([*options, "--out", str(out)]))
    path = out / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    content["average"]["head.project.bias"][20] = 1e3  # or it would say nothing yet
    torch.save(content, path)
    return path


def words(*options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_prep.words", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_transcripts_are_the_models_words(model, corpus, tmp_path):
    out = tmp_path / "words.jsonl"
    out.write_text("of an earlier run\n")
    done = words("--checkpoint", model, "--manifest", corpus / "dev.jsonl", "--out", out)
    assert done.returncode == 0, done.stderr
    before = {utterance.id: utterance for utterance in read_manifest(corpus / "dev.jsonl")}
    after = read_manifest(out)
    assert f"words: {len(after)} utterances" in done.stdout
    found = {utterance.id: utterance.text for utterance in after}
    with load(model) as transcriber:
        for name, utterance in before.items():
            assert transcriber.transcribe(utterance.audio).text == found.get(name, "")


@pytest.mark.parametrize("manifest", ["dev.jsonl", "none.jsonl"])
def test_bad_paths_are_named(model, corpus, tmp_path, manifest):
    out = corpus / "dev.jsonl" if manifest == "dev.jsonl" else tmp_path / "words.jsonl"
    done = words("--checkpoint", model, "--manifest", corpus / manifest, "--out", out)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and manifest in done.stderr


def test_a_recording_named_twice_is_refused_before_anything_is_transcribed(model, corpus, tmp_path):
    twice = [*read_manifest(corpus / "dev.jsonl")] * 2
    twice = [replace(utterance, id=str(index)) for index, utterance in enumerate(twice)]
    write_manifest(tmp_path / "twice.jsonl", twice)
    done = words(
        "--checkpoint", model, "--manifest", tmp_path / "twice.jsonl", "--out", tmp_path / "out.jsonl"
    )
    assert done.returncode == 1 and "twice.jsonl: names a recording twice" in done.stderr
