"""benchmarks/length.py, and the changes to what a frame is told that it tries (benchmarks/reach.py)."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from reach import LimitedAttention, normalise_running, normalise_spans, parse_way

from asr.attention import ATTENTIONS, Frames
from asr.checkpoints.folder import write_folder
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.nemo_frontend import make_frontend
from asr.model.recogniser import Model

BOUNDS = [0, 7, 8, 20, 33]
LAYERS = [
    (name, positions)
    for name in ("softmax", "linear", "mala", "inline", "nala")
    for positions in ATTENTIONS[name].POSITIONS
]


def layer(name: str, positions: str):
    torch.manual_seed(0)
    attention = ATTENTIONS[name](8, 2, positions).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    return attention, torch.randn(1, BOUNDS[-1], 8, dtype=torch.float64)


def core(attention, x: torch.Tensor, chunk: int = 5) -> torch.Tensor:
    """The attention's core in chunks, as asr.model.long runs it: (1, H, N, d)."""

    def part(start: int):
        end = min(start + chunk, x.shape[1])
        frames = Frames(torch.ones(1, end - start, dtype=torch.bool), torch.tensor([x.shape[1]]), start)
        return attention.project(x[:, start:end], frames), frames

    parts = [part(start) for start in range(0, x.shape[1], chunk)]
    summary = attention.combine([attention.summarise(*p[1:], frames, None) for p, frames in parts])
    return torch.cat([attention.attend(p.q, summary, frames) for p, frames in parts], -2)


def limited(attention, way: str, bounds=BOUNDS):
    return LimitedAttention(attention, parse_way(way), bounds)


@pytest.mark.parametrize(("name", "positions"), LAYERS)
def test_attention_within_utterances_is_that_of_each_alone(name, positions):
    if positions == "sinusoid":
        pytest.skip("added to the input, which says where in the recording it is")
    attention, x = layer(name, positions)
    expected = torch.cat([core(attention, x[:, a:b]) for a, b in pairwise(BOUNDS)], -2)
    assert torch.allclose(core(limited(attention, "attention"), x), expected)


@pytest.mark.parametrize(("name", "positions"), LAYERS)
def test_attention_within_stretches_sees_one_more_on_either_side(name, positions):
    attention, x = layer(name, positions)
    if positions == "sinusoid":
        pytest.skip("as above")
    found = core(limited(attention, "attention:9"), x)
    for i, (a, b) in enumerate(pairwise(BOUNDS)):
        low, high = BOUNDS[max(0, i - 1)], BOUNDS[min(len(BOUNDS) - 1, i + 2)]
        assert torch.allclose(found[:, :, a:b], core(attention, x[:, low:high])[:, :, a - low : b - low])


@pytest.mark.parametrize(("name", "positions"), LAYERS)
def test_one_span_is_the_whole(name, positions):
    attention, x = layer(name, positions)
    ways = ["attention", "attention:9"] + (["means", "covariance", "decay:9"] if name != "softmax" else [])
    for way in ways:
        assert torch.allclose(core(limited(attention, way, [0, BOUNDS[-1]]), x), core(attention, x)), way


def test_means_and_covariance_share_the_work():
    """Where all utterances are alike but for their values, only the mean of values tells them apart."""
    attention, x = layer("mala", "none")
    x = torch.cat((x[:, :9], x[:, :9]), 1)
    for way in ("means", "covariance"):
        assert torch.allclose(core(limited(attention, way, [0, 9, 18]), x), core(attention, x)), way
    x = torch.cat((x[:, :9], 3 * x[:, 9:]), 1)
    own, whole = core(limited(attention, "attention", [0, 9, 18]), x), core(attention, x)
    for way in ("means", "covariance"):
        found = core(limited(attention, way, [0, 9, 18]), x)
        assert not torch.allclose(found, own) and not torch.allclose(found, whole), way


@pytest.mark.parametrize("name", ["linear", "mala"])
def test_what_is_far_away_counts_less_by_the_half_life(name):
    attention, x = layer(name, "rotary")
    frames = Frames.whole(torch.ones(1, BOUNDS[-1], dtype=torch.bool))
    _, q, k, v = attention.project(x, frames)
    found = core(limited(attention, "decay:9"), x)
    phi, placed = attention.query_features(q, frames)
    phi_k, placed_k = attention.key_features(k, frames)
    span = torch.tensor([sum(a <= n for a in BOUNDS[1:]) for n in range(BOUNDS[-1])])
    for i in range(len(BOUNDS) - 1):
        w = 0.5 ** ((span - i).abs().double() / 4)  # spans are a quarter of the half-life long
        w = (w / w.sum())[:, None]
        means = [(w * y).sum(-2, keepdim=True) for y in (phi_k, placed_k, v)]
        covariance = (w * (placed_k - means[1])).transpose(-2, -1) @ (v - means[2])
        gain, share = attention.coefficients(attention.magnitude(phi, means[0]))
        expected = share * means[2] + gain * (attention.scale * placed @ covariance)
        assert torch.allclose(found[:, :, span == i], expected[:, :, span == i])


@pytest.mark.parametrize("kind", ["htk", "nemo"])
def test_features_are_normalised_over_what_is_asked_for(kind):
    frontend = make_frontend(FrontendConfig(kind=kind, mels=6))
    x = 3 * torch.randn(50, 6) - 7
    spans = normalise_spans(frontend, x, [0, 20, 50])
    whole = frontend.normalise(x[None], torch.ones(1, 50, dtype=torch.bool))[0]
    assert torch.allclose(spans[:20].mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(normalise_spans(frontend, x, [0, 50]), whole, atol=1e-5)
    assert torch.allclose(normalise_running(frontend, x, 100), whole, atol=1e-5)
    around = x[30 - 5 : 30 + 6]
    expected = frontend.normalise(around[None], torch.ones(1, 11, dtype=torch.bool))[0, 5]
    assert torch.allclose(normalise_running(frontend, x, 10)[30], expected, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    ["", "feature", "attention:0", "means:5", "decay", "attention+means", "cut:9+features", "whole+cut:9"],
)
def test_ways_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="--ways"):
        parse_way(text)


def test_rows_are_measured_once(corpus, tmp_path):
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    torch.manual_seed(0)
    small = EncoderConfig(dim=8, layers=1, heads=2, kernel=3)
    config = ModelConfig("mala", encoder=small, frontend=FrontendConfig(mels=10))
    model = Model(config, tokenizer.pieces)
    write_folder(tmp_path / "model", config, tokenizer, model.state_dict(), False, (0, 0.0), "")

    def run(*options: str) -> str:
        command = [sys.executable, "benchmarks/length.py", "--checkpoints", f"small={tmp_path / 'model'}"]
        command += ["--data", str(corpus), "--out", str(tmp_path / "out"), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("--lengths", "0", "4", "900", "--speakers", "many", "--ways", "whole", "features+attention")
    rows = json.loads((tmp_path / "out" / "length.json").read_text())
    assert [(row["length"], row["way"]) for row in rows] == [
        (0, "whole"),
        (4, "whole"),
        (4, "features+attention"),
    ]
    assert len({row["words"] for row in rows}) == 1 and rows[0]["recordings"] == 8 > rows[1]["recordings"] > 1
    assert (tmp_path / "out" / "length.svg").read_text().startswith("<?xml")
    shown = run("--lengths", "0", "4", "8", "--speakers", "many")
    again = json.loads((tmp_path / "out" / "length.json").read_text())
    assert again[:3] == rows and len(again) == 4 and shown.count("small") == 4
