"""Where a model made from others' comes from, through training and into the card of what is shared."""

import json

import pytest
import torch

from asr.checkpoints.checkpoint import read_checkpoint, read_origin, read_trained
from asr.checkpoints.export import export
from asr.checkpoints.origin import begun_from, checked, joined, taught_by
from asr.errors import UserError
from asr.training.config import parse_config
from asr.training.run import train

NVIDIA = {"imported from": "conformer.nemo", "licence": "CC BY 4.0, NVIDIA"}
OTHER = {"imported from": "parakeet", "licence": "CC BY 4.0, NVIDIA"}


def test_what_was_changed_is_added_up():
    [first] = begun_from([NVIDIA], "mala", "softmax")
    assert first == NVIDIA | {
        "used": "its weights were begun from",
        "changed": "attention softmax exchanged for mala, trained on by this recipe",
    }
    assert begun_from([first], "mala", "mala") == [first]
    [second] = begun_from([first], "linear", "mala")
    assert second["changed"].endswith("; then attention mala exchanged for linear, trained on")
    [taught] = taught_by([NVIDIA])
    assert taught["used"] == "as a teacher" and "none of its weights was taken over" in taught["changed"]
    [copied] = taught_by([NVIDIA], modules=True)
    assert copied["used"] == "as a teacher of every module" and "finds its weights again" in copied["changed"]
    assert joined([first], [taught], [first]) == [first, taught]
    assert taught_by([first])[0]["changed"] == first["changed"]


@pytest.mark.parametrize("modules", [False, True])
def test_of_a_teacher_nothing_changes_with_the_student(modules):
    taught = taught_by([NVIDIA], modules)
    assert begun_from(taught, "linear", "mala") == taught
    assert joined(begun_from(taught, "linear", "mala"), taught) == taught


@pytest.mark.parametrize("value", ["NVIDIA", [["a", "b"]], [{"licence": 4}], [{4: "licence"}], 7])
def test_what_is_no_origin_is_named(value):
    with pytest.raises(UserError, match=r"^config\.json: origin is not"):
        checked(value, "config.json")


def test_a_checkpoint_of_before_has_none_and_a_crafted_one_is_an_error(tmp_path):
    content = {"recipe": {"format": 1}, "state_dict": {}, "global_step": 1, "training": {}}
    torch.save(content, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt")["origin"] == []
    for crafted in (torch.zeros(3), [torch.zeros(3)]):
        torch.save(content | {"origin": crafted}, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match=r"last\.ckpt: origin is not"):
            read_checkpoint(tmp_path / "last.ckpt")


SIZE = ["--encoder.dim", "16", "--encoder.layers", "1", "--encoder.heads", "2", "--encoder.kernel", "3"]
SHORT = ["--training.steps", "1", "--training.seconds", "20", "--training.accelerator", "cpu"]


def run(corpus, out, *options):
    data = ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]
    train(parse_config([*SHORT, *data, *options, "--out", str(out)]))
    return out / "checkpoints" / "last.ckpt"


def as_imported(folder, source):
    """The folder as if an import had made it, of which an early one had its source in no list."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"origin": source, "steps": 0}))


def test_what_is_trained_on_names_whose_weights_and_whose_teaching_it_has(corpus, tmp_path):
    export(
        run(corpus, tmp_path / "other", "--attention", "softmax", *SIZE),
        tmp_path / "imported",
    )
    export(tmp_path / "imported", tmp_path / "teacher")
    as_imported(tmp_path / "imported", NVIDIA)
    as_imported(tmp_path / "teacher", [OTHER])
    teaching = ["--training.teacher", str(tmp_path / "teacher"), "--training.distil_posteriors", "1"]
    init = ["--init", str(tmp_path / "imported"), "--attention", "mala"]
    trained = run(corpus, tmp_path / "trained", *init, *teaching)
    longer = ["--resume", "auto", "--training.steps", "2"]
    run(corpus, tmp_path / "trained", *init, *teaching, *longer)
    export(trained, tmp_path / "shared")
    again = run(corpus, tmp_path / "again", "--init", str(tmp_path / "shared"))
    for path in (trained, tmp_path / "shared", again):
        begun, taught = read_origin(path)
        assert begun | NVIDIA == begun and taught | OTHER == taught
        assert begun["changed"] == "attention softmax exchanged for mala, trained on by this recipe"
        assert taught["used"] == "as a teacher"
        assert read_trained(path)["origin"] == [begun, taught]
    card = (tmp_path / "shared" / "README.md").read_text()
    for text in ("conformer.nemo", "parakeet", "CC BY 4.0, NVIDIA", "attention softmax exchanged for mala"):
        assert text in card
    assert "says that they were changed" in card and "what they compute was not changed" not in card
    assert "| training | 2 steps" in card and "trained on by this recipe is to be stated" in " ".join(
        card.split()
    )
