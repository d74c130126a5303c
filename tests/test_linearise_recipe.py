"""The linearise recipe from beginning to end, in miniature."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from programs import ROOT, TINY, bash, librispeech_tree

from asr.checkpoints.checkpoint import read_checkpoint
from asr.data.manifest import read_manifest
from asr.training.config import parse_config
from asr.training.run import train


def train_softmax(corpus, out, *more):
    options = ["--attention", "softmax", "--data.folder", str(corpus), "--out", str(out), *TINY]
    train(parse_config([*options, "--data.tokenizer", str(corpus / "tokenizer.model"), *more]))
    return out / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def softmax(corpus, tmp_path_factory):
    """A small softmax model."""
    return train_softmax(corpus, tmp_path_factory.mktemp("softmax"))


@pytest.fixture
def recordings(corpus, tmp_path):
    """A folder of recordings without transcripts."""
    folder = tmp_path / "more recordings"
    folder.mkdir()
    for item in read_manifest(corpus / "dev.jsonl"):
        shutil.copy(item.audio, folder)
    return folder


def test_linearise_recipe_in_miniature(softmax, recordings, corpus, tmp_path):
    librispeech_tree(corpus, tmp_path, {"train-clean-5": "train", "dev-clean-2": "test"})
    out = tmp_path / "exp"
    command = ["recipes/linearise/run.sh", "--from", softmax, "--attention", "linear"]
    command += ["--distil", "--transcripts"]
    command += [
        "--data-root",
        tmp_path,
        "--recordings",
        recordings,
        "--data",
        tmp_path / "data",
        "--out",
        out,
    ]
    command += ["--", "--training.steps", "2", "--training.validate_every", "2", "--training.seconds", "20"]
    done = bash(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training linear, ") == 3 and "teacher alone: 8 of them" in done.stdout
    for folder, attention in (
        (tmp_path / "data" / "teacher-results", "softmax"),
        (out / "results", "linear"),
    ):
        results = json.loads((folder / "wer.json").read_text())
        assert results["attention"] == attention
        assert [row["split"] for row in results["rows"]] == ["dev", "test"]
    (compared, _) = json.loads((out / "report" / "report.json").read_text())["comparisons"]
    assert (
        f"WER {compared['wer'][1]:.2f} % (linear) against {compared['wer'][0]:.2f} % (softmax)" in done.stdout
    )
    begun = [
        yaml.safe_load((out / name / "config.yaml").read_text()) for name in ("distilled", "transcribed")
    ]
    assert begun[0]["init"] == str(out / "attention" / "checkpoints" / "last.ckpt")
    assert begun[1]["init"] == str(out / "distilled" / "checkpoints" / "last.ckpt")
    command_line = [sys.executable, "benchmarks/linearise.py", tmp_path / "data" / "teacher-results"]
    command_line += [out / "results", "--audio", recordings, "--minutes", "0.1"]
    table = subprocess.run(list(map(str, command_line)), cwd=ROOT, capture_output=True, text=True)
    assert table.returncode == 0, table.stderr
    for split in ("dev", "test"):
        assert re.search(rf"^{split}, no LM\n.*\n-+\nsoftmax .*\nlinear ", table.stdout, re.MULTILINE)
    assert f"{compared['difference']:+.2f}" in table.stdout
    assert len(re.findall(r"^(?:softmax|linear) +\d+\.\d+ +0\.1 ", table.stdout, re.MULTILINE)) == 2
    (out / ".distilled.done").unlink()  # as if it had been killed after its last checkpoint
    again = bash(*command)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 5
    assert again.stdout.count("again, as an earlier stage was done again") == 2
    assert again.stdout.count("training linear, ") == 2  # and nothing was left to do in either
    assert model_of(out / "results") == out / "transcribed" / "checkpoints" / "last.ckpt"
    less = bash(*(part for part in command if part != "--transcripts"))  # another model to report on
    assert less.returncode == 0, less.stderr
    assert model_of(out / "results") == out / "distilled" / "checkpoints" / "last.ckpt"


def model_of(results: Path) -> Path:
    """What was decoded."""
    return Path(json.loads((results / "wer.json").read_text())["checkpoint"])


def test_the_model_to_linearise_is_not_written_over(tmp_path):
    teacher = tmp_path / "data" / "teacher"
    teacher.mkdir(parents=True)
    (teacher / "config.json").touch()
    for name in ("train-clean-5", "dev-clean-2"):
        (tmp_path / name).mkdir()
    options = ["--from", teacher, "--data", tmp_path / "data", "--data-root", tmp_path, "--stage", "1"]
    done = bash("recipes/linearise/run.sh", *options, "--stop-stage", "1")
    assert (done.returncode, done.stdout) == (1, "") and (teacher / "config.json").exists()
    assert done.stderr.startswith(f"error: --from {teacher}: ") and done.stderr.count("\n") == 1


def test_a_student_of_fewer_blocks_in_miniature(softmax, recordings, corpus, tmp_path):
    librispeech_tree(corpus, tmp_path, {"train-clean-5": "train", "dev-clean-2": "test"})
    teacher = tmp_path / "teacher.ckpt"
    content = read_checkpoint(train_softmax(corpus, tmp_path / "softmax", "--encoder.layers", "2"))
    content["average"]["head.project.bias"][20] = 10.0  # or it would have no words yet
    torch.save(content, teacher)
    command = ["recipes/linearise/run.sh", "--from", teacher, "--attention", "mala"]
    command += ["--blocks", "1", "--patient", "--data-root", tmp_path, "--recordings", recordings]
    command += ["--data", tmp_path / "data", "--out", tmp_path / "exp", "--"]
    command += ["--encoder.dim", "16", "--encoder.heads", "2", "--frontend.kind", "htk"]  # the teacher's
    command += ["--training.seconds", "20"]
    command += ["--training.steps", "2", "--training.validate_every", "2"]
    done = bash(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training mala, ") == 4 and "(mala) against " in done.stdout
    for name, before in (("whole", "stages"), ("patient", "whole"), ("words", "patient")):
        begun = yaml.safe_load((tmp_path / "exp" / name / "config.yaml").read_text())
        assert begun["init"] == str(tmp_path / "exp" / before / "checkpoints" / "last.ckpt")
        assert begun["encoder"]["layers"] == 1
    assert begun["data"]["train"] == ["train-clean-5", "words"]
    assert 1 <= len(read_manifest(tmp_path / "data" / "words.jsonl")) <= 8
    # Before any student, which would find a training of its own older than another one's words.
    assert done.stdout.index("stage 1: the teacher's words") < done.stdout.index("training mala, ")
    for options, message in (
        (["--blocks", "0"], "--blocks 0: not a number of blocks"),
        (["--blocks", "1", "--distil"], "--distil, --transcripts: not with --blocks"),
        (["--patient"], "--patient: wants --blocks"),
    ):
        refused = bash("recipes/linearise/run.sh", "--from", softmax, *options)
        assert refused.returncode == 1 and message in refused.stderr
