import os
import pickle
import resource
import subprocess
import sys
import zipfile

import pytest
import torch

from asr.checkpoints.checkpoint import (
    DamagedCheckpoint,
    check_same,
    load_model,
    pack_recipe,
    read_checkpoint,
    unpack_recipe,
    write_checkpoint,
)
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.recogniser import Model

ENCODER = EncoderConfig(dim=8, layers=1, heads=2, kernel=3)
CONFIG = ModelConfig("linear", encoder=ENCODER)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(["AB BA"], 6, "char"))


@pytest.fixture
def checkpoint(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Model(CONFIG, tokenizer.pieces)
    content = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "recipe": pack_recipe(CONFIG, tokenizer),
        "global_step": 0,
        "training": {},
    }
    path = tmp_path / "model.ckpt"
    write_checkpoint(content, path)
    return path


def test_a_model_comes_back_as_it_was_saved(checkpoint, tokenizer):
    model, recipe = load_model(checkpoint)
    assert recipe.tokenizer.model == tokenizer.model and not model.training
    torch.manual_seed(0)
    expected = Model(CONFIG, tokenizer.pieces).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


class Boom:
    """Unpickling this makes a folder: a stand-in for any code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, save):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    save({"recipe": Boom(trace)}, path)
    with pytest.raises(UserError, match=r"evil\.ckpt: "):
        load_model(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ckpt"):
        read_checkpoint(path)


def test_a_checkpoint_cut_short_is_refused(checkpoint):
    data = checkpoint.read_bytes()
    for size in (len(data) // 3, len(data) - 10):
        checkpoint.write_bytes(data[:size])
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(checkpoint)


def test_records_that_would_grow_are_refused_before_they_do(checkpoint):
    """A few bytes of deflated zeros may be gigabytes."""
    with zipfile.ZipFile(checkpoint) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"model\.ckpt: has compressed records") as error:
        load_model(checkpoint)
    assert not isinstance(error.value, DamagedCheckpoint)


def test_one_record_under_many_names_is_refused(tmp_path):
    """Stored, but overlapping: the central directory points at the same bytes over and over."""
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", bytes(100_000))
        archive.filelist += 50 * archive.filelist
    with pytest.raises(UserError, match=r"model\.ckpt: has compressed records"):
        load_model(path)


@pytest.mark.parametrize("part", ["state_dict", "average", "recipe"])
def test_tensors_that_repeat_a_few_bytes_are_refused(checkpoint, part):
    content = torch.load(checkpoint, weights_only=True)
    name = "tokenizer" if part == "recipe" else "model.head.project.weight"
    large = torch.zeros(1, dtype=torch.uint8).expand(10**12)
    content[part] = {**content.get(part, {}), name: large}
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=r"model\.ckpt: its weights are larger than the file"):
        load_model(checkpoint)


def test_other_pytorch_files_are_told_apart(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="but not a checkpoint of"):
        read_checkpoint(tmp_path / "other.pt")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pt")


def test_another_attention_or_tokenizer_is_refused(checkpoint, tokenizer):
    found = unpack_recipe(read_checkpoint(checkpoint), checkpoint)
    check_same(checkpoint, found, ModelConfig("linear", options=None, encoder=ENCODER), tokenizer)
    with pytest.raises(UserError, match="trained with attention linear, but this run asks for mala"):
        check_same(checkpoint, found, ModelConfig("mala", encoder=ENCODER), tokenizer)
    other = Tokenizer(train_tokenizer(["ABC CBA"], 8, "char"))
    with pytest.raises(UserError, match="trained with another tokenizer"):
        check_same(checkpoint, found, CONFIG, other)


SAVE = """
import torch, sys
from asr.checkpoints.checkpoint import write_checkpoint
from asr.errors import run_program
run_program(lambda: write_checkpoint({"x": torch.zeros(1_000_000)}, sys.argv[1]))
"""


def test_a_full_disk_leaves_the_old_checkpoint_and_one_line(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"the one before")
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no room to write ") and done.stderr.count("\n") == 1
    assert path.read_bytes() == b"the one before"
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]
