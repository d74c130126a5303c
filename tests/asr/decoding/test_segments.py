"""Recordings cut where they are quiet."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import decode
from asr.data.audio import load
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.segments import cut_at_quiet, segment_log_probs
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frames import HOP, SAMPLE_RATE
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model

TINY = EncoderConfig(dim=8, layers=1, heads=2, kernel=3)


def test_a_recording_is_cut_in_the_middle_of_pauses():
    waveform = torch.randn(16_000 * 30)
    for second in (7, 16, 24):
        waveform[16_000 * second : 16_000 * second + 8000] *= 0.01
    segments = list(cut_at_quiet([waveform], 10))
    assert torch.equal(torch.cat(segments), waveform)
    ends = torch.tensor([len(part) for part in segments[:-1]]).cumsum(0) / 16_000
    assert torch.allclose(ends, torch.tensor([7.25, 16.25, 24.25]), atol=0.15)


@settings(max_examples=15, deadline=None)
@given(
    samples=st.integers(1, 120_000),
    part=st.integers(500, 50_000),
    seconds=st.floats(1, 4),
    multiple=st.sampled_from([1, 640, 1280]),
)
def test_segments_are_the_recording_however_it_comes(samples, part, seconds, multiple):
    waveform = torch.randn(samples)
    segments = list(cut_at_quiet([waveform], seconds, multiple))
    assert torch.equal(torch.cat(segments), waveform)
    assert all(len(segment) % multiple == 0 for segment in segments[:-1])
    assert all(0.49 * seconds <= len(segment) / SAMPLE_RATE + 0.08 for segment in segments[:-1])
    assert all(len(segment) <= seconds * SAMPLE_RATE for segment in segments)
    again = cut_at_quiet(waveform.split(part), seconds, multiple)
    assert [len(segment) for segment in again] == [len(segment) for segment in segments]


@pytest.mark.parametrize("kind", [{}, {"kind": "nemo"}, {"kind": "nemo", "edges": "old"}], ids=str)
@pytest.mark.parametrize("together", [1, 4])
def test_every_segment_is_as_alone_and_no_time_is_lost(kind, together):
    torch.manual_seed(0)
    model = Model(ModelConfig("mala", encoder=TINY, frontend=FrontendConfig(mels=10, **kind)), 9).eval()
    waveform = torch.randn(7 * SAMPLE_RATE + 123)
    found = list(segment_log_probs(model, waveform.split(9999), 2.0, together))
    segments = list(cut_at_quiet([waveform], 2.0, 4 * HOP))
    assert len(found) == len(segments) > 3
    for row, samples in zip(found[:-1], segments, strict=False):
        assert len(row) == len(samples) / (4 * HOP)
        with torch.inference_mode():
            alone, _ = model(samples[None], torch.tensor([len(samples)]))
        assert torch.allclose(torch.from_numpy(row), alone[0, : len(row)], atol=1e-4)


def test_the_program_cuts_longer_recordings_only(corpus, tmp_path, capsys):
    from asr.checkpoints.folder import write_folder

    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    torch.manual_seed(0)
    config = ModelConfig("mala", encoder=TINY, frontend=FrontendConfig(mels=10))
    model = Model(config, tokenizer.pieces)
    with torch.no_grad():
        model.head.project.weight *= 30
    write_folder(tmp_path / "model", config, tokenizer, model.state_dict(), False, (0, 0.0), "")
    paths = [utterance.audio for utterance in read_manifest(corpus / "test.jsonl")]
    samples = np.concatenate([load(path).numpy() for path in paths])
    soundfile.write(tmp_path / "long.wav", samples, SAMPLE_RATE)

    def text(*options: str) -> str:
        command = ["--checkpoint", str(tmp_path / "model"), "--audio", str(tmp_path / "long.wav"), *options]
        assert decode.main(command) == 0
        return capsys.readouterr().out

    whole, cut = text(), text("--segment-seconds", "3")
    assert whole != cut and whole == text("--segment-seconds", "300")
    assert cut == text("--segment-seconds", "3", "--batch-seconds", "1")
    for options in (["--segment-seconds", "0.5"], ["--segment-seconds", "nan"]):
        with pytest.raises(UserError, match="--segment-seconds"):
            text(*options)
