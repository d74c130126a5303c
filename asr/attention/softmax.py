"""Softmax attention, with Conformer's relative positions or rotary ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.attention import flash
from asr.attention.base import AttentionOptions, Frames, SelfAttention, at_least_fp32
from asr.attention.masked import mask_scores
from asr.attention.positions import relative_shift, relative_sinusoids, rotary_table, rotate
from asr.bounds import bounded

# Queries are taken in blocks whose scores by position stay under this many bytes: on a CPU, in its cache.
SCORE_BYTES = {"cpu": 2**23}
MOST_SCORE_BYTES = 2**28


@dataclass(frozen=True)
class SoftmaxOptions(AttentionOptions):
    """Options of softmax attention.

    Args:
        unit_query: divide every query by its norm, which takes its magnitude away (the MALA
            paper's Table 1).
        left: with chunks, the encoded frames before its chunk that a query sees. Without, it sees all.
    """

    unit_query: bool = False
    left: int = bounded(128, 0, 10_000)


class Keys(NamedTuple):
    """Softmax has no shorter summary than all keys and values."""

    k: Tensor  # (B, H, N, d), rotated where positions are rotary
    v: Tensor  # (B, H, N, d)
    valid: Tensor  # (B, N)
    start: int = 0  # number of the first


class SoftmaxAttention(SelfAttention):
    """softmax(q k^T / sqrt(d)) v ("Attention Is All You Need", Eq. 1).

    With ``relative`` positions (Conformer's own) the scores are Transformer-XL's,
    (q_i + a) . k_j + (q_i + b) . W r_{i-j}, with learnt biases a and b per head (arXiv 1901.02860).
    Time grows with N^2; memory with N, as queries are taken in blocks where N is large.

    On a GPU, q, k and v in half precision go to PyTorch's own kernels for it (asr/attention/flash.py): to
    FlashAttention, or with ``relative`` positions, whose bias it does not take, to the memory-efficient one.
    """

    POSITIONS = ("relative", "rotary", "sinusoid", "none")
    FUSED = "PyTorch's flash or memory-efficient kernel"
    Options = SoftmaxOptions

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        if self.positions == "relative":
            self.offset = nn.Linear(dim, dim, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))
            self.offset_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None) -> Keys:
        return Keys(self._place(k, frames.start), v, frames.valid, frames.start)

    def combine(self, summaries: Sequence[Keys]) -> Keys:
        k, v, valid, starts = zip(*summaries, strict=True)
        return Keys(torch.cat(k, -2), torch.cat(v, -2), torch.cat(valid, -1), starts[0])

    def chunk_refusal(self) -> str | None:
        return None

    def core_after(
        self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, past: Keys | None
    ) -> tuple[Tensor, Keys]:
        keys = self.summarise(q, k, v, frames, None)
        keys = self.combine([past, keys]) if past else keys
        return self.attend(q, keys, frames), self._last(keys)

    def _last(self, keys: Keys) -> Keys:
        """The last ``left`` keys, by themselves: a view would keep all of them."""
        n = keys.k.shape[-2]
        gone = max(0, n - self.options.left)
        k, v = (x[:, :, gone:].clone() for x in (keys.k, keys.v))
        return Keys(k, v, keys.valid[:, gone:].clone(), keys.start + gone)

    def attend(self, q: Tensor, summary: Keys, frames: Frames) -> Tensor:
        b, h, n, _ = q.shape
        offsets = self._offsets(n, summary, frames.start, q.dtype)
        if torch.compiler.is_exporting():  # the number of blocks would be fixed in the graph
            return self._attend_block(q, summary, frames.start, frames.chunk, offsets)
        most = SCORE_BYTES.get(q.device.type, MOST_SCORE_BYTES)
        rows = max(1, most // (4 * b * h * summary.k.shape[-2]))
        outputs = []
        for first in range(0, n, rows):
            block = q[:, :, first : first + rows]
            theirs = None if offsets is None else _offsets_of(offsets, n, first, block.shape[-2])
            outputs.append(self._attend_block(block, summary, frames.start + first, frames.chunk, theirs))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -2)

    def fused_core(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            if self.positions == "relative":
                return self.attend(q, self.summarise(q, k, v, frames, None), frames)
            q, k = (self._place_fast(x) for x in (self._normalise(q), k))
            return flash.attend_within(q, k, v, frames.lengths, self.scale)

    def fused_refusal(self, q: Tensor) -> str | None:
        return flash.refusal(q)

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        keys = self.summarise(q, k, k, frames, None)
        offsets = self._offsets(q.shape[-2], keys, frames.start, q.dtype)
        q, bias = self._inputs(q, keys, frames.start, frames.chunk, offsets)
        return torch.softmax(q @ keys.k.transpose(-2, -1) * self.scale + bias, dim=-1)

    def _attend_block(self, q: Tensor, keys: Keys, start: int, chunk: int, offsets: Tensor | None) -> Tensor:
        """The output (B, H, n, d) for n queries from frame ``start``; ``offsets``: see ``_offsets``."""
        q, bias = self._inputs(q, keys, start, chunk, offsets)
        if q.dtype in flash.DTYPES:
            return flash.attend_biased(q, keys.k, keys.v, bias, self.scale)
        return F.scaled_dot_product_attention(q, keys.k, keys.v, attn_mask=bias, scale=self.scale)

    def _offsets(self, n: int, keys: Keys, start: int, dtype: torch.dtype) -> Tensor | None:
        """W r (H, d, n + N - 1) of n queries from frame ``start``, from the largest offset down."""
        if self.positions != "relative":
            return None
        dim, first = self.heads * self.head_dim, start - keys.start
        sinusoids = relative_sinusoids(n, keys.k.shape[-2], first, dim, keys.k.device, dtype)
        offsets = F.linear(sinusoids, self.offset.weight.to(dtype))
        return offsets.unflatten(-1, (self.heads, self.head_dim)).permute(1, 2, 0)

    def _inputs(
        self, q: Tensor, keys: Keys, start: int, chunk: int, offsets: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries from frame ``start``, and the bias (B, H or 1, n or 1, N) that masks and places keys."""
        bias = mask_scores(torch.zeros_like(keys.k[:, :1, None, :, 0]), keys.valid)
        if chunk:
            bias = bias.masked_fill(
                self._hidden(q.shape[-2], keys, start, chunk), torch.finfo(bias.dtype).min / 2
            )
        q = self._place(self._normalise(q), start)
        if offsets is not None:
            by_offset = ((q + self.offset_bias) * self.scale).to(q.dtype) @ offsets
            bias = bias + relative_shift(by_offset)
            q = (q + self.content_bias).to(q.dtype)
        return q, bias

    def _hidden(self, n: int, keys: Keys, start: int, chunk: int) -> Tensor:
        """(n, N) bool: the keys after a query's chunk, and those more than ``left`` frames before it."""
        query = torch.arange(start, start + n, device=keys.k.device)[:, None]
        key = torch.arange(keys.start, keys.start + keys.k.shape[-2], device=keys.k.device)
        first = query // chunk * chunk
        return (key >= first + chunk) | (key < first - self.options.left)

    def _normalise(self, q: Tensor) -> Tensor:
        """Queries (B, H, n, d), divided by their norms where that is asked for."""
        return F.normalize(at_least_fp32(q), dim=-1).to(q.dtype) if self.options.unit_query else q

    def _place_fast(self, x: Tensor) -> Tensor:
        """``_place`` from frame 0, in one kernel where it can run, then with zeros up to an aligned size."""
        from asr.attention.kernels import rotary  # imports Triton, which not every machine has

        if self.positions != "rotary" or not rotary.usable(x):
            return self._place(x, 0)
        table = rotary_table(x.shape[-2], self.head_dim, x.device)
        return rotary.turn(x.transpose(1, 2), *table, flash.aligned(self.head_dim)).transpose(1, 2)

    def _place(self, x: Tensor, start: int) -> Tensor:
        """Queries or keys (B, H, n, d) from frame ``start`` with rotary positions, turned in fp32."""
        return rotate(at_least_fp32(x), start).to(x.dtype) if self.positions == "rotary" else x


def _offsets_of(offsets: Tensor, n: int, first: int, rows: int) -> Tensor:
    """Of offsets (H, d, n + N - 1) of n queries, those of ``rows`` queries from the first on."""
    start = n - first - rows
    return offsets[..., start : offsets.shape[-1] - first]
