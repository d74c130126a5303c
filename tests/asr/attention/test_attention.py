"""Properties that every mechanism of the registry must have, at all its positions and options."""

import dataclasses
import functools
import typing
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import REFERENCES, phi

from asr.attention import ATTENTIONS, Frames
from asr.attention.base import AttentionOptions
from asr.attention.fused import set_mode
from asr.attention.linear import CentredOptions
from asr.attention.softmax import SCORE_BYTES
from asr.errors import UserError
from asr.model.frames import valid_frames

DIM, HEADS = 16, 2
close = functools.partial(torch.allclose, rtol=1e-9, atol=1e-10)


def _values(options: type) -> dict[str, list]:
    """The values that a mechanism's own switches can take, by name."""
    own = set(typing.get_type_hints(options)) - set(typing.get_type_hints(AttentionOptions))
    hints = {name: hint for name, hint in typing.get_type_hints(options).items() if name in own}
    return {
        name: list(typing.get_args(hint)) if typing.get_origin(hint) is Literal else [False, True]
        for name, hint in hints.items()
        if typing.get_origin(hint) is Literal or hint is bool
    }


SOON = {"half_life": 2.5, "spread": 3.0}  # a half-life that shows in tests' few frames


def _one_at_a_time(options: type) -> list:
    """The defaults, and every other value of every switch alone."""
    default = options(**SOON) if issubclass(options, CentredOptions) else options()
    return [default] + [
        dataclasses.replace(default, **{name: value})
        for name, values in _values(options).items()
        for value in values
        if value not in (getattr(default, name), "fixed")  # a half-life that is learnt does the same
    ]


def _label(options) -> str:
    """What differs from the defaults."""
    default = type(options)()
    return " ".join(
        f"{f.name}={getattr(options, f.name)}"
        for f in dataclasses.fields(options)
        if getattr(options, f.name) != getattr(default, f.name) and f.name not in SOON
    )


def _cases(names, choices) -> list:
    return [
        pytest.param(name, positions, options, id=f"{name}-{positions}-{_label(options)}")
        for name in names
        for positions in ATTENTIONS[name].POSITIONS
        for options in choices(ATTENTIONS[name].Options)
    ]


CASES = _cases(ATTENTIONS, _one_at_a_time)
EXTRAS = _cases(ATTENTIONS, lambda options: [options(lepe=3), options(gate="plain"), options(gate="silu")])
every_case = pytest.mark.parametrize(("name", "positions", "options"), CASES)
every_case_and_extra = pytest.mark.parametrize(("name", "positions", "options"), CASES + EXTRAS)
every_name = pytest.mark.parametrize("name", ATTENTIONS)
LINEAR_TIME = [name for name in ATTENTIONS if name != "softmax"]


def make(name: str, positions: str = "auto", options=None, dtype=torch.float64, seed: int = 0):
    torch.manual_seed(seed)
    module = ATTENTIONS[name](DIM, HEADS, positions, options).to(dtype)
    with torch.no_grad():  # learnt biases start at zero, which would hide them
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def whole(n: int, batch: int = 1) -> Frames:
    return Frames.whole(torch.ones(batch, n, dtype=torch.bool))


def rows_sum_to_one(name: str, positions: str, options) -> bool:
    """The published forms of MALA lose it with rotary positions: that is why centred is the default."""
    published = getattr(options, "form", "centred") != "centred"
    return not (positions == "rotary" and published) and getattr(options, "terms", "both") == "both"


def draw_module(name: str, positions: str, data, seed: int):
    """A module with any of its options, and those."""
    options = ATTENTIONS[name].Options
    chosen = {key: data.draw(st.sampled_from(values), key) for key, values in _values(options).items()}
    if chosen.get("form", "centred") != "centred":
        chosen["forget"] = "none"
    soon = SOON if "forget" in chosen else {}
    return make(name, positions, options(**chosen, **soon), seed=seed), chosen


@pytest.mark.parametrize(
    ("name", "positions"),
    [(name, positions) for name, cls in ATTENTIONS.items() for positions in cls.POSITIONS],
)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), scale=st.floats(0.1, 4.0), seed=st.integers(0, 10_000))
def test_core_and_weights_equal_the_reference(name, positions, data, n, scale, seed):
    module, chosen = draw_module(name, positions, data, seed)
    q, k, v = (scale * torch.randn(1, HEADS, n, DIM // HEADS, dtype=torch.float64) for _ in range(3))
    expected = REFERENCES[name](q[0], k[0], module)
    size = 1 + expected.abs().max()  # some forms' weights are large,
    if "kernel" in chosen:  # and their own references cancel large products
        size += (phi(q, chosen["kernel"]).abs() @ phi(k, chosen["kernel"]).abs().transpose(-2, -1)).max()
    weights, y = module.weights(q, k, whole(n))[0], module.core(q, k, v, whole(n))[0]
    assert close(weights / size, expected / size, rtol=0, atol=1e-12)
    assert close(y / size, expected @ v[0] / size, rtol=0, atol=1e-11)


@every_case
def test_fp32_core_is_near_the_float64_one(name, positions, options):
    module = make(name, positions, options)
    q, k, v = (torch.randn(2, HEADS, 200, DIM // HEADS, dtype=torch.float64) for _ in range(3))
    frames = Frames.whole(valid_frames(torch.tensor([200, 77]), 200))
    exact = module.core(q, k, v, frames)
    single = module.float().core(q.float(), k.float(), v.float(), frames).double()
    assert (single - exact)[0].norm() / exact[0].norm() < 1e-5


@every_case_and_extra
@settings(max_examples=6, deadline=None)
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
        assert close(together[row, :length], alone[0])


@every_case_and_extra
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

    assert close(gradient(0), gradient(5))


@every_case
def test_rows_of_the_weights_sum_to_one(name, positions, options):
    module = make(name, positions, options)
    q, k = (torch.randn(2, HEADS, 30, DIM // HEADS, dtype=torch.float64) for _ in range(2))
    weights = module.weights(q, k, Frames.whole(valid_frames(torch.tensor([30, 11]), 30)))
    assert (weights[1, :, :, 11:] == 0).all()
    sums = weights.sum(-1)
    if rows_sum_to_one(name, positions, options):
        assert close(sums, torch.ones_like(sums), atol=1e-9)
    else:
        assert (sums - 1).abs().max() > 0.1


@every_case_and_extra
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
def test_weights_stay_small_where_queries_and_keys_meet_only_when_turned(name, positions, options):
    """One channel of a pair in the queries, the other in the keys: m is next to nothing, t is not."""
    if getattr(options, "form", "centred") != "centred":
        pytest.skip("the published forms are as they are")
    module = make(name, positions, options)
    q, k = (torch.full((1, HEADS, 50, DIM // HEADS), -9.0, dtype=torch.float64) for _ in range(2))
    q[..., 0], k[..., 1] = 1, 1
    assert (50 * module.weights(q, k, whole(50))).abs().max() < 1e3


@every_case
def test_core_is_computed_in_fp32_under_bf16_autocast(name, positions, options):
    module = make(name, positions, options, dtype=torch.float32)
    seen = []

    def watch(step):
        def watched(q, *rest):
            y = step(q, *rest)
            seen.append((q.dtype, (y[0] if isinstance(y, tuple) else y).dtype))
            return y

        return watched

    module.attend, module.core_after = watch(module.attend), watch(module.core_after)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(torch.randn(1, 50, DIM), torch.ones(1, 50, dtype=torch.bool))
    assert seen == [(torch.float32, torch.float32)]
    assert y.isfinite().all()


@pytest.mark.parametrize("name", LINEAR_TIME)  # softmax would take minutes
def test_50_000_frames_are_finite_in_bf16(name):
    module = make(name, dtype=torch.float32)
    x = torch.randn(1, 50_000, DIM, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x, torch.ones(1, 50_000, dtype=torch.bool))
    assert y.isfinite().all()
    y.float().square().mean().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


@every_case_and_extra
@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 10_000))
def test_chunks_give_what_the_whole_gives(name, positions, options, sizes, seed):
    """Summaries of chunks combine into the whole's, and outputs follow from them chunk by chunk."""
    module = make(name, positions, options, seed=seed)
    n = sum(sizes)
    x = torch.randn(1, n, DIM, dtype=torch.float64)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def chunk(start: int, end: int):
        frames = Frames(torch.ones(1, end - start, dtype=torch.bool), torch.tensor([n]), start)
        return module.project(x[:, start:end], frames), frames

    chunks = [chunk(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    summary = None
    for number in range(module.PASSES):
        parts = [module.summarise(*p[1:], frames, summary) for p, frames in chunks]
        if number < module.PASSES - 1:
            summary = module.combine(parts)
    known = module.spread(parts)
    outputs = []
    for start, size, (own, frames), item in zip(starts, sizes, chunks, known, strict=True):
        y = module.answer(*own[1:], item, frames)
        first, end = max(0, start - module.halo), min(n, start + size + module.halo)
        projected, around = chunk(first, end)
        y = torch.nn.functional.pad(y, (0, 0, start - first, end - start - size))
        y = module.finish(projected, y, x.mean(1), around)
        outputs.append(y[:, start - first : start - first + size])
    assert close(torch.cat(outputs, 1), module(x, whole(n).valid))


def scaled_queries(q: torch.Tensor, a: float) -> torch.Tensor:
    """q' with phi(q') = a phi(q), for positive q: there phi(q) = q + 1."""
    return a * (q + 1) - 1


@pytest.fixture
def positive():
    torch.manual_seed(3)
    q = torch.rand(1, HEADS, 25, DIM // HEADS, dtype=torch.float64)
    k = torch.randn(1, HEADS, 25, DIM // HEADS, dtype=torch.float64)
    return q, k, whole(25)


@pytest.mark.parametrize("a", [1.5, 4.0])
class TestQueryMagnitude:
    """MALA paper, Eq. 5-12: what a longer query does to the weights."""

    def test_softmax_weights_are_raised_to_a_power(self, positive, a):
        q, k, frames = positive
        module = make("softmax", "none")
        before, after = module.weights(q, k, frames), module.weights(a * q, k, frames)
        ratio = before[..., :1] / before
        assert close(after[..., :1] / after, ratio**a)
        assert (after.amax(-1) > before.amax(-1)).all()

    def test_linear_weights_stay_as_they_are(self, positive, a):
        q, k, frames = positive
        for positions in ("none", "rotary"):
            module = make("linear", positions)
            after = module.weights(scaled_queries(q, a), k, frames)
            assert close(after, module.weights(q, k, frames))

    def test_mala_weights_grow_spikier_by_the_papers_fraction(self, positive, a):
        q, k, frames = positive
        module = make("mala", "none")
        before = module.weights(q, k, frames)
        after = module.weights(scaled_queries(q, a), k, frames)
        # From beta_a = 1 + 1 / (a S), gamma_a = a S / N: weight_j is (1/S + a) x_j - a S / N.
        n, d = q.shape[-2:]
        x = phi(q) @ phi(k).transpose(-2, -1) * d**-0.5 / n
        total = x.sum(-1, keepdim=True)
        expected = (1 / total + a) * x - a * total / n
        assert close(after, expected)
        assert (after.amax(-1) > before.amax(-1)).all()
        high = x.argmax(-1, keepdim=True)
        ratio_before, ratio_after = before.gather(-1, high) / before, after.gather(-1, high) / after
        # Ratios mean nothing where a weight is negative, and are 1 against the highest itself.
        meaningful = (after > 0) & (x < x.amax(-1, keepdim=True))
        assert meaningful.float().mean() > 0.3
        assert (ratio_after > ratio_before)[meaningful].all()

    def test_softmax_with_unit_queries_does_not_see_it(self, positive, a):
        """The paper's Table 1."""
        q, k, frames = positive
        for positions in ATTENTIONS["softmax"].POSITIONS:
            module = make("softmax", positions, ATTENTIONS["softmax"].Options(unit_query=True))
            assert close(module.weights(a * q, k, frames), module.weights(q, k, frames))

    @pytest.mark.parametrize("name", ["linear", "focused", "cosformer"])
    def test_normalised_mechanisms_do_not_see_it(self, positive, a, name):
        q, k, frames = positive
        module = make(name)
        scaled = scaled_queries(q, a) if name == "linear" else a * q
        assert close(module.weights(scaled, k, frames), module.weights(q, k, frames), atol=1e-4)

    def test_inline_weights_move_away_from_even_in_proportion(self, positive, a):
        q, k, frames = positive
        module = make("inline")
        before, after = module.weights(q, k, frames), module.weights(a * q, k, frames)
        assert close(after - 1 / 25, a * (before - 1 / 25))

    def test_nala_entropy_falls_with_the_norm(self, positive, a):
        q, k, frames = positive
        module = make("nala", "none")

        def entropy(q):
            weights = module.weights(q, k, frames)
            return -torch.xlogy(weights, weights).sum(-1)

        assert (entropy(a * q) < entropy(q)).double().mean() > 0.9
        assert entropy(a * q).mean() < entropy(q).mean()


class TestMalaAblations:
    """The MALA paper's Tables 10 and 11."""

    @pytest.fixture
    def inputs(self):
        torch.manual_seed(5)
        q, k = (torch.randn(1, HEADS, 25, DIM // HEADS, dtype=torch.float64) for _ in range(2))
        return q, k, whole(25)

    @staticmethod
    def magnitude(q, k, kernel="elu"):
        d = q.shape[-1]
        return d**-0.5 * (phi(q, kernel) * phi(k, kernel).mean(-2, keepdim=True)).sum(-1, keepdim=True)

    def build(self, **options):
        return make("mala", "none", ATTENTIONS["mala"].Options(**options))

    @pytest.mark.parametrize("kernel", ["elu", "relu", "exp"])
    def test_linear_attention_plus_a_deviation_of_zero_sum(self, inputs, kernel):
        """(1 + 1 / m) t is the normalised t / m, plus t, whatever the kernel."""
        q, k, frames = inputs
        product = phi(q, kernel) @ phi(k, kernel).transpose(-2, -1)
        normal = product / product.sum(-1, keepdim=True)
        deviation = self.build(kernel=kernel).weights(q, k, frames) - normal
        m = self.magnitude(q, k, kernel)
        assert close(deviation, m * (normal - 1 / 25))
        assert close(deviation.sum(-1), torch.zeros(()).double(), atol=1e-12)

    def test_without_beta_rows_sum_to_zero(self, inputs):
        q, k, frames = inputs
        weights = self.build(terms="no-beta").weights(q, k, frames)
        assert close(weights.sum(-1), torch.zeros(()).double(), atol=1e-12)

    def test_without_gamma_no_weight_is_negative_and_rows_sum_to_one_plus_m(self, inputs):
        q, k, frames = inputs
        weights = self.build(terms="no-gamma").weights(q, k, frames)
        assert (weights > 0).all()
        assert close(weights.sum(-1, keepdim=True), 1 + self.magnitude(q, k))

    def test_both_of_them_have_negative_weights(self, inputs):
        q, k, frames = inputs
        assert (self.build().weights(q, k, frames) < 0).any()

    def test_learnable_terms_do_not_follow_the_query(self, inputs):
        q, k, frames = inputs
        module = self.build(terms="learnable")
        sums = module.weights(q, k, frames).sum(-1, keepdim=True)
        assert close(sums, module.beta * self.magnitude(q, k) - module.gamma)
        module(torch.randn(1, 9, DIM, dtype=torch.float64), whole(9).valid).sum().backward()
        assert module.beta.grad.abs().sum() > 0 and module.gamma.grad.abs().sum() > 0

    def test_learnable_terms_start_where_m_is_one(self):
        module = ATTENTIONS["mala"](DIM, HEADS, "none", ATTENTIONS["mala"].Options(terms="learnable"))
        gain, share = module.coefficients(torch.ones(1, HEADS, 1, 1))
        assert (gain == 2).all() and (share == 1).all()


class TestExtras:
    def test_lepe_adds_a_depthwise_convolution_of_v(self):
        module, bare = make("mala", options=ATTENTIONS["mala"].Options(lepe=3)), make("mala")
        bare.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("lepe")})
        x, valid = torch.randn(1, 9, DIM, dtype=torch.float64), torch.ones(1, 9, dtype=torch.bool)
        v = torch.nn.functional.pad(module.value(x), (0, 0, 1, 1))
        taps = module.lepe.weight[:, 0, :, 0]
        expected = sum(v[:, o : o + 9] * taps[:, o] for o in range(3)) + module.lepe.bias
        difference = module(x, valid) - bare(x, valid)
        assert close(difference, expected @ module.output.weight.T)

    def test_inline_residual_takes_its_taps_from_the_mean_frame(self):
        module = make("inline")
        bare = make("inline", options=ATTENTIONS["inline"].Options(residual=False))
        bare.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("taps")})
        x = torch.randn(2, 9, DIM, dtype=torch.float64)
        valid = valid_frames(torch.tensor([9, 6]), 9)
        difference = module(x, valid) - bare(x, valid)
        for row, n in enumerate((9, 6)):
            token, v = x[row, :n].mean(0), module.value(x[row, :n])
            taps = module.taps(token[None, :, None])[0, :, 0].reshape(DIM, 3)
            around = torch.nn.functional.pad(v, (0, 0, 1, 1))
            expected = sum(around[o : o + n] * taps[:, o] for o in range(3))
            assert close(difference[row, :n], expected @ module.output.weight.T)

    @pytest.mark.parametrize("gate", ["plain", "silu"])
    def test_gates(self, gate):
        module, bare = make("linear", options=ATTENTIONS["linear"].Options(gate=gate)), make("linear")
        bare.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("gate")})
        x, valid = torch.randn(1, 9, DIM, dtype=torch.float64), torch.ones(1, 9, dtype=torch.bool)
        bare.output = torch.nn.Identity()
        y, gated = bare(x, valid), module.gate(x)
        if gate == "silu":
            y, gated = module.gate_norm(y), gated * gated.sigmoid()
        assert close(module(x, valid), module.output(y * gated))

    @pytest.mark.parametrize("width", [-1, 2])
    def test_impossible_widths_are_refused(self, width):
        with pytest.raises(UserError, match=f"lepe {width}: must be odd"):
            make("mala", options=ATTENTIONS["mala"].Options(lepe=width))


def test_cosformer_takes_the_utterance_s_own_length():
    """With the batch's length the weights would fall off more slowly."""
    module = make("cosformer")
    q, k = (torch.rand(1, HEADS, 20, DIM // HEADS, dtype=torch.float64) for _ in range(2))
    short = valid_frames(torch.tensor([8]), 20)
    padded = module.weights(q, k, Frames.whole(short))[:, :, :8, :8]
    assert close(padded, module.weights(q[:, :, :8], k[:, :, :8], whole(8)))


def test_softmax_in_blocks_equals_softmax_at_once(monkeypatch):
    for positions in ATTENTIONS["softmax"].POSITIONS:
        module = make("softmax", positions)
        x, valid = torch.randn(2, 23, DIM, dtype=torch.float64), valid_frames(torch.tensor([23, 9]), 23)
        at_once = module(x, valid)
        monkeypatch.setitem(SCORE_BYTES, "cpu", 4 * 2 * HEADS * 23 * 5)
        assert close(module(x, valid), at_once)
        monkeypatch.undo()


def test_the_mode_of_the_fused_kernels_can_be_set():
    module, q = make("mala", dtype=torch.float32), torch.randn(1, HEADS, 5, DIM // HEADS)
    try:
        set_mode("eager")
        assert module.eager_because(q) == "switched off"
        set_mode("fused")
        with pytest.raises(UserError, match="fused attention kernels: not made for this mechanism"):
            make("nala").eager_because(q)
    finally:
        set_mode("auto")
    assert make("nala").eager_because(q).startswith("not made for this mechanism")
    assert make("softmax").eager_because(q) == "no CUDA device"


@every_name
def test_unknown_positions_are_refused(name):
    with pytest.raises(UserError, match="--positions nowhere: this attention takes"):
        ATTENTIONS[name](DIM, HEADS, "nowhere")


@every_name
def test_heads_that_do_not_divide_are_refused(name):
    with pytest.raises(UserError, match="not a multiple"):
        ATTENTIONS[name](15, 2)
