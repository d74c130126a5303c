import re
import subprocess
import sys

import numpy as np
import pytest

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.lm import build

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
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ".", "PATH": ""})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_decoders_are_compared(folder):
    options = ["--posteriors", folder, "--lm", folder / "lm.bin", "--weights", 0.5, 1, 4, "--beam", 10]
    shown = run("decoders", *options, "--decoders", "ours", "oracle", "--oracle", 2)
    assert re.search(r"^ours +0\.50 +1\.00 +4\.00 +0\.00 +0\.00 ", shown, re.MULTILINE)
    assert re.search(r"^beam 10 +2 of 2", shown, re.MULTILINE), shown


def test_memory_of_the_processes_is_shown(folder):
    shown = run("memory", "--lm", folder / "lm.bin", "--tokenizer", folder / "tokenizer.model", "--jobs", 2)
    assert "2 processes" in shown
    assert all(int(size) > 50 for size in re.search(r"MiB each: (\d+) (\d+)\n", shown).groups())


def test_a_transducers_losses_are_compared():
    shown = run("transducer", "loss", "--utterances", 2, "--frames", 20, "--tokens", 5, "--pieces", 30)
    losses = re.findall(r"^(?:whole|chunks).* (\d+\.\d{4}) nats a token$", shown, re.MULTILINE)
    assert len(losses) == 3 and len(set(losses)) == 1, shown


def test_a_transducers_decoders_are_compared():
    shown = run("transducer", "greedy", "--utterances", 1)
    assert re.search(r"^label looping .* 1 of 1$", shown, re.MULTILINE), shown
    assert re.search(r"^RNNTBeamSearch, beam 1 .* of 1$", shown, re.MULTILINE), shown
