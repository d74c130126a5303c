"""The whole path as a user runs it, in miniature, and what it says to bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import decode
from asr.attention import ATTENTIONS
from asr.config import parse_config
from asr.errors import UserError
from asr.manifest import read_manifest, write_manifest
from asr.training import train

ROOT = Path(__file__).parent.parent
TINY = (
    "--encoder.dim 16 --encoder.layers 1 --encoder.heads 2 --encoder.kernel 3 "
    "--training.steps 4 --training.validate_every 2 --training.warmup 1"
).split()


def bash(*command, **options):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """A copy of the miniature corpus that stages may write to."""
    folder = tmp_path_factory.mktemp("data") / "demo"
    shutil.copytree(corpus, folder)
    (folder / ".corpus.done").touch()
    (folder / ".tokenizer.done").touch()  # made with fewer pieces than the demo's
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of the demo's recipe on the miniature corpus."""
    out = tmp_path_factory.mktemp("exp") / "mala"
    done = bash("recipes/demo/run.sh", "--data-root", data, "--out", out, "--", *TINY)
    assert done.returncode == 0, done.stderr
    return out, done


def test_recipe_goes_from_corpus_to_table(finished, data):
    out, done = finished
    for words in (
        "stage 0: synthetic corpus: done before",
        "stage 4: decoding",
        "perplexity",
        "tuned on dev",
    ):
        assert words in done.stdout
    results = json.loads((out / "results" / "wer.json").read_text())
    assert results["attention"] == "mala" and results["parameters"] > 1000
    assert [(row["split"], row["lm"]) for row in results["rows"]] == [("test", "none"), ("test", "3gram")]
    words = sum(len(item.text.split()) for item in read_manifest(data / "test.jsonl"))
    for row in results["rows"]:
        assert row["words"] == words and row["utterances"] == 10 and row["rtf"] > 0
        assert row["wer"] == pytest.approx(100 * (row["sub"] + row["ins"] + row["del"]) / words)
        assert row["ci95"][0] <= row["wer"] <= row["ci95"][1]
        assert f"{row['wer']:.2f}" in done.stdout
    for name in ("test.ref.trn", "test.none.hyp.trn", "test.3gram.hyp.trn"):
        assert len((out / "results" / name).read_text().splitlines()) == 10


def test_recipe_run_again_does_nothing_twice(finished, data):
    out, _ = finished
    again = bash("recipes/demo/run.sh", "--data-root", data, "--out", out, "--", *TINY)
    assert again.returncode == 0
    assert again.stdout.count("done before") == 5
    only = bash("recipes/demo/run.sh", "--data-root", data, "--out", out, "--stage", "1", "--stop-stage", "0")
    assert only.returncode == 0 and only.stdout == ""


def test_recipe_stops_at_a_stage_that_fails(data, tmp_path):
    done = bash("recipes/demo/run.sh", "--data-root", data, "--out", tmp_path / "x", "--attention", "nope")
    assert done.returncode == 1
    assert "error: --attention nope: unknown; choose one of" in done.stderr
    assert "error: stage 3 (training) failed" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("recipe", ["demo", "mini_librispeech", "librispeech"])
def test_recipes_explain_themselves_and_refuse_unknown_options(recipe):
    shown = bash(f"recipes/{recipe}/run.sh", "--help")
    assert shown.returncode == 0 and "--attention" in shown.stdout and "Stages: 0 " in shown.stdout
    refused = bash(f"recipes/{recipe}/run.sh", "--attentoin", "mala")
    assert refused.returncode == 1 and refused.stderr == "error: unknown option --attentoin (see --help)\n"


@pytest.mark.parametrize("config", sorted(ROOT.glob("recipes/*/*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_recipes_configuration_is_valid(config, attention):
    parsed = parse_config(["--config", str(config), "--attention", attention, "--out", "x"])
    assert parsed.model.attention == attention


def transcribe(checkpoint, *arguments):
    return decode.main(["--checkpoint", str(checkpoint), *map(str, arguments)])


def test_single_recordings_are_transcribed(finished, data, capsys):
    files = [item.audio for item in read_manifest(data / "test.jsonl")][:2]
    assert transcribe(finished[0] / "checkpoints" / "best.ckpt", "--audio", *files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0].rstrip(":") for line in lines] == files


def test_one_bad_recording_does_not_stop_the_others(finished, data, tmp_path, capsys):
    good = read_manifest(data / "test.jsonl")[0].audio
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    assert transcribe(finished[0] / "checkpoints" / "best.ckpt", "--audio", bad, good) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith(good) and "bad.wav" in shown.err


def evaluate(finished, data, out, *arguments):
    return transcribe(
        finished[0] / "checkpoints" / "best.ckpt",
        "--data",
        data,
        "--splits",
        "test",
        "--out",
        out,
        *arguments,
    )


def test_hypotheses_do_not_depend_on_the_batch(finished, data, tmp_path):
    found = []
    for seconds in ("1", "60"):
        evaluate(finished, data, tmp_path / seconds, "--batch-seconds", seconds)
        found.append((tmp_path / seconds / "test.none.hyp.trn").read_text())
    assert found[0] == found[1]


def test_fixed_weights_are_not_tuned(finished, data, tmp_path):
    lm = data / "3gram.bin"
    evaluate(finished, data, tmp_path, "--lm", lm, "--lm-weight", "0.7", "--word-score", "1", "--jobs", "1")
    results = json.loads((tmp_path / "wer.json").read_text())
    assert (results["lm_weight"], results["word_score"], results["tuned_on"]) == (0.7, 1.0, [])


BAD_DECODING = {
    "tuning on test": (["--lm", "{data}/3gram.bin", "--tune-on", "test"], "never tuned on test"),
    "missing lm": (["--lm", "{data}/absent.bin"], "absent.bin: no such language model"),
    "no lm": (["--lm", "{data}/test.jsonl"], "test.jsonl: not a KenLM binary"),
    "missing split": (["--splits", "test-moon"], "test-moon.jsonl: no such manifest"),
    "other attention": (["--attention", "linear"], "was trained with mala"),
    "other tokeniser": (["--tokenizer", "{tmp}/other.model"], "trained with another tokeniser"),
    "half of the weights": (
        ["--lm", "{data}/3gram.bin", "--lm-weight", "1"],
        "--lm-weight and --word-score go together",
    ),
}


@pytest.mark.parametrize("case", BAD_DECODING)
def test_bad_input_to_decode_is_one_line_and_leaves_nothing(case, finished, data, tmp_path):
    from asr.tokenizer import train_tokenizer

    arguments, message = BAD_DECODING[case]
    (tmp_path / "other.model").write_bytes(train_tokenizer(["OTHER WORDS THAN THESE"] * 3, 20, "char"))
    arguments = [argument.format(data=data, tmp=tmp_path) for argument in arguments]
    with pytest.raises(UserError, match=message) as error:
        evaluate(finished, data, tmp_path / "out", *arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "truncated|cut short|shorter"),
        (lambda path: path.write_bytes(b""), "wav"),
        (Path.unlink, "no such|missing"),
    ],
    ids=["truncated", "empty", "gone"],
)
def test_audio_that_breaks_after_preparation_is_named(corpus, tmp_path, spoil, message, workers):
    shutil.copytree(corpus, tmp_path / "data")
    victim = Path(read_manifest(tmp_path / "data" / "train.jsonl")[5].audio)
    spoil(victim)
    command = [sys.executable, "train.py", "--out", tmp_path / "run", "--data.folder", tmp_path / "data"]
    command += ["--data.tokenizer", tmp_path / "data" / "tokenizer.model", "--data.workers", workers]
    done = subprocess.run(
        [*command, *TINY],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and victim.name in last
    assert not list((tmp_path / "run").rglob("*.ckpt"))


BAD_TRAINING = {
    "missing data": (["--data.folder", "{tmp}/absent"], "--data.folder .*absent: no such folder"),
    "not json": (["--data.train", "[broken]"], r"broken\.jsonl:2: not a line of JSON"),
    "missing manifest": (["--data.train", "[moon]"], r"moon\.jsonl: no such manifest"),
    "missing tokeniser": (["--data.tokenizer", "{tmp}/absent.model"], "no such tokeniser"),
    "missing checkpoint": (["--resume", "{tmp}/absent.ckpt"], "absent.ckpt: no such checkpoint"),
    "bad checkpoint": (["--resume", "{tmp}/broken.jsonl"], "broken.jsonl"),
    "heads": (["--encoder.heads", "5"], "--encoder.dim 96 is not a multiple of --encoder.heads 5"),
    "positions": (["--positions", "relative"], "--positions relative: this attention takes rotary"),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_input_to_training_is_one_line_and_leaves_nothing(case, corpus, tmp_path):
    arguments, message = BAD_TRAINING[case]
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev"):
        write_manifest(data / f"{split}.jsonl", read_manifest(corpus / f"{split}.jsonl"))
    lines = (data / "train.jsonl").read_text().splitlines()
    for folder in (tmp_path, data):
        (folder / "broken.jsonl").write_text(f"{lines[0]}\nnot json\n")
    base = ["--out", "{tmp}/run", "--data.folder", str(data), "--data.tokenizer", f"{corpus}/tokenizer.model"]
    arguments = [argument.format(tmp=tmp_path) for argument in [*base, "--encoder.size", "XS", *arguments]]
    with pytest.raises(UserError, match=message) as error:
        train(parse_config(arguments))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
