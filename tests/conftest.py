"""What several tests share: a miniature synthetic corpus with its tokenizer."""

import subprocess
import sys

import pytest

from asr.data.manifest import read_manifest
from asr.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A few dozen synthetic utterances in the layout that data_prep.synthetic writes. Do not change it."""
    folder = tmp_path_factory.mktemp("corpus")
    command = [sys.executable, "-m", "data_prep.synthetic", "--out", str(folder), "--jobs", "2"]
    command += ["--train", "80", "--dev", "8", "--test", "10", "--lm-sentences", "500"]
    subprocess.run(command, check=True, capture_output=True)
    texts = [utterance.text for utterance in read_manifest(folder / "train.jsonl")]
    (folder / "tokenizer.model").write_bytes(train_tokenizer(texts, 64))
    return folder
