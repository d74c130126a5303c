"""Softmax in half precision against float64: on a GPU where there is one, else as far as a CPU can run it.

The kernel for a bias runs on a CPU as PyTorch's version for it. FlashAttention for sequences of many lengths
has none: ``varlen_on_cpu`` does what its documentation says, sequence by sequence, and checks what it asks
for. That the call itself fits is seen with fake CUDA tensors. None of that shows how a GPU rounds.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from references import softmax_weights
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn

from asr.attention import ATTENTIONS, Frames, flash
from asr.model.frames import valid_frames

SOFTMAX = ATTENTIONS["softmax"]
HEADS, D = 2, 6  # not a multiple of 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
every_position = pytest.mark.parametrize("positions", SOFTMAX.POSITIONS)


def varlen_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *, scale
):
    """torch.nn.attention.varlen.varlen_attn, where there is no GPU."""
    assert q.dtype in flash.DTYPES and q.dtype == k.dtype == v.dtype
    assert q.dim() == 3 and q.shape[-1] % 8 == 0 and all(x.stride(-1) == 1 for x in (q, k, v))
    assert cu_q.dtype == cu_k.dtype == torch.int32 and torch.equal(cu_q, cu_k)
    assert cu_q[0] == 0 and cu_q[-1] == len(q)
    assert 0 <= cu_q.diff().min() <= cu_q.diff().max() <= max_q == max_k
    outputs = [
        F.scaled_dot_product_attention(*(x[a:b].transpose(0, 1)[None] for x in (q, k, v)), scale=scale)[0]
        for a, b in zip(cu_q.tolist(), cu_q[1:].tolist(), strict=False)
    ]
    return torch.cat([y.transpose(0, 1) for y in outputs])


@pytest.fixture(autouse=True, scope="module")
def on_cpu():
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setattr(flash, "varlen_attn", varlen_on_cpu)
        yield


def make(positions: str, unit_query: bool = False):
    torch.manual_seed(0)
    module = SOFTMAX(HEADS * D, HEADS, positions, SOFTMAX.Options(unit_query=unit_query))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module.to(DEVICE)


def inputs(lengths: list[int], n: int, dtype=torch.bfloat16) -> tuple[list[Tensor], Frames]:
    """q, k, v as projections give them, with rubbish on padding, and which frames are valid."""
    valid = valid_frames(torch.tensor(lengths), n)
    x = torch.randn(3, len(lengths), n, HEADS, D)
    x = torch.where(valid[:, :, None, None], x, 1e3 * torch.randn_like(x)).to(DEVICE, dtype)
    return [y.transpose(1, 2).requires_grad_() for y in x], Frames.whole(valid.to(DEVICE))


def differ(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@every_position
@pytest.mark.parametrize("unit_query", [False, True])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_equals_the_float64_reference_within_rounding(positions, unit_query, dtype, most):
    module = make(positions, unit_query)
    (q, k, v), frames = inputs([23, 9], 23, dtype)
    y = module.fused_core(q, k, v, frames)
    assert y.dtype == dtype and y.shape == v.shape
    module.cpu().double()
    for row, n in enumerate((23, 9)):
        q64, k64, v64 = (x[row, :, :n].detach().cpu().double() for x in (q, k, v))
        assert differ(y[row, :, :n].cpu(), softmax_weights(q64, k64, module) @ v64) < most


@every_position
def test_gradients_are_those_of_the_fp32_core(positions):
    module = make(positions)
    x, frames = inputs([23, 9, 0], 25)
    dy = torch.randn(3, HEADS, 25, D, device=DEVICE) * frames.valid[:, None, :, None]
    found = []
    wanted = [*x, *(p for name, p in module.named_parameters() if "offset" in name or "bias" in name)]
    for core in (module.fused_core, module.eager_core):
        y = core(*x, frames)
        found.append(torch.autograd.grad(y, wanted, dy.to(y.dtype), allow_unused=True))
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None and theirs.norm() > 1e-4:
            assert differ(ours, theirs) < 2e-2
    for gradient in found[0][:3]:
        assert not gradient.transpose(1, 2)[~frames.valid].any()


@every_position
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=4), extra=st.integers(0, 5))
def test_padding_and_batch_mates_change_no_more_than_rounding(positions, lengths, extra):
    module = make(positions)
    n = max(1, max(lengths) + extra)
    (q, k, v), frames = inputs(lengths, n)
    together = module.fused_core(q, k, v, frames)
    assert together.isfinite().all()
    for row, length in enumerate(lengths):
        if length:
            one = Frames.whole(torch.ones(1, length, dtype=torch.bool, device=DEVICE))
            alone = module.fused_core(*(x[row : row + 1, :, :length] for x in (q, k, v)), one)
            assert (together[row, :, :length] - alone[0]).abs().max() <= 2e-2 * alone.abs().max()


def test_valid_frames_and_padding_are_sequences_of_their_own():
    assert flash.boundaries(torch.tensor([5, 0, 3]), 5).tolist() == [0, 5, 5, 5, 10, 13, 15]


@every_position
def test_scores_stay_in_fp32_where_inputs_are(positions):
    """``attend`` serves the eager core too, which no half-precision kernel may reach."""
    (q, k, v), frames = inputs([9], 9, torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert make(positions).core(q, k, v, frames).dtype == torch.float32


@pytest.mark.parametrize("positions", [p for p in SOFTMAX.POSITIONS if p != "relative"])
def test_the_call_fits_a_gpu(positions, monkeypatch):
    """With fake tensors: shapes, types and devices are worked out, nothing is computed."""
    monkeypatch.setattr(flash, "varlen_attn", varlen_attn)
    monkeypatch.setattr(
        "asr.attention.kernels.rotary.usable", lambda x: False
    )  # Triton takes no fake tensors
    with FakeTensorMode(), torch.device("cuda"):
        module = SOFTMAX(144, 4, positions)
        q, k, v = (torch.empty(3, 50, 4, 36, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3))
        y = module.fused_core(q, k, v, Frames.whole(torch.ones(3, 50, dtype=torch.bool)))
        assert y.shape == q.shape and y.dtype == q.dtype and y.is_cuda


def test_refusals(monkeypatch):
    class OnGpu:  # what a refusal looks at
        is_cuda, device = True, 0

        def __init__(self, dtype=torch.bfloat16, d=36):
            self.dtype, self.shape = dtype, (1, 4, 5, d)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert flash.refusal(torch.zeros(1, 4, 5, 36)) == "no CUDA device"
    assert flash.refusal(OnGpu()) is None
    assert flash.refusal(OnGpu(torch.float32)) == "float32; softmax's fast kernels take bf16"
    assert flash.refusal(OnGpu(d=257)) == "head size 257 is over 256"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert flash.refusal(OnGpu()) == "the GPU is older than compute capability 8.0"
