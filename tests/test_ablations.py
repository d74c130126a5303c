"""benchmarks/ablations.py."""

import json
import subprocess
import sys

import pytest
from ablations import VARIANTS, options_of
from trials import RESULT, read_result

from asr.errors import UserError
from asr.training.config import parse_config

SMALL = "--encoder.dim 8 --encoder.layers 1 --encoder.heads 2 --encoder.kernel 3 --frontend.mels 10 "
SMALL += "--training.steps 2 --training.seconds 10 --training.warmup 1 --training.accelerator cpu"


def test_every_variant_is_a_model_of_its_own():
    options = [options_of(variant, "", SMALL.split()) for variant in VARIANTS]
    models = [parse_config([*given, "--out", "x"]).model for given in options]
    assert [models.count(model) for model in models] == [1] * len(VARIANTS)


def test_a_variant_that_is_done_is_not_trained_again(corpus, tmp_path):
    def run(*more: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "benchmarks/ablations.py",
            "--out",
            str(tmp_path),
            "--variants",
            "mala-relu",
        ]
        data = ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]
        command += ["--", *SMALL.split(), *data, *more]
        return subprocess.run(command, capture_output=True, text=True)

    first = run()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "training mala" in first.stdout
    result = json.loads((tmp_path / "mala-relu" / RESULT).read_text())
    assert result["steps"] == 2 and result["dev_wer"] > 0 and result["cpu_seconds"] > 1
    again = run()
    assert again.returncode == 0 and "training mala" not in again.stdout
    assert again.stdout.splitlines() == first.stdout.splitlines()[-2:]
    other = run("--training.peak_lr", "1")
    assert other.returncode == 1 and "another command" in other.stderr and other.stderr.count("\n") == 1


def test_a_run_that_failed_is_told_in_a_line_and_leaves_no_result(tmp_path):
    command = [sys.executable, "benchmarks/ablations.py", "--out", str(tmp_path), "--variants", "mala"]
    command += ["--", "--data.folder", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "mala" / RESULT).exists()


def test_damaged_results_are_told(tmp_path):
    (tmp_path / RESULT).write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        read_result(tmp_path, "")
