import json
import math

import pytest
import torch

from asr.attention import ATTENTIONS
from asr.checkpoints.checkpoint import pack_recipe, write_checkpoint
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.figures import attention as figures
from asr.figures.__main__ import main
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model

TINY = EncoderConfig(dim=16, layers=2, heads=2, kernel=5)


@pytest.fixture(scope="module")
def inputs(corpus, tmp_path_factory):
    """A checkpoint of every mechanism with random weights, and a recording."""
    folder = tmp_path_factory.mktemp("figures")
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    paths = []
    for name in ATTENTIONS:
        torch.manual_seed(0)
        config = ModelConfig(name, encoder=TINY, frontend=FrontendConfig(mels=20))
        weights = {f"model.{key}": value for key, value in Model(config, 64).state_dict().items()}
        content = {"recipe": pack_recipe(config, tokenizer), "state_dict": weights}
        paths.append(folder / f"{name}.ckpt")
        write_checkpoint(content | {"global_step": 0, "training": {}}, paths[-1])
    return paths, read_manifest(corpus / "test.jsonl")[0].audio


def run(*arguments) -> None:
    main(["attention", *map(str, arguments)])


def test_figures_and_numbers_of_every_mechanism(inputs, tmp_path, capsys):
    checkpoints, recording = inputs
    run("--checkpoint", *checkpoints, "--audio", recording, "--out", tmp_path / "out", "--seconds", 1)
    for name in ("maps", "distributions", "entropy"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["audio"] == str(recording) and numbers["seconds"] == 1
    found = {item["attention"].split(",")[0]: item["layers"] for item in numbers["checkpoints"]}
    assert set(found) == set(ATTENTIONS)
    for layers in found.values():
        assert len(layers) == 2
        for layer in layers:
            assert layer["row_sum"] == pytest.approx([1, 1], abs=1e-4)
            assert 0 < layer["entropy"] <= 1 + 1e-6
            assert math.isfinite(layer["entropy_norm_correlation"])
    for name in ("softmax", "efficient", "agent"):
        assert all(layer["negative_share"] == 0 for layer in found[name])
    assert any(layer["negative_share"] > 0 for layer in found["mala"])
    assert "mala, rotary" in capsys.readouterr().out


def test_entropy_is_one_for_even_and_zero_for_single_weights():
    weights = torch.stack([torch.full((8,), 1 / 8), torch.eye(8)[3]])
    assert figures.entropy(weights).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_rank_correlation():
    x = torch.rand(3, 20)
    assert figures.rank_correlation(x, x.exp()) == pytest.approx(1)
    assert figures.rank_correlation(x, -x) == pytest.approx(-1)
    assert figures.rank_correlation(x, torch.ones_like(x)) == 0
    mostly_equal = torch.zeros(100)
    mostly_equal[99] = 1
    assert figures.rank_correlation(mostly_equal, torch.arange(100.0)) == pytest.approx(0.17, abs=0.01)


@pytest.mark.parametrize(
    ("option", "value"), [("--seconds", 0), ("--seconds", 61), ("--head", 0), ("--start", 99)]
)
def test_impossible_options_are_refused(inputs, tmp_path, option, value):
    checkpoints, recording = inputs
    with pytest.raises(UserError, match=option):
        run("--checkpoint", checkpoints[0], "--audio", recording, "--out", tmp_path / "out", option, value)
    assert not (tmp_path / "out").exists()
