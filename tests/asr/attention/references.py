"""float64 references, written from the papers' equations for one utterance without padding.

Each takes q, k, v (H, N, d), the module (for its options and learnt biases), and returns the weights
(H, N, N). They form every pair of frames and share no code with asr.attention.
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


def softmax_weights(q: Tensor, k: Tensor, module) -> Tensor:
    """Attention Is All You Need, Eq. 1; Transformer-XL's scores (arXiv 1901.02860, 3.3)."""
    h, n, d = q.shape
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
    return torch.softmax(scores / math.sqrt(d), dim=-1)


def sinusoid(position: int, dim: int) -> Tensor:
    """Sines, then cosines, of position / 10000^(2i / dim)."""
    angles = [position * 10_000.0 ** (-2 * i / dim) for i in range(dim // 2)]
    values = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return torch.tensor(values, dtype=torch.float64)


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1."""
    return torch.where(x > 0, x + 1, x.exp())


def _centred(q: Tensor, k: Tensor, module, gain) -> Tensor:
    """The DESIGN's y_i = vbar + gain(m_i) t_i, as weights on v."""
    n, d = q.shape[-2:]
    s = d**-0.5
    m = s * (phi(q) @ phi(k).mean(-2, keepdim=True).transpose(-2, -1))
    turn = rotary_by_complex_numbers if module.positions == "rotary" else lambda x: x
    rq, rk = turn(phi(q)), turn(phi(k))
    pairs = s * rq @ (rk - rk.mean(-2, keepdim=True)).transpose(-2, -1) / n
    # t_i = sum_j pairs_ij (v_j - vbar); the rows of pairs sum to zero, so vbar drops out of it.
    return 1 / n + gain(m) * pairs


def linear_weights(q: Tensor, k: Tensor, module) -> Tensor:
    """MALA paper Eq. 2: phi(q) . phi(k_j) / sum_j phi(q) . phi(k_j); centred with rotary positions."""
    if module.positions == "rotary":
        return _centred(q, k, module, lambda m: 1 / m)
    product = phi(q) @ phi(k).transpose(-2, -1)
    return product / product.sum(-1, keepdim=True)


def mala_weights(q: Tensor, k: Tensor, module) -> Tensor:
    """MALA paper Eq. 8-13: beta phi(q) . phi(k_j) - gamma; see DESIGN for the three forms."""
    n, d = q.shape[-2:]
    form, rotary = module.options.form, module.positions == "rotary"
    if form == "centred" and rotary:
        return _centred(q, k, module, lambda m: 1 + 1 / m)
    # The authors' code scales the product by s / n; the paper's equations do not.
    factor = 1.0 if form == "eq13" else d**-0.5 / n
    total = factor * (phi(q) @ phi(k).transpose(-2, -1)).sum(-1, keepdim=True)
    turn = rotary_by_complex_numbers if rotary else lambda x: x
    product = factor * turn(phi(q)) @ turn(phi(k)).transpose(-2, -1)
    return (1 + 1 / total) * product - total / n


REFERENCES = {"softmax": softmax_weights, "linear": linear_weights, "mala": mala_weights}
