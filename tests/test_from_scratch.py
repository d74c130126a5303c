"""benchmarks/from_scratch.py."""

import shutil
import subprocess
import sys

import torch
from from_scratch import Outcome, Trial, format_table
from trials import Result

from asr.checkpoints.checkpoint import load_model
from asr.scoring.report.results import Decoded
from asr.training.config import parse_config

SMALL = "--encoder.dim 8 --encoder.layers 1 --encoder.heads 2 --encoder.kernel 3 --frontend.mels 10 "
SMALL += "--training.steps 2 --training.seconds 10 --training.warmup 1 --training.accelerator cpu"


def test_a_trial_is_a_training_of_its_own():
    trials = [Trial(name, seed) for name in ("softmax", "softmax:rotary", "mala") for seed in (1, 2)]
    assert len({trial.folder for trial in trials}) == len(trials)
    found = [parse_config([*trial.options([]), "--out", "x"]) for trial in trials]
    assert [config.training.seed for config in found] == [1, 2] * 3
    assert [config.model.attention for config in found] == ["softmax"] * 4 + ["mala"] * 2
    assert found[0].model != found[2].model


def test_the_table_is_over_seeds_and_against_the_first(capsys):
    def decoded(*wrong):
        return [Decoded(str(i), "A B C D", "A B C X" if i in wrong else "A B C D") for i in range(5)]

    took = [Result("train.py", 2, 1.0, 1.0, 50.0, hours, 1.0) for hours in (0.5, 1.0)]
    outcomes = {
        Trial("softmax", 1): Outcome(took, {"dev": decoded(0)}),
        Trial("mala", 1): Outcome(took, {"dev": decoded()}),
        Trial("softmax", 2): Outcome(took, {"dev": decoded(0, 1, 2)}),
        Trial("mala", 2): Outcome(took, {"dev": decoded(0)}),
    }
    name, _, _, softmax, mala = format_table("dev", outcomes).splitlines()
    assert name == "dev"
    assert softmax.split() == ["softmax", "2", "1.5", "10.00", "5.00", "15.00"]
    assert mala.split()[:7] == ["mala", "2", "1.5", "2.50", "0.00", "5.00", "-7.50"]


def test_from_scratch_to_a_table(corpus, tmp_path):
    def run(*options, trainings=()):
        command = [sys.executable, "benchmarks/from_scratch.py", "--out", str(tmp_path)]
        command += ["--data", str(corpus), *options, "--", *SMALL.split()]
        command += ["--data.tokenizer", str(corpus / "tokenizer.model")]
        return subprocess.run([*command, *trainings], capture_output=True, text=True)

    first = run("--attention", "softmax", "mala", "--jobs", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    table = first.stdout.splitlines()[-5:]
    assert table[0] == "dev" and table[3].startswith("softmax") and table[4].startswith("mala")
    again = run("--attention", "softmax", "mala")
    assert again.returncode == 0 and again.stdout.splitlines() == table
    bad = run("--attention", "none")
    assert bad.returncode == 1 and bad.stderr.startswith("error: --attention none: choose from ")

    failing = run("--attention", "mala", "mala", "--seeds", "3", "--splits", "none")
    assert failing.returncode == 1 and failing.stdout.count("seed3/1: train.py") == 1
    assert "stopping, when what runs is done: " in failing.stderr and "none.jsonl" in failing.stderr

    two = ["--", "--training.ctc", "1", "--", "--training.peak_lr", "1e-9", "--training.average", "0"]
    twice = run("--attention", "mala", "--seeds", "2", trainings=two)
    assert twice.returncode == 0, twice.stdout + twice.stderr
    began, ended = (
        load_model(tmp_path / "mala-seed2" / number / "checkpoints" / "last.ckpt")[0] for number in "12"
    )
    torch.testing.assert_close(list(ended.parameters()), list(began.parameters()), rtol=0, atol=1e-6)

    # Trained anew, the first is another beginning for the second.
    (tmp_path / "mala-seed2" / "1" / "result.json").unlink()
    shutil.rmtree(tmp_path / "mala-seed2" / "1" / "checkpoints")
    anew = run("--attention", "mala", "--seeds", "2", trainings=[*two[:2], "0.5", *two[3:]])
    assert anew.returncode == 1 and "trained by another command" in anew.stderr
