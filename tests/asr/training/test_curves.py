"""Curves of a run: every point once, also where it was interrupted, and figures for TensorBoard."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr.checkpoints.checkpoint import read_checkpoint
from asr.training.config import parse_config
from asr.training.run import train
from asr.training.task import lr_factor

TINY = """
attention: mala
encoder: {dim: 16, layers: 1, heads: 2, kernel: 3}
frontend: {mels: 20, frequency_width: 3, time_masks: 1}
training: {seconds: 20, warmup: 15, validate_every: 10, precision: fp32, accelerator: cpu}
"""


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_run_that_goes_on_draws_on(corpus, tmp_path, optimiser):
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run"), "--resume", "auto"]
    arguments += ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]
    arguments += ["--training.optimiser", optimiser]
    train(parse_config([*arguments, "--training.steps", "10"]))
    picture = tmp_path / "run" / "curves.png"
    first = picture.read_bytes()
    train(config := parse_config([*arguments, "--training.steps", "20"]))
    assert first.startswith(b"\x89PNG") and picture.read_bytes() != first
    assert not list(picture.parent.glob(".curves*"))
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["callbacks"]["Curves"]
    assert [step for step, *_ in state["dev"]] == [10, 20]
    rates = {step: rate for step, _, rate in state["training"]}
    for step in (10, 20):  # the rate with which the step was made
        expected = config.training.peak_lr * lr_factor(step - 1, config.training)
        assert rates.pop(step) == pytest.approx(expected)
    assert not rates

    logs = [EventAccumulator(str(file)).Reload() for file in (tmp_path / "run" / "logs").glob("events*")]
    for name in ("gradient_norm", "audio_hours_per_hour", "padding_share", "peak_memory_gib"):
        points = [point for log in logs if name in log.Tags()["scalars"] for point in log.Scalars(name)]
        points.sort(key=lambda point: point.step)  # the files come in any order
        assert len(points) == 2 and points[1].value > 0, name  # the first batch needs no padding
        assert name != "padding_share" or points[1].value < 1
