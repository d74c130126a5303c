"""An exported model: the same numbers as its checkpoint, and nothing in it can run code."""

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.checkpoints.__main__ import main
from asr.checkpoints.checkpoint import (
    digest_of_weights,
    load_model,
    pack_recipe,
    read_checkpoint,
    read_trained,
    write_checkpoint,
)
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig

CONFIG = ModelConfig("mala", encoder=EncoderConfig(dim=8, layers=2, heads=2, kernel=3))
PARTS = ["README.md", "config.json", "model.safetensors", "tokenizer.model"]
ROW = {"split": "test", "lm": "none", "wer": 12.345, "cer": 4.5, "words": 100, "sub": 10, "ins": 1, "del": 1}
ROW |= {"ci95": [10.0, 15.0], "utterances": 10, "rtf": 0.01}


def save(path, config=CONFIG, text="AB BA", average=True):
    tokenizer = Tokenizer(train_tokenizer([text], 6, "char"))
    torch.manual_seed(0)
    last, averaged = (Model(config, tokenizer.pieces).state_dict() for _ in range(2))
    content = {
        "state_dict": {f"model.{name}": value for name, value in last.items()},
        "recipe": pack_recipe(config, tokenizer),
        "global_step": 1234,
        "audio_seconds": 7200.0,
        "training": {},
    }
    write_checkpoint(content | ({"average": averaged} if average else {}), path)
    return path


def run(*arguments):
    main(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture
def folder(checkpoint, tmp_path):
    run(checkpoint, "--out", tmp_path / "shared")
    return tmp_path / "shared"


def log_probs(path):
    model, _ = load_model(path)
    waveforms = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(waveforms, torch.tensor([20_000, 9_000]))[0]


@pytest.mark.parametrize("average", [True, False])
def test_an_exported_model_is_its_checkpoint_bit_for_bit(tmp_path, average):
    checkpoint = save(tmp_path / "best.ckpt", average=average)
    run(checkpoint, "--out", tmp_path / "shared")
    run(tmp_path / "shared", "--out", tmp_path / "again")
    assert sorted(item.name for item in (tmp_path / "shared").iterdir()) == PARTS
    assert sorted(item.name for item in tmp_path.iterdir()) == ["again", "best.ckpt", "shared"]
    for name in PARTS:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert torch.equal(log_probs(tmp_path / "shared"), log_probs(checkpoint))
    found, expected = load_model(tmp_path / "shared")[1], load_model(checkpoint)[1]
    assert found.tokenizer.model == expected.tokenizer.model and found.model == expected.model
    card = (tmp_path / "shared" / "README.md").read_text()
    assert ("averaged over training" in card) == average


def test_eight_bits_are_off_by_half_a_scale_and_stay_what_they_are(checkpoint, folder, tmp_path):
    small, again = tmp_path / "small", tmp_path / "again"
    run(checkpoint, "--out", small, "--bits", 8)
    run(small, "--out", again, "--bits", 8)
    assert (small / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert "| weights | 8 bits and a scale a row, averaged" in (small / "README.md").read_text()
    exact, found = load_model(folder)[0], load_model(small)[0]
    found = dict(found.named_parameters())
    for name, value in exact.named_parameters():
        if value.dim() < 2:
            assert torch.equal(found[name], value.bfloat16().float())
            continue
        scale = value.flatten(1).abs().amax(1) / 127
        error = (found[name] - value).flatten(1).abs().amax(1)
        assert (error <= scale * 0.502).all() and (error > 0).any()
    assert (log_probs(small) - log_probs(folder)).abs().max() < 0.1


def test_a_table_of_the_exact_weights_is_not_that_of_eight_bits(checkpoint, folder, tmp_path):
    results = write_results(folder)
    with pytest.raises(UserError, match="of 32-bit weights; decode the folder that --bits 8 makes"):
        run(checkpoint, "--out", tmp_path / "small", "--bits", 8, "--results", results)
    assert not (tmp_path / "small").exists()
    run(checkpoint, "--out", tmp_path / "small", "--bits", 8)
    write_results(tmp_path / "small", place=results)
    run(tmp_path / "small", "--out", tmp_path / "again", "--bits", 8, "--results", results)
    assert "12.35" in (tmp_path / "again" / "README.md").read_text()


def test_the_card_says_what_the_model_was_trained_on(checkpoint, tmp_path):
    (tmp_path / "about.md").write_text("LibriSpeech, CC BY 4.0.\n")
    run(checkpoint, "--out", tmp_path / "shared", "--about", tmp_path / "about.md")
    card = (tmp_path / "shared" / "README.md").read_text()
    assert card.endswith("## Training data and licence\n\nLibriSpeech, CC BY 4.0.\n")
    with pytest.raises(UserError, match=r"--about .*none\.md: No such file"):
        run(checkpoint, "--out", tmp_path / "other", "--about", tmp_path / "none.md")
    assert not (tmp_path / "other").exists()


def test_the_averaged_weights_are_the_ones_exported(checkpoint, folder):
    weights, content = load_file(folder / "model.safetensors"), read_checkpoint(checkpoint)
    assert all(torch.equal(value, content["average"][name]) for name, value in weights.items())
    assert weights.keys() == content["average"].keys()
    name = "head.project.weight"
    assert not torch.equal(weights[name], content["state_dict"][f"model.{name}"])


def write_results(folder, place=None, **changes):
    model, _ = load_model(folder)
    results = {
        "checkpoint": "exp/mine/best.ckpt",
        "attention": "mala",
        "weights": digest_of_weights(model.state_dict()),
        "command": "python decode.py --checkpoint exp/mine/best.ckpt --lm 3gram.bin",
        "lm_weight": 0.7,
        "word_score": 1.5,
        "unknown_penalty": 4.0,
        "tuned_on": ["dev"],
        "rows": [ROW, ROW | {"lm": "3gram|x", "wer": 9.0}],
    }
    place = place or folder.parent / "results"
    place.mkdir(exist_ok=True)
    (place / "wer.json").write_text(json.dumps(results | changes))
    return place


def test_the_card_has_the_table_and_the_command(checkpoint, folder, tmp_path):
    plain = (folder / "README.md").read_text()
    assert "No table was given" in plain and "1,234 steps" in plain and "2.0 h" in plain
    run(checkpoint, "--out", tmp_path / "new", "--results", write_results(folder))
    card = (tmp_path / "new" / "README.md").read_text()
    assert "| test | none | 12.35 | 10.0 - 15.0 | 4.50 | 10 | 1 | 1 | 100 |" in card
    assert r"| test | 3gram\|x | 9.00 |" in card
    assert "    python decode.py --checkpoint exp/mine/best.ckpt --lm 3gram.bin\n" in card
    assert "LM weight 0.7, word score 1.5, unknown penalty 4, tuned on dev" in card
    for words in ("mala", "rotary", "16000 Hz", "--audio", "--init", "licence", "To be stated"):
        assert words in card
    assert "{" not in card and "No table" not in card


def test_the_card_names_the_weights_of_a_transducers_search(checkpoint, folder, tmp_path):
    results = write_results(folder, ilm_weight=0.2, ctc_weight=0.3)
    run(checkpoint, "--out", tmp_path / "new", "--results", results)
    card = (tmp_path / "new" / "README.md").read_text()
    assert "--unknown-penalty 4 --ilm-weight 0.2 --ctc-weight 0.3\n" in card
    assert "unknown penalty 4, ILM weight 0.2, CTC weight 0.3, tuned on dev." in card


BAD_RESULTS = {
    "other weights": ({"weights": "0" * 64}, r"of other weights than .*best\.ckpt has now; decode that one"),
    "no rows": ({"rows": None}, "not a wer.json"),
    "a cut row": ({"rows": [{"split": "test"}]}, "not a wer.json"),
    "no unknown penalty, as there was none once": (
        {"unknown_penalty": None},
        "not a wer.json .*; decode again",
    ),
    "a strange number": ({"lm_weight": "much"}, "not a wer.json"),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_results_that_are_not_this_models_are_refused(case, checkpoint, folder, tmp_path):
    changes, message = BAD_RESULTS[case]
    results = write_results(folder, **changes)
    with pytest.raises(UserError, match=rf"wer\.json: {message}"):
        run(checkpoint, "--out", tmp_path / "new", "--results", results)
    (results / "wer.json").write_text("not json")
    with pytest.raises(UserError, match=r"not a wer\.json"):
        run(checkpoint, "--out", tmp_path / "new", "--results", results)
    with pytest.raises(UserError, match="no such file; --results wants"):
        run(checkpoint, "--out", tmp_path / "new", "--results", tmp_path)
    assert not (tmp_path / "new").exists()


def test_only_a_new_or_empty_folder_is_written(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "mine" / "notes").write_text("kept")
    for name in ("mine", "file"):
        with pytest.raises(UserError, match=f"{name}: exists and is not an empty folder"):
            run(checkpoint, "--out", tmp_path / name)
    assert [item.name for item in (tmp_path / "mine").iterdir()] == ["notes"]
    (tmp_path / "empty").mkdir()
    run(checkpoint, "--out", tmp_path / "empty")
    assert sorted(item.name for item in (tmp_path / "empty").iterdir()) == PARTS


def test_a_failure_half_way_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asr.files.os.fsync", full)
    with pytest.raises(OSError):
        run(checkpoint, "--out", tmp_path / "new")
    assert not list(tmp_path.iterdir())


class Boom:
    """Unpickling this makes a folder: a stand-in for any code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [torch.save, pickled], ids=["torch", "pickle"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_a_pickle_in_the_place_of_a_part_is_refused_and_not_run(folder, tmp_path, write, name):
    trace = tmp_path / "trace"
    write({"recipe": Boom(trace)}, folder / name)
    if name != "config.json":  # as a forger would: the sums are right
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        change = {"weights": digest} if name == "model.safetensors" else {"tokenizer": digest[:12]}
        edit(folder, lambda about: about.update(change))
    with pytest.raises(UserError, match=name) as error:
        load_model(folder)
    assert "\n" not in str(error.value) and not trace.exists()


@pytest.mark.parametrize("write", [torch.save, pickled], ids=["torch", "pickle"])
def test_pickles_under_other_names_are_not_looked_at(checkpoint, folder, tmp_path, write):
    trace = tmp_path / "trace"
    for name in ("best.ckpt", "pytorch_model.bin", "model.pt", "model.pkl"):
        write({"recipe": Boom(trace)}, folder / name)
    assert torch.equal(log_probs(folder), log_probs(checkpoint))
    with pytest.raises(UserError, match=r"not loaded|not a checkpoint"):
        load_model(folder / "best.ckpt")
    assert not trace.exists()


def edit(folder, change):
    about = json.loads((folder / "config.json").read_text())
    change(about)
    (folder / "config.json").write_text(json.dumps(about))


def set_in(section, **values):
    return lambda about: about["model"][section].update(values)


def test_folders_from_before_there_were_lists_of_attention_load(checkpoint, folder):
    edit(folder, lambda about: about["model"].update(options=about["model"]["options"]["mala"]))
    assert torch.equal(log_probs(folder), log_probs(checkpoint))


def test_folders_from_before_subsampling_and_features_had_kinds_load(checkpoint, folder):
    def strip(about):
        del about["model"]["encoder"]["subsampling"], about["model"]["frontend"]["kind"]
        del about["model"]["frontend"]["edges"]

    edit(folder, strip)
    assert torch.equal(log_probs(folder), log_probs(checkpoint))


BAD_CONFIGS = {
    "unknown key": (lambda about: about.update(colour="red"), "unknown: colour"),
    "missing key": (lambda about: about.pop("pieces"), "unknown: pieces"),
    "newer format": (lambda about: about.update(format=2), "format 2; this version reads 1"),
    "other rate": (lambda about: about.update(sample_rate=8000), "sample_rate 8000"),
    "negative steps": (lambda about: about.update(steps=-1), "steps -1: out of range"),
    "endless audio": (lambda about: about.update(audio_seconds=float("inf")), "audio_seconds inf"),
    "model not a table": (lambda about: about.update(model=[1]), "attention None"),
    "no encoder": (lambda about: about["model"].pop("encoder"), "'encoder'"),
    "encoder not a table": (lambda about: about["model"].update(encoder=3), "mapping"),
    "unknown attention": (lambda about: about["model"].update(attention=["mala"]), "is not the name of one"),
    "unknown model key": (lambda about: about["model"].update(colour="red"), "colour"),
    "unknown option": (set_in("options", mala={"colour": "red"}), "colour"),
    "options of another": (set_in("options", linear={}), "options of linear, which the model does not"),
    "no options": (lambda about: about["model"].update(options=[]), "model configuration: "),
    "too many layers": (lambda about: about["model"].update(attention="mala,mala,mala"), "3 layers of 2"),
    "option's kind": (set_in("options", mala={"form": "round"}), "mala.form 'round': wrong kind"),
    "positions": (lambda about: about["model"].update(positions="relative"), "--positions relative"),
    "number as text": (set_in("encoder", dim="8"), "encoder.dim '8': wrong kind"),
    "truth as number": (set_in("encoder", dim=True), "encoder.dim True: wrong kind"),
    "number not a number": (set_in("encoder", dropout=float("nan")), "encoder.dropout nan: wrong kind"),
    "dropout": (set_in("encoder", dropout=3.0), "--encoder.dropout 3.0: out of range"),
    "negative": (set_in("encoder", layers=-5), "--encoder.layers -5"),
    "a million layers": (set_in("encoder", layers=10**6), "--encoder.layers 1000000: out of range"),
    "more layers than weights": (set_in("encoder", layers=250), "it has 250 layers"),
    "huge": (set_in("encoder", dim=10**12), "--encoder.dim 1000000000000: out of range"),
    "larger": (set_in("encoder", dim=16), "do not fit the configuration"),
    "beyond 64 bits": (set_in("encoder", expansion=10**30), "--encoder.expansion 1000000000000000000000"),
    "wide": (set_in("options", mala={"lepe": 10**9 + 1}), "--mala.lepe 1000000001: out of range"),
    "wider": (set_in("options", mala={"lepe": 5}), r"attention\.lepe\.weight is missing"),
    "even kernel": (set_in("encoder", kernel=4), "must be odd"),
    "heads": (set_in("encoder", heads=3), "not a multiple"),
    "subsampling not a table": (set_in("encoder", subsampling="full"), "mapping"),
    "unknown subsampling": (set_in("encoder", subsampling={"kind": "half"}), "kind 'half': wrong kind"),
    "factor": (set_in("encoder", subsampling={"factor": 8.0}), "encoder.subsampling.factor 8.0: wrong kind"),
    "channels": (
        set_in("encoder", subsampling={"channels": 10**9}),
        "subsampling.channels 1000000000: out of",
    ),
    "unknown features": (set_in("frontend", kind="mfcc"), "frontend.kind 'mfcc': wrong kind"),
    "no mels": (set_in("frontend", mels=0), "--frontend.mels 0: out of range"),
    "too many mels": (set_in("frontend", mels=10**12), "--frontend.mels 1000000000000: out of range"),
    "one mel more": (set_in("frontend", mels=79), "do not fit the configuration"),
    "f_max": (set_in("frontend", f_max=1e9), "--frontend.f_max"),
    "speeds": (set_in("frontend", speeds=[0.0]), "--frontend.speeds"),
    "other pieces": (lambda about: about.update(pieces=7), r"tokenizer\.model: not the tokenizer"),
    "other tokenizer": (lambda about: about.update(tokenizer="0" * 12), r"tokenizer\.model: not the"),
    "other weights": (lambda about: about.update(weights="0" * 64), r"model\.safetensors: damaged"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_that_cannot_be_is_one_clear_line(case, folder):
    change, message = BAD_CONFIGS[case]
    edit(folder, change)
    with pytest.raises(UserError, match=message) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\xff", "[" * 100_000, '{"format": ' + "1" * 5000 + "}"]
)
def test_a_config_that_is_no_config(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.json: not "):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_missing_and_cut_parts_are_named(folder, name):
    path = folder / name
    data = path.read_bytes()
    for size in (0, 3, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=name):
            load_model(folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}: missing; an exported model has"):
        load_model(folder)
    path.mkdir()
    with pytest.raises(UserError, match=f"{name}: missing"):
        load_model(folder)


def test_one_flipped_bit_is_noticed(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        load_model(folder)


def forge(folder, change):
    """Change the weights as someone would who knows the format: the sum is right again."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda about: about.update(weights=digest))


BIAS, WEIGHT = "head.project.bias", "head.project.weight"
BAD_WEIGHTS = {
    "missing": (lambda weights: weights.pop(BIAS), f"{BIAS} is missing"),
    "shape": (lambda weights: weights.update({BIAS: torch.zeros(2)}), rf"{BIAS} is \(2,\), not"),
    "more": (lambda weights: weights.update(more=torch.zeros(1)), "more"),
    "dtype": (lambda weights: weights.update({BIAS: weights[BIAS].half()}), "not all in fp32 or"),
    "no scale": (lambda weights: weights.update({WEIGHT: weights[WEIGHT].to(torch.int8)}), "do not belong"),
    "empty": (lambda weights: weights.clear(), "do not fit"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(case, folder):
    change, message = BAD_WEIGHTS[case]
    forge(folder, change)
    with pytest.raises(UserError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_size_does_not_fit(folder):
    other = Tokenizer(train_tokenizer(["ABCDE EDCBA"], 10, "char"))
    (folder / "tokenizer.model").write_bytes(other.model)
    edit(folder, lambda about: about.update(tokenizer=other.digest, pieces=other.pieces))
    with pytest.raises(UserError, match=r"head\.project\.weight"):
        load_model(folder)


def test_a_folder_is_no_checkpoint_to_resume_from(folder, tmp_path):
    with pytest.raises(UserError, match=r"a folder; a checkpoint of train\.py is needed"):
        read_checkpoint(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(UserError, match=r"config\.json: missing"):
        read_trained(folder)


SMALL = TransducerConfig(hidden=8, joint=4)


@pytest.mark.parametrize("head", ["transducer", "hybrid"])
def test_a_transducer_is_exported_whole(head, tmp_path):
    path = save(tmp_path / "best.ckpt", replace(CONFIG, head=head, transducer=SMALL))
    run(path, "--out", tmp_path / "shared")
    (first, recipe), (second, same) = load_model(path), load_model(tmp_path / "shared")
    assert recipe.model == same.model and (first.head is None) == (head == "transducer")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    card = (tmp_path / "shared" / "README.md").read_text()
    title = "Conformer-Transducer" + ("-CTC" if head == "hybrid" else "")
    assert f"# Speech recognition: {title}, mala attention" in card
    assert "| output | transducer (LSTM 1 x 8, joint network 4)" in card
    assert "asr.checkpoints.onnx_export" in card


@pytest.mark.parametrize("name", ["transducer.prediction.lstm.weight_ih_l0", "transducer.joint.project.bias"])
def test_a_transducer_without_a_weight_is_refused(name, tmp_path):
    path = save(tmp_path / "best.ckpt", replace(CONFIG, head="transducer", transducer=SMALL))
    content = read_checkpoint(path)
    del content["average"][name]
    write_checkpoint(content, path)
    with pytest.raises(
        UserError, match=f"best.ckpt: weights do not fit the configuration: {name} is missing"
    ):
        load_model(path)


def test_a_model_of_before_there_were_transducers_is_read(tmp_path):
    path = save(tmp_path / "best.ckpt")
    content = read_checkpoint(path)
    for name in ("head", "transducer"):
        del content["recipe"]["model"][name]
    write_checkpoint(content, path)
    assert load_model(path)[1].model == CONFIG


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"head": "both"}, "--head both: choose one of ctc, transducer, hybrid"),
        ({"head": ["ctc"]}, "--head .*: choose one of"),
        ({"transducer": {"hidden": 10**9}}, "--transducer.hidden 1000000000: out of range"),
        ({"transducer": {"hidden": "8"}}, "transducer.hidden '8': wrong kind of value"),
        ({"transducer": {"cells": 8}}, "model configuration: .*cells"),
    ],
)
def test_a_strangers_head_is_checked(part, message, tmp_path):
    path = save(tmp_path / "best.ckpt")
    content = read_checkpoint(path)
    content["recipe"]["model"] |= part
    write_checkpoint(content, path)
    with pytest.raises(UserError, match=message):
        load_model(path)
