"""float64 references, written from the papers' equations for one utterance without padding.

Each takes q, k (H, N, d), the module (for its options and learnt parameters) and a chunk (0 for none), and
returns the weights (H, N, N). They form every pair of frames and share no code with asr.attention.
"""

import math

import torch
from torch import Tensor


def rotary_by_complex_numbers(x: Tensor) -> Tensor:
    """Rotary positions as the multiplication of complex pairs by exp(i n theta)."""
    n, d = x.shape[-2:]
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2).contiguous())
    theta = torch.tensor([10_000.0 ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    turn = torch.polar(torch.ones(n, d // 2, dtype=torch.float64), torch.arange(n)[:, None] * theta)
    return torch.view_as_real(pairs * turn).flatten(-2)


def importance(n: int, module, chunk: int) -> Tensor:
    """What frame j weighs for query i, by an explicit mask: (H, N, N). 2^(-|i - j| / h), where i sees j."""
    found = torch.zeros(module.heads, n, n, dtype=torch.float64)
    forgets = getattr(module.options, "forget", "none") != "none"
    for head in range(module.heads):
        half_life = module.log_half_life[head].exp().item() if forgets else math.inf
        for i in range(n):
            for j in range(n if not chunk else min(n, (i // chunk + 1) * chunk)):
                found[head, i, j] = 2 ** (-abs(i - j) / half_life)
    return found


def softmax_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """Attention Is All You Need, Eq. 1; Transformer-XL's scores (arXiv 1901.02860, 3.3)."""
    h, n, d = q.shape
    if module.options.unit_query:
        q = q / q.square().sum(-1, keepdim=True).sqrt()
    if module.positions == "rotary":
        q, k = rotary_by_complex_numbers(q), rotary_by_complex_numbers(k)
    scores = torch.empty(h, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if module.positions == "relative":
                offset = module.offset.weight @ sinusoid(i - j, h * d)
                for head in range(h):
                    r = offset[head * d : (head + 1) * d]
                    content = (q[head, i] + module.content_bias[head, 0]) @ k[head, j]
                    scores[head, i, j] = content + (q[head, i] + module.offset_bias[head, 0]) @ r
            else:
                scores[:, i, j] = (q[:, i] * k[:, j]).sum(-1)
    for i in range(n if chunk else 0):
        start = i // chunk * chunk
        scores[:, i, start + chunk :] = -math.inf
        scores[:, i, : max(0, start - module.options.left)] = -math.inf
    return torch.softmax(scores / math.sqrt(d), dim=-1)


def sinusoid(position: int, dim: int) -> Tensor:
    """Sines, then cosines, of position / 10000^(2i / dim)."""
    angles = [position * 10_000.0 ** (-2 * i / dim) for i in range(dim // 2)]
    values = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return torch.tensor(values, dtype=torch.float64)


def phi(x: Tensor, kernel: str = "elu") -> Tensor:
    """The feature maps by name."""
    if kernel == "elu":
        return torch.where(x > 0, x + 1, x.exp())
    if kernel == "relu":
        return torch.where(x > 0, x, torch.zeros_like(x))
    return x.exp() if kernel == "exp" else x


def turned(x: Tensor, module) -> Tensor:
    """x with its positions, where those are rotary."""
    return rotary_by_complex_numbers(x) if module.positions == "rotary" else x


def centred(phi_q: Tensor, phi_k: Tensor, rq: Tensor, rk: Tensor, gain, share, d: int, w: Tensor) -> Tensor:
    """docs/attention.md's y_i = share(m_i) vbar_i + gain(m_i) t_i, as weights on v; w as ``importance``."""
    s, total = d**-0.5, w.sum(-1, keepdim=True)
    kbar = w @ phi_k / total  # of each query
    m = s * (phi_q * kbar).sum(-1, keepdim=True)
    if rq is not phi_q:  # rotary positions: m is held above a hundredth of its bound
        m = torch.maximum(m, 0.01 * s * phi_q.norm(dim=-1, keepdim=True) * kbar.norm(dim=-1, keepdim=True))
    about = rk[:, None] - (w @ rk / total)[:, :, None]  # (H, N, N, f): key j about the mean of query i
    pairs = s * torch.einsum("hif,hijf->hij", rq, about) * w / total
    # t_i = sum_j pairs_ij (v_j - vbar_i); the rows of pairs sum to zero, so vbar_i drops out of it.
    return share(m) * w / total + gain(m) * pairs


def normalised(phi_q: Tensor, phi_k: Tensor, rq: Tensor, rk: Tensor, d: int, w: Tensor) -> Tensor:
    """phi(q_i) . phi(k_j) over its sum; centred with rotary positions; even as m falls below 1e-12."""

    def gain(m: Tensor) -> Tensor:
        return 1 / m.clamp(min=1e-12)

    centred_weights = centred(phi_q, phi_k, rq, rk, gain, torch.ones_like, d, w)
    if rq is not phi_q:
        return centred_weights
    product = w * (phi_q @ phi_k.transpose(-2, -1))
    total = product.sum(-1, keepdim=True)
    ordinary = total > 1e-12 * w.sum(-1, keepdim=True) * d**0.5
    return torch.where(ordinary, product / total.clamp(min=1e-300), centred_weights)


def linear_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """MALA paper Eq. 2."""
    phi_q, phi_k = phi(q), phi(k)
    w = importance(q.shape[-2], module, chunk)
    return normalised(phi_q, phi_k, turned(phi_q, module), turned(phi_k, module), q.shape[-1], w)


def mala_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """MALA paper Eq. 8-13: beta phi(q) . phi(k_j) - gamma; docs/attention.md has the three forms."""
    d = q.shape[-1]
    w = importance(q.shape[-2], module, chunk)
    n = w.sum(-1, keepdim=True)
    options, rotary = module.options, module.positions == "rotary"
    phi_q, phi_k = phi(q, options.kernel), phi(k, options.kernel)

    def beta(total: Tensor) -> Tensor:
        if options.terms == "learnable":
            return module.beta.expand_as(total)
        full = 1 + 1 / total.clamp(min=1e-12)
        return torch.ones_like(total) if options.terms == "no-beta" else full

    def gamma_times_n(total: Tensor) -> Tensor:
        if options.terms == "learnable":
            return module.gamma.expand_as(total)
        return 0 * total if options.terms == "no-gamma" else total

    def empty(total: Tensor) -> Tensor:
        """Queries that no key answers (relu): beta S is 0 / 0, for which the centred form has the limit 1."""
        return (total <= 0) & (options.form == "centred") & (options.terms in ("both", "no-gamma"))

    def share(total: Tensor) -> Tensor:
        if options.terms == "both":
            return torch.ones_like(total)
        return torch.where(empty(total), 1.0, beta(total) * total - gamma_times_n(total))

    if options.form == "centred" and rotary:
        return centred(phi_q, phi_k, turned(phi_q, module), turned(phi_k, module), beta, share, d, w)
    # The authors' code scales the product by s / n; the paper's equations do not.
    factor = 1.0 if options.form == "eq13" else d**-0.5 / n
    total = factor * (w * (phi_q @ phi_k.transpose(-2, -1))).sum(-1, keepdim=True)
    product = factor * (turned(phi_q, module) @ turned(phi_k, module).transpose(-2, -1))
    weights = w * (beta(total) * product - gamma_times_n(total) / n)
    return torch.where(empty(total), w / n, weights)


def inline_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """InLine Eq. 5: the product less its mean over keys, plus 1 / N."""
    d = q.shape[-1]
    w = importance(q.shape[-2], module, chunk)
    n = w.sum(-1, keepdim=True)
    phi_q, phi_k = phi(q, module.options.kernel), phi(k, module.options.kernel)
    product = d**-0.5 / n * (turned(phi_q, module) @ turned(phi_k, module).transpose(-2, -1))
    return w * (product - (w * product).sum(-1, keepdim=True) / n + 1 / n)


def nala_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """NaLaFormer: u^p with p = 3 (0.5 + tanh |q|), keys cubed, both split by sign."""

    def halves(x: Tensor, power) -> list[Tensor]:
        return [torch.where(side > 0, side, torch.zeros_like(side)) ** power for side in (x, -x)]

    norm = q.square().sum(-1, keepdim=True).sqrt()
    q_halves, k_halves = halves(q / norm, 3 * (0.5 + norm.tanh())), halves(k, 3)
    rq = torch.cat([turned(half, module) for half in q_halves], -1)
    rk = torch.cat([turned(half, module) for half in k_halves], -1)
    phi_q, phi_k = torch.cat(q_halves, -1), torch.cat(k_halves, -1)
    placed = (rq, rk) if module.positions == "rotary" else (phi_q, phi_k)
    return normalised(phi_q, phi_k, *placed, q.shape[-1], importance(q.shape[-2], module, chunk))


def focused_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """FLatten: |x| x^3 / |x^3| of relu(x), each channel divided by a learnt scale."""

    def focus(x: Tensor) -> Tensor:
        x = (x.clamp(min=0) + 1e-6) / torch.log1p(module.log_scale.exp())
        return x**3 * (x.square().sum(-1, keepdim=True) / (x**6).sum(-1, keepdim=True)).sqrt()

    phi_q, phi_k = focus(q), focus(k)
    w = importance(q.shape[-2], module, chunk)
    return normalised(phi_q, phi_k, turned(phi_q, module), turned(phi_k, module), q.shape[-1], w)


def efficient_weights(q: Tensor, k: Tensor, module, chunk: int = 0) -> Tensor:
    """Efficient attention: queries normalised over channels, keys over frames."""
    q_share = q.exp() / q.exp().sum(-1, keepdim=True)
    w = importance(q.shape[-2], module, chunk)[:, :, :, None]  # (H, N, N, 1)
    k_share = w * k.exp()[:, None] / (w * k.exp()[:, None]).sum(-2, keepdim=True)
    return torch.einsum("hid,hijd->hij", q_share, k_share)


def cosformer_weights(q: Tensor, k: Tensor, module) -> Tensor:
    """cosFormer: relu products times cos(pi (i - j) / 2N), over their sum."""
    n = q.shape[-2]
    w = importance(n, module, 0)
    offset = (torch.arange(n)[:, None] - torch.arange(n)).double()
    product = w * (q.clamp(min=0) @ k.clamp(min=0).transpose(-2, -1)) * torch.cos(math.pi * offset / (2 * n))
    total = product.sum(-1, keepdim=True)
    return torch.where(total > 0, product / total.clamp(min=1e-300), w / w.sum(-1, keepdim=True))


def agent_weights(q: Tensor, k: Tensor, module) -> Tensor:
    """Agent attention: softmax(q A^T) softmax(A k^T) with A an adaptive average pooling of q."""
    s = q.shape[-1] ** -0.5
    pooled = torch.nn.functional.adaptive_avg_pool1d(q.transpose(-2, -1), module.options.agents)
    agents = pooled.transpose(-2, -1)
    ask = torch.softmax(s * q @ agents.transpose(-2, -1), -1)
    return ask @ torch.softmax(s * agents @ k.transpose(-2, -1), -1)


REFERENCES = {
    "softmax": softmax_weights,
    "linear": linear_weights,
    "mala": mala_weights,
    "inline": inline_weights,
    "nala": nala_weights,
    "focused": focused_weights,
    "efficient": efficient_weights,
    "cosformer": cosformer_weights,
    "agent": agent_weights,
}
