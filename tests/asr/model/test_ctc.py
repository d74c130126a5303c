import itertools
import math

import pytest
import torch

from asr.decoding.greedy import greedy
from asr.model.classes import BLANK
from asr.model.ctc import CTCHead, frames_needed


def collapse(path) -> list[int]:
    return [a for a, _ in itertools.groupby(path) if a != BLANK]


def test_loss_equals_the_sum_over_all_paths():
    """CTC's definition (Graves et al. 2006, Eq. 3), by enumeration."""
    torch.manual_seed(0)
    log_probs = torch.randn(1, 5, 3, dtype=torch.float64).log_softmax(-1)
    target = [1, 1]
    total = sum(
        math.exp(sum(log_probs[0, t, c].item() for t, c in enumerate(path)))
        for path in itertools.product(range(3), repeat=5)
        if collapse(path) == target
    )
    loss = CTCHead.loss(log_probs, torch.tensor([5]), torch.tensor([target]), torch.tensor([2]))
    assert math.isclose(loss.item(), -math.log(total), rel_tol=1e-9)


@pytest.mark.parametrize("others", [True, False], ids=["among others", "alone"])
def test_loss_of_an_empty_transcript_is_that_of_blanks(others):
    """Loss and gradient by the definition: one path, of blanks."""
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 2], [0, 0]]) if others else torch.empty(2, 0, dtype=torch.long)
    target_lengths = torch.tensor([2 if others else 0, 0])
    loss = CTCHead.loss(logits.log_softmax(-1), torch.tensor([6, 4]), targets, target_lengths)[1]
    blanks = -logits[1, :4].log_softmax(-1)[:, BLANK].sum()
    assert math.isclose(loss.item(), blanks.item(), rel_tol=1e-12)
    found, wanted = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, blanks))
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_loss_ignores_padding():
    torch.manual_seed(0)
    log_probs = torch.randn(1, 9, 4).log_softmax(-1)
    padded = torch.cat((log_probs, torch.zeros(1, 4, 4)), 1)
    args = torch.tensor([9]), torch.tensor([[1, 2, 0]]), torch.tensor([2])
    assert torch.equal(CTCHead.loss(log_probs, *args), CTCHead.loss(padded, *args))


def test_frames_needed_is_where_the_loss_turns_infinite():
    log_probs = torch.zeros(1, 8, 4).log_softmax(-1)
    for target in ([1], [1, 2, 3], [1, 1, 1], [2, 2, 3, 3]):
        need = frames_needed(target)
        args = torch.tensor([target]), torch.tensor([len(target)])
        assert CTCHead.loss(log_probs, torch.tensor([need]), *args).isfinite()
        assert CTCHead.loss(log_probs, torch.tensor([need - 1]), *args).isinf()


def test_head_gives_fp32_log_probabilities_under_bf16():
    head = CTCHead(8, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs = head(torch.randn(2, 3, 8))
    assert log_probs.dtype == torch.float32
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2, 3), atol=1e-5)


def test_greedy_merges_repeats_and_drops_blanks():
    path = torch.tensor([[0, 3, 3, 0, 3, 1, 1, 2]])
    log_probs = torch.nn.functional.one_hot(path, 4).float()
    assert greedy(log_probs, torch.tensor([8])) == [[3, 3, 1, 2]]
    assert greedy(log_probs, torch.tensor([5])) == [[3, 3]]


def test_consistency_is_the_symmetric_divergence_of_two_views():
    torch.manual_seed(0)
    a, b = (torch.randn(3, 7, 5, dtype=torch.float64).log_softmax(-1).requires_grad_() for _ in range(2))
    lengths = torch.tensor([7, 3, 1])
    found = CTCHead.consistency(torch.cat((a, b)), lengths.repeat(2))
    for row, length in enumerate(lengths.tolist()):
        expected = sum(
            0.5 * (x.exp() * (x - y)).sum()
            for n in range(length)
            for x, y in ((a[row, n], b[row, n]), (b[row, n], a[row, n]))
        )
        assert torch.allclose(found[row], expected)
    found.sum().backward()
    # Only the second argument of each divergence is trained: the gradient in a is -p_b / 2.
    assert torch.allclose(a.grad[0], -0.5 * b[0].exp().detach())
    assert (a.grad[1, 3:] == 0).all()
    same = torch.cat((a, a)).detach()
    assert CTCHead.consistency(same, lengths.repeat(2)).abs().max() < 1e-12
