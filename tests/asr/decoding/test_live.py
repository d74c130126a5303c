"""Words while they are spoken, against the words of the whole."""

import copy
import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import decode
from asr.attention.mala import MalaOptions
from asr.checkpoints.checkpoint import load_model, pack_recipe, write_checkpoint
from asr.checkpoints.export import export
from asr.data import audio
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decode import let_forget
from asr.decoding.alignment import best_path, words_on_path
from asr.decoding.beam import BeamDecoder
from asr.decoding.hotwords import Hotword
from asr.decoding.live import Pauses, Session
from asr.decoding.live_output import paced, show
from asr.decoding.live_words import BeamWords, GreedyWords, Heard
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError
from asr.lm.build import estimate
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
        assert push(*[0] * 100) == Heard([], "AB")
    assert len(words._pieces) == len(classes)
    assert [word.text for word in words.finish().words] == ["AB"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    text, folder = ["THE CAT SAT ON THE MAT", "A CAT AND A HAT"] * 4, tmp_path_factory.mktemp("lm")
    (folder / "text").write_text("\n".join(text))
    estimate([folder / "text"], 3, folder / "lm.bin", estimator="own")
    return folder / "lm.bin"


WEIGHTS = Weights(0.8, 0.5, 3.0)


@pytest.mark.parametrize("look_back", [10.0, 1.0])
def test_beam_search_does_not_depend_on_how_frames_are_cut(tokenizer, lm, look_back):
    """With the look-back that it has, it finds what the search over the whole finds."""
    whole, decoder = BeamDecoder(lm, tokenizer, beam=20), BeamDecoder(lm, tokenizer, beam=20)

    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(0, 240), cuts=st.lists(st.integers(0, 240), max_size=12), seed=st.integers(0, 10**6))
    def check(n, cuts, seed):
        rng = np.random.default_rng(seed)
        log_probs = np.log(rng.dirichlet(np.full(tokenizer.pieces + 1, 0.1), n) + 1e-9).astype(np.float32)
        log_probs = log_probs.reshape(n, tokenizer.pieces + 1)
        found = []
        for ends in ([], sorted(min(cut, n) for cut in cuts)):
            words = BeamWords(tokenizer, 0.04, decoder, WEIGHTS, look_back)
            heard = [words.push(part) for part in np.split(log_probs, ends)] + [words.finish()]
            found.append([word for item in heard for word in item.words])
        texts = [[word.text for word in words] for words in found]
        assert texts[0] == texts[1]
        if look_back == 10.0:
            assert texts[0] == tokenizer.decode(whole.decode(log_probs, WEIGHTS)).split()
        for words in found:
            assert all(0 <= word.start < word.end <= 0.04 * n for word in words)
            assert [word.start for word in words] == sorted(word.start for word in words)

    check()


def spelt(tokenizer, text: str, blanks: int = 0) -> np.ndarray:
    """Posteriors of a text, a frame a piece and a blank after it, and blanks."""
    path = [item for piece in tokenizer.encode(text) for item in (piece, 0)] + [0] * blanks
    return np.log(np.eye(tokenizer.pieces + 1)[path] * 0.999 + 1e-6).astype(np.float32)


def test_stable_words_are_said_at_once_and_silence_keeps_nothing(tokenizer, lm):
    words = BeamWords(tokenizer, 0.04, BeamDecoder(lm, tokenizer, beam=20), WEIGHTS)
    heard = [words.push(spelt(tokenizer, "THE CAT SAT ON THE MAT", 20)) for _ in range(4)]
    said = [word.text for word in heard[0].words + heard[1].words]
    assert said[:6] == ["THE", "CAT", "SAT", "ON", "THE", "MAT"]  # long before the end
    for _ in range(30):
        heard.append(words.push(spelt(tokenizer, "", 100)))
    assert len(words._held) <= 275 and len(words._decoder._spellings.parent) < 25_000
    assert heard[-1].partial == "MAT"
    heard.append(words.finish())
    found = [word for item in heard for word in item.words]
    assert " ".join(word.text for word in found) == " ".join(["THE CAT SAT ON THE MAT"] * 4)
    alone = GreedyWords(tokenizer, 0.04)
    parts = [spelt(tokenizer, "THE CAT SAT ON THE MAT", 20)] * 4
    greedy = [word for part in parts for word in alone.push(part).words] + alone.finish().words
    assert [(word.start, word.end) for word in found] == [(word.start, word.end) for word in greedy]


def test_the_lm_s_memory_may_begin_anew_in_a_search(tokenizer, lm, monkeypatch):
    log_probs = np.log(np.random.default_rng(5).dirichlet(np.full(tokenizer.pieces + 1, 0.1), 80) + 1e-9)
    expected = BeamDecoder(lm, tokenizer, beam=20).decode_scored(log_probs.astype(np.float32), WEIGHTS)
    monkeypatch.setattr("asr.decoding.beam.MEMORY", 3)
    decoder = BeamDecoder(lm, tokenizer, beam=20)
    decoder.begin(WEIGHTS)
    for part in np.split(log_probs.astype(np.float32), 8):
        decoder.push(part)
    assert decoder.best() == (expected[0], pytest.approx(expected[1], abs=1e-9))


@settings(max_examples=30, deadline=None)
@given(
    blanks=st.lists(st.booleans(), max_size=60), cuts=st.lists(st.integers(0, 60)), frames=st.integers(0, 6)
)
def test_pauses_by_their_definition(blanks, cuts, frames):
    log_probs = np.array([[0.0, -1.0] if blank else [-1.0, 0.0] for blank in blanks]).reshape(-1, 2)
    ends, spoken, run = [], False, 0
    for number, blank in enumerate(blanks):
        run = run + 1 if blank else 0
        spoken = spoken or not blank
        if frames and spoken and run == frames:
            ends.append(number + 1)
            spoken = False
    pauses, found, done = Pauses(frames), [], 0
    for part in np.split(log_probs, sorted(min(cut, len(blanks)) for cut in cuts)):
        *ending, rest = pauses.cut(part)
        for item in ending:
            done += len(item)
            found.append(done)
        done += len(rest)
    assert found == ends and done == len(blanks)


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


def test_a_pause_ends_an_utterance(checkpoint):
    _, model, tokenizer, path = checkpoint
    waveform, model = audio.load(path).repeat(2), copy.deepcopy(model)
    log_probs, _ = model(waveform[None], torch.tensor([len(waveform)]), 16)
    with torch.no_grad():  # blanks in half of the frames
        model.head.project.bias[0] += (log_probs[0, :, 1:].amax(1) - log_probs[0, :, 0]).median() + 0.01
    whole, cut = Session(model, tokenizer, pause=0.0), Session(model, tokenizer, pause=0.08)
    words = whole.feed(waveform).words + whole.finish().words
    parts = [cut.feed(part) for part in waveform.split(3000)] + [cut.finish()]
    ended = [utterance for part in parts for utterance in part.ended]
    assert len(ended) > 1
    assert sum(len(part.words) for part in parts) == sum(len(item.text.split()) for item in ended)
    assert "".join(item.text for item in ended).replace(" ", "") == "".join(word.text for word in words)
    assert all(a.end <= b.start for a, b in pairwise(ended)) and ended[0].start == words[0].start
    out = {form: io.StringIO() for form in ("txt", "json")}
    for form, file in out.items():
        show(Session(model, tokenizer, pause=0.08), waveform.split(3000), form, file)
    assert out["txt"].getvalue().splitlines() == [item.text for item in ended]
    lines = map(json.loads, out["json"].getvalue().splitlines())
    assert [(line["final"], line["start"], line["end"]) for line in lines if "final" in line] == [
        (item.text, item.start, item.end) for item in ended
    ]
    # Utterances that all end in the last chunk are still apart.
    once, out = Session(model, tokenizer, seconds=40.0, pause=0.08), io.StringIO()
    ended = once.feed(waveform).ended + once.finish().ended
    show(Session(model, tokenizer, seconds=40.0, pause=0.08), [waveform], "json", out)
    lines = map(json.loads, out.getvalue().splitlines())
    assert len(ended) > 1 and [line["final"] for line in lines if "final" in line] == [
        item.text for item in ended
    ]


def test_with_an_lm_a_stream_says_what_the_search_over_the_whole_finds(checkpoint, corpus, tmp_path, capsys):
    path, model, tokenizer, recording = checkpoint
    lm = tmp_path / "lm.bin"
    estimate([corpus / "lm.txt"], 3, lm, estimator="own")
    weights = ["--lm-weight", "0.5", "--word-score", "1", "--unknown-penalty", "2"]
    options = ["--checkpoint", str(path), "--device", "cpu", "--lm", str(lm), *weights]
    decode.main([*options, "--stream", str(recording), "--pause", "0"])
    waveform = audio.load(recording)
    log_probs, _ = model(waveform[None], torch.tensor([len(waveform)]), 16)
    decoder = BeamDecoder(lm, tokenizer)
    expected = tokenizer.decode(decoder.decode(log_probs[0].detach().numpy(), Weights(0.5, 1.0, 2.0)))
    assert expected and capsys.readouterr().out == expected + "\n"
    # Hotwords, in place of the LM.
    (tmp_path / "words").write_text("a hat\t9\n")
    command = ["--checkpoint", str(path), "--device", "cpu", "--words", str(tmp_path / "words")]
    decode.main([*command, "--stream", str(recording), "--pause", "0"])
    decoder = BeamDecoder(None, tokenizer, hotwords=[Hotword("A HAT", 9.0)])
    expected = tokenizer.decode(decoder.decode(log_probs[0].detach().numpy(), GREEDY))
    assert "A HAT" in expected and capsys.readouterr().out == expected + "\n"


def test_splits_are_decoded_in_chunks(checkpoint, corpus, tmp_path):
    """In batches, and one by one where they are longer: as in a stream."""
    path, model, tokenizer, _ = checkpoint
    options = ["--checkpoint", str(path), "--device", "cpu", "--data", str(corpus), "--splits", "test"]
    options += ["--chunk-ms", "640"]
    for folder, seconds in (("batches", "60"), ("alone", "0.5")):
        decode.main([*options, "--out", str(tmp_path / folder), "--batch-seconds", seconds])
        about = json.loads((tmp_path / folder / "wer.json").read_text())
        assert about["chunk_ms"] == 640
        found = (tmp_path / folder / "test.none.jsonl").read_text().splitlines()
        for line, utterance in zip(found, read_manifest(corpus / "test.jsonl"), strict=True):
            words = words_of_the_whole(model, tokenizer, audio.load(utterance.audio))
            assert json.loads(line)["hyp"].split() == words


def test_on_a_terminal_the_line_is_written_over(checkpoint):
    _, model, tokenizer, path = checkpoint
    waveform, (leader, follower) = audio.load(path), pty.openpty()
    shown = []

    def read() -> None:  # at once: a terminal holds a few thousand characters that nobody has read
        with suppress(OSError):  # what a terminal that was closed gives
            while part := os.read(leader, 1 << 16):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(follower, "w") as terminal:
        show(Session(model, tokenizer), waveform.split(5000), "txt", terminal)
    reader.join()
    os.close(leader)
    shown = b"".join(shown).decode()
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
        (["--pause", "-1"], "--pause -1: must lie between 0 and 60 seconds"),
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


def test_a_long_recording_is_not_for_attention_that_does_not_forget(checkpoint, capsys, monkeypatch):
    path, _, _, recording = checkpoint
    options = ["--checkpoint", str(path), "--device", "cpu", "--audio", str(recording)]
    said = []
    for seconds, more in ((120, []), (0.1, []), (0.1, ["--forget", "5"]), (0.1, ["--segment-seconds", "20"])):
        monkeypatch.setattr("asr.decode.LONG", seconds)
        decode.main([*options, *more])
        said.append("does not forget" in capsys.readouterr().err)
    assert said == [False, True, False, False]


def test_forgetting_is_an_option_of_decoding(checkpoint, capsys):
    path, _, _, recording = checkpoint
    options = ["--checkpoint", str(path), "--device", "cpu", "--audio", str(recording)]
    found = []
    for more in ([], ["--forget", "0.2"]):
        decode.main([*options, *more])
        found.append(capsys.readouterr().out)
    assert found[0] != found[1]
    with pytest.raises(UserError, match=r"--forget 0: must lie between 0\.1 and 400 seconds"):
        decode.main([*options, "--forget", "0"])
    softmax = Model(ModelConfig("softmax", encoder=EncoderConfig(dim=16, layers=1, heads=2)), 9)
    with pytest.raises(UserError, match=r"--forget 5: this model's attention \(softmax\) does not forget"):
        let_forget(softmax, 5.0)
    tiny = EncoderConfig(dim=16, layers=1, heads=2)
    released = Model(ModelConfig("mala", options={"mala": MalaOptions(form="released")}, encoder=tiny), 9)
    with pytest.raises(UserError, match=r"--forget: only with --mala.form centred, and this is released"):
        let_forget(released, 5.0)


def test_options_of_streams_want_a_stream(checkpoint):
    with pytest.raises(UserError, match="--chunk-ms wants --stream or --data"):
        decode.main(["--checkpoint", str(checkpoint[0]), "--audio", "x.wav", "--chunk-ms", "320"])
    with pytest.raises(UserError, match="--real-time and --pause want --stream"):
        decode.main(["--checkpoint", str(checkpoint[0]), "--audio", "x.wav", "--pause", "2"])


def test_a_shared_model_streams_alike(checkpoint, tmp_path):
    """What features begin with travels with it."""
    path, _, tokenizer, recording = checkpoint
    export(path, tmp_path / "shared")
    model, _ = load_model(tmp_path / "shared")
    heard = Session(model, tokenizer)
    words = heard.feed(audio.load(recording)).words + heard.finish().words
    original, _ = load_model(path)
    assert [word.text for word in words] == words_of_the_whole(original, tokenizer, audio.load(recording))
