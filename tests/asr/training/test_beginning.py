import re

import pytest
import torch

from asr.checkpoints.checkpoint import load_model, read_checkpoint, weights_of, write_checkpoint
from asr.checkpoints.export import export
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.model.recogniser import Model
from asr.training.beginning import BY_CLASS, start_from
from asr.training.config import parse_config
from asr.training.run import train

SIZE = ["--encoder.dim", "16", "--encoder.layers", "2", "--encoder.heads", "2", "--encoder.kernel", "3"]
SIZE += ["--encoder.subsampling.kind", "depthwise", "--encoder.subsampling.channels", "6"]
FEATURES = ["--frontend.kind", "nemo", "--frontend.mels", "20"]
SHORT = ["--training.steps", "1", "--training.seconds", "20", "--training.accelerator", "cpu"]


@pytest.fixture(scope="module")
def other(corpus, tmp_path_factory):
    """A softmax model of its own size, subsampling and features."""
    out = tmp_path_factory.mktemp("other")
    options = ["--attention", "softmax", "--softmax.lepe", "3", *SIZE, *FEATURES, *SHORT]
    train(parse_config([*options, *data(corpus), "--out", str(out)]))
    return out / "checkpoints" / "last.ckpt"


def data(corpus) -> list[str]:
    return ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]


def unlike(path) -> None:
    """As if a checkpoint's run had been trained anew."""
    content = read_checkpoint(path)
    weights_of(content)["encoder.blocks.0.norm.bias"].add_(1)
    write_checkpoint(content, path)


def begin(other, *options: str):
    """What start_from says, the new model and the other."""
    config = parse_config(["--out", "x", "--init", str(other), *options])
    there, recipe = load_model(other)
    model = Model(config.model, recipe.tokenizer.pieces)
    return start_from(model, config.model, str(other), recipe.tokenizer), model, there


def test_what_is_not_given_is_the_others(other):
    model = load_model(other)[1].model
    assert parse_config(["--out", "x", "--init", str(other)]).model == model
    config = parse_config(
        ["--out", "x", "--init", str(other), "--attention", "mala", "--encoder.dropout", "0"]
    )
    assert (config.model.attention, config.model.positions) == ("mala", "auto")
    assert config.model.frontend == model.frontend and config.model.encoder.dropout == 0
    assert config.model.encoder.subsampling == model.encoder.subsampling
    lists = parse_config(["--out", "x", "--init", str(other), "--attention", "mala,softmax"]).model
    assert lists.options["softmax"].lepe == 3 and lists.options["mala"].lepe == 0


def test_the_exported_folder_gives_the_same(other, tmp_path):
    export(other, tmp_path / "folder")
    options = ["--out", "x", "--attention", "mala"]
    configs = [parse_config([*options, "--init", str(path)]).model for path in (other, tmp_path / "folder")]
    assert configs[0] == configs[1]


def test_another_attention_keeps_what_both_have(other):
    lines, model, there = begin(other, "--attention", "mala", "--mala.terms", "learnable")
    assert len(lines) == 1 and re.fullmatch(
        rf"\d+\.\d% of the model taken from {re.escape(str(other))}; "
        r"new: encoder\.blocks\.\*\.attention\.beta \(2\), encoder\.blocks\.\*\.attention\.gamma \(2\); "
        r"dropped: .*attention\.content_bias \(2\), .*lepe.weight \(2\), .*offset\.weight \(2\), .*",
        lines[0],
    )
    ours, theirs = model.state_dict(), there.state_dict()
    shared = ours.keys() & theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert {name for name in ours if ".attention." in name and "query" in name} <= shared


def test_the_same_model_is_taken_without_a_word(other):
    lines, model, there = begin(other)
    assert not lines
    waveforms = torch.randn(1, 9000), torch.tensor([9000])
    assert torch.equal(model.eval()(*waveforms)[0], there(*waveforms)[0])


def test_rows_of_pieces_that_another_tokenizer_has_too_are_taken(other, corpus, tmp_path):
    there, recipe = load_model(other)
    texts = [item.text for item in read_manifest(corpus / "train.jsonl")]
    here = Tokenizer(train_tokenizer(texts[: len(texts) // 2] + ["QUIXOTIC"] * 9, 60))
    config = parse_config(["--out", "x", "--init", str(other)]).model
    model = Model(config, here.pieces)
    classes = {recipe.tokenizer.piece(number): number for number in range(1, recipe.tokenizer.pieces + 1)}
    shared = {
        number: classes[here.piece(number)]
        for number in range(1, here.pieces + 1)
        if here.piece(number) in classes
    }
    assert 20 < len(shared) < here.pieces
    said = start_from(model, config, str(other), here)
    known = f"{len(shared)} of {here.pieces} pieces"
    assert said == [f"{other} has another tokenizer: it knows {known}; the others begin as their mean"]
    theirs, ours = there.state_dict(), model.state_dict()
    for name, value in ours.items():
        if not name.startswith("head."):
            assert torch.equal(value, theirs[name]), name
            continue
        for number in range(here.pieces + 1):
            row = theirs[name][shared.get(number, 0)]  # the blank is 0 in both
            if number and number not in shared:
                row = theirs[name][[0, *shared.values()]].mean(0)
            assert torch.allclose(value[number], row, atol=1e-6), (name, number)


def test_what_has_a_row_a_class_is_found_in_every_head():
    config = parse_config(["--out", "x", "--head", "hybrid"]).model
    sizes = [Model(config, pieces).state_dict() for pieces in (5, 6)]
    assert {name for name in sizes[0] if sizes[0][name].shape != sizes[1][name].shape} == {
        name for name in sizes[0] if name.startswith(BY_CLASS)
    }


def test_a_local_term_starts_at_nothing(other):
    """So that it adds no noise to what was learnt without it."""
    torch.manual_seed(0)
    plain, local = (begin(other, "--attention", "linear", *option) for option in ([], ["--linear.lepe", "5"]))
    assert "new: encoder.blocks.*.attention.lepe.weight (2)" in local[0][-1]
    x = torch.randn(2, 16000), torch.tensor([16000, 9000])
    assert torch.equal(plain[1].eval()(*x)[0], local[1].eval()(*x)[0])


def test_what_means_something_else_is_told(other):
    lines, model, _ = begin(other, "--frontend.kind", "htk", "--encoder.heads", "4", "--encoder.kernel", "5")
    assert lines[0].endswith(
        ": --encoder.heads 4 (there 2), --encoder.kernel 5 (there 3), --frontend.kind htk (there nemo)"
    )
    assert "depthwise.weight (2); dropped: " in lines[1]
    fresh = Model(parse_config(["--out", "x", "--frontend.mels", "20"]).model, 5)
    filters = [item.frontend.mel.mel_scale.fb for item in (model, fresh)]
    assert torch.equal(*filters)


@pytest.mark.parametrize("options", [["--encoder.size", "M"], ["--encoder.dim", "8"]])
def test_next_to_nothing_is_refused(other, options):
    with pytest.raises(UserError, match=r"weights do not fit the configuration: only \d+% .*--encoder.dim"):
        begin(other, *options)


def test_a_run_goes_on_without_what_it_began_from(other, corpus, tmp_path):
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(other.read_bytes())
    options = ["--init", str(copy), "--attention", "mala", *data(corpus), "--out", str(tmp_path / "run")]
    options += ["--resume", "auto", *SHORT, "--training.schedule", "noam"]
    train(parse_config(options))
    unlike(copy)
    with pytest.raises(
        UserError, match=r"^--init .*copy.ckpt: .*began from other weights than lie there now"
    ):
        train(parse_config([*options, "--training.steps", "2"]))
    copy.unlink()
    train(parse_config([*options, "--training.steps", "2"]))
    recipe = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")[1]
    assert recipe.model.attention == "mala" and recipe.model.frontend.kind == "nemo"
