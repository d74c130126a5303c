"""The mean of a run's checkpoints: of the weights that each is decoded with, and of one run only."""

import pytest
import torch

from asr.checkpoints.__main__ import main
from asr.checkpoints.checkpoint import load_model, pack_recipe, read_checkpoint, write_checkpoint
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.recogniser import Model

CONFIG = ModelConfig("mala", encoder=EncoderConfig(dim=8, layers=2, heads=2, kernel=3))
TOKENIZER = Tokenizer(train_tokenizer(["AB BA"], 6, "char"))
WERS = {10: 9.0, 20: 5.0, 30: 7.0, 40: 6.0}


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint after a step; ``changes`` replace entries of it."""

    def call(step, config=CONFIG, average=True, **changes):
        torch.manual_seed(step)
        last, averaged = (Model(config, TOKENIZER.pieces).state_dict() for _ in range(2))
        content = {
            "state_dict": {f"model.{name}": value for name, value in last.items()},
            "recipe": pack_recipe(config, TOKENIZER),
            "training": {},
            "global_step": step,
            "run": "a",
            "dev_wer": WERS[step],
        }
        path = tmp_path / f"step-{step}.ckpt"
        write_checkpoint(content | ({"average": averaged} if average else {}) | changes, path)
        return path

    return call


def run(paths, out, *options):
    main(["average", *map(str, paths), "--out", str(out), *options])


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(
    ("options", "steps"), [([], WERS), (["--last", "2"], (30, 40)), (["--best", "3"], (20, 30, 40))]
)
def test_the_mean_is_that_in_float64(save, tmp_path, average, options, steps):
    paths = [save(step, average=average) for step in reversed(WERS)]
    run(paths, tmp_path / "out", *options)
    found = load_model(tmp_path / "out")[0].state_dict()
    taken = [load_model(tmp_path / f"step-{step}.ckpt")[0].state_dict() for step in steps]
    for name, value in found.items():
        if value.is_floating_point():
            mean = torch.stack([weights[name].double() for weights in taken]).mean(0)
            torch.testing.assert_close(value, mean.float(), rtol=1e-7, atol=0)
        else:
            assert torch.equal(value, taken[-1][name])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": "b"}, "of another run than"),
        ({"run": ""}, "does not say of which run"),
        ({"config": ModelConfig("linear", encoder=CONFIG.encoder)}, "step-10.ckpt: another model"),
        ({"dev_wer": None}, "no WER on dev"),
        ({"global_step": 10}, "1 checkpoints of different steps"),
    ],
)
def test_what_does_not_belong_together_is_refused(save, tmp_path, changes, said):
    paths = [save(10), save(20, **changes)]
    with pytest.raises(UserError, match=said):
        run(paths, tmp_path / "out", "--best", "2")
    assert not (tmp_path / "out").exists()


def test_more_than_there_are_is_refused(save, tmp_path):
    with pytest.raises(UserError, match="2 checkpoints of different steps to average, but 3 are wanted"):
        run([save(10), save(20)], tmp_path / "out", "--last", "3")


def test_a_mean_that_is_not_finite_is_refused(save, tmp_path):
    content = read_checkpoint(path := save(20, average=False))
    next(iter(content["state_dict"].values())).fill_(torch.inf)
    write_checkpoint(content, path)
    with pytest.raises(UserError, match="not finite"):
        run([save(10), path], tmp_path / "out")
