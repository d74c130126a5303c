"""benchmarks/likeness.py."""

import copy
import subprocess
import sys

import pytest
import torch
from likeness import feed_forwards, likeness

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
        for part in (block.feed_forward1, block.feed_forward2):
            norm, first = part[0], part[1]
            norm.weight *= 2 + torch.rand(16)
            first.weight.copy_(-3 * first.weight[torch.randperm(len(first.weight))] / norm.weight)
    others = torch.cat([units for _, units in feed_forwards(teacher)])
    for _, units in feed_forwards(student):
        assert likeness(units, others) == (pytest.approx(1, abs=1e-5), 100)
    for _, units in feed_forwards(build(12, 2)):
        assert likeness(units, others)[1] < 50


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
    assert len(rows) == 10 and all(row[-2:] == ["1.00", "100.0"] for row in rows[:5])
    assert all(float(row[-1]) < 50 for row in rows[5:])
