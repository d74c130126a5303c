"""Recordings: every format reads alike, and no cut or damaged file passes for a shorter one."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchaudio.functional import resample

from asr.data import audio, containers
from asr.data.audio import AudioError, check, duration, load, stream

SHARED = Path(__file__).parents[4] / "shared" / "data" / "LibriSpeech"
FORMATS = {
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}
WITHOUT_MP3 = [name for name in FORMATS if name != "mp3"]


def tone(seconds=1.0, rate=16000, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def write(path, samples, rate=16000):
    container, subtype = FORMATS[path.suffix[1:]]
    soundfile.write(path, samples, rate, format=container, subtype=subtype)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_sound(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", tone(2.0))
    samples = load(path)
    assert samples.dtype == torch.float32 and samples.shape == (32000,)
    assert check(path) == duration(path) == 2.0
    middle = slice(8000, 24000)  # lossy codecs settle at the edges
    expected = torch.from_numpy(tone(2.0)).float()
    assert (samples - expected)[middle].square().mean().sqrt() < 0.02


def test_16_bit_samples_come_out_exactly(tmp_path):
    integers = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    for name in ("a.flac", "a.wav"):
        samples = load(write(tmp_path / name, integers))
        assert torch.equal(samples, torch.from_numpy(integers).float() / 32768)


@pytest.mark.parametrize("suffix, rate", [("wav", 48000), ("flac", 44100), ("opus", 48000)])
def test_resamples(tmp_path, suffix, rate):
    samples = load(write(tmp_path / f"a.{suffix}", tone(1.0, rate), rate))
    assert samples.shape == (16000,)
    spectrum = np.abs(np.fft.rfft(samples.numpy()))
    assert spectrum.argmax() == 440  # bins are 1 Hz apart


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.integers(1, 5000), frames=st.integers(1, 12_000))
def test_blocks_have_no_seams(tmp_path, monkeypatch, rate, block, frames):
    monkeypatch.setattr(audio, "_BLOCK", block)
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (frames, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    whole = resample(torch.from_numpy(samples.mean(axis=1)), rate, 16000)
    joined = torch.cat(list(stream(tmp_path / "a.wav")))
    assert joined.shape == whole.shape and torch.allclose(joined, whole, atol=1e-6)
    assert torch.equal(joined, load(tmp_path / "a.wav"))


def test_odd_rates(tmp_path):
    samples = load(write(tmp_path / "a.wav", tone(1.0, 44101), 44101))
    assert abs(len(samples) - 16000) <= 1
    assert np.abs(np.fft.rfft(samples.numpy())).argmax() == 440


@pytest.mark.parametrize("rate", [1, 100, 3999, 768_001, 100_000_000, 2**31 - 1])
def test_rates_that_no_recording_has_are_refused_before_anything_is_decoded(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone())
    content = bytearray(path.read_bytes())
    at = content.index(b"fmt ") + 12
    content[at : at + 8] = struct.pack("<II", rate, 2 * rate % 2**32)
    path.write_bytes(content)
    for read in (check, load, duration):
        with pytest.raises(AudioError, match=rf"a\.wav: a sample rate of {rate} Hz") as caught:
            read(path)
        assert caught.value.cause == "sample rate"


@pytest.mark.parametrize("rate", [4000, 768_000])
def test_rates_at_the_bounds(tmp_path, rate):
    assert len(load(write(tmp_path / "a.wav", tone(0.1, rate), rate))) == 1600


def test_averages_channels(tmp_path):
    stereo = np.stack([tone(), np.zeros(16000)], axis=1)
    samples = load(write(tmp_path / "a.flac", stereo))
    assert torch.allclose(samples, torch.from_numpy(tone() / 2).float(), atol=1e-4)


def test_overshoot_is_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", 3 * tone(), 16000, subtype="FLOAT")
    assert load(tmp_path / "a.wav").abs().max() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 20000.0])
def test_samples_that_are_no_sound(tmp_path, value):
    samples = tone()
    samples[7] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    for read in (check, load):
        with pytest.raises(AudioError, match=r"a\.wav: samples must lie in") as caught:
            read(tmp_path / "a.wav")
        assert caught.value.cause == "bad samples"


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    noise = 0.1 * np.random.default_rng(0).standard_normal(24000)
    return {name: write(folder / f"a.{name}", noise).read_bytes() for name in FORMATS}


@pytest.mark.parametrize("suffix", WITHOUT_MP3)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_an_error(tmp_path, whole_files, suffix, data):
    content = whole_files[suffix]
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    for read in (check, load):
        with pytest.raises(AudioError, match=f"cut.{suffix}: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", WITHOUT_MP3)
@pytest.mark.parametrize("missing", [1, 200, "half"])
def test_truncation_is_named(tmp_path, whole_files, suffix, missing):
    content = whole_files[suffix]
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: -(len(content) // 2 if missing == "half" else missing)])
    with pytest.raises(AudioError, match="truncated") as caught:
        check(path)
    assert caught.value.cause == "truncated"


def test_truncated_mp3_with_a_length_in_its_header(tmp_path, whole_files):
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole_files["mp3"][: len(whole_files["mp3"]) // 2])
    with pytest.raises(AudioError, match=r"truncated: .* of 24000 frames"):
        check(path)


def test_damaged_flac(tmp_path, whole_files):
    content = bytearray(whole_files["flac"])
    content[len(content) // 2] ^= 0x55
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioError, match="truncated or damaged"):
        check(tmp_path / "a.flac")


def test_flac_that_does_not_tell_its_length(tmp_path, whole_files):
    content = bytearray(whole_files["flac"])
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioError, match="does not say how long"):
        duration(tmp_path / "a.flac")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_from_a_pipe_is_no_truncation(tmp_path, whole_files, size):
    content = bytearray(whole_files["wav"])
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    assert check(tmp_path / "a.wav") == 1.5


@pytest.mark.parametrize(
    ("suffix", "form"), [("aiff", ">I"), ("au", ">I"), ("caf", ">Q")], ids=lambda value: value.strip(">")
)
def test_an_unknown_size_is_no_truncation(tmp_path, whole_files, suffix, form):
    content = bytearray(whole_files[suffix])
    at = {"aiff": content.find(b"SSND") + 4, "au": 8, "caf": content.find(b"data") + 4}[suffix]
    content[at : at + struct.calcsize(form)] = b"\xff" * struct.calcsize(form)
    assert containers.fault(io.BytesIO(content)) == ""


def test_wav_with_other_chunks(tmp_path, whole_files):
    content = whole_files["wav"]
    extra = b"LIST" + struct.pack("<I", 5) + b"hello" + b"\0"  # odd: one byte of padding
    path = tmp_path / "a.wav"
    path.write_bytes(content[:12] + extra + content[12:] + extra)
    assert check(path) == 1.5
    path.write_bytes(content[:12] + extra + content[12:-1])
    with pytest.raises(AudioError, match="truncated"):
        check(path)


def test_ogg_with_a_tag_at_its_end_is_whole(tmp_path, whole_files):
    (tmp_path / "a.opus").write_bytes(whole_files["opus"] + b"TAG" + bytes(125))
    assert check(tmp_path / "a.opus") == 1.5


@pytest.mark.parametrize(
    "suffix", [name for name in FORMATS if name != "au"]
)  # which may have no header: then all is sound
def test_files_without_sound(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"")
    with pytest.raises(AudioError, match=r"0 bytes") as caught:
        check(path)
    assert caught.value.cause == "zero length"
    path.write_text("This is no recording.\n" * 100)
    with pytest.raises(AudioError, match="not audio") as caught:
        check(path)
    assert caught.value.cause == "unreadable"


def test_header_without_samples(tmp_path):
    with pytest.raises(AudioError, match="length is zero") as caught:
        load(write(tmp_path / "a.wav", np.zeros(0)))
    assert caught.value.cause == "zero length"


def test_no_file(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: no such file") as caught:
        load(tmp_path / "gone.wav")
    assert caught.value.cause == "missing"
    with pytest.raises(AudioError, match="not a file"):
        duration(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared LibriSpeech sample on this machine")
def test_real_opus(tmp_path):
    source = next(SHARED.glob("*/*/*/*.opus"))
    seconds = check(source)
    assert seconds == duration(source) and abs(len(load(source)) / 16000 - seconds) < 1e-3
    (tmp_path / "cut.opus").write_bytes(source.read_bytes()[:-500])
    with pytest.raises(AudioError, match="truncated"):
        check(tmp_path / "cut.opus")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_part_of_a_channel_is_what_lies_there(tmp_path, suffix):
    two = np.stack([tone(3.0, 48000, 300.0), tone(3.0, 48000, 2000.0)], axis=1)
    path = write(tmp_path / f"a.{suffix}", two, 48000)
    assert audio.channels(path) == 2
    for channel, hertz in ((0, 300), (1, 2000)):
        found = load(path, 16000, audio.Part(1.25, 1.5, channel)).numpy()
        assert found.shape == (24000,)
        assert abs(np.abs(np.fft.rfft(found)).argmax() - 1.5 * hertz) < 2
        whole = load(path, 48000, audio.Part(channel=channel))
        part = load(path, 48000, audio.Part(1.25, 1.5, channel))
        # MP3 and Vorbis decoders settle over a frame or two where they begin.
        same = slice(None) if suffix in ("flac", "wav") else slice(4800, -4800)
        assert torch.allclose(part[same], whole[60000:132000][same], atol=1e-3)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_mp3_has_no_seams_where_parts_or_blocks_begin(tmp_path, rate):
    # Tones, hiss and rests: an encoder saves bits in rests and spends them where the others begin.
    t = np.arange(12 * rate) / rate
    samples = sum(0.05 * np.sin(2 * np.pi * hertz * t) for hertz in (120, 240, 600, 2400))
    samples = samples * (np.sin(2 * np.pi * 2.3 * t) > 0)
    hiss = np.random.default_rng(0).normal(size=len(t)) * (np.sin(2 * np.pi * 3.1 * t) > 0.9)
    samples = (samples + 0.1 * hiss).clip(-0.95, 0.95)
    path = write(tmp_path / "a.mp3", samples, rate)
    whole = torch.from_numpy(soundfile.read(path, dtype="float32")[0])  # at once
    assert torch.allclose(load(path, rate), whole, atol=1e-3)
    for start in np.arange(0.5, 10.0, 0.14).tolist():
        first = round(start * rate)
        found = load(path, rate, audio.Part(start, 1.0))
        assert torch.allclose(found, whole[first : first + rate], atol=1e-3)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (audio.Part(channel=2), r"no channel 2: it has 2"),
        (audio.Part(1.5, 1.0), r"1\.5 s to 2\.5 s is not in it: it has 2\.00 s"),
        (audio.Part(2.5), r"2\.5 s to the end is not in it"),
        (audio.Part(-1.0, 1.0), r"-1 s to 0 s is not in it"),
        (audio.Part(1.0, 0.0), r"is not in it"),
    ],
)
def test_a_part_that_is_not_there_is_an_error(tmp_path, part, message):
    path = write(tmp_path / "a.wav", np.zeros((32000, 2)))
    with pytest.raises(AudioError, match=message):
        load(path, 16000, part)
    assert len(load(path, 16000, audio.Part(1.0, 1.005))) == 16000  # rounded times
