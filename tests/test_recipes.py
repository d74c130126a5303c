"""Recipes on real speech from beginning to end, in miniature."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from programs import ROOT, SURE, bash, librispeech_tree

from asr.training.config import parse_config

RECIPES = {
    "mini_librispeech": (
        {"train-clean-5": "train", "dev-clean-2": "test"},
        ["3gram", "4gram"],
        ["dev", "test"],
    ),
    "librispeech": (
        {"train-clean-100": "train", "train-clean-360": "dev", "train-other-500": "dev"}
        | {"dev-clean": "dev", "dev-other": "dev", "test-clean": "test", "test-other": "test"},
        ["4gram"],
        ["dev-clean", "dev-other", "test-clean", "test-other"],
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_librispeech_recipes_in_miniature(recipe, corpus, tmp_path):
    splits, models, decoded = RECIPES[recipe]
    librispeech_tree(corpus, tmp_path, splits)
    options = ["--data-root", tmp_path, "--data", tmp_path / "data", "--out", tmp_path / "exp"]
    options += ["--lm-text", corpus / "lm.txt", "--attention", "linear", "--", *SURE, "--data.workers", "0"]
    done = bash(f"recipes/{recipe}/run.sh", *options)
    assert done.returncode == 0, done.stderr
    # An own text's LM is as large as OpenSLR's would be.
    assert "--vocab-size 200000 --prune 0 0 1" in (tmp_path / "data" / ".lm.done").read_text()
    if recipe == "librispeech":
        assert "data/packed/test-other.jsonl: 10 utterances in 1 files" in done.stdout
    for model in models:
        folder = tmp_path / "exp" / "results"
        folder = folder if len(models) == 1 else folder / model
        results = json.loads((folder / "wer.json").read_text())
        assert results["attention"] == "linear"
        assert [(row["split"], row["lm"]) for row in results["rows"]] == [
            (split, lm) for split in decoded for lm in ("none", model)
        ]
        assert not any(split.startswith("test") for split in results["tuned_on"])


GRAMMAR = """
own_options=(--data-root --lm-text --synthetic --synthetic-steps)
source {root}/recipes/stages.sh
parse_options "$@"
inputs "$lm_text" -- synthetic_speech "$synthetic" > "$data/.synthetic.done"
"""


def test_mini_recipe_begins_with_synthetic_speech(corpus, tmp_path):
    """Sentences of the grammar, then they, the corpus and sentences of a text."""
    librispeech_tree(corpus, tmp_path, RECIPES["mini_librispeech"][0])
    data, out, text = tmp_path / "data", tmp_path / "exp", corpus / "lm.txt"
    options = ["--data-root", tmp_path, "--data", data, "--out", out, "--lm-text", text]
    options += ["--synthetic", "0.01", "--synthetic-steps", "2"]
    tiny = ["--", *SURE, "--training.seconds", "20", "--data.workers", "0"]

    def recipe(*more) -> subprocess.CompletedProcess:
        return bash("recipes/mini_librispeech/run.sh", *options, *more)

    # As if the first command of the stage had been done: the demo's corpus takes a minute.
    shutil.copytree(corpus, data / "grammar")
    command = [sys.executable, "-m", "data_prep.synthetic", "--out", data / "read", "--text", text]
    command += ["--hours", "0.01", "--dev", "1", "--test", "1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert recipe("--stop-stage", "0").returncode == 0
    (tmp_path / "marker.sh").write_text(GRAMMAR.format(root=ROOT))
    assert bash(tmp_path / "marker.sh", *options).returncode == 0

    done = recipe(*tiny)
    assert done.returncode == 0, done.stderr
    assert "stage 1: synthetic speech: done before" in done.stdout
    first, then = (
        parse_config(["--config", str(folder / "config.yaml")]) for folder in (out / "synthetic", out)
    )
    assert first.data.train == ["grammar/train"] and first.data.dev == "grammar/dev"
    assert then.data.train == ["train-clean-5", "grammar/train", "read/train"] and then.data.dev == "dev"
    assert then.init == str(out / "synthetic" / "checkpoints" / "last.ckpt")
    # The user's steps and batches are the second training's; their model is of both.
    assert (first.training.steps, first.training.seconds) == (2, 30)
    assert (then.training.steps, then.training.seconds) == (4, 20)
    assert first.model == then.model and first.model.encoder.dim == 16
    assert sorted(path.name for path in (out / "results").iterdir()) == ["3gram", "4gram"]

    (data / "4gram.bin").unlink()  # as a run with OpenSLR's LM leaves it
    again = recipe(*tiny)
    assert again.stdout.count("done before") == 7 and again.stderr == ""
    assert "3gram" in again.stdout and "4gram" not in again.stdout.split("stage 6")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--synthetic", "much"], "--synthetic much: neither hours nor 'no'"),
        (["--synthetic", "2"], "--synthetic 2: sentences to read come from --lm-text"),
        (["--size", "xs", "--synthetic-steps", "500"], "--training.steps 500: must be a multiple of "),
    ],
)
def test_mini_recipe_checks_what_it_is_to_begin_with(options, message, tmp_path):
    done = bash("recipes/mini_librispeech/run.sh", "--data", tmp_path / "x", *options)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "x").exists()


def test_paths_of_the_caller_keep_the_names_of_links(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "blob").write_text("A")
    (tmp_path / "linked").symlink_to("texts")
    (tmp_path / "novels.txt.xz").symlink_to("texts/blob")
    script = f'source {ROOT}/recipes/stages.sh\nfor path in "$@"; do from_caller "$path"; done\n'
    (tmp_path / "recipe.sh").write_text(script)
    paths = [
        "novels.txt.xz",
        "linked/blob",
        "linked/..",
        "linked/../novels.txt.xz",
        "/a/b",
        "texts/",
    ]
    done = subprocess.run(
        ["bash", "recipe.sh", *paths], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = [os.path.normpath(ROOT / line) for line in done.stdout.splitlines()]
    expected = ["novels.txt.xz", "texts/blob", "", "novels.txt.xz", "/a/b", "texts"]
    assert found == [os.path.normpath(tmp_path.resolve() / name) for name in expected]
