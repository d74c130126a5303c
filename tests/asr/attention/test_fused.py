"""Which core runs: refused, compared once, rejected, or used."""

import warnings

import pytest
import torch

from asr.attention import ATTENTIONS, Frames, fused
from asr.errors import UserError
from asr.model.frames import valid_frames

DIM, HEADS = 16, 2


class Pretended(ATTENTIONS["mala"]):
    """MALA with a fused core that a CPU can run: the eager one, times a factor, or failing."""

    def __init__(self, factor: float = 1.0, gradient: float = 1.0, error: Exception | None = None) -> None:
        super().__init__(DIM, HEADS)
        self.factor, self.gradient, self.error, self.calls = factor, gradient, error, 0

    def fused_refusal(self, q):
        return None

    def fused_core(self, q, k, v, frames):
        self.calls += 1
        if self.error:
            raise self.error
        v = self.gradient * v + (1 - self.gradient) * v.detach()  # the same values, another gradient
        y = self.factor * self.eager_core(q, k, v, frames)
        # What a kernel leaves there means nothing, and is not compared.
        return torch.where(frames.valid[:, None, :, None], y, 1e3)


@pytest.fixture(autouse=True)
def anew():
    fused.forget()
    yield
    fused.set_mode("auto")
    fused.forget()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(2, 9, DIM), valid_frames(torch.tensor([9, 6]), 9)


def run(module, batch):
    """The output on valid frames; warnings are errors."""
    x, valid = batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return module(x, valid)[valid]


def test_a_core_that_agrees_is_compared_once_and_used(batch):
    module = Pretended()
    for _ in range(3):
        run(module, batch)
    assert module.calls == 1 + 3
    assert module.eager_because(torch.zeros(1, HEADS, 1, DIM // HEADS)) is None


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Pretended(factor=1.01), "outputs differ from eager PyTorch's by 0.01 (at most 0.001)"),
        (Pretended(factor=float("nan")), "outputs differ from eager PyTorch's by nan"),
        (Pretended(gradient=0.9), "dv differ from eager PyTorch's by 0.1"),
        (
            Pretended(error=RuntimeError("no compiler\nand more")),
            "failed here with RuntimeError: no compiler;",
        ),
    ],
    ids=["wrong", "nan", "wrong gradient", "failing"],
)
def test_a_core_that_does_not_gives_way_with_one_warning(batch, module, reason):
    x, valid = batch
    frames = Frames.whole(valid)
    expected = module.eager_core(*module.project(x, frames)[1:], frames)
    with pytest.warns(UserWarning) as caught:
        y = module(x, valid)
    assert len(caught) == 1 and f"fused attention kernels: {reason}" in str(caught[0].message)
    assert str(caught[0].message).endswith("; using eager PyTorch instead")
    assert torch.equal(y, module.output(expected.transpose(1, 2).flatten(2)))
    calls = module.calls
    assert torch.equal(run(module, batch), y[valid])
    assert module.calls == calls


def test_without_gradients_only_outputs_are_compared(batch):
    module = Pretended(gradient=0.9)
    with torch.inference_mode():
        run(module, batch)
    with pytest.warns(UserWarning, match="dv differ"):
        module(*batch)


def test_asked_for_it_is_an_error_instead(batch):
    fused.set_mode("fused")
    with pytest.raises(UserError, match=r"fused attention kernels: outputs differ .* by 0.01"):
        Pretended(factor=1.01)(*batch)
    with pytest.raises(UserError, match=r"fused attention kernels: outputs differ"):
        Pretended(factor=1.01)(*batch)


def test_running_out_of_memory_is_not_the_kernel_s_fault(batch):
    module = Pretended(error=torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        module(*batch)
    assert module.eager_because(torch.zeros(1, HEADS, 1, DIM // HEADS)) is None


def test_a_batch_with_nan_decides_nothing(batch):
    x, valid = batch
    module = Pretended(factor=1.01)
    module(torch.full_like(x, float("nan")), valid)
    with pytest.warns(UserWarning, match="outputs differ"):
        module(x, valid)


def test_comparing_draws_no_random_numbers(batch):
    module = Pretended()
    torch.manual_seed(3)
    run(module, batch)
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert drawn == torch.rand(())


class TestWarmUp:
    SHAPES = ((3, 7), (1, 20))

    def test_a_core_is_run_once_for_each_variant_and_not_yet_trusted(self, monkeypatch):
        module = Pretended()
        monkeypatch.setattr(module, "fused_variant", lambda q: None)
        assert fused.warm_up(module, set(self.SHAPES), torch.float32) == module.calls == 1
        monkeypatch.setattr(module, "fused_variant", lambda q: q.shape)
        assert fused.warm_up(module, set(self.SHAPES), torch.float32) == 2
        assert all(parameter.grad is None for parameter in module.parameters())
        calls = module.calls
        module(torch.randn(2, 9, DIM), torch.ones(2, 9, dtype=torch.bool))
        assert module.calls == calls + 2  # compared, and used

    def test_a_core_that_fails_gives_way_before_the_first_step(self, batch):
        module = Pretended(error=RuntimeError("no compiler"))
        with pytest.warns(UserWarning, match="failed here with RuntimeError: no compiler; using eager"):
            assert fused.warm_up(module, self.SHAPES, torch.float32) == 0
        run(module, batch)
        assert module.calls == 1

    def test_an_eager_core_wants_none(self):
        assert fused.warm_up(ATTENTIONS["nala"](DIM, HEADS), self.SHAPES, torch.float32) == 0

    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_its_inputs_are_laid_out_as_projections_are(self, name):
        module = ATTENTIONS[name](DIM, HEADS)
        *example, frames = module.example(2, 5, torch.float32)
        _, *projected = module.project(torch.randn(2, 5, DIM), frames)
        for x, like in zip(example, projected, strict=True):
            assert (x.shape, x.stride(), x.dtype) == (like.shape, like.stride(), like.dtype)
