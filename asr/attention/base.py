"""What every mechanism shares: projections, heads, positions, precision."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from asr.attention.positions import add_sinusoids
from asr.errors import UserError


@dataclass(frozen=True)
class NoOptions:
    """A mechanism without options of its own."""


class SelfAttention(nn.Module, ABC):
    """Multi-head self-attention over the valid frames of a batch.

    A subclass gives ``core`` (and ``weights``, the explicit N x N matrix that tests and figures read).
    It lists the ``positions`` it can take, its default first, and its ``Options``.

    Args:
        dim: model dimension D.
        heads: number of heads H; D must be a multiple of it.
        positions: ``auto`` (the mechanism's default) or one of ``POSITIONS``.
        options: an instance of the mechanism's ``Options``.
    """

    POSITIONS: ClassVar[tuple[str, ...]] = ("none", "sinusoid")
    Options: ClassVar[type] = NoOptions

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

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Attend.

        Args:
            x: (B, N, D), any float dtype.
            valid: (B, N) bool, True on the frames that exist. What lies on the others changes nothing.

        Returns:
            (B, N, D) in x's dtype; what stands on invalid frames is finite and means nothing.
        """
        q, k, v = self.project(x)
        # bf16 loses the small differences that linear attention lives on: the core is in fp32.
        with torch.autocast(x.device.type, enabled=False):
            y = self.core(_at_least_fp32(q), _at_least_fp32(k), _at_least_fp32(v), valid)
        return self.output(y.transpose(1, 2).flatten(2).to(x.dtype))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, N, D) to q, k, v, each (B, H, N, d)."""
        if self.positions == "sinusoid":
            x = add_sinusoids(x)

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

        return split(self.query(x)), split(self.key(x)), split(self.value(x))

    @abstractmethod
    def core(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
        """q, k, v (B, H, N, d) in fp32 or fp64 and valid (B, N) to the output (B, H, N, d)."""

    @abstractmethod
    def weights(self, q: Tensor, k: Tensor, valid: Tensor) -> Tensor:
        """The weights that ``core`` applies to v without forming them: (B, H, N, N), zero on padding."""


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
