"""The whole path as a user runs it, in miniature, and what it says to bad input."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import ROOT, TINY, bash

import decode
from asr.attention import ATTENTIONS
from asr.attention.fused import set_mode
from asr.checkpoints.checkpoint import load_model
from asr.data.manifest import read_manifest, write_manifest
from asr.errors import UserError
from asr.training.config import parse_config
from asr.training.run import train

MARKERS = """
source {root}/recipes/stages.sh
parse_options "$@"
inputs -- python -m data_prep.synthetic --out "$data" > "$data/.corpus.done"
inputs "$data/train.jsonl" -- python -m asr.data.tokenizer --manifest "$data/train.jsonl" --pieces 128 \\
  --out "$data/tokenizer.model" > "$data/.tokenizer.done"
"""


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """A copy of the miniature corpus that stages may write to."""
    folder = tmp_path_factory.mktemp("data") / "demo"
    shutil.copytree(corpus, folder)
    dev, test = (read_manifest(folder / f"{split}.jsonl") for split in ("dev", "test"))
    write_manifest(folder / "dev.jsonl", dev[:3])  # on which weights are tuned: at some fifty points
    write_manifest(folder / "all.jsonl", [*dev, *test])
    write_manifest(
        folder / "reworded.jsonl", [dataclasses.replace(item, text=f"{item.text} A") for item in test]
    )
    write_manifest(folder / "silent.jsonl", [dataclasses.replace(item, text="") for item in test])
    # As if the recipe had made them: its own corpus is larger, and its tokenizer has more pieces.
    (folder / "markers.sh").write_text(MARKERS.format(root=ROOT))
    assert bash(folder / "markers.sh", "--data", folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of the demo's recipe on the miniature corpus."""
    out = tmp_path_factory.mktemp("exp") / "mala"
    done = bash("recipes/demo/run.sh", "--data", data, "--out", out, "--", *TINY)
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


def test_decoding_ends_with_an_error_report(finished):
    results = finished[0] / "results"
    assert f"error report in {results}/report.html" in finished[1].stdout
    report = json.loads((results / "report.json").read_text())
    rows = json.loads((results / "wer.json").read_text())["rows"]
    for table, row in zip(report["systems"][0]["tables"], rows, strict=True):
        assert table["words"]["rate"] == pytest.approx(row["wer"])
        assert table["by_length"] and table["by_speaker"]
        assert (results / f"errs-test-{row['lm']}.txt").read_text().startswith(f"%WER = {row['wer']:.2f}\n")
    assert (results / "report.txt").is_file() and "<svg" in (results / "report.html").read_text()


def test_recipe_run_again_does_nothing_twice(finished, data):
    out, _ = finished
    again = bash("recipes/demo/run.sh", "--data", data, "--out", out, "--", *TINY)
    assert again.returncode == 0
    assert again.stdout.count("done before") == 5
    only = bash("recipes/demo/run.sh", "--data", data, "--out", out, "--stage", "1", "--stop-stage", "0")
    assert only.returncode == 0 and only.stdout == ""


def test_a_dry_run_ends_at_training_and_leaves_nothing_of_it(finished, data, tmp_path):
    dry = bash("recipes/demo/run.sh", "--data", data, "--out", tmp_path / "dry", "--dry-run", "--", *TINY)
    assert dry.returncode == 0, dry.stderr
    assert "projected: " in dry.stdout and "decoding" not in dry.stdout
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("options", [["--attention", "nope"], ["--", "--training.stesp", "4"]])
def test_recipe_checks_its_options_before_its_first_stage(tmp_path, options):
    done = bash("recipes/demo/run.sh", "--data", tmp_path / "x", "--out", tmp_path / "x", *options)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


STAGES = """
own_options=(--data-root --lm-text)
own_switches=(--skip-bad)
source {root}/recipes/stages.sh
parse_options "$@"
two_commands() {{ test -e {folder}/fuel; echo "second command"; }}
stage 0 "first" {folder}/first.done "$data_root" -- echo "first command" "${{skip_bad[@]}}"
stage 1 "second" {folder}/second.done {folder}/config.yaml {folder}/train.jsonl \
  "${{train_options[@]}}" -- two_commands "${{train_options[@]}}"
stage 2 "third" {folder}/third.done "$lm_text" -- echo "third command $lm_text"
"""


def test_stages_run_once_in_order_and_stop_at_a_failure(tmp_path):
    script = tmp_path / "a folder" / "run.sh"
    script.parent.mkdir()
    script.write_text(STAGES.format(root=ROOT, folder=tmp_path))
    failed = bash(script)
    assert failed.returncode == 1 and "second command" not in failed.stdout
    assert failed.stderr == "error: stage 1 (second) failed; run the recipe again to go on from here\n"
    (tmp_path / "fuel").touch()
    after = bash(script).stdout
    assert "first: done before" in after and "second command" in after and "third command" in after
    assert bash(script).stdout.count("done before") == 3
    # A stage done again makes those behind it old.
    bash(script, "--stage", "0", "--stop-stage", "0")
    again = bash(script).stdout
    assert again.count("done before") == 1
    assert "stage 1: second: again, as an earlier stage was done again\n" in again


def test_a_stage_runs_again_where_what_it_reads_changed_and_says_why(tmp_path):
    script = tmp_path / "run.sh"
    script.write_text(STAGES.format(root=ROOT, folder=tmp_path))
    (tmp_path / "fuel").touch()
    config, manifest, words = (tmp_path / name for name in ("config.yaml", "train.jsonl", "a text.txt"))
    for path in (config, words):
        path.write_text("old\n")
    transcripts = tmp_path / "corpus" / "split" / "1" / "2" / "1-2.trans.txt"
    transcripts.parent.mkdir(parents=True)
    transcripts.write_text("1-2-0000 OLD\n")
    options = ["--data-root", tmp_path / "corpus", "--lm-text", words]

    def again(*more) -> list[str]:
        done = bash(script, *options, *more)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if ": again" in line or "done before" in line]

    stages = [(f"stage {number}: {name}", name) for number, name in enumerate(["first", "second", "third"])]
    done = [f"{stage}: done before ({tmp_path}/{name}.done)" for stage, name in stages]
    behind = [f"{stage}: again, as an earlier stage was done again" for stage, _ in stages]
    assert again() == [] and again() == done
    config.write_text("new\n")
    assert again() == [done[0], f"stage 1: second: again, as {config} changed", behind[2]]
    manifest.write_text("now there\n")
    assert again() == [done[0], f"stage 1: second: again, as {manifest} changed", behind[2]]
    manifest.unlink()
    assert again() == [done[0], f"stage 1: second: again, as {manifest} changed", behind[2]]
    config.touch()  # as it was
    assert again() == done
    words.write_text("new\n")
    assert again() == [*done[:2], f"stage 2: third: again, as {words} changed"]
    transcripts.write_text("1-2-0000 NEW\n")
    assert again() == [f"stage 0: first: again, as {tmp_path}/corpus changed", *behind[1:]]
    assert again("--skip-bad") == ["stage 0: first: again, as its options changed", *behind[1:]]
    assert again("--skip-bad") == done
    mine = tmp_path / "mine.yaml"  # a file among the options of train.py
    mine.write_text("old\n")
    again("--skip-bad", "--", "--config", mine)
    mine.write_text("new\n")
    assert again("--skip-bad", "--", "--config", mine)[1] == f"stage 1: second: again, as {mine} changed"
    assert again("--skip-bad", "--", "--config", mine) == done
    options[3] = tmp_path / "other.txt"
    assert again("--skip-bad", "--", "--config", mine)[2] == "stage 2: third: again, as its options changed"


def test_a_stage_that_failed_is_not_done_though_the_change_is_taken_back(tmp_path):
    script, config = tmp_path / "run.sh", tmp_path / "config.yaml"
    script.write_text(STAGES.format(root=ROOT, folder=tmp_path))
    (tmp_path / "fuel").touch()
    config.write_text("good\n")
    bash(script)
    (tmp_path / "fuel").unlink()
    config.write_text("bad\n")
    assert bash(script).returncode == 1
    config.write_text("good\n")
    assert bash(script).returncode == 1


def test_recipes_run_from_any_folder(tmp_path):
    script = ROOT / "recipes" / "demo" / "run.sh"
    done = subprocess.run(["bash", script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Stages: 0 corpus" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("recipe", "lacking"),
    [
        ("demo", "--size"),
        ("mini_librispeech", "--blocks"),
        ("librispeech", "--synthetic"),
        ("linearise", "--head"),
    ],
)
def test_recipes_explain_themselves_and_refuse_options_that_they_lack(recipe, lacking):
    shown = bash(f"recipes/{recipe}/run.sh", "--help")
    assert shown.returncode == 0 and "--attention" in shown.stdout and "Stages: 0 " in shown.stdout
    for option in ("--attentoin", lacking):
        refused = bash(f"recipes/{recipe}/run.sh", option, "mala")
        assert refused.returncode == 1
        assert refused.stderr == f"error: {option}: no option of this recipe (see --help)\n"


@pytest.mark.parametrize("config", sorted(ROOT.glob("recipes/*/*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_recipes_configuration_is_valid(config, attention):
    teacher = ["--training.teacher", "x"] if "distil_" in config.read_text() else []
    parsed = parse_config(["--config", str(config), "--attention", attention, "--out", "x", *teacher])
    assert parsed.model.attention == attention


# What greedy decoding of recordings on a CPU does without. (PyTorch's import is most of its start.)
NEEDLESS = "numba kenlm triton jiwer matplotlib lightning jsonargparse torch.utils.tensorboard".split()


def test_nothing_is_loaded_that_transcribing_does_not_need(finished, data):
    program = f"""
import sys, decode
status = decode.main(sys.argv[1:])
sys.exit(status or [name for name in {NEEDLESS} if name in sys.modules] or 0)
"""
    checkpoint, audio = finished[0] / "checkpoints" / "best.ckpt", read_manifest(data / "test.jsonl")[0].audio
    command = [sys.executable, "-c", program, "--checkpoint", str(checkpoint), "--audio", audio]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_does_not_wait_for_pytorch():
    program = "import sys, decode; sys.modules['torch'] = None; decode.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "--checkpoint" in done.stdout


def transcribe(checkpoint, *arguments):
    return decode.main(["--checkpoint", str(checkpoint), *map(str, arguments)])


def test_single_recordings_are_transcribed(finished, data, capsys):
    files = [item.audio for item in read_manifest(data / "test.jsonl")][:2]
    checkpoint = finished[0] / "checkpoints" / "best.ckpt"
    assert transcribe(checkpoint, "--audio", *files) == 0
    assert transcribe(checkpoint, "--audio", *files, "--lm", data / "3gram.bin", "--jobs", "1") == 0
    shown = capsys.readouterr()
    assert [line.partition(":")[0] for line in shown.out.splitlines()] == files * 2
    assert shown.err == "LM weight 0.3, word score 1.5, unknown penalty 2, not tuned\n"


def test_one_bad_recording_does_not_stop_the_others(finished, data, tmp_path, capsys):
    good = read_manifest(data / "test.jsonl")[0].audio
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    assert transcribe(finished[0] / "checkpoints" / "best.ckpt", "--audio", bad, good) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith(good) and "bad.wav" in shown.err and shown.err.count("\n") == 1


@pytest.mark.parametrize("form", ["txt", "json", "srt", "vtt"])
def test_transcripts_are_written_to_a_folder(form, finished, data, tmp_path, capsys):
    checkpoint = finished[0] / "checkpoints" / "best.ckpt"
    files = [Path(item.audio) for item in read_manifest(data / "test.jsonl")][:3]
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    options = ["--audio", tmp_path / "list.txt", "--format", form, "--out", tmp_path / "out", "--timestamps"]
    assert transcribe(checkpoint, *options) == 0
    assert capsys.readouterr().out.startswith("3 of 3 recordings")
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == sorted(f"{file.stem}.{form}" for file in files)
    if form == "json":
        for path, file in zip(written, sorted(files), strict=True):
            content = json.loads(path.read_text())
            assert content["path"] == str(file) and content["duration"] > 0
            assert " ".join(word["text"] for word in content["words"]) == content["text"]


def test_two_transcripts_never_share_a_file(finished, data, tmp_path):
    good = Path(read_manifest(data / "test.jsonl")[0].audio)
    shutil.copy(good, tmp_path / good.name)
    options = ["--audio", good, tmp_path / good.name, "--out", tmp_path / "out"]
    with pytest.raises(UserError, match="would both be written to") as error:
        transcribe(finished[0] / "checkpoints" / "best.ckpt", *options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


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


WEIGHTS = ["--lm-weight", "0.7", "--word-score", "1", "--unknown-penalty", "3"]


def test_hypotheses_do_not_depend_on_the_batch_or_the_order(finished, data, tmp_path):
    write_manifest(data / "backwards.jsonl", read_manifest(data / "test.jsonl")[::-1])
    lm = ["--lm", data / "3gram.bin", *WEIGHTS, "--jobs", "1"]
    found = []
    for split, seconds in (("test", "1"), ("test", "60"), ("backwards", "8")):
        out = tmp_path / f"{split}-{seconds}"
        evaluate(finished, data, out, "--splits", split, "--batch-seconds", seconds, *lm)
        hypotheses = [(out / f"{split}.{name}.hyp.trn").read_text() for name in ("none", "3gram")]
        found.append([sorted(lines.splitlines()) for lines in hypotheses])
    assert found[0] == found[1] == found[2]


def test_fixed_weights_are_not_tuned(finished, data, tmp_path):
    lm = data / "3gram.bin"
    evaluate(finished, data, tmp_path, "--lm", lm, *WEIGHTS, "--jobs", "1")
    results = json.loads((tmp_path / "wer.json").read_text())
    fields = ("lm_weight", "word_score", "unknown_penalty", "tuned_on")
    assert [results[field] for field in fields] == [0.7, 1.0, 3.0, []]
    words = sum(len(item.text.split()) for item in read_manifest(data / "test.jsonl"))
    assert results["unknown"] == {"test": {"oov": 0, "words": words}}


def test_device_precision_and_kernels_are_taken_and_noted(finished, data, tmp_path):
    evaluate(finished, data, tmp_path / "bf16", "--device", "cpu", "--precision", "bf16")
    computed = json.loads((tmp_path / "bf16" / "wer.json").read_text())["computed"]
    assert computed.startswith("CPU, bfloat16, attention core: eager PyTorch (no CUDA device")
    try:
        with pytest.raises(UserError, match="fused attention kernels: no CUDA device"):
            evaluate(finished, data, tmp_path / "fused", "--device", "cpu", "--kernels", "fused")
    finally:
        set_mode("auto")
    assert not (tmp_path / "fused").exists()


BAD_DECODING = {
    "tuning on test": (["--lm", "{data}/3gram.bin", "--tune-on", "test"], "never tuned on test"),
    "word score beyond reason": (
        ["--lm", "{data}/3gram.bin", "--lm-weight", "0.5", "--word-score", "1000", "--unknown-penalty", "1"],
        "--word-score 1000: must lie between -50 and 50",
    ),
    "tuning on test by a path": (
        ["--lm", "{data}/3gram.bin", "--tune-on", "./test"],
        r"--tune-on \./test: wants names",
    ),
    "tuning on test beside dev by a path": (
        ["--lm", "{data}/3gram.bin", "--tune-on", "dev", "{data}/test"],
        r"--tune-on .*/test: wants names",
    ),
    "tuning what is given": (["--lm", "{data}/3gram.bin", "--tune-on", "dev", *WEIGHTS], "nothing is tuned"),
    "tuning without an lm": (["--tune-on", "dev"], "--tune-on wants --lm"),
    "missing lm": (["--lm", "{data}/absent.bin"], "absent.bin: no such language model"),
    "no lm": (["--lm", "{data}/test.jsonl"], "test.jsonl: not a KenLM binary"),
    "a path for a split": (["--splits", "../test"], r"--splits \.\./test: wants names"),
    "missing split": (["--splits", "test-moon"], "test-moon.jsonl: no such manifest"),
    "other attention": (["--attention", "linear"], "was trained with mala"),
    "other tokenizer": (["--tokenizer", "{tmp}/other.model"], "trained with another tokenizer"),
    "half of the weights": (["--lm", "{data}/3gram.bin", "--lm-weight", "1"], "go together"),
    "two of three weights": (
        ["--lm", "{data}/3gram.bin", "--lm-weight", "1", "--word-score", "1"],
        "--word-score and --unknown-penalty go together",
    ),
    "weights without lm": (["--lm-weight", "1", "--word-score", "1"], "--lm-weight wants --lm"),
    "captions of splits": (["--format", "srt"], "--timestamps and --format want --audio"),
    "dev that holds test": (
        ["--lm", "{data}/3gram.bin", "--tune-on", "all"],
        "test shares utterances with all",
    ),
    "a beam without a search": (["--beam", "8"], "--beam and --expansions want --lm"),
    "a split twice": (["--splits", "test", "test"], "--splits test: named twice"),
    "dev that holds test with other words": (
        ["--lm", "{data}/3gram.bin", "--tune-on", "reworded"],
        "test shares utterances with reworded",
    ),
    "nothing to score": (["--splits", "silent"], r"silent\.jsonl: no utterance has a word"),
}


@pytest.mark.parametrize("case", BAD_DECODING)
def test_bad_input_to_decode_is_one_line_and_leaves_nothing(case, finished, data, tmp_path):
    from asr.data.tokenizer import train_tokenizer

    arguments, message = BAD_DECODING[case]
    (tmp_path / "other.model").write_bytes(train_tokenizer(["OTHER WORDS THAN THESE"] * 3, 20, "char"))
    arguments = [argument.format(data=data, tmp=tmp_path) for argument in arguments]
    with pytest.raises(UserError, match=message) as error:
        evaluate(finished, data, tmp_path / "out", *arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoiled(corpus, tmp_path, spoil) -> tuple[list[str], str]:
    """A copy of the corpus with one recording spoiled: the options to train on it, and the file's name."""
    shutil.copytree(corpus, tmp_path / "data")
    victim = Path(read_manifest(tmp_path / "data" / "train.jsonl")[5].audio)
    spoil(victim)
    options = ["--out", str(tmp_path / "run"), "--data.folder", str(tmp_path / "data")]
    return [*options, "--data.tokenizer", str(tmp_path / "data" / "tokenizer.model"), *TINY], victim.name


@pytest.mark.parametrize(
    "spoil", [cut, lambda path: path.write_bytes(b""), Path.unlink], ids=["cut", "empty", "gone"]
)
def test_audio_that_breaks_after_preparation_is_named(corpus, tmp_path, spoil):
    options, name = spoiled(corpus, tmp_path, spoil)
    with pytest.raises(UserError, match=name) as error:
        train(parse_config(options))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_audio_that_breaks_in_a_worker_process_is_one_line_too(corpus, tmp_path):
    options, name = spoiled(corpus, tmp_path, cut)
    command = [sys.executable, "train.py", *options, "--data.workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


BAD_TRAINING = {
    "missing data": (["--data.folder", "{tmp}/absent"], "--data.folder .*absent: no such folder"),
    "not json": (["--data.train", "[broken]"], r"broken\.jsonl:2: not a line of JSON"),
    "missing manifest": (["--data.train", "[moon]"], r"moon\.jsonl: no such manifest"),
    "missing tokenizer": (["--data.tokenizer", "{tmp}/absent.model"], "no such tokenizer"),
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


def test_an_exported_folder_stands_for_its_checkpoint(finished, data, tmp_path, capsys):
    last, results = finished[0] / "checkpoints" / "last.ckpt", finished[0] / "results"
    shared = tmp_path / "mine"
    command = [sys.executable, "-m", "asr.checkpoints", "export", last, "--out", shared, "--results", results]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"{shared}: mala") and done.stderr == ""
    card = (shared / "README.md").read_text()
    assert json.loads((results / "wer.json").read_text())["command"] in card and "| test | 3gram |" in card

    files = [item.audio for item in read_manifest(data / "test.jsonl")][:3]
    outputs = []
    for checkpoint in (last, shared):
        assert transcribe(checkpoint, "--audio", *files) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]

    options = ["--config", str(ROOT / "recipes" / "demo" / "conformer_xs.yaml"), *TINY]
    options += ["--data.folder", str(data), "--data.tokenizer", str(data / "tokenizer.model")]
    options += ["--training.accelerator", "cpu", "--training.average", "0", "--training.peak_lr", "1e-12"]
    train(parse_config(["--out", str(tmp_path / "run"), "--init", str(shared), *options]))
    begun = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")[0].state_dict()
    for name, value in load_model(shared)[0].named_parameters():
        assert torch.allclose(begun[name], value, atol=1e-6)
    with pytest.raises(UserError, match=r"mine: a folder; a checkpoint of train\.py is needed"):
        train(parse_config(["--out", str(tmp_path / "other"), "--resume", str(shared), *options]))
