import lzma
import random
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import soundfile

from asr.data.manifest import read_manifest
from asr.errors import UserError
from data_prep.espeak import SAMPLE_RATE, speaker, variants
from data_prep.sentences import make_sentence
from data_prep.synthetic import Line, _samples, language_model_text, main, plan, plan_text

NO_HOURS = "--text: say with --hours how many hours of training speech; more than 0"
TOO_FEW = (
    "--text: 2 different sentences of 2 to 20 words; more than 2 are needed for --dev, --test and training"
)
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


@pytest.fixture
def program(monkeypatch):
    """The program, in this process: the ones that speak are started afresh by a server in any case."""

    def run(*options) -> None:
        monkeypatch.setattr(sys, "argv", ["synthetic", *map(str, options)])
        main()

    return run


def test_program_writes_the_same_corpus_twice(program, tmp_path):
    sizes = ["--train", 50, "--dev", 2, "--test", 2, "--lm-sentences", 20]
    for name, jobs in (("a", 1), ("b", 2)):
        program("--out", tmp_path / name, *sizes, "--jobs", jobs)
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


def voices_and_texts(folder):
    splits = {name: read_manifest(folder / f"{name}.jsonl") for name in ("train", "dev", "test")}
    return (
        {name: {item.speaker for item in items} for name, items in splits.items()},
        {name: {item.text for item in items} for name, items in splits.items()},
    )


def test_a_text_is_read_for_so_many_hours_the_same_way_twice(program, tmp_path):
    rng = random.Random(3)
    sentences = {make_sentence(rng) for _ in range(150)}
    text = tmp_path / "text.xz"
    text.write_bytes(lzma.compress("\n".join([*sorted(sentences), "HE WAS BORN IN 1815", "ALONE"]).encode()))
    hours = 0.02
    options = ["--text", text, "--hours", hours, "--dev", 3, "--test", 4]
    for name, jobs in (("a", 1), ("b", 2)):
        program("--out", tmp_path / name, *options, "--jobs", jobs)
    voices, texts = voices_and_texts(tmp_path / "a")
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not voices[one] & voices[other] and not texts[one] & texts[other]
    assert set().union(*texts.values()) <= sentences and (len(texts["dev"]), len(texts["test"])) == (3, 4)

    first, second = (read_manifest(tmp_path / name / "train.jsonl") for name in ("a", "b"))
    seconds = [item.duration for item in first]
    assert sum(seconds) >= 3600 * hours > sum(seconds[:-1])
    assert len(list((tmp_path / "a" / "audio" / "train").iterdir())) == len(first)
    assert [item.text for item in first] == [item.text for item in second]
    for one, two in zip(first, second, strict=True):
        assert Path(one.audio).read_bytes() == Path(two.audio).read_bytes()
    assert not (tmp_path / "a" / "lm.txt").exists()


def test_people_of_a_reading_differ_and_speak_at_the_rate_of_readers():
    sentences = [
        ("THE OLD DOCTOR WALKED", f"AND WAITED NEAR THE {word}") for word in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    ]
    _, train = plan_text(Path("out"), sentences, {"dev": 1, "test": 1}, seed=1)
    lines = list(islice(train, 60))  # some sentences twice
    assert len({line.voice for line in lines}) > 40
    minutes = sum(len(_samples(line)) for line in lines) / SAMPLE_RATE / 60
    assert 130 < sum(len(line.text.split()) for line in lines) / minutes < 200
    assert all(len(line.pauses) == len(line.phrases) + 1 for line in lines)


def test_a_pause_is_silent_but_for_faint_noise():
    line = Line("x", Path("x.wav"), ("WE CAME", "WE SAW"), "en-us+m3", 150, 50, 50, (0.5, 0.25, 0.5), -40.0)
    samples, dry = _samples(line), _samples(replace(line, pauses=(), noise=None))
    assert len(samples) - len(dry) == pytest.approx(1.25 * SAMPLE_RATE, abs=200)
    for silence in (samples[: SAMPLE_RATE // 2], samples[-SAMPLE_RATE // 2 :]):
        level = 10 * (silence.square().mean() / dry.square().mean()).log10()
        assert level == pytest.approx(-40, abs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "TEXT"], NO_HOURS),
        (["--text", "TEXT", "--hours", "0"], NO_HOURS),
        (["--hours", "1"], "--hours: only with --text"),
        (["--text", "TEXT", "--hours", "1", "--train", "5"], "--train: only without --text"),
        (["--text", "TEXT", "--hours", "1", "--lm-sentences", "5"], "--lm-sentences: only without --text"),
        (["--text", "missing.txt", "--hours", "1"], "missing.txt: no such file"),
        (["--text", "TEXT", "--hours", "1", "--dev", "1", "--test", "1"], TOO_FEW),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch, options, message):
    text = tmp_path / "text.txt"
    text.write_text("ONE MAN SAW IT\nNOBODY ELSE DID\nNOBODY ELSE DID\n")
    options = [str(text) if option == "TEXT" else option for option in options]
    monkeypatch.setattr(sys, "argv", ["synthetic", "--out", str(tmp_path / "out"), *options])
    with pytest.raises(UserError) as error:
        main()
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()
