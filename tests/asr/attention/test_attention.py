"""Properties that every mechanism of the registry must have, at all its positions and options."""

import dataclasses
import itertools
import typing
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import REFERENCES, phi

from asr.attention import ATTENTIONS
from asr.conformer import valid_frames
from asr.errors import UserError

DIM, HEADS = 16, 2


def _choices(options: type) -> list:
    """Every combination of a mechanism's options that are Literals."""
    hints = typing.get_type_hints(options)
    values = {
        name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is Literal
    }
    return [
        options(**dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values())
    ]


CASES = [
    pytest.param(name, positions, options, id=f"{name}-{positions}-{dataclasses.asdict(options) or ''}")
    for name, cls in ATTENTIONS.items()
    for positions in cls.POSITIONS
    for options in _choices(cls.Options)
]
every_case = pytest.mark.parametrize(("name", "positions", "options"), CASES)
every_name = pytest.mark.parametrize("name", ATTENTIONS)


def make(name: str, positions: str = "auto", options=None, dtype=torch.float64, seed: int = 0):
    torch.manual_seed(seed)
    module = ATTENTIONS[name](DIM, HEADS, positions, options).to(dtype)
    with torch.no_grad():  # learnt biases start at zero, which would hide them
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def rows_sum_to_one(name: str, positions: str, options) -> bool:
    """The published forms of MALA lose it with rotary positions: that is why centred is the default."""
    return not (positions == "rotary" and getattr(options, "form", "centred") != "centred")


@every_case
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 12), scale=st.floats(0.1, 4.0), seed=st.integers(0, 10_000))
def test_core_and_weights_equal_the_reference(name, positions, options, n, scale, seed):
    module = make(name, positions, options, seed=seed)
    q, k, v = (scale * torch.randn(1, HEADS, n, DIM // HEADS, dtype=torch.float64) for _ in range(3))
    valid = torch.ones(1, n, dtype=torch.bool)
    expected = REFERENCES[name](q[0], k[0], module)
    size = 1 + expected.abs().max()  # eq13's weights are large
    assert torch.allclose(module.weights(q, k, valid)[0] / size, expected / size, atol=1e-12)
    assert torch.allclose(module.core(q, k, v, valid)[0] / size, expected @ v[0] / size, atol=1e-11)


@every_case
def test_fp32_core_is_near_the_float64_one(name, positions, options):
    module = make(name, positions, options)
    q, k, v = (torch.randn(2, HEADS, 200, DIM // HEADS, dtype=torch.float64) for _ in range(3))
    valid = valid_frames(torch.tensor([200, 77]), 200)
    exact = module.core(q, k, v, valid)
    single = module.float().core(q.float(), k.float(), v.float(), valid).double()
    assert (single - exact)[0].norm() / exact[0].norm() < 1e-5


@every_case
@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    extra=st.integers(0, 7),
    seed=st.integers(0, 10_000),
)
def test_padding_and_batch_mates_change_nothing(name, positions, options, lengths, extra, seed):
    module = make(name, positions, options, seed=seed)
    n = max(lengths) + extra
    x = torch.randn(len(lengths), n, DIM, dtype=torch.float64)
    valid = valid_frames(torch.tensor(lengths), n)
    x = torch.where(valid[..., None], x, 1e3 * torch.randn_like(x))  # rubbish in the padding
    together = module(x, valid)
    for row, length in enumerate(lengths):
        alone = module(x[row : row + 1, :length], valid[row : row + 1, :length])
        assert torch.allclose(together[row, :length], alone[0], rtol=1e-9, atol=1e-9)


@every_case
def test_gradients_do_not_depend_on_padding(name, positions, options):
    module = make(name, positions, options)
    x = torch.randn(1, 9, DIM, dtype=torch.float64)

    def gradient(extra: int) -> torch.Tensor:
        rubbish = 10 * torch.randn(1, extra, DIM, dtype=torch.float64)
        padded = torch.cat((x, rubbish), 1).requires_grad_()
        output = module(padded, valid_frames(torch.tensor([9]), 9 + extra))
        output[:, :9].square().sum().backward()
        assert padded.grad[:, 9:].abs().sum() == 0
        return padded.grad[:, :9]

    assert torch.allclose(gradient(0), gradient(5), rtol=1e-8, atol=1e-10)


@every_case
def test_rows_of_the_weights_sum_to_one(name, positions, options):
    module = make(name, positions, options)
    q, k = (torch.randn(2, HEADS, 30, DIM // HEADS, dtype=torch.float64) for _ in range(2))
    valid = valid_frames(torch.tensor([30, 11]), 30)
    weights = module.weights(q, k, valid)
    assert (weights[1, :, :, 11:] == 0).all()
    sums = weights.sum(-1)
    if rows_sum_to_one(name, positions, options):
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-9)
    else:
        assert (sums - 1).abs().max() > 0.1


@every_case
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
@pytest.mark.parametrize("lengths", [[1, 1], [40, 0]])
def test_values_and_gradients_are_finite(name, positions, options, scale, lengths):
    module = make(name, positions, options, dtype=torch.float32)
    x = (scale * torch.randn(2, 40, DIM)).requires_grad_()
    y = module(x, valid_frames(torch.tensor(lengths), 40))
    assert y.isfinite().all()
    (y * torch.randn_like(y)).mean().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@every_case
def test_core_stays_in_fp32_under_bf16_autocast(name, positions, options):
    module = make(name, positions, options, dtype=torch.float32)
    seen, core = [], module.core

    def watched(q, k, v, valid):
        seen.append((q.dtype, core(q, k, v, valid).dtype))
        return core(q, k, v, valid)

    module.core = watched
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(torch.randn(1, 50, DIM), torch.ones(1, 50, dtype=torch.bool))
    assert seen == [(torch.float32, torch.float32)]
    assert y.isfinite().all()


def scaled_queries(q: torch.Tensor, a: float) -> torch.Tensor:
    """q' with phi(q') = a phi(q), for positive q: there phi(q) = q + 1."""
    return a * (q + 1) - 1


@pytest.fixture
def positive():
    torch.manual_seed(3)
    q = torch.rand(1, HEADS, 25, DIM // HEADS, dtype=torch.float64)
    k = torch.randn(1, HEADS, 25, DIM // HEADS, dtype=torch.float64)
    return q, k, torch.ones(1, 25, dtype=torch.bool)


@pytest.mark.parametrize("a", [1.5, 4.0])
class TestQueryMagnitude:
    """MALA paper, Eq. 5-12: what a longer query does to the weights."""

    def test_softmax_weights_are_raised_to_a_power(self, positive, a):
        q, k, valid = positive
        module = make("softmax", "none")
        before, after = module.weights(q, k, valid), module.weights(a * q, k, valid)
        ratio = before[..., :1] / before
        assert torch.allclose(after[..., :1] / after, ratio**a)
        assert (after.amax(-1) > before.amax(-1)).all()

    def test_linear_weights_stay_as_they_are(self, positive, a):
        q, k, valid = positive
        for positions in ("none", "rotary"):
            module = make("linear", positions)
            after = module.weights(scaled_queries(q, a), k, valid)
            assert torch.allclose(after, module.weights(q, k, valid))

    def test_mala_weights_grow_spikier_by_the_papers_fraction(self, positive, a):
        q, k, valid = positive
        module = make("mala", "none")
        before = module.weights(q, k, valid)
        after = module.weights(scaled_queries(q, a), k, valid)
        # From beta_a = 1 + 1 / (a S), gamma_a = a S / N: weight_j is (1/S + a) x_j - a S / N.
        n, d = q.shape[-2:]
        x = phi(q) @ phi(k).transpose(-2, -1) * d**-0.5 / n
        total = x.sum(-1, keepdim=True)
        expected = (1 / total + a) * x - a * total / n
        assert torch.allclose(after, expected)
        assert (after.amax(-1) > before.amax(-1)).all()
        high = x.argmax(-1, keepdim=True)
        ratio_before, ratio_after = before.gather(-1, high) / before, after.gather(-1, high) / after
        # Ratios mean nothing where a weight is negative, and are 1 against the highest itself.
        meaningful = (after > 0) & (x < x.amax(-1, keepdim=True))
        assert meaningful.float().mean() > 0.3
        assert (ratio_after > ratio_before)[meaningful].all()


@every_name
def test_unknown_positions_are_refused(name):
    with pytest.raises(UserError, match="--positions nowhere: this attention takes"):
        ATTENTIONS[name](DIM, HEADS, "nowhere")


@every_name
def test_heads_that_do_not_divide_are_refused(name):
    with pytest.raises(UserError, match="not a multiple"):
        ATTENTIONS[name](15, 2)
