"""benchmarks/likeness.py."""

import copy
import subprocess
import sys

import pytest
import torch
from likeness import by_kind, likeness

from asr.checkpoints.folder import write_folder
from asr.data.tokenizer import Tokenizer
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model

CONFIG = ModelConfig(
    "mala", encoder=EncoderConfig(dim=16, layers=2, heads=2, kernel=3), frontend=FrontendConfig(mels=10)
)


def build(pieces: int, seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(CONFIG, pieces).eval()


@torch.no_grad()
def test_units_in_another_order_and_size_behind_another_norm_are_found():
    teacher = build(12, 1)
    student = copy.deepcopy(teacher)
    for block in student.encoder.blocks:
        convolution = (block.convolution.norm, block.convolution.expand)
        for norm, first in ([*block.feed_forward1][:2], [*block.feed_forward2][:2], convolution):
            norm.weight *= 2 + torch.rand(16)
            first.weight.copy_(-3 * first.weight[torch.randperm(len(first.weight))] / norm.weight)
    same, other = by_kind(student), by_kind(build(12, 2))
    for kind, units in by_kind(teacher).items():
        assert likeness(same[kind], units) == (pytest.approx(1, abs=1e-5), 100)
        assert likeness(other[kind], units)[1] < 50


def test_the_table(corpus, tmp_path):
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    for name, seed in (("teacher", 1), ("other", 2)):
        state = build(tokenizer.pieces, seed).state_dict()
        write_folder(tmp_path / name, CONFIG, tokenizer, state, False, (0, 0.0), "")
    command = [sys.executable, "benchmarks/likeness.py", "--teacher", tmp_path / "teacher", "--students"]
    done = subprocess.run(
        [*command, tmp_path / "teacher", tmp_path / "other"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("block", "rows"))]
    assert len(rows) == 14 and all(row[-2:] == ["1.00", "100.0"] for row in rows[:7])
    assert all(float(row[-1]) < 50 for row in rows[7:])
