import random
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from asr.data.manifest import read_manifest
from data_prep.espeak import SAMPLE_RATE, speaker, variants
from data_prep.sentences import make_sentence
from data_prep.synthetic import language_model_text, plan

SIZES = {"train": 300, "dev": 30, "test": 60}


def test_nothing_of_the_test_split_is_heard_or_read_in_training():
    splits = plan(Path("out"), SIZES, seed=1)
    voices = {name: {line.voice.split("+")[1] for line in lines} for name, lines in splits.items()}
    texts = {name: {line.text for line in lines} for name, lines in splits.items()}
    for held_out in ("dev", "test"):
        assert not voices["train"] & voices[held_out]
        assert not texts["train"] & texts[held_out]
        assert not texts[held_out] & set(language_model_text(5000, 1, texts["dev"] | texts["test"]))
    assert not voices["dev"] & voices["test"]
    assert {name: len(lines) for name, lines in splits.items()} == SIZES


def test_the_seed_decides():
    assert plan(Path("out"), SIZES, seed=1) == plan(Path("out"), SIZES, seed=1)
    assert plan(Path("out"), SIZES, seed=1) != plan(Path("out"), SIZES, seed=2)


def test_sentences_are_short_and_upper_case():
    rng = random.Random(0)
    for _ in range(500):
        sentence = make_sentence(rng)
        assert sentence == sentence.upper() and 3 <= len(sentence.split()) <= 14
        assert sentence.replace(" ", "").isalpha()


def test_speech_is_audible_and_obeys_its_rate():
    line = "the old doctor walked near the river"
    voice = f"en-us+{variants()[0]}"
    samples = speaker().say(line, voice, rate=160, pitch=50, pitch_range=50)
    assert 1.0 < samples.numel() / SAMPLE_RATE < 5.0
    assert 0.05 < samples.abs().max() <= 1.5
    assert samples.numel() < speaker().say(line, voice, rate=100, pitch=50, pitch_range=50).numel()


def test_program_writes_the_same_corpus_twice(tmp_path):
    for name, jobs in (("a", "1"), ("b", "2")):
        command = [sys.executable, "-m", "data_prep.synthetic", "--out", str(tmp_path / name)]
        command += ["--train", "50", "--dev", "2", "--test", "2", "--lm-sentences", "20", "--jobs", jobs]
        subprocess.run(command, check=True, capture_output=True)
    for split in ("train", "dev", "test"):
        first, second = (read_manifest(tmp_path / name / f"{split}.jsonl") for name in ("a", "b"))
        assert [item.text for item in first] == [item.text for item in second]
        for one, two in zip(first, second, strict=True):
            samples, rate = soundfile.read(one.audio)
            assert rate == SAMPLE_RATE and len(samples) / rate == pytest.approx(one.duration, abs=1e-4)
            assert Path(one.audio).read_bytes() == Path(two.audio).read_bytes()


def test_a_size_of_zero_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", "--out", str(tmp_path / "x"), "--dev", "0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == "error: --dev 0: must be at least 1\n"
    assert not (tmp_path / "x").exists()
