import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from step import format_row

from asr.checkpoints.checkpoint import pack_recipe, write_checkpoint
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.lm import build
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model

TEXT = ["THE CAT SAT", "THE CAT RAN", "A DOG SAT", "THE DOG SAT ON THE CAT", "A CAT RAN"] * 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model, a tokenizer, and posteriors of two splits as --posteriors takes them."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "text.txt").write_text("\n".join(TEXT))
    build.estimate([folder / "text.txt"], 3, folder / "lm.bin", estimator="own")
    tokenizer = Tokenizer(train_tokenizer(TEXT, 16))
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    references, rows = TEXT[:3], []
    for seed, text in enumerate(references):
        classes = [c for piece in tokenizer.encode(text) for c in (0, piece)]
        logits = np.random.default_rng(seed).normal(size=(len(classes), tokenizer.pieces + 1))
        logits[np.arange(len(classes)), classes] += 8
        rows.append((logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(np.float32))
    for split in ("dev", "test"):
        np.savez(
            folder / f"{split}.npz",
            ids=[f"{split}-{number}" for number in range(3)],
            references=references,
            durations=[0.04 * len(row) for row in rows],
            lengths=[len(row) for row in rows],
            log_probs=np.concatenate(rows),
        )
    return folder


def run(name: str, *options) -> str:
    command = [sys.executable, f"benchmarks/{name}.py", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


PROGRAMS = [path for path in Path("benchmarks").glob("*.py") if "run_program(main)" in path.read_text()]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_checkout_comes_before_what_is_installed(program):
    ours = {"asr", "data_prep", *(path.stem for path in Path("benchmarks").glob("*.py"))}
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.parse(program.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert next(name for name in imported if name.partition(".")[0] in ours) == "common"


def test_the_code_beside_a_benchmark_is_measured(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for name in ("common", "parameters"):
        shutil.copy(f"benchmarks/{name}.py", tmp_path / "benchmarks")
    (tmp_path / "asr").mkdir()
    (tmp_path / "asr" / "__init__.py").write_text("raise SystemExit('the other checkout')")
    command = [sys.executable, str(tmp_path / "benchmarks" / "parameters.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "the other checkout\n"


def test_what_was_not_measured_is_a_dash():
    assert format_row(0.5, 40.0, None, None, 0.25).split() == ["500.0", "80", "0.02", "-", "-", "25.0", "%"]
    assert format_row(0.5, 40.0, 1.0, 2.0, 0.25).split()[3:5] == ["2.00", "2.00"]


def test_decoders_are_compared(folder):
    options = ["--posteriors", folder, "--lm", folder / "lm.bin", "--weights", 0.5, 1, 4, "--beam", 10]
    shown = run("decoders", *options, "--decoders", "ours", "oracle", "--oracle", 2)
    assert re.search(r"^ours +0\.50 +1\.00 +4\.00 +0\.00 +0\.00 ", shown, re.MULTILINE)
    assert re.search(r"^beam 10 +2 of 2", shown, re.MULTILINE), shown


def test_hotwords_are_measured(folder, tmp_path):
    words = [
        {"id": word, "audio": "a.wav", "duration": 1.0, "text": word, "speaker": ""}
        for word in ("NO", "CATS", "SO", "THE")
    ]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(record) + "\n" for record in words))
    options = ["--posteriors", folder, "--lm", folder / "lm.bin", "--weights", 0.5, 1, 4, "--beam", 10]
    options += ["--distractors", tmp_path / "others.jsonl", "--rare", 0, "--boosts", 2, "--distract", 3, 0]
    shown = run("hotwords", *options)
    assert re.search(
        r"^test: 3 utterances; listed \d+ of their words, \d+ of them not in the LM, and 3 ", shown, re.M
    )
    rows = re.findall(r"^(LM|no LM)(?:, boost (\d)|, 2, \+(\d))? +0\.00 +100\.0 ", shown, re.MULTILINE)
    assert rows[:4] == [(name, boost, "") for name in ("LM", "no LM") for boost in "02"], shown
    assert rows[4:] == [(name, "", more) for name in ("LM", "no LM") for more in ("", "3", "0")], shown


def test_memory_of_the_processes_is_shown(folder):
    shown = run("memory", "--lm", folder / "lm.bin", "--tokenizer", folder / "tokenizer.model", "--jobs", 2)
    assert "2 processes" in shown
    assert all(int(size) > 10 for size in re.search(r"MiB each: (\d+) (\d+)\n", shown).groups())


def test_words_are_counted_where_nobody_speaks(folder, corpus):
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=3)
    config = ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20))
    model = Model(config, tokenizer.pieces)
    model.head.project.bias.data[7] = 100.0  # says one piece to everything
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    content = {
        "recipe": pack_recipe(config, tokenizer),
        "state_dict": weights,
        "global_step": 1,
        "training": {},
    }
    write_checkpoint(content, folder / "talks.ckpt")
    options = ["--checkpoints", folder / "talks.ckpt", "--clips", 2, "--seconds", 0.5, "--device", "cpu"]
    shown = run("nonspeech", *options)
    for kind in ("white", "two at once"):  # a word in each clip of half a second
        assert re.search(rf"^{kind} +120\.0$", shown, re.MULTILINE), shown
    assert re.search(r"^silence +0\.0$", shown, re.MULTILINE), shown


def test_a_transducers_losses_are_compared():
    shown = run("transducer", "loss", "--utterances", 2, "--frames", 20, "--tokens", 5, "--pieces", 30)
    losses = re.findall(r"^(?:whole|chunks).* (\d+\.\d{4}) nats a token$", shown, re.MULTILINE)
    assert len(losses) == 3 and len(set(losses)) == 1, shown


def test_a_transducers_decoders_are_compared():
    shown = run("transducer", "decoding", "--utterances", 1, "--beam", 2)
    assert re.search(r"^label looping .* 1 of 1 .*\d$", shown, re.MULTILINE), shown
    for other in ("RNNTBeamSearch, beam 1", "beam search, beam 2", "RNNTBeamSearch, beam 2"):
        assert re.search(rf"^{other} .* of 1 .*\d$", shown, re.MULTILINE), shown
