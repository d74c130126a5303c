import argparse

import pytest
import torch

from asr.attention import ATTENTIONS
from asr.decoding.posteriors import log_probs_of
from asr.device_options import add_device_options
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.device import autocast, choose_device, choose_dtype, describe
from asr.model.recogniser import Model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_device_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name) for name in ("auto", "cuda", "cpu")] == [CUDA, CUDA, CPU]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(name) for name in ("auto", "cpu")] == [CPU, CPU]
    with pytest.raises(UserError, match="--device cuda: no GPU"):
        choose_device("cuda")


@pytest.mark.parametrize("there", [False, True])
def test_auto_takes_bf16_where_a_gpu_has_it(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": there, "amx_bf16": False})
    fast = torch.bfloat16 if there else torch.float32
    assert choose_dtype("auto", CUDA) == choose_dtype("auto", CPU, cpu_too=True) == fast
    assert choose_dtype("auto", CPU) == torch.float32
    for device in (CPU, CUDA):
        assert choose_dtype("fp32", device) == torch.float32
        assert choose_dtype("bf16", device) == torch.bfloat16


def test_a_value_that_is_none_is_refused(capsys):
    parser = argparse.ArgumentParser()
    add_device_options(parser)
    assert vars(parser.parse_args([])) == {"device": "auto", "precision": "auto", "kernels": "auto"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--kernels", "fast"])
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_posteriors_in_bf16_are_near_those_in_fp32(attention):
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=3)
    model = Model(ModelConfig(attention, encoder=encoder), 10).eval()
    waveforms, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    exact = log_probs_of(model, waveforms, lengths)
    with autocast(CPU, torch.float32):
        same = log_probs_of(model, waveforms, lengths)
    with autocast(CPU, torch.bfloat16):
        near = log_probs_of(model, waveforms, lengths)
        assert describe(model).startswith("CPU, bfloat16, attention core: eager PyTorch (")
    assert describe(model).startswith("CPU, float32, ")
    for a, b, c in zip(exact, same, near, strict=True):
        assert (a == b).all() and c.dtype == a.dtype
        assert 0 < abs(a - c).max() < 0.1
