import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asr.attention import ATTENTIONS, fused
from asr.data.batches import make_batches
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model
from asr.training.config import Config, DataConfig, TrainingConfig
from asr.training.warm_up import WarmUp, core_dtype

ENCODER = EncoderConfig(dim=8, layers=1, heads=2, kernel=3)


def make(consistency: float = 0.0, seconds: float = 9.0, count: int = 5) -> WarmUp:
    rng = random.Random(0)
    model = ModelConfig("mala", encoder=ENCODER)
    config = Config(model, DataConfig(), TrainingConfig(seconds=seconds, consistency=consistency), Path(), "")
    return WarmUp(config, [rng.uniform(0.5, 4) for _ in range(count)], [1.5, 2.5])


@pytest.mark.parametrize("consistency", [0.0, 0.2])
def test_the_shapes_are_those_that_attention_meets(consistency, monkeypatch):
    """At every speed of the training batches, and those of dev."""
    callback = make(consistency)
    model, met = Model(callback.config.model, 5), set()
    attention = model.encoder.blocks[0].attention
    attention.register_forward_pre_hook(lambda module, inputs: met.add(tuple(inputs[0].shape[:2])))
    for durations, training in ((callback.durations, True), (callback.dev_durations, False)):
        model.train(training)
        for batch in make_batches(durations, callback.config.training.seconds, rng=None):
            samples = torch.tensor([int(SAMPLE_RATE * durations[index]) for index in batch])
            for speed in range(3 if training else 1):
                monkeypatch.setattr(torch, "randint", lambda *_, speed=speed: torch.tensor(speed))
                with torch.no_grad():
                    model.frontend.mask = lambda x, lengths: x  # draws nothing else
                    views = 2 if training and consistency else 1
                    waveforms = torch.randn(len(batch), samples.max())
                    model.encoder(*model.frontend(waveforms, samples, views))
    assert met == callback.shapes()


def test_the_kernels_are_warm_before_the_first_step_and_it_is_said(monkeypatch, capsys):
    callback = make()
    model = Model(callback.config.model, 5)
    attention = model.encoder.blocks[0].attention
    trainer = SimpleNamespace(precision="32-true", is_global_zero=True)
    task = SimpleNamespace(model=model, device=torch.device("cpu"))
    callback.on_train_start(trainer, task)
    assert capsys.readouterr().out == ""  # nothing to warm on a CPU
    monkeypatch.setattr(attention, "fused_refusal", lambda q: None)
    monkeypatch.setattr(attention, "fused_core", attention.eager_core)
    monkeypatch.setattr(attention, "fused_variant", lambda q: q.shape[0])
    callback.on_train_start(trainer, task)
    sizes = {batch for batch, _ in callback.shapes()}
    assert capsys.readouterr().out.startswith(f"attention kernels: {len(sizes)} variants, warm in ")


def test_bf16_training_gives_attention_bf16():
    """Which is what the announced core, and the warm kernels, are for."""
    module, seen = ATTENTIONS["mala"](8, 2), []
    module.core = lambda q, k, v, frames: seen.append(q.dtype) or q
    for precision in ("bf16-mixed", "32-true"):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            module(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
        assert seen.pop() == core_dtype(precision)


@pytest.fixture(autouse=True)
def anew():
    yield
    fused.forget()
