"""What a teacher says again from memory is what it would say, but for half precision."""

from pathlib import Path

import pytest
import torch

from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.recogniser import Model
from asr.training.config import parse_config
from asr.training.distillation import Taught, Teacher

LENGTHS = {"a": 16_000, "b": 9_000, "c": 12_345}


@pytest.fixture
def teacher(tmp_path) -> Teacher:
    return build(tmp_path)


def build(folder: Path, seed: int = 0) -> Teacher:
    torch.manual_seed(seed)
    config = ModelConfig("softmax", encoder=EncoderConfig(dim=16, layers=2, heads=2, kernel=3))
    teacher = Teacher(Model(config, 12), True, depths=[1])
    teacher.remember(folder)
    return teacher


def teach(teacher: Teacher, ids: str) -> Taught:
    lengths = torch.tensor([LENGTHS[name] for name in ids])
    waveforms = torch.zeros(len(ids), int(lengths.max()))
    for row, name in enumerate(ids):
        waveforms[row, : LENGTHS[name]] = torch.randn(LENGTHS[name], generator=torch.manual_seed(ord(name)))
    features, frames = teacher.model.frontend.features(waveforms, lengths)
    return teacher.teach(waveforms, lengths, features, frames)


def test_in_other_batches_it_says_the_same(teacher, monkeypatch):
    teach(teacher, "ab"), teach(teacher, "c")
    memory, teacher.memory = teacher.memory, None
    wanted = teach(teacher, "cab")
    teacher.memory = memory
    monkeypatch.setattr(teacher.model.encoder, "residual_stream", None)  # it hears nothing any more
    found = teach(teacher, "cab")
    assert torch.equal(found.valid, wanted.valid) and found.stream.keys() == wanted.stream.keys() == {1, 2}
    pairs = [(found.log_probs, wanted.log_probs)]
    pairs += [(found.stream[depth], wanted.stream[depth]) for depth in (1, 2)]
    for x, y in pairs:
        assert x.dtype == torch.float32 and x.shape == y.shape
        assert torch.allclose(x[found.valid], y[found.valid], rtol=2e-3, atol=2e-3)


def test_what_is_recalled_is_what_was_learnt_from(teacher):
    """So that a run that was killed, which finds more there than it had, goes on alike."""
    heard, recalled = teach(teacher, "abc"), teach(teacher, "abc")
    assert torch.equal(heard.log_probs, recalled.log_probs)
    assert all(torch.equal(heard.stream[depth], recalled.stream[depth]) for depth in (1, 2))


def test_a_batch_with_one_that_is_new_is_heard(teacher):
    teach(teacher, "ab")
    found = teach(teacher, "bc")
    assert len(list(teacher.memory.folder.iterdir())) == 3 and found.log_probs.isfinite().all()


def test_another_training_recalls_it_and_another_teacher_does_not(tmp_path, monkeypatch):
    teach(build(tmp_path), "ab")
    again, other = build(tmp_path), build(tmp_path, seed=1)
    for teacher in (again, other):
        monkeypatch.setattr(teacher.model.encoder, "residual_stream", None)
    assert teach(again, "ab").log_probs.isfinite().all()
    with pytest.raises(TypeError):
        teach(other, "ab")


def test_what_is_no_training_batch_is_heard_and_not_kept(teacher):
    lengths = torch.tensor([16_000])
    waveforms = torch.randn(1, 16_000)
    heard = teacher.model.frontend.features(waveforms, lengths)
    found = teacher.teach(waveforms, lengths, *heard, training=False)
    assert found.log_probs.isfinite().all() and not list(teacher.memory.folder.iterdir())


def test_other_audio_of_the_same_length_is_heard(teacher):
    """Names are unique in one corpus alone, and a corpus may be prepared again."""
    lengths = torch.tensor([16_000])
    first, second = torch.randn(2, 1, 16_000, generator=torch.manual_seed(0))
    said = [teacher.teach(x, lengths, *teacher.model.frontend.features(x, lengths)) for x in (first, second)]
    assert len(list(teacher.memory.folder.iterdir())) == 2
    assert not torch.allclose(said[0].log_probs, said[1].log_probs, atol=1e-3)


@pytest.mark.parametrize("size", [0, 200])
def test_a_cut_file_is_named(teacher, size):
    teach(teacher, "a")
    (file,) = teacher.memory.folder.iterdir()
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"^--training.teacher_memory .*delete it"):
        teach(teacher, "a")


def test_a_folder_that_cannot_be_made_is_named(teacher, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--training.teacher_memory .*file: Not a directory"):
        teacher.remember(tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"not with --frontend.speeds \[0.9, 1.0, 1.1\], with which no utterance is heard twice alike"),
        (["--frontend.speeds", "[1.0]", "--data.join", "30"], "not with --data.join 30"),
        (["--frontend.speeds", "[1.0]", "--training.nonspeech", "0.1"], "not with --training.nonspeech 0.1"),
        (["--frontend.speeds", "[1.0]", "--training.splice", "0.1"], "not with --training.splice 0.1"),
        (
            ["--frontend.speeds", "[1.0]", "--training.distil_masks", "both"],
            "not with --training.distil_masks both",
        ),
        (
            ["--frontend.speeds", "[1.0]", "--training.distil_attention", "1"],
            "what distil_attention and distil_modules learn from is not kept",
        ),
    ],
)
def test_where_it_would_not_say_the_same_it_is_refused(options, message):
    arguments = ["--out", "x", "--training.teacher", "x", "--training.distil_posteriors", "1"]
    with pytest.raises(UserError, match=f"^--training.teacher_memory said: {message}"):
        parse_config([*arguments, "--training.teacher_memory", "said", *options])


def test_it_wants_a_teacher():
    with pytest.raises(UserError, match=r"^--training.teacher_memory said: wants --training.teacher"):
        parse_config(["--out", "x", "--training.teacher_memory", "said"])
