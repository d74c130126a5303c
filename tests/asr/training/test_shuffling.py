"""Shuffled frames: what is drawn is what was kept, and a piece sees its own utterance and no other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_distillation import build, make_batch

from asr.model.frames import valid_frames
from asr.training.config import TrainingConfig
from asr.training.distillation import Teacher, kind_of, modules_to_match
from asr.training.losses import training_loss
from asr.training.shuffling import Heard, ShuffledFrames
from asr.training.task import leave_alone

KINDS = ["subsampling", "feed_forward", "attention", "convolution", "norm", "ctc"]
BATCH = make_batch()._replace(waveforms=make_batch().waveforms.float())


def moving_sum(x, valid, halo):
    """A convolution whose numbers are exact in half precision."""
    x = torch.nn.functional.pad(x * valid[..., None], (0, 0, halo, halo))
    return x.unfold(1, 2 * halo + 1, 1).sum(-1)


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=4), min_size=1, max_size=8),
    frames=st.integers(100, 400),
    halo=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_what_is_drawn_was_heard_so(batches, frames, halo, seed):
    torch.manual_seed(seed)
    kept = ShuffledFrames(frames, {"frame": 0, "convolution": halo})
    said = []
    for lengths in batches:
        lengths = torch.tensor(lengths)
        valid = valid_frames(lengths, int(lengths.max()) + 2)
        x = torch.randint(0, 50, (*valid.shape, 3)).float()
        whole = Heard((x,), x)
        heard = {
            "frame": Heard((x,), x + 1),
            "convolution": Heard((x, valid, 0), moving_sum(x, valid, halo)),
            "whole": whole,
        }
        said += x[valid].tolist()
        drawn = kept.exchange(heard, valid)
        assert drawn["whole"] is whole
        frame, convolution = drawn["frame"], drawn["convolution"]
        assert frame.counts.sum() <= valid.sum()
        assert torch.equal(frame.output[frame.counts], frame.inputs[0][frame.counts] + 1)
        assert all(row in said for row in frame.inputs[0][frame.counts].tolist())
        exists = convolution.inputs[1] if halo else convolution.counts
        again = moving_sum(convolution.inputs[0], exists, halo)
        assert torch.equal(again[convolution.counts], convolution.output[convolution.counts])


def test_all_that_is_kept_is_drawn_from():
    torch.manual_seed(0)
    kept = ShuffledFrames(1000, {"frame": 0})
    valid = torch.ones(2, 100, dtype=torch.bool)
    for index in range(5):
        x = torch.full((2, 100, 1), float(index))
        drawn = kept.exchange({"frame": Heard((x,), x)}, valid)["frame"]
    assert len(drawn.output) == 200
    shares = [(drawn.output == index).sum() / 200 for index in range(5)]
    assert all(0.1 < share < 0.3 for share in shares)
    for index in range(5, 10):
        x = torch.full((2, 100, 1), float(index))
        drawn = kept.exchange({"frame": Heard((x,), x)}, valid)["frame"]
    assert drawn.output.min() >= 5  # the oldest are overwritten


def teach(student, teacher, batches, **options):
    """Losses of some batches, frames shuffled."""
    config = TrainingConfig(teacher="x", ctc=0.0, distil_modules=1.0, **options)
    torch.manual_seed(1)
    taught_by = Teacher(teacher, True, modules_to_match(teacher, config), shuffle=80)
    return [training_loss(student, batch, config, taught_by) for batch in batches]


def single(model):
    return model.float().eval()


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 15])
def test_a_models_own_modules_say_what_was_drawn(kernel):
    model = single(build("softmax", 1, kernel=kernel))
    names = modules_to_match(model, TrainingConfig(distil_modules=1.0))
    teacher = Teacher(model, True, names, shuffle=80)
    torch.manual_seed(1)
    for _ in range(4):
        taught = teacher.teach(
            BATCH.waveforms, BATCH.lengths, *model.frontend(BATCH.waveforms, BATCH.lengths)
        )
        drawn = {name: heard for name, heard in taught.modules.items() if heard.counts is not None}
        assert len(drawn) == 2 * 5 + 1  # but subsampling and attention
        for name, (inputs, wanted, counts) in drawn.items():
            found = model.get_submodule(name)(*inputs)
            error = (found - wanted)[counts].norm() / wanted[counts].norm()
            assert error < 1e-3  # half precision


@pytest.mark.parametrize("kinds", [[], *([kind] for kind in KINDS)], ids=str)
def test_only_the_kinds_asked_for_learn(kinds):
    student, teacher = single(build("mala", 1)), single(build("softmax", 2))
    leave_alone(student, TrainingConfig(teacher="x", ctc=0.0, distil_modules=1.0, taught_modules=kinds))
    for loss in teach(student, teacher, [BATCH] * 2, taught_modules=kinds):
        loss.total.backward()
    learnt = {name for name, p in student.named_parameters() if p.requires_grad}
    assert learnt == {name for name, p in student.named_parameters() if p.grad is not None}
    names = modules_to_match(student, TrainingConfig(distil_modules=1.0))
    assert {kind_of(name) for name in names} == set(KINDS)
    wanted = [name for name in names if not kinds or kind_of(name) in kinds]
    assert learnt == {
        f"{name}.{inner}" for name in wanted for inner, _ in student.get_submodule(name).named_parameters()
    }
