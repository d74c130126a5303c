import pytest
import torch
from references import rotary_by_complex_numbers, sinusoid

from asr.attention.positions import relative_shift, relative_sinusoids, rotate


def test_rotation_equals_complex_multiplication():
    x = torch.randn(2, 3, 50, 8, dtype=torch.float64)
    assert torch.allclose(rotate(x), rotary_by_complex_numbers(x), atol=1e-12)


def test_rotated_products_depend_on_the_offset_only():
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    products = rotate(q.expand(40, 8)) @ rotate(k.expand(40, 8)).T
    for offset in (-7, 0, 13):
        diagonal = products.diagonal(offset)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal))


def test_rotation_is_exact_far_out():
    """In fp32 the angle of frame 100 000 would be off by thousandths."""
    angle = torch.tensor(99_999.0, dtype=torch.float64)
    turned = rotate(torch.ones(100_000, 2))[-1, 0].item()
    assert abs(turned - (angle.cos() - angle.sin()).item()) < 1e-6


@pytest.mark.parametrize(("n", "keys", "start"), [(6, 6, 0), (1, 1, 0), (2, 7, 3), (3, 4, 1)])
def test_relative_shift_puts_offset_i_minus_j_at_i_j(n, keys, start):
    offsets = torch.arange(start + n - 1, start - keys, -1)
    scores = offsets.expand(1, 1, n, n + keys - 1)
    expected = start + torch.arange(n)[:, None] - torch.arange(keys)
    assert (relative_shift(scores)[0, 0] == expected).all()


def test_relative_sinusoids_run_from_the_largest_offset_down():
    table = relative_sinusoids(4, 6, 2, 10, torch.device("cpu"), torch.float64)
    for row, offset in enumerate(range(5, -4, -1)):
        assert torch.allclose(table[row], sinusoid(offset, 10))


def test_rotation_of_a_chunk_equals_the_chunk_of_the_rotation():
    x = torch.randn(3, 20, 8, dtype=torch.float64)
    assert torch.allclose(rotate(x[:, 7:], start=7), rotate(x)[:, 7:])
