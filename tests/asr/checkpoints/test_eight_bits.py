"""Weights in eight bits: how far off, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.checkpoints.eight_bits import SCALE, from_eight_bits, to_eight_bits

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4)


@given(SHAPES, st.integers(0, 2**31 - 1), st.floats(1e-30, 1e30))
def test_a_weight_is_off_by_half_a_scale_at_most(shape, seed, size):
    torch.manual_seed(seed)
    weights = {"w": torch.randn(shape) * size, "b": torch.randn(3) * size, "mean": torch.randn(3)}
    stored = to_eight_bits(weights, {"w", "b"})
    assert stored["w"].dtype == torch.int8 and stored["b"].dtype == torch.bfloat16
    assert stored["mean"] is weights["mean"]
    found = from_eight_bits(stored)
    assert found.keys() == weights.keys() and torch.equal(found["mean"], weights["mean"])
    assert all(value.dtype == torch.float32 for value in found.values())
    limit = weights["w"].double().flatten(1).abs().amax(1) / 127 * 0.502
    assert ((found["w"] - weights["w"]).double().flatten(1).abs().amax(1) <= limit).all()
    assert ((found["b"] - weights["b"]).abs() <= weights["b"].abs() * 2**-8).all()
    again = to_eight_bits(found, {"w", "b"})
    assert all(torch.equal(again[name], stored[name]) for name in ("w", "w" + SCALE, "b"))


def test_rows_of_zeros_stay_zeros():
    found = from_eight_bits(to_eight_bits({"w": torch.zeros(3, 2)}, {"w"}))
    assert torch.equal(found["w"], torch.zeros(3, 2))


BAD = {
    "no scale": (lambda stored: stored.pop("w" + SCALE), "do not belong together"),
    "no integers": (lambda stored: stored.pop("w"), "do not belong together"),
    "rows": (lambda stored: stored.update({"w" + SCALE: torch.ones(2).bfloat16()}), "for each row"),
    "dtype": (lambda stored: stored.update({"w" + SCALE: torch.ones(3)}), "for each row"),
    "infinite": (lambda stored: stored["w" + SCALE].fill_(torch.inf), "not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_belong_together_is_refused(case):
    change, message = BAD[case]
    stored = to_eight_bits({"w": torch.randn(3, 4)}, {"w"})
    change(stored)
    with pytest.raises(ValueError, match=message):
        from_eight_bits(stored)
