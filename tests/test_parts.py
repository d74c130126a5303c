"""benchmarks/parts.py."""

import subprocess
import sys

import pytest
import torch
from parts import errors_of_stream, exchanged

from asr.checkpoints.folder import write_folder
from asr.data.tokenizer import Tokenizer
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model

ENCODER = EncoderConfig(dim=8, layers=2, heads=2, kernel=3)


def build(attention: str, seed: int, pieces: int) -> tuple[ModelConfig, Model]:
    torch.manual_seed(seed)
    config = ModelConfig(attention, encoder=ENCODER, frontend=FrontendConfig(mels=10))
    return config, Model(config, pieces).eval()


def test_what_is_exchanged_is_the_students_and_the_teacher_stays():
    (_, teacher), (_, student) = build("softmax", 1, 12), build("mala", 2, 12)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    model = exchanged(teacher, student, False, range(1, 2), True)
    ours, theirs = model.state_dict(), student.state_dict()
    for name in ours:
        of = theirs if name.startswith(("encoder.blocks.1.", "head.")) else before
        assert torch.equal(ours[name], of[name]), name
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@torch.no_grad()
def test_the_error_of_the_stream_begins_where_models_part():
    (_, teacher), (_, student) = build("softmax", 1, 12), build("mala", 2, 12)
    batches = [(torch.randn(2, n, 10), torch.tensor([n, n - 9])) for n in (40, 60)]
    found = errors_of_stream(teacher, exchanged(teacher, student, False, range(1, 2), False), batches)
    assert found[:2] == pytest.approx([0, 0], abs=1e-6) and len(found) == 3 and found[2] > 0.1


def test_the_table(corpus, tmp_path):
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    for seed, attention in ((1, "softmax"), (2, "mala")):
        config, model = build(attention, seed, tokenizer.pieces)
        write_folder(tmp_path / attention, config, tokenizer, model.state_dict(), False, (0, 0.0), "")
    command = [sys.executable, "benchmarks/parts.py", "--teacher", str(tmp_path / "softmax")]
    command += ["--data", str(corpus), "--every", "2", "--groups", "2", "--student"]
    done = subprocess.run([*command, str(tmp_path / "mala")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = [line[:20].strip() for line in done.stdout.splitlines()[2:]]
    assert parts == [
        *("none", "subsampling", "blocks 0 to 0", "blocks 1 to 1"),
        *("all blocks", "head", "all but the head", "whole"),
    ]
    assert all(float(line[20:27]) >= 0 for line in done.stdout.splitlines()[2:])
    missing = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True)
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1
