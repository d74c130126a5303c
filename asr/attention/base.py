"""What every mechanism shares: projections, heads, positions, precision, local extras."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.attention import fused
from asr.attention.chunks import convolve, last_frames, running_means
from asr.attention.masked import masked_mean
from asr.attention.positions import add_sinusoids
from asr.bounds import bounded
from asr.errors import UserError


@dataclass(frozen=True)
class AttentionOptions:
    """Options that every mechanism takes. Off, so that mechanisms compare bare.

    Args:
        lepe: width in frames of a depthwise convolution on v that is added to the output (LePE of
            CSWin, arXiv 2107.00652; 5 in MALA's and NaLaFormer's vision models); odd, 0 for none.
        gate: none, plain (the output times a linear map of the input, as in MALA's released models) or
            silu (the output's layer norm times the SiLU of that map, as in NaLaFormer's).
    """

    lepe: int = bounded(0, 0, 1001)
    gate: Literal["none", "plain", "silu"] = "none"


class Frames(NamedTuple):
    """Which frames a batch, or a stretch of a longer recording, holds, and what they see of each other."""

    valid: Tensor  # (B, N) bool: the frames that exist
    lengths: Tensor  # (B,) frames of the whole utterance, or of what there is of it so far
    start: int = 0  # number of the stretch's first frame; a multiple of ``chunk``
    chunk: int = 0  # frames that see each other and all before them, but nothing later; 0: all see all

    @classmethod
    def whole(cls, valid: Tensor, chunk: int = 0) -> "Frames":
        """Whole utterances, of which the first frames are valid."""
        return cls(valid, valid.sum(-1), 0, chunk)


class Projected(NamedTuple):
    """The input and its projections."""

    x: Tensor  # (B, N, D)
    q: Tensor  # (B, H, N, d), as are k and v
    k: Tensor
    v: Tensor


class Past(NamedTuple):
    """All that a layer keeps of the frames that it has seen; its size does not grow with their number."""

    core: Any  # the mechanism's own
    values: Tensor | None  # (B, halo, D) of the last frames, for ``local``
    token: Tensor | None  # (B, D) fp64, sum of x, where ``wants_token`` asks for it
    count: int  # frames


class SelfAttention(nn.Module, ABC):
    """Multi-head self-attention over the valid frames of a batch.

    A subclass gives the core in two steps, ``summarise`` (what outputs must know of all frames) and
    ``attend`` (outputs from queries and that summary). Summaries of stretches ``combine`` into the
    summary of the whole, which is how a recording of any length is encoded (asr/model/long.py). Where
    frames see their chunk and what comes before it, ``core_after`` is the core: it takes and gives what
    must be known of the past, which is how speech is recognised while it is spoken
    (asr/model/streaming.py). ``weights`` is the explicit N x N matrix, for tests and figures. A subclass
    lists the ``POSITIONS`` it can take, its default first, and its ``Options``.

    Args:
        dim: model dimension D.
        heads: number of heads H; D must be a multiple of it.
        positions: ``auto`` (the mechanism's default) or one of ``POSITIONS``.
        options: an instance of the mechanism's ``Options``.
    """

    POSITIONS: ClassVar[tuple[str, ...]] = ("none", "sinusoid")
    PASSES: ClassVar[int] = 1  # over all frames before the first output; agent attention takes two
    FUSED: ClassVar[str] = "fused Triton kernels"  # what computes ``fused_core``, in words
    Options: ClassVar[type] = AttentionOptions

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"--encoder.dim {dim} is not a multiple of --encoder.heads {heads}")
        positions = self.POSITIONS[0] if positions == "auto" else positions
        if positions not in self.POSITIONS:
            known = ", ".join(self.POSITIONS)
            raise UserError(f"--positions {positions}: this attention takes {known}")
        self.heads = heads
        self.head_dim = dim // heads
        if positions == "rotary" and self.head_dim % 2:
            raise UserError(f"--positions rotary wants an even head size; it is {self.head_dim}")
        self.scale = self.head_dim**-0.5
        self.positions = positions
        self.options = options if options is not None else self.Options()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self._make_extras(dim)

    def _make_extras(self, dim: int) -> None:
        width, gate = self.options.lepe, self.options.gate
        if width < 0 or (width and width % 2 == 0):
            raise UserError(f"lepe {width}: must be odd, or 0 for none")
        if width:  # 2-D for the reason given in conformer.Convolution
            self.lepe = nn.Conv2d(dim, dim, (width, 1), padding=(width // 2, 0), groups=dim)
        if gate != "none":
            self.gate = nn.Linear(dim, dim)
        if gate == "silu":
            self.gate_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, valid: Tensor, chunk: int = 0) -> Tensor:
        """Attend.

        Args:
            x: (B, N, D), any float dtype.
            valid: (B, N) bool, True on the frames that exist, the first ones of each utterance. What lies
                on the others changes nothing, as long as it is finite.
            chunk: frames that see each other and all before them (softmax: some before them); 0: all see all.

        Returns:
            (B, N, D) in x's dtype; what stands on invalid frames is finite and means nothing.

        Raises:
            UserError: a chunk is given, and this mechanism cannot do without what comes later.
        """
        frames = Frames.whole(valid, chunk)
        if chunk:
            return self.advance(x, frames)[0]
        projected = self.project(x, frames)
        y = self.core(projected.q, projected.k, projected.v, frames)
        token = masked_mean(x[:, None], valid)[:, 0, 0] if self.wants_token else None
        return self.finish(projected, y, token, frames)

    def advance(self, x: Tensor, frames: Frames, past: Past | None = None) -> tuple[Tensor, Past]:
        """Attend within chunks and to what comes before them.

        Args:
            x: (B, N, D).
            frames: with a ``chunk``; N need be no multiple of it where nothing comes after.
            past: what an earlier call gave; None at the beginning.

        Returns:
            (B, N, D) in x's dtype, and what the next call wants. With padding the latter means nothing.

        Raises:
            UserError: this mechanism cannot do without what comes later.
        """
        if reason := self.chunk_refusal():
            raise UserError(f"{type(self).__name__} cannot work chunk by chunk: {reason}")
        past = past or Past(None, None, None, 0)
        projected = self.project(x, frames)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (at_least_fp32(y) for y in projected[1:])
            y, core = self.core_after(q, k, v, frames, past.core)
        token, total = None, None
        if self.wants_token:
            means, total = running_means(x, frames.valid, frames.chunk, past.token, past.count)
            token = means.to(x.dtype)
        y = self.finish(projected, y, token, frames, past.values)
        values = last_frames(merge_heads(projected.v), self.halo, past.values) if self.halo else None
        return y, Past(core, values, total, past.count + x.shape[1])

    def chunk_refusal(self) -> str | None:
        """Why there is no ``core_after`` with these options; None where there is one."""
        return "it is not made for that"

    def core_after(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, past: Any) -> tuple[Tensor, Any]:
        """q, k, v (B, H, N, d), at least fp32, in chunks, to the output (B, H, N, d), and the new past.

        past: what the call before gave, None at the beginning; where ``chunk_refusal`` is None.
        """
        raise NotImplementedError

    def project(self, x: Tensor, frames: Frames) -> Projected:
        """x (B, N, D) with its q, k, v, each (B, H, N, d)."""
        placed = add_sinusoids(x, frames.start) if self.positions == "sinusoid" else x
        projections = (linear(placed) for linear in (self.query, self.key, self.value))
        return Projected(x, *(self._split(y) for y in projections))

    def core(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
        """q, k, v (B, H, N, d) of whole utterances to the output (B, H, N, d), fused where that can be."""
        if self.eager_because(q):
            return self.eager_core(q, k, v, frames)
        return fused.run(self, q, k, v, frames)

    def eager_core(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
        """``core`` in eager PyTorch, computed in at least fp32."""
        # bf16 loses the small differences that linear attention lives on.
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = at_least_fp32(q), at_least_fp32(k), at_least_fp32(v)
            summary = None
            for _ in range(self.PASSES):
                summary = self.summarise(q, k, v, frames, summary)
            return self.attend(q, summary, frames)

    def fused_core(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
        """``core`` in the GPU's kernels, at the precision of q, k and v; where ``fused_refusal`` is None."""
        raise NotImplementedError

    def fused_refusal(self, q: Tensor) -> str | None:
        """Why ``fused_core`` cannot take such queries (only device, dtype and d matter); None: it can."""
        return "not made for this mechanism or these options"

    def fused_variant(self, q: Tensor) -> Hashable:
        """What of queries (B, H, N, d) decides the code that ``fused_core`` compiles for them."""
        return None

    def example(self, batch: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Frames]:
        """What ``core`` takes, for a batch of (B, N) frames: zeros, laid out as projections are."""
        device = self.query.weight.device
        shape = batch, n, self.heads * self.head_dim
        qkv = (torch.zeros(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
        frames = Frames.whole(torch.ones(batch, n, dtype=torch.bool, device=device))
        return *(self._split(x) for x in qkv), frames

    def eager_because(self, q: Tensor) -> str | None:
        """Why ``core`` runs in eager PyTorch on such queries; None where ``fused_core`` runs."""
        return fused.refusal(self, q)

    @abstractmethod
    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: Any) -> Any:
        """What the outputs must know of these frames; ``before``: of all frames, from the last pass."""

    @abstractmethod
    def combine(self, summaries: Sequence[Any]) -> Any:
        """Summaries of consecutive chunks, of the same pass, to the summary of all of them."""

    @abstractmethod
    def attend(self, q: Tensor, summary: Any, frames: Frames) -> Tensor:
        """Queries (B, H, N, d) and the summary of the last pass to the output (B, H, N, d)."""

    def spread(self, summaries: Sequence[Any]) -> list[Any]:
        """Summaries of consecutive stretches, of the last pass, to what ``answer`` must know for each."""
        return [self.combine(summaries)] * len(summaries)

    def answer(self, q: Tensor, k: Tensor, v: Tensor, known: Any, frames: Frames) -> Tensor:
        """The output (B, H, N, d) for a stretch's own q, k and v, from what ``spread`` gives for it."""
        return self.attend(q, known, frames)

    @abstractmethod
    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        """The weights that ``core`` applies to v without forming them: (B, H, N, N), zero on padding."""

    @property
    def wants_token(self) -> bool:
        """Whether ``local`` needs the mean frame."""
        return False

    @property
    def halo(self) -> int:
        """Frames on either side of a chunk that ``finish`` must see to be exact inside it."""
        return self.options.lepe // 2

    def local(
        self, projected: Projected, token: Tensor | None, frames: Frames, before: Tensor | None = None
    ) -> Tensor | None:
        """What is added to the core's output from neighbouring values: (B, N, D), or None.

        Args:
            projected: the frames.
            token: the mean (B, D) of x over all valid frames, where ``wants_token`` asks for it; with chunks,
                of those up to the end of each, (B, C, D).
            frames: which.
            before: with chunks, the values (B, halo, D) of the frames before the first; None: there are none.
        """
        if not self.options.lepe:
            return None
        v = merge_heads(projected.v) * frames.valid[..., None]
        return convolve(self.lepe, v, frames.chunk, before)

    def finish(
        self,
        projected: Projected,
        y: Tensor,
        token: Tensor | None,
        frames: Frames,
        before: Tensor | None = None,
    ) -> Tensor:
        """The core's output (B, H, N, d) through local terms, gate and output layer: (B, N, D)."""
        x = projected.x
        y = merge_heads(y).to(x.dtype)
        local = self.local(projected, token, frames, before)
        y = y if local is None else y + local
        if self.options.gate == "plain":
            y = y * self.gate(x)
        elif self.options.gate == "silu":
            y = self.gate_norm(y) * F.silu(self.gate(x))
        return self.output(y)

    def _split(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


def merge_heads(y: Tensor) -> Tensor:
    """(B, H, N, d) to (B, N, D)."""
    return y.transpose(1, 2).flatten(2)


def at_least_fp32(x: Tensor) -> Tensor:
    """x in fp32, or as it is where that is fp64."""
    return x if x.dtype == torch.float64 else x.float()
