"""Training in chunks, on features normalised by what has been heard so far."""

from dataclasses import replace

import pytest
import torch

from asr.checkpoints.checkpoint import load_model, read_checkpoint
from asr.data import audio
from asr.data.batches import Batch
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig, parse_config
from asr.training.distillation import Teacher, load_teacher, modules_to_match
from asr.training.losses import training_loss
from asr.training.run import train
from asr.training.streaming import draw_chunk, validation_chunk

TINY = """
attention: mala
encoder: {dim: 16, layers: 1, heads: 2, kernel: 3, dropout: 0.0}
frontend: {mels: 20, frequency_width: 3, time_masks: 1, normalise: running}
training: {steps: 4, seconds: 20, warmup: 2, validate_every: 2, precision: fp32, accelerator: cpu,
           chunks: [2, 4], chunk_share: 1.0}
"""


@pytest.fixture
def run(corpus, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(*options: str, out: str = "run"):
        arguments = ["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / out)]
        arguments += ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]
        train(parse_config([*arguments, *options]))
        return tmp_path / out / "checkpoints" / "last.ckpt"

    return call


def test_chunks_are_drawn_from_the_list_for_their_share():
    config = TrainingConfig(chunks=[4, 8], chunk_share=0.25)
    torch.manual_seed(0)
    drawn = [draw_chunk(config) for _ in range(4000)]
    assert set(drawn) == {0, 4, 8}
    assert drawn.count(4) / 4000 == pytest.approx(0.125, abs=0.02) == drawn.count(8) / 4000
    assert {draw_chunk(replace(config, chunk_share=1.0)) for _ in range(100)} == {4, 8}
    assert draw_chunk(TrainingConfig()) == 0
    state = torch.get_rng_state()
    draw_chunk(TrainingConfig())  # a run without chunks draws what it drew before there were any
    assert torch.equal(state, torch.get_rng_state())
    assert validation_chunk(config) == 0 and validation_chunk(replace(config, chunk_share=1.0)) == 8


@pytest.mark.parametrize("attention", ["mala", "softmax", "inline", "efficient"])
def test_the_loss_is_that_of_a_chunked_pass(attention):
    torch.manual_seed(0)
    frontend = FrontendConfig(mels=20, normalise="running", speeds=(1.0,), time_masks=0, frequency_masks=0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=3, dropout=0.0)
    model = Model(ModelConfig(attention, encoder=encoder, frontend=frontend), 12).double().eval()
    lengths, targets = torch.tensor([16_000, 9_000]), torch.tensor([[1, 2, 3], [4, 5, 0]])
    sizes = torch.tensor([3, 2])
    batch = Batch(["a", "b"], torch.randn(2, 16_000, dtype=torch.float64), lengths, targets, sizes, ["", ""])
    loss = training_loss(model, batch, TrainingConfig(chunks=[3], chunk_share=1.0))
    log_probs, frames = model(batch.waveforms, lengths, 3)
    expected = model.head.loss(log_probs, frames, targets, sizes)
    assert loss.total.item() == pytest.approx(expected.sum().item() / 5, rel=1e-9)
    full = training_loss(model, batch, TrainingConfig())
    assert abs(full.total.item() - loss.total.item()) > 1e-6
    loss.total.backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not {name for name in unused if not name.endswith("key.bias") and "content_bias" not in name}


def test_attention_learns_what_the_teachers_gives_in_the_same_chunk():
    models = []
    for seed, attention in enumerate(("mala", "softmax")):
        torch.manual_seed(seed)
        frontend = FrontendConfig(mels=20, speeds=(1.0,), time_masks=0, frequency_masks=0)
        encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=3, dropout=0.0)
        models.append(Model(ModelConfig(attention, encoder=encoder, frontend=frontend), 12).double().eval())
    student, teacher = models
    waveform, n = torch.randn(1, 16_000, dtype=torch.float64), torch.tensor([16_000])
    x = teacher.encoder.subsampling(*teacher.frontend(waveform, n))[0]
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    ours, theirs = (model.encoder.blocks[0] for model in models)
    heard = theirs.attention_norm(theirs.before_attention(x))
    errors = []
    for chunk in (3, 0):
        wanted = theirs.attention(heard, valid, chunk)
        errors.append(((ours.attention(heard, valid, chunk) - wanted).norm() / wanted.norm()).item() ** 2)
    targets = torch.tensor([[1, 2, 3]])
    batch = Batch(["a"], waveform, n, targets, torch.tensor([3]), [""])
    config = TrainingConfig(teacher="x", ctc=0.0, distil_attention=1.0, chunks=[3], chunk_share=1.0)
    taught_by = Teacher(teacher, same_features=True, modules=modules_to_match(teacher, config))
    for error, chunks in zip(errors, ([3], []), strict=True):
        found = training_loss(student, batch, replace(config, chunks=chunks), taught_by)
        assert found.total.item() == pytest.approx(error, rel=1e-9)
    assert abs(errors[0] - errors[1]) > 1e-6


def test_a_run_in_chunks_streams_and_goes_on(run, corpus, capsys):
    path = run("--training.steps", "2")
    said = capsys.readouterr().out
    assert "running features begin with mean and deviation of" in said
    model, _ = load_model(path)
    waveform = audio.load(read_manifest(corpus / "test.jsonl")[0].audio)
    with torch.inference_mode():
        whole, _ = model(waveform[None], torch.tensor([len(waveform)]), 4)
    stream = model.stream(0.16)
    parts = [stream.feed(part) for part in waveform.split(1000)]
    found = torch.cat([*parts, stream.finish()])
    assert torch.allclose(found, whole[0], atol=1e-4)
    # The prior is the data's: most of it lies within it.
    features = model.frontend.log_mel(waveform[None])[0]
    apart = (features.mean(0) - model.frontend.running.mean) / model.frontend.running.deviation
    assert apart.abs().max() < 3 and (model.frontend.running.deviation > 0.5).all()
    prior = model.frontend.running.mean.clone()
    run("--resume", "auto")
    resumed, _ = load_model(path)
    assert torch.equal(resumed.frontend.running.mean, prior) and read_checkpoint(path)["global_step"] == 4
    capsys.readouterr()
    with pytest.raises(
        UserError, match=r"^--training\.chunks \[2\].*: .*last\.ckpt was trained with \[2, 4\]"
    ):
        run("--resume", "auto", "--training.chunks", "[2]")


def test_a_run_that_begins_from_another_keeps_its_prior(run):
    first = run()
    model, _ = load_model(first)
    content = read_checkpoint(first)
    weights = content["average"] or content["state_dict"]
    [name] = [name for name in weights if name.endswith("frontend.running.mean")]
    weights[name].fill_(-3.0)
    torch.save(content, first.with_name("other.ckpt"))
    model, _ = load_model(run("--init", str(first.with_name("other.ckpt")), out="second"))
    assert (model.frontend.running.mean == -3).all()


def test_another_share_of_chunks_would_be_another_run(run):
    run()
    with pytest.raises(
        UserError, match=r"^--training\.chunk_share 0\.9.*: .*last\.ckpt was trained with .*--init"
    ):
        run("--resume", "auto", "--training.chunk_share", "0.9")


def test_what_cannot_go_in_chunks_is_refused(run):
    with pytest.raises(UserError, match=r"--training\.chunks \[2, 4\]: agent cannot work chunk by chunk"):
        run("--attention", "agent")
    with pytest.raises(UserError, match=r"--training\.chunks.*: out of range"):
        run("--training.chunks", "[0,4]")
    with pytest.raises(UserError, match=r"--training\.chunk_share 0\.0: out of range"):
        run("--training.chunk_share", "0.0")
    with pytest.raises(
        UserError, match=r"--training\.distil_attention or distil_modules the teacher hears in"
    ):
        run("--training.teacher", "x", "--training.distil_attention", "1")


@pytest.mark.parametrize("attention", ["mala", "softmax"])
def test_compiled_blocks_take_chunks(attention):
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=3, dropout=0.0)
    model = Model(ModelConfig(attention, encoder=encoder, frontend=FrontendConfig(mels=20)), 12).eval()
    waveform = torch.randn(1, 20_000), torch.tensor([20_000])
    expected = [model(*waveform, chunk)[0] for chunk in (0, 4)]
    model.encoder.compile_blocks(backend="eager")
    for chunk, wanted in zip((0, 4), expected, strict=True):
        assert torch.allclose(model(*waveform, chunk)[0], wanted, atol=1e-5)


def test_a_teacher_of_running_features_makes_its_own(run, corpus):
    """They begin with the mean of the data that each model was trained on."""
    path, tokenizer = run(), Tokenizer.load(corpus / "tokenizer.model")
    config = TrainingConfig(teacher=str(path), distil_posteriors=1.0)
    _, found = load_model(path)
    assert not load_teacher(config, found.model, tokenizer).same_features
