"""Frames that see their chunk and what comes before it: by an explicit mask, and chunk after chunk."""

import functools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import REFERENCES
from test_attention import DIM, HEADS, draw_module, make

from asr.attention import ATTENTIONS, Frames
from asr.attention.blocks import BLOCK, Layout, fade, see
from asr.attention.chunks import visible
from asr.attention.linear import CentredOptions
from asr.errors import UserError
from asr.model.frames import valid_frames

close = functools.partial(torch.allclose, rtol=1e-9, atol=1e-10)
REFUSED = ("cosformer", "agent")
CASES = [
    (name, positions)
    for name, cls in ATTENTIONS.items()
    if name not in REFUSED
    for positions in cls.POSITIONS
]
every_case = pytest.mark.parametrize(("name", "positions"), CASES)


def draw(name: str, positions: str, data):
    """A module with any options that can go in chunks, local extras too, and its options."""
    module, _ = draw_module(name, positions, data, data.draw(st.integers(0, 1000)))
    options = module.options
    changes = {
        "lepe": data.draw(st.sampled_from([0, 3])),
        "gate": data.draw(st.sampled_from(["none", "silu"])),
    }
    if hasattr(options, "form"):
        changes["form"] = "centred"
    if hasattr(options, "left"):
        changes["left"] = data.draw(st.integers(0, 12))
    return make(name, positions, type(options)(**{**vars(options), **changes}))


def frames_of(n: int, start: int = 0, chunk: int = 0) -> Frames:
    return Frames(torch.ones(1, n, dtype=torch.bool), torch.tensor([start + n]), start, chunk)


@every_case
@settings(max_examples=25, deadline=None)
@given(data=st.data(), n=st.integers(1, 14), chunk=st.integers(1, 16), scale=st.floats(0.1, 3.0))
def test_core_and_weights_equal_the_reference_with_an_explicit_mask(name, positions, data, n, chunk, scale):
    module, frames = draw(name, positions, data), frames_of(n, chunk=chunk)
    q, k, v = (scale * torch.randn(1, HEADS, n, DIM // HEADS, dtype=torch.float64) for _ in range(3))
    expected = REFERENCES[name](q[0], k[0], module, chunk)
    size = 1 + expected.abs().max()
    if getattr(module.options, "kernel", "") == "exp":  # the reference cancels large products
        size += (q.exp() @ k.exp().transpose(-2, -1)).max()
    y, _ = module.core_after(q, k, v, frames, None)
    assert close(module.weights(q, k, frames)[0] / size, expected / size, rtol=0, atol=1e-12)
    assert close(y[0] / size, expected @ v[0] / size, rtol=0, atol=1e-11)


@every_case
@settings(max_examples=10, deadline=None)
@given(data=st.data(), n=st.integers(1, 40), chunk=st.integers(1, 9), starts=st.sets(st.integers(1, 8)))
def test_calls_one_after_another_give_what_one_gives(name, positions, data, n, chunk, starts):
    """Any number of chunks a call, the last one ragged."""
    module = draw(name, positions, data)
    x = torch.randn(1, n, DIM, dtype=torch.float64)
    whole = module(x, torch.ones(1, n, dtype=torch.bool), chunk)
    bounds = [0, *sorted(start * chunk for start in starts if start * chunk < n), n]
    past, outputs = None, []
    for start, end in pairwise(bounds):
        y, past = module.advance(x[:, start:end], frames_of(end - start, start, chunk), past)
        outputs.append(y)
    assert close(torch.cat(outputs, 1), whole)
    assert past.count == n


@every_case
@settings(max_examples=6, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 9), extra=st.integers(0, 7))
def test_padding_and_batch_mates_change_nothing(name, positions, data, chunk, extra):
    module, lengths = draw(name, positions, data), [17, 5, 1]
    x = torch.randn(3, 17 + extra, DIM, dtype=torch.float64)
    valid = valid_frames(torch.tensor(lengths), 17 + extra)
    x = torch.where(valid[..., None], x, 1e3 * torch.randn_like(x))
    together = module(x, valid, chunk)
    assert together.isfinite().all()
    for row, length in enumerate(lengths):
        alone = module(x[row : row + 1, :length], valid[row : row + 1, :length], chunk)
        assert close(together[row, :length], alone[0])


@every_case
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_what_comes_after_a_chunk_changes_nothing_and_what_is_in_it_does(name, positions, chunk):
    far = {"left": 203} if name == "softmax" else {}
    module = make(name, positions, ATTENTIONS[name].Options(lepe=3, **far))
    x = torch.randn(1, 203, DIM, dtype=torch.float64, requires_grad=True)
    y = module(x, torch.ones(1, 203, dtype=torch.bool), chunk)
    y[:, 100].square().sum().backward()
    end = (100 // chunk + 1) * chunk
    assert (x.grad[:, end:] == 0).all()
    assert (x.grad[0, :end].abs().amax(-1) > 0).all()


@every_case
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_one_chunk_of_all_frames_is_the_full_context(name, positions, data):
    module = draw(name, positions, data)
    x, valid = torch.randn(2, 150, DIM, dtype=torch.float64), valid_frames(torch.tensor([150, 70]), 150)
    chunked, full = module(x, valid, 150), module(x, valid)
    assert close(chunked[0], full[0]) and close(chunked[1, :70], full[1, :70])


@pytest.mark.parametrize("forget", ["none", "fixed"])
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 300), chunk=st.sampled_from([0, 1, 7, 16, 64, 65, 100, 1000]), seed=st.integers(0, 99)
)
def test_blocks_give_the_means_and_co_moments_of_their_definition(forget, n, chunk, seed):
    """More frames than a block has, and states on both sides of it."""
    torch.manual_seed(seed)
    q, phi_k, placed_k, v = (torch.randn(1, 2, n, 3, dtype=torch.float64) for _ in range(4))
    rate = torch.tensor([0.3, 0.002], dtype=torch.float64) if forget == "fixed" else None
    number = torch.arange(n, dtype=torch.float64)
    w = fade(rate, (number[:, None] - number).abs()) * visible(n, chunk, q.device)
    w = w.expand(2, -1, -1)
    total = w.sum(-1, keepdim=True)
    key_mean, value_mean, placed_mean = (w @ x[0] / total for x in (phi_k, v, placed_k))
    about_k = placed_k[0][:, None] - placed_mean[:, :, None]
    about_v = v[0][:, None] - value_mean[:, :, None]
    product = torch.einsum("hij,hif,hijf,hijd->hid", w / total, q[0], about_k, about_v)
    seen, past = see(q, phi_k, placed_k, v, torch.ones(1, n, dtype=torch.bool), chunk, rate)
    for found, wanted in zip(seen, (key_mean, value_mean, product), strict=True):
        assert close(found[0], wanted)
    last = w[:, -1:] if n % (chunk or n) == 0 and rate is None else fade(rate, n - 1 - number)[:, None]
    assert close(past.count[0, :, 0, 0], last.expand(2, -1, -1).sum(-1)[:, 0])


@given(n=st.integers(1, 500), chunk=st.integers(0, 300))
def test_layouts_fold_back(n, chunk):
    layout = Layout.of(n, chunk)
    x = torch.arange(n)[:, None]
    assert (layout.unfold(layout.fold(x)) == x).all()
    assert sum(layout.lengths()) == n and layout.fold(x).shape[0] == len(layout.lengths())
    assert layout.size <= max(BLOCK, chunk)


@pytest.mark.parametrize(
    "name", [name for name, cls in ATTENTIONS.items() if issubclass(cls.Options, CentredOptions)]
)
def test_half_lives_are_the_options(name):
    frames = torch.arange(5.0)
    for forget in ("fixed", "learnt"):
        module = make_plain(name, forget)
        left = fade(module.rate, frames)
        assert torch.allclose(left[0], 0.5 ** (frames / 10)) and torch.allclose(left[1], 0.5 ** (frames / 30))
    assert {n for n, _ in module.named_parameters()} - {
        n for n, _ in make_plain(name, "fixed").named_parameters()
    } == {"log_half_life"}
    module(torch.randn(1, 9, DIM), torch.ones(1, 9, dtype=torch.bool)).square().sum().backward()
    assert (module.log_half_life.grad != 0).all()


def make_plain(name: str, forget: str):
    return ATTENTIONS[name](
        DIM, HEADS, "auto", ATTENTIONS[name].Options(forget=forget, half_life=10, spread=3)
    )


def test_forgetting_wants_the_centred_form_of_mala():
    with pytest.raises(UserError, match=r"--mala\.forget fixed: only with --mala\.form centred"):
        make("mala", options=ATTENTIONS["mala"].Options(forget="fixed", form="eq13"))


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("cosformer", {}, "the length of the whole utterance"),
        ("agent", {}, "pooled from the whole utterance"),
        ("mala", {"form": "eq13"}, "--mala.form eq13 is for study"),
        ("mala", {"form": "released"}, "--mala.form released is for study"),
    ],
)
def test_mechanisms_that_want_the_whole_utterance_are_refused(name, options, why):
    module = make(name, options=ATTENTIONS[name].Options(**options))
    with pytest.raises(UserError, match=why):
        module(torch.randn(1, 5, DIM, dtype=torch.float64), torch.ones(1, 5, dtype=torch.bool), 2)


def test_a_mechanism_that_says_nothing_is_refused():
    class Bare(ATTENTIONS["agent"]):
        chunk_refusal = ATTENTIONS["agent"].__mro__[1].chunk_refusal

    with pytest.raises(UserError, match="Bare cannot work chunk by chunk: it is not made for that"):
        Bare(DIM, HEADS)(torch.randn(1, 5, DIM), torch.ones(1, 5, dtype=torch.bool), 2)


@pytest.mark.parametrize("name", ["mala", "efficient"])
def test_long_histories_lose_no_digits_in_fp32(name):
    """An hour of frames of 40 ms whose means are far from zero, against the float64 sum over all of them."""
    n, step, chunk = 90_000, 2000, 40
    module = make(name, "none")
    q, k = (torch.randn(1, HEADS, n, DIM // HEADS, dtype=torch.float64) + 3 for _ in range(2))
    v = k.flip(-1) + torch.randn_like(k)
    whole = Frames(torch.ones(1, n, dtype=torch.bool), torch.tensor([n]))
    last = whole._replace(start=n - chunk)
    exact = module.attend(q[:, :, -chunk:], module.summarise(q, k, v, whole, None), last)
    past, module = None, module.float()
    with torch.inference_mode():
        for start in range(0, n, step):
            part = (x[:, :, start : start + step].float() for x in (q, k, v))
            y, past = module.core_after(*part, frames_of(step, start, chunk), past)
    y = y[:, :, -chunk:]
    assert (y - exact).norm() / (exact - exact.mean(-2, keepdim=True)).norm() < 1e-5


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name not in REFUSED])
def test_the_past_does_not_grow(name):
    """Softmax's is the keys that it may see, and the others' is a summary."""
    options = ATTENTIONS[name].Options(lepe=3)
    module, past, sizes = make(name, options=options, dtype=torch.float32), None, []
    for number in range(60):
        x = torch.randn(1, 8, DIM)
        with torch.inference_mode():
            _, past = module.advance(x, frames_of(8, 8 * number, 8), past)
        sizes.append(sum(x.untyped_storage().nbytes() for x in tensors(past)))
    assert len(set(sizes[20:])) == 1


def tensors(item) -> list[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        return [item]
    return [x for part in item for x in tensors(part)] if isinstance(item, tuple) else []


@pytest.mark.parametrize("before", ["none", "fixed", "learnt"])
def test_a_trained_layer_may_forget_afterwards(before):
    module = make("mala", "rotary", ATTENTIONS["mala"].Options(forget=before, half_life=30.0, spread=2.0))
    made = make("mala", "rotary", ATTENTIONS["mala"].Options(forget="fixed", half_life=7.0))
    made.load_state_dict(module.state_dict(), strict=False)
    x, valid = torch.randn(1, 90, DIM, dtype=torch.float64), torch.ones(1, 90, dtype=torch.bool)
    plain = module(x, valid)
    module.forget(7.0)
    assert close(module(x, valid), made(x, valid)) and not close(module(x, valid), plain)
