"""Recordings of every kind to transcripts."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.data import audio
from asr.data.manifest import read_manifest
from asr.data.recordings import Recording, find_recordings
from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamPool
from asr.decoding.greedy import greedy
from asr.decoding.label_looping import transducer_greedy
from asr.decoding.transcription import (
    GreedyDecoder,
    LMDecoder,
    Output,
    TransducerDecoder,
    run,
    transcribe,
)
from asr.decoding.weights import Weights
from asr.errors import UserError
from asr.lm import build as lm
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig, SubsamplingConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig

FRAME = 0.04  # seconds


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return Tokenizer.load(corpus / "tokenizer.model")


@pytest.fixture(scope="module")
def model(tokenizer) -> Model:
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=5)
    model = Model(ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20)), tokenizer.pieces)
    # Untrained: louder, so that frames differ, and with a bias for blanks, so that words are sparse.
    with torch.no_grad():
        model.head.project.weight *= 12
        model.head.project.bias[0] += 3
    return model.eval()


@pytest.fixture(scope="module")
def paths(corpus) -> list[Path]:
    return [Path(item.audio) for item in read_manifest(corpus / "test.jsonl")]


@pytest.fixture(scope="module")
def joined(paths, tmp_path_factory) -> Path:
    """All of them in one, at 44.1 kHz and in stereo."""
    samples = torch.cat([audio.load(path, 44100) for path in paths]).numpy()
    path = tmp_path_factory.mktemp("joined") / "joined.flac"
    soundfile.write(path, np.stack([samples, 0.5 * samples], axis=1), 44100)
    return path


@pytest.fixture(scope="module")
def pool(corpus, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "3gram.bin"
    lm.estimate([corpus / "lm.txt"], 3, path, estimator="own")
    with BeamPool(path, tokenizer, 20, 1) as pool:
        yield pool


def transcripts(model, decoder, arguments, batch_seconds=120.0):
    return list(transcribe(find_recordings(arguments), model, decoder, batch_seconds))


def test_greedy_is_the_best_path_of_each_by_itself(model, tokenizer, paths):
    found = transcripts(model, GreedyDecoder(tokenizer, FRAME), paths)
    assert [item.path for item in found] == list(map(str, paths))
    assert len({item.text for item in found}) > 5
    for item, path in zip(found, paths, strict=True):
        waveform = audio.load(path)
        with torch.inference_mode():
            log_probs, lengths = model(waveform[None], torch.tensor([len(waveform)]))
        assert item.text == tokenizer.decode(greedy(log_probs, lengths)[0])
        assert item.duration == round(len(waveform) / 16000, 3)
        assert " ".join(word.text for word in item.words) == " ".join(item.text.split())
        assert all(0 <= word.start < word.end <= item.duration for word in item.words)


@pytest.mark.parametrize("kind", [{}, {"kind": "nemo"}, {"kind": "nemo", "edges": "old"}], ids=str)
def test_times_are_in_the_model_s_own_frames(tokenizer, joined, kind):
    torch.manual_seed(0)
    subsampling = SubsamplingConfig("depthwise", 8, 16)
    encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=5, subsampling=subsampling)
    config = ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20, **kind))
    model = Model(config, tokenizer.pieces).eval()
    with torch.no_grad():
        model.head.project.weight *= 12
    decoder = GreedyDecoder(tokenizer, model.framing.seconds)
    [whole], [in_parts] = (transcripts(model, decoder, [joined], seconds) for seconds in (120.0, 1.0))
    assert whole == in_parts and len(whole.words) > 5
    assert whole.words[-1].end > 0.8 * whole.duration  # frames of 40 ms would end in the middle
    for word in whole.words[:-1]:
        assert word.start / 0.08 == pytest.approx(round(word.start / 0.08), abs=0.02)


def test_batches_change_neither_order_nor_text(model, tokenizer, paths):
    wanted = transcripts(model, GreedyDecoder(tokenizer, FRAME), paths)
    for batch_seconds in (1e-3, 2.0, 5.0):  # all by the long path; in several windows; in fewer
        found = transcripts(model, GreedyDecoder(tokenizer, FRAME), paths, batch_seconds)
        assert [(item.path, item.text) for item in found] == [(item.path, item.text) for item in wanted]


def test_windows_give_the_first_before_the_last_is_read(model, tokenizer, paths):
    def endless():
        while True:
            yield from find_recordings(paths)

    found = transcribe(endless(), model, GreedyDecoder(tokenizer, FRAME), 2.0)
    assert next(found).path == str(paths[0])


def test_long_is_as_short(model, tokenizer, joined, pool):
    # 4 s, so that there is something to cut.
    lm_decoder = LMDecoder(tokenizer, FRAME, pool, Weights(0.5, 1.0, 3.0), together=3, longest=4.0)
    for decoder in (GreedyDecoder(tokenizer, FRAME), lm_decoder):
        [whole] = transcripts(model, decoder, [joined])
        [in_parts] = transcripts(model, decoder, [joined], batch_seconds=1.0)
        assert whole.text == in_parts.text and whole.words == in_parts.words
        assert whole.text and [word.text for word in whole.words] == whole.text.split()
        starts = [word.start for word in whole.words]
        assert starts == sorted(starts) and starts[-1] > 0.5 * whole.duration


def test_a_transducer_transcribes_recordings_of_any_length(tokenizer, paths, joined):
    """Short ones in batches as each by itself; long ones part by part as whole; words with their times."""
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=5)
    small = TransducerConfig(hidden=8, joint=8)
    config = ModelConfig("mala", "auto", None, encoder, FrontendConfig(mels=20), "transducer", small)
    model = Model(config, tokenizer.pieces).eval()
    with torch.no_grad():
        model.transducer.joint.project.weight *= 12
        model.transducer.joint.project.bias[0] += 12
    decoder = TransducerDecoder(tokenizer, FRAME, model.transducer)
    found = transcripts(model, decoder, paths)
    assert len({item.text for item in found}) > 5
    for item, path in zip(found, paths, strict=True):
        waveform = audio.load(path)
        with torch.inference_mode():
            encoded = model.encode(waveform[None], torch.tensor([len(waveform)]))
        [hypothesis] = transducer_greedy(model.transducer, *encoded)
        assert item.text == tokenizer.decode(hypothesis.classes)
        assert [word.text for word in item.words] == item.text.split()
        assert all(0 <= word.start < word.end <= item.duration for word in item.words)
    [whole], [in_parts] = (transcripts(model, decoder, [joined], seconds) for seconds in (120.0, 1.0))
    assert whole == in_parts and whole.words[-1].end > 0.5 * whole.duration


@pytest.mark.parametrize("name, parts", [("greedy", 300), ("lm", 60)])
def test_posteriors_of_a_long_recording_are_dropped_as_they_are_decoded(tokenizer, pool, name, parts):
    lm_decoder = LMDecoder(tokenizer, FRAME, pool, Weights(0.5, 1.0, 3.0), together=2)
    decoder = GreedyDecoder(tokenizer, FRAME) if name == "greedy" else lm_decoder
    silence = np.full((500, tokenizer.pieces + 1), -9, np.float32)
    silence[:, 0] = -1e-3
    tracemalloc.start()
    try:
        assert decoder([(silence.copy() for _ in range(parts))], 20.0 * parts) == [("", [], ())]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two segments, what is left over, a part, copies of them; and the best path's few bytes a frame.
    assert peak < 0.4 * parts * silence.nbytes and peak < 20 * silence.nbytes + 40 * 500 * parts


def test_lm_words_are_the_hypothesis(model, tokenizer, paths, pool):
    decoder = LMDecoder(tokenizer, FRAME, pool, Weights(0.5, 1.0, 3.0), together=4)
    for item in transcripts(model, decoder, paths):
        assert " ".join(word.text for word in item.words) == item.text
        assert all(0 <= word.start < word.end <= item.duration for word in item.words)


@pytest.mark.parametrize("batch_seconds", [1e-3, 120.0])
def test_a_bad_recording_stands_in_its_place(model, tokenizer, paths, tmp_path, batch_seconds):
    damaged = tmp_path / "damaged.flac"
    soundfile.write(damaged, 0.1 * np.random.default_rng(0).standard_normal(160_000), 16000)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0x55  # its header is right: it shows only as it is read
    damaged.write_bytes(content)
    arguments = [paths[0], damaged, tmp_path / "gone.wav", paths[1]]
    found = transcripts(model, GreedyDecoder(tokenizer, FRAME), arguments, batch_seconds)
    assert [isinstance(item, UserError) for item in found] == [False, True, True, False]
    assert "damaged.flac: truncated or damaged" in str(found[1]) and "no such file" in str(found[2])
    assert [found[0].path, found[3].path] == [str(paths[0]), str(paths[1])]
    assert all(
        isinstance(item, UserError)
        for item in transcripts(model, GreedyDecoder(tokenizer, FRAME), [damaged], batch_seconds)
    )


def by(model, decoder, batch_seconds=120.0):
    """What ``run`` transcribes with."""
    return lambda items: transcribe(items, model, decoder, batch_seconds)


class Strange(Exception):
    """An error that nobody thought of."""


def raising(work, when):
    """``work``, but for calls that ``when`` is true of."""

    def wrapped(*arguments):
        if when(*arguments):
            raise Strange("two\nlines")
        return work(*arguments)

    return wrapped


@pytest.mark.parametrize("batch_seconds", [1e-3, 120.0])
@pytest.mark.parametrize("where", ["duration", "samples"])
def test_a_recording_that_nobody_can_read(model, tokenizer, paths, monkeypatch, capsys, where, batch_seconds):
    for name in ["duration"] if where == "duration" else ["load", "stream"]:
        monkeypatch.setattr(audio, name, raising(getattr(audio, name), lambda path, *_: path == paths[1]))
    assert run(paths[:3], Output(), by(model, GreedyDecoder(tokenizer, FRAME), batch_seconds)) == 1
    shown = capsys.readouterr()
    assert [line.partition(": ")[0] for line in shown.out.splitlines()] == [str(paths[0]), str(paths[2])]
    assert shown.err == f"error: {paths[1]}: cannot be transcribed: Strange: two lines\n"


@pytest.mark.parametrize("where", ["model", "decoder"])
def test_a_recording_that_the_model_or_the_search_cannot_take(model, tokenizer, paths, capsys, where):
    """Its batch, or its window, goes on without it."""
    decoder = GreedyDecoder(tokenizer, FRAME)
    samples = len(audio.load(paths[1]))  # by which it is known
    frames = model.framing.encoded(samples)
    if where == "model":
        hook = model.register_forward_pre_hook(
            raising(lambda *_: None, lambda _, inputs: samples in inputs[1])
        )
    else:
        decoder = raising(decoder, lambda recordings, _: any(len(parts[0]) == frames for parts in recordings))
    try:
        assert run(paths[:3], Output(), by(model, decoder)) == 1
    finally:
        if where == "model":
            hook.remove()
    shown = capsys.readouterr()
    assert [line.partition(": ")[0] for line in shown.out.splitlines()] == [str(paths[0]), str(paths[2])]
    assert shown.err == f"error: {paths[1]}: cannot be transcribed: Strange: two lines\n"


@pytest.mark.parametrize(
    "error", [MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, KeyboardInterrupt, UserError]
)
def test_what_stops_any_recording_stops_the_program(model, tokenizer, paths, error):
    def decoder(recordings, seconds):
        raise error

    with pytest.raises(error):
        run(paths[:3], Output(), by(model, decoder))


def test_a_transcript_that_cannot_be_written_stops_no_other(model, tokenizer, paths, tmp_path, capsys):
    long_name = tmp_path / f"{'x' * 250}.wav"  # whose temporary file's name is longer than any may be
    shutil.copy(paths[0], long_name)
    out = tmp_path / "out"
    assert run([long_name, paths[1]], Output(folder=out), by(model, GreedyDecoder(tokenizer, FRAME))) == 1
    shown = capsys.readouterr()
    assert [path.name for path in out.iterdir()] == [f"{paths[1].stem}.txt"]
    assert shown.err.count("\n") == 1 and "xxx.txt: cannot be written: File name too long" in shown.err
    assert shown.out.startswith("1 of 2 recordings")


def test_the_shortest_recording(model, tokenizer, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1), 16000)
    for batch_seconds in (1e-5, 120.0):
        [item] = transcripts(model, GreedyDecoder(tokenizer, FRAME), [tmp_path / "a.wav"], batch_seconds)
        assert all(word.end <= item.duration for word in item.words)


def plan(output: Output, *recordings: tuple[str, str]) -> list[Path]:
    items = [Recording(Path(path), Path(name), 1.0) for path, name in recordings]
    return list(output.plan(items, [Path("x.txt")]).values())


def test_outputs_never_meet(tmp_path):
    output = Output("json", folder=tmp_path)
    assert plan(output, ("a/t.v1.wav", "t.v1"), ("b/t.wav", "b/t")) == [
        tmp_path / "t.v1.json",
        tmp_path / "b" / "t.json",
    ]
    assert plan(output, ("a/t.wav", "t"), ("a/t.flac", "t"), ("a/u.wav", "u")) == [
        tmp_path / "t.wav.json",
        tmp_path / "t.flac.json",
        tmp_path / "u.json",
    ]
    with pytest.raises(UserError, match=r"a/t\.wav and b/t\.wav would both be written to .*t\.wav\.json"):
        plan(output, ("a/t.wav", "t"), ("b/t.wav", "t"))
    with pytest.raises(UserError, match=r"would both be written to .*t\.wav\.json"):
        plan(output, ("t.wav", "t"), ("t.flac", "t"), ("t.wav.mp3", "t.wav"))
    with pytest.raises(UserError, match=r"would overwrite x\.txt"):
        plan(Output("txt", folder=Path()), ("x.wav", "x"))
    (tmp_path / "talk.txt").write_text("what was said, by hand")
    with pytest.raises(UserError, match=r"would overwrite .*talk\.txt, which may be the recording's own"):
        plan(Output("txt", folder=tmp_path), (str(tmp_path / "talk.wav"), "talk"))
    assert plan(output, (str(tmp_path / "talk.wav"), "talk")) == [tmp_path / "talk.json"]


def test_captions_of_several_want_a_folder(model, tokenizer, paths, tmp_path, capsys):
    decoder = GreedyDecoder(tokenizer, FRAME)
    with pytest.raises(UserError, match="--out a folder"):
        run(paths[:2], Output("srt"), by(model, decoder))
    assert run(paths[:1], Output("vtt"), by(model, decoder)) == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n")
    assert run(paths[:2], Output("srt", folder=tmp_path), by(model, decoder)) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"{p.stem}.srt" for p in paths[:2])
