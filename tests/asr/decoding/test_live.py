"""Words while they are spoken, against the words of the whole."""

import io
import json
import os
import pty
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import decode
from asr.checkpoints.checkpoint import load_model, pack_recipe, write_checkpoint
from asr.checkpoints.export import export
from asr.data import audio
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.alignment import best_path, words_on_path
from asr.decoding.live import GreedyWords, Session, paced, show
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model


@pytest.fixture(scope="module", params=["unigram", "char"])
def tokenizer(request) -> Tokenizer:
    texts = ["THE CAT SAT ON THE MAT", "A CAT AND A HAT", "THAT HAT SAT ON A CAT'S MAT"] * 5
    return Tokenizer(train_tokenizer(texts, 20 if request.param == "unigram" else 16, request.param))


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=8), seed=st.integers(0, 10**6))
def test_words_come_once_in_order_and_never_change(tokenizer, n, cuts, seed):
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(tokenizer.pieces + 1), n)).astype(np.float32)
    words = GreedyWords(tokenizer, 0.04)
    heard = [words.push(part) for part in np.split(log_probs, sorted(min(cut, n) for cut in cuts))]
    heard.append(words.finish())
    found = [word for item in heard for word in item.words]
    assert found == words_on_path(best_path([log_probs]), tokenizer, 0.04)
    assert heard[-1].partial == ""


def test_a_partial_word_is_shown_and_silence_keeps_nothing():
    tokenizer = Tokenizer(train_tokenizer(["AB CD"] * 5, 8, "char"))
    classes = [piece for text in ("AB",) for piece in tokenizer.encode(text)]
    words = GreedyWords(tokenizer, 0.04)

    def push(*path: int):
        return words.push(np.log(np.eye(tokenizer.pieces + 1)[list(path)] * 0.9 + 0.01).astype(np.float32))

    assert push(*classes[:-1]).partial == "A"
    assert push(*classes[-1:], 0).partial == "AB"
    for _ in range(50):
        assert push(*[0] * 100) == ([], "AB")
    assert len(words._pieces) == len(classes)
    assert [word.text for word in words.finish().words] == ["AB"]


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    """A model with random weights that streams."""
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=3)
    config = ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20, normalise="running"))
    model = Model(config, tokenizer.pieces)
    model.eval()
    model.frontend.running.mean.fill_(-8.0)
    model.frontend.running.deviation.fill_(3.0)
    recording = read_manifest(corpus / "test.jsonl")[0].audio
    waveform = audio.load(recording)
    with torch.no_grad():  # so that it says many things
        features, lengths = model.frontend(waveform[None], torch.tensor([len(waveform)]))
        x, _ = model.encoder(features, lengths, 16)
        model.head.project.weight.normal_()
        model.head.project.bias.copy_(-model.head.project.weight @ x[0].mean(0))
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    content = {"recipe": pack_recipe(config, tokenizer), "training": {}, "global_step": 1}
    content["state_dict"] = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_checkpoint(content, path)
    return path, model, tokenizer, recording


def words_of_the_whole(model, tokenizer, waveform) -> list[str]:
    with torch.inference_mode():
        log_probs, _ = model(waveform[None], torch.tensor([len(waveform)]), 16)
    path = best_path([log_probs[0].numpy()])
    return [word.text for word in words_on_path(path, tokenizer, 0.04)]


def test_a_session_gives_the_words_of_a_chunked_pass(checkpoint):
    _, model, tokenizer, path = checkpoint
    waveform = audio.load(path)
    session, found = Session(model, tokenizer), []
    for part in waveform.split(999):
        found += session.feed(part).words
    found += session.finish().words
    assert len(found) > 2 and [word.text for word in found] == words_of_the_whole(model, tokenizer, waveform)


def command(path, *options) -> list[str]:
    arguments = ["--checkpoint", str(path), "--device", "cpu", *map(str, options)]
    return [sys.executable, "decode.py", *arguments]


def test_programs_read_files_and_pipes_alike(checkpoint):
    """A file, and its samples as they come, cut in the middle of one."""
    path, model, tokenizer, recording = checkpoint
    expected = " ".join(words_of_the_whole(model, tokenizer, audio.load(recording)))
    done = subprocess.run(command(path, "--stream", recording), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, expected + "\n"), done.stderr
    samples = (audio.load(recording) * 32768).round().to(torch.int16).numpy().tobytes() + b"\x07"
    done = subprocess.run(
        command(path, "--stream", "-", "--format", "json"), capture_output=True, input=samples
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert " ".join(word["text"] for line in lines for word in line["words"]) == expected
    assert lines[-1]["partial"] == "" and lines[-1]["seconds"] == pytest.approx(
        len(samples) / 32000, abs=1e-3
    )
    assert len(lines) >= 2


def test_on_a_terminal_the_line_is_written_over(checkpoint):
    _, model, tokenizer, path = checkpoint
    waveform, (leader, follower) = audio.load(path), pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        show(Session(model, tokenizer), waveform.split(5000), "txt", terminal)
        shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    lines = [line.rpartition("\r\x1b[K")[2] for line in shown.replace("\r\n", "\n").split("\n")]
    assert " ".join(" ".join(lines).split()) == " ".join(words_of_the_whole(model, tokenizer, waveform))
    assert shown.count("\r\x1b[K") > 2


def test_ctrl_c_ends_what_is_said(checkpoint):
    _, model, tokenizer, path = checkpoint

    def interrupted():
        yield audio.load(path)
        raise KeyboardInterrupt

    out = io.StringIO()
    show(Session(model, tokenizer), interrupted(), "txt", out)
    assert out.getvalue().split() == words_of_the_whole(model, tokenizer, audio.load(path))


def test_the_speed_of_speech():
    begun = time.monotonic()
    parts = list(paced([torch.zeros(3200), torch.zeros(1600)]))
    assert time.monotonic() - begun >= 0.3 and sum(map(len, parts)) == 4800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lm", "x.bin"], "--lm: beam search does not go on from chunk to chunk yet"),
        (["--format", "srt"], "--format srt: --stream writes txt or json"),
        (["--timestamps"], "--timestamps: does not go with --stream"),
        (["--out", "x"], "--out: does not go with --stream"),
        (["--audio", "x"], "--audio: does not go with --stream"),
        (["--real-time"], "--real-time: standard input comes at its own speed"),
        (["--chunk-ms", "nan"], "--chunk-ms nan: must be positive"),
        (["--chunk-ms", "50"], "chunks of 50 ms: must be a multiple of this model's frames of 40 ms"),
    ],
)
def test_what_does_not_go_together_is_refused(checkpoint, options, message):
    with pytest.raises(UserError, match=message):
        decode.main(["--checkpoint", str(checkpoint[0]), "--device", "cpu", "--stream", "-", *options])


def test_options_of_streams_want_a_stream(checkpoint):
    with pytest.raises(UserError, match="--real-time and --chunk-ms want --stream"):
        decode.main(["--checkpoint", str(checkpoint[0]), "--audio", "x.wav", "--chunk-ms", "320"])


def test_a_shared_model_streams_alike(checkpoint, tmp_path):
    """What features begin with travels with it."""
    path, _, tokenizer, recording = checkpoint
    export(path, tmp_path / "shared", None)
    model, _ = load_model(tmp_path / "shared")
    heard = Session(model, tokenizer)
    words = heard.feed(audio.load(recording)).words + heard.finish().words
    original, _ = load_model(path)
    assert [word.text for word in words] == words_of_the_whole(original, tokenizer, audio.load(recording))
