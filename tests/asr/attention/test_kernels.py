"""The fused kernels against their formulas in fp64.

With a GPU they run there. Without one they run in Triton's interpreter, which must be chosen before anything
imports Triton: test_in_the_interpreter runs this file again in a process of its own, and here they are
skipped. What needs no kernel to run, the compiler included, is tested here either way.
"""

import os
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from asr.attention import ATTENTIONS, fused
from asr.attention.fused import set_mode
from asr.attention.kernels import centred, passes
from asr.attention.kernels import rotary as rotary_kernel
from asr.attention.positions import rotate
from asr.model.frames import valid_frames

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="no GPU: done by test_in_the_interpreter"
)
here_only = pytest.mark.skipif(INTERPRETED, reason="needs no kernel to run")

# The gains that divide by m are for features that are positive.
CASES = [
    ("linear", "elu"),
    ("linear", "relu"),
    ("mala", "elu"),
    ("mala", "exp"),
    ("inline", "identity"),
    ("inline", "relu"),
]
FUSED = [name for name in ATTENTIONS if getattr(ATTENTIONS[name](4, 2), "fused_gain", None)]
every_case = pytest.mark.parametrize(("gain", "phi"), CASES)


@pytest.fixture(autouse=True)
def few_splits(monkeypatch):
    """Three splits at most, so that some have several blocks and the last is not full."""
    monkeypatch.setattr(centred, "MAX_SPLITS", 3)


def features(x: Tensor, phi: str) -> Tensor:
    maps = {"elu": lambda x: F.elu(x) + 1, "relu": F.relu, "exp": lambda x: x.clamp(max=20).exp()}
    return maps.get(phi, lambda x: x)(x)


def tables(n: int, d: int) -> tuple[Tensor, Tensor]:
    frequency = 10_000.0 ** -(torch.arange(0, d, 2, device=DEVICE).double() / d)
    angle = torch.outer(torch.arange(n, device=DEVICE).double(), frequency)
    return angle.cos().float(), angle.sin().float()


def formulas(q: Tensor, k: Tensor, v: Tensor, lengths, cos_sin, phi: str, gain: str) -> Tensor:
    """The docstring of centred_attention in fp64, one utterance at a time."""

    def rotate(x: Tensor) -> Tensor:
        if cos_sin is None:
            return x
        cos, sin = (table[: len(x), None].double() for table in cos_sin)
        pairs = torch.complex(x[..., 0::2], x[..., 1::2]) * torch.complex(cos, sin)
        return torch.view_as_real(pairs).flatten(-2)

    def utterance(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
        """(N, H, d) to (N, H, d)."""
        scale, n = q.shape[-1] ** -0.5, max(length, 1)
        phi_q, phi_k, values = features(q[:length], phi), features(k[:length], phi), v[:length]
        keys = rotate(phi_k)
        centred_keys, centred_values = keys - keys.sum(0) / n, values - values.sum(0) / n
        covariance = torch.einsum("nhd,nhe->hde", centred_keys, centred_values) / n
        t = scale * torch.einsum("nhd,hde->nhe", rotate(phi_q), covariance)
        m = scale * (phi_q * phi_k.sum(0) / n).sum(-1, keepdim=True)
        floor = torch.full_like(m, 1e-12)
        if cos_sin is not None:
            norms = phi_q.norm(dim=-1, keepdim=True) * (phi_k.sum(0) / n).norm(dim=-1)[..., None]
            floor = torch.maximum(floor, 0.01 * scale * norms).detach()
        inverse = 1 / torch.maximum(m, floor)
        g = {"linear": inverse, "mala": 1 + inverse, "inline": torch.ones_like(m)}[gain]
        return F.pad(values.sum(0) / n + g * t, (0, 0, 0, 0, 0, len(q) - length))

    in_fp64 = zip(q.double(), k.double(), v.double(), lengths, strict=True)
    return torch.stack([utterance(*x, int(n)) for *x, n in in_fp64])


def make(lengths: list[int], n: int, h: int, d: int, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Queries, keys and values side by side (B, N, 3 H d), and the lengths."""
    torch.manual_seed(len(lengths) + n + h + d)
    qkv = torch.randn(len(lengths), n, 3 * h * d, device=DEVICE).to(dtype).requires_grad_()
    return qkv, torch.tensor(lengths, device=DEVICE)


def both(qkv: Tensor, lengths: Tensor, d: int, phi: str, gain: str, rotary: bool):
    """Outputs and gradients, [y, dq, dk, dv], of the kernels and of the formulas."""
    cos_sin = tables(qkv.shape[1], d) if rotary else None
    q, k, v = (x.unflatten(-1, (-1, d)) for x in qkv.chunk(3, -1))  # strided: not contiguous
    results = []
    for function in (centred.centred_attention, formulas):
        y = function(q, k, v, lengths, cos_sin, phi, gain)
        torch.manual_seed(0)
        dy = torch.randn(y.shape, device=DEVICE).to(qkv.dtype)
        (gradient,) = torch.autograd.grad(y, qkv, dy.to(y.dtype), retain_graph=True)
        results.append([y.detach(), *gradient.chunk(3, -1)])
    return results


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    for name, x, reference in zip(("y", "dq", "dk", "dv"), ours, theirs, strict=True):
        error = (x.double() - reference).abs().max().item()
        size = reference.abs().max().item()
        assert error <= tolerance * size, f"{name}: off by {error:.2g}, largest is {size:.2g}"


@runs_kernels
@every_case
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
def test_equals_the_formulas(gain, phi, rotary):
    assert_close(*both(*make([60, 29], n=60, h=1, d=8), 8, phi, gain, rotary))


@runs_kernels
@pytest.mark.parametrize("d", [2, 36, 100])
@pytest.mark.parametrize("splits", [1, 64])
def test_head_sizes_and_splits(d, splits, monkeypatch):
    monkeypatch.setattr(centred, "MAX_SPLITS", splits)
    assert_close(*both(*make([41], n=41, h=2, d=d), d, "elu", "mala", rotary=True))


@runs_kernels
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=3), extra=st.integers(0, 20))
def test_any_lengths(lengths, extra):
    n = max(1, max(lengths) + extra)
    ours, theirs = both(*make(lengths, n=n, h=1, d=4), 4, "elu", "linear", rotary=True)
    assert_close(ours, theirs)
    for x in ours:
        assert not any(x[i, length:].any() for i, length in enumerate(lengths))


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    ours, theirs = both(*make([70, 33], n=70, h=1, d=36, dtype=dtype), 36, "elu", "mala", rotary=True)
    assert all(x.dtype == dtype for x in ours)
    assert_close(ours, theirs, tolerance=1e-2)


@runs_kernels
@every_case
@pytest.mark.parametrize("zeros", [12, 4], ids=["all", "queries"])
def test_zero_vectors(gain, phi, zeros):
    qkv, lengths = make([18], n=20, h=1, d=4)
    with torch.no_grad():
        qkv[..., :zeros] = 0
    ours, theirs = both(qkv, lengths, 4, phi, gain, rotary=False)
    assert_close(ours, theirs)


@runs_kernels
@pytest.mark.parametrize("gain", ["linear", "mala"])
def test_no_gradient_passes_the_clamp(gain):
    """Features of both signs make m negative in half of the frames."""
    assert_close(*both(*make([30], n=30, h=1, d=4), 4, "identity", gain, rotary=False))


@runs_kernels
@pytest.mark.parametrize("gain", ["inline", "mala"])
def test_large_means_do_not_cancel(gain):
    qkv, lengths = make([70], n=70, h=1, d=8)
    with torch.no_grad():
        qkv[..., 8:] += 100
    (y, *ours), (y64, *theirs) = both(qkv, lengths, 8, "elu", gain, rotary=False)
    mean = qkv[..., 16:].double().mean(1).unflatten(-1, (1, 8))[:, None]
    # The output itself has no more digits than fp32 gives a number near 100.
    assert (y.double() - y64).abs().max() < 1e-4 * (y64 - mean).abs().max()
    assert_close([y, *ours], [y64, *theirs])


@runs_kernels
def test_what_lies_beyond_the_length_changes_nothing():
    qkv, lengths = make([23, 40], n=40, h=1, d=4)
    outputs = []
    for filling in (0.0, float("nan")):
        with torch.no_grad():
            qkv[0, 23:] = filling
        q, k, v = (x.unflatten(-1, (-1, 4)) for x in qkv.chunk(3, -1))
        y = centred.centred_attention(q, k, v, lengths, tables(40, 4), "elu", "mala")
        dy = torch.ones_like(y)
        dy[0, 23:] = filling
        outputs.append((y.detach(), *torch.autograd.grad(y, qkv, dy)))
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@runs_kernels
def test_layouts():
    """Inputs with differing strides are copied; the gradient of a sum comes with stride 0."""
    qkv, lengths = make([50, 40], n=50, h=2, d=4)
    q, k, v = (x.unflatten(-1, (-1, 4)) for x in qkv.chunk(3, -1))
    y = centred.centred_attention(q, k, v, lengths, None, "elu", "mala")
    assert y.flatten(2).data_ptr() == y.data_ptr()
    k = k.transpose(2, 3).contiguous().mT
    copied = centred.centred_attention(q.contiguous(), k, v, lengths, None, "elu", "mala")
    gradients = [torch.autograd.grad(x.sum(), qkv)[0] for x in (y, copied)]
    torch.testing.assert_close(copied, y)
    torch.testing.assert_close(*gradients)


@runs_kernels
def test_repeats_bit_for_bit():
    first, second = (both(*make([50, 9], n=50, h=1, d=4), 4, "elu", "mala", rotary=True)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@runs_kernels
def test_nan_is_not_swallowed():
    for phi in centred.PHIS:
        qkv, lengths = make([20], n=20, h=1, d=2)
        q, k, v = (x.detach().unflatten(-1, (1, 2)).clone() for x in qkv.chunk(3, -1))
        k[0, 3] = float("nan")
        assert centred.centred_attention(q, k, v, lengths, None, phi, "mala").isnan().all()


@runs_kernels
def test_wrong_arguments():
    x, lengths = torch.zeros(2, 5, 1, 4, device=DEVICE), torch.tensor([5, 5], device=DEVICE)
    with pytest.raises(ValueError, match="differ"):
        centred.centred_attention(x, x.half(), x, lengths, None, "elu", "mala")
    with pytest.raises(ValueError, match=r"lengths \(1,\)"):
        centred.centred_attention(x, x, x, lengths[:1], None, "elu", "mala")
    with pytest.raises(ValueError, match="rotary tables"):
        centred.centred_attention(x, x, x, lengths, tables(4, 4), "elu", "mala")
    with pytest.raises(ValueError, match="float64"):
        centred.centred_attention(x.double(), x.double(), x.double(), lengths, None, "elu", "mala")


@runs_kernels
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_a_mechanism_gives_the_same_fused_and_eager(name, positions):
    torch.manual_seed(0)
    module = ATTENTIONS[name](16, 2, positions).to(DEVICE)
    x = torch.randn(2, 21, 16, device=DEVICE)
    valid = valid_frames(torch.tensor([21, 13], device=DEVICE), 21)
    found = {}
    try:
        for mode in ("fused", "eager"):
            set_mode(mode)
            leaf = x.clone().requires_grad_()
            y = torch.where(valid[..., None], module(leaf, valid), 0.0)
            found[mode] = [y.detach(), *torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()])]
    finally:
        set_mode("auto")
    for a, b in zip(found["fused"], found["eager"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@runs_kernels
@pytest.mark.parametrize(
    ("dtype", "d", "width", "most"),
    [(torch.float32, 8, 8, 1e-6), (torch.bfloat16, 36, 40, 8e-3), (torch.float16, 2, 8, 1e-3)],
)
def test_positions_in_one_pass(dtype, d, width, most):
    """Against the eager rotation in fp64, on strided inputs, over more frames than one program takes.

    The interpreter cuts bf16 off where a GPU rounds it.
    """
    n = rotary_kernel.BLOCK_N + 9
    qkv, _ = make([n, n], n=n, h=2, d=d, dtype=dtype)
    x = qkv.chunk(3, -1)[1].unflatten(-1, (2, d))
    y = rotary_kernel.turn(x, *tables(n, d), width)
    assert y.shape == (2, n, 2, width) and y.dtype == dtype and not y[..., d:].any()
    expected = rotate(x.double().transpose(1, 2)).transpose(1, 2)
    assert ((y[..., :d] - expected).norm() / expected.norm()).item() < most
    dy = torch.randn(y.shape, device=DEVICE).to(dtype)
    (ours,) = torch.autograd.grad(y, qkv, dy)
    (theirs,) = torch.autograd.grad(expected, qkv, dy[..., :d].double())
    assert ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item() < most


@runs_kernels
def test_softmax_turns_the_same_with_the_kernel_as_without(monkeypatch):
    module = ATTENTIONS["softmax"](24, 2, "rotary")
    x = torch.randn(1, 2, 40, 12, device=DEVICE)
    turned = module._place_fast(x)
    assert turned.shape[-1] == 16
    monkeypatch.setattr(rotary_kernel, "usable", lambda x: False)
    torch.testing.assert_close(turned[..., :12], module._place_fast(x))


@runs_kernels
def test_warming_up_runs_each_variant_once():
    module = ATTENTIONS["mala"](16, 2).to(DEVICE)
    short = centred._launch_options(torch.empty(2, 9, 2, 8, device=DEVICE), "elu")[1]["BLOCK_N"]
    shapes = {(2, 9), (2, 11), (1, 3 * short + 1), (1, 3 * short + 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fused.warm_up(module, shapes, torch.float32) == 2
    assert fused.warm_up(ATTENTIONS["softmax"](16, 2).to(DEVICE), shapes, torch.float32) == 0


@here_only
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them")
def test_in_the_interpreter(pytestconfig):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(
        command, env=environment, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2000:]


@here_only
def test_refusals(monkeypatch):
    def why(d: int = 36, dtype=torch.float32, phi: str = "elu", gain: str = "mala") -> str | None:
        return centred.refusal(torch.zeros(1, 1, 1, d, dtype=dtype), phi, gain)

    assert why() == "no CUDA device"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert why() is None
    assert why(d=37) == "head size 37 is odd"
    assert why(d=256) == "head size 256 is over 128"
    assert why(dtype=torch.float64) == "float64"
    assert why(phi="tanh") == "feature map 'tanh'"
    assert why(gain="twice") == "gain 'twice'"


@here_only
def test_without_triton_the_eager_core_runs(pytestconfig):
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from asr.attention import ATTENTIONS\n"
        "module = ATTENTIONS['mala'](8, 2)\n"
        "print(module.eager_because(torch.zeros(1, 2, 5, 4)))\n"
        "print(module(torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)).isfinite().all().item())\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["Triton is not installed", "True"]


@here_only
@pytest.mark.parametrize(
    ("dtype", "d", "rotary", "phi", "gain"),
    [
        (torch.bfloat16, 36, True, "elu", "mala"),
        (torch.float32, 36, False, "relu", "linear"),
        (torch.bfloat16, 64, False, "identity", "inline"),
        (torch.float16, 128, True, "exp", "mala"),
    ],
)
def test_kernels_compile_for_a_gpu(dtype, d, rotary, phi, gain, tmp_path, monkeypatch):
    """For sm_90, and this needs none. The interpreter would run much that the compiler does not take."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    _, options = centred._launch_options(torch.empty(2, 300, 4, d, dtype=dtype), phi)
    constants = {**options, "GAIN": gain, "SPLITS_PAD": 4, "SPLIT_FRAMES": 128, "cos": None, "sin": None}
    inputs = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}[dtype]
    types = dict.fromkeys(("q", "k", "v", "y", "dy", "dq", "dk", "dv"), inputs)
    types |= {"lengths": "*i64", "n_frames": "i32", "batch_stride": "i32", "splits": "i32"}
    types |= {} if rotary else {"cos": "constexpr", "sin": "constexpr"}
    constants |= {"WIDTH": d + 4, "DIRECTION": -1}
    types["x"] = inputs
    names = ("key_forward", "merge", "query_forward", "query_backward", "key_backward")
    for name in (*names, "turn") if rotary else names:
        kernel = getattr(passes, name)
        signature = {p.name: types.get(p.name, "*fp32") for p in kernel.params}
        signature |= {p.name: "constexpr" for p in kernel.params if p.is_constexpr}
        values = {n: constants[n] for n, kind in signature.items() if kind == "constexpr"}
        aligned = {
            (i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"
        }
        compiled = triton.compile(
            ASTSource(kernel, signature, values, aligned),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": options["num_warps"], "num_stages": options["num_stages"]},
        )
        assert compiled.metadata.shared < 112 * 1024, f"{name}: two programs should fit on an SM of 228 KiB"
