"""Which core a mechanism runs: eager PyTorch in fp32, or a fused one that a GPU has, and why.

A fused core is used once it has agreed with the eager one, on the first batch that it is given in a process.
"""

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from asr.errors import UserError

if TYPE_CHECKING:
    from asr.attention.base import Frames, SelfAttention

# Greatest difference of a fused core's outputs from the eager one's on the same q, k and v, and half of what
# each gradient may differ by: the norm of the difference over the norm, valid frames only. Half-precision
# products and results are rounded to 2^-9, and softmax takes the exponential of such products: with scores of
# deviation 16 its outputs differ by 0.01 and gradients by 0.04. A wrong mask makes it about 1.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}

_mode = "auto"
_found: dict[tuple, str | None] = {}  # by kind of call: what is wrong with the fused core, None for nothing


def set_mode(mode: Literal["auto", "eager", "fused"]) -> None:
    """Choose for this process: ``auto`` (fused where it can be), ``eager``, or ``fused`` or an error."""
    global _mode
    _mode = mode


def forget() -> None:
    """Compare every fused core again before its next use."""
    _found.clear()


def refusal(attention: "SelfAttention", q: Tensor) -> str | None:
    """Why a mechanism's core runs eagerly on queries like q (B, H, N, d); None where the fused one runs.

    Raises:
        UserError: the mode is ``fused`` and it cannot.
    """
    if _mode == "eager":
        return "switched off"
    reason = attention.fused_refusal(q) or _found.get(_kind(attention, q))
    if reason and _mode == "fused":
        raise UserError(f"fused attention kernels: {reason}")
    return reason


def run(attention: "SelfAttention", q: Tensor, k: Tensor, v: Tensor, frames: "Frames") -> Tensor:
    """The output of the mechanism's fused core, which ``refusal`` takes; of the eager one where they differ.

    Raises:
        UserError: the mode is ``fused``, and they differ or the fused one failed.
    """
    kind = _kind(attention, q)
    if kind not in _found and all(x.isfinite().all() for x in (q, k, v)):  # NaN would tell nothing
        try:
            _found[kind] = _difference(attention, q, k, v, frames)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _found[kind] = _failure(error)
        if _found[kind]:
            _give_up(_found[kind])
    core = attention.eager_core if _found.get(kind) else attention.fused_core
    return core(q, k, v, frames)


def warm_up(attention: "SelfAttention", shapes: Iterable[tuple[int, int]], dtype: torch.dtype) -> int:
    """Compile what a mechanism's fused core wants for batches that will come, forward and backward.

    Args:
        attention: on the device to use.
        shapes: (utterances, frames) of the batches.
        dtype: of q, k and v.

    Returns:
        the number of different kernels' variants that they need; 0 where the core is eager.

    Raises:
        UserError: the mode is ``fused`` and the kernels fail.
    """
    warm = set()
    for batch, n in sorted(shapes):
        q, k, v, frames = attention.example(batch, n, dtype)
        if refusal(attention, q):
            return 0
        variant = attention.fused_variant(q)
        if variant in warm:
            continue
        warm.add(variant)
        try:
            y = attention.fused_core(q, k, v, frames)
            torch.autograd.grad(y, (q, k, v), torch.zeros_like(y))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _found[_kind(attention, q)] = _failure(error)
            _give_up(_failure(error))
    return len(warm)


def _failure(error: Exception) -> str:
    """Of a compiler, a driver: whatever it is, eager PyTorch is left."""
    first = next(iter(str(error).splitlines()), "")
    return f"failed here with {type(error).__name__}: {first}"


def _give_up(reason: str) -> None:
    if _mode == "fused":
        raise UserError(f"fused attention kernels: {reason}")
    warnings.warn(f"fused attention kernels: {reason}; using eager PyTorch instead", stacklevel=3)


def _kind(attention: "SelfAttention", q: Tensor) -> tuple:
    """What decides the code that runs; gradients are compared where they are wanted."""
    gradients = torch.is_grad_enabled() and q.requires_grad
    options = type(attention), attention.positions, attention.options
    return (*options, q.shape[-1], q.dtype, q.device, gradients)


def _difference(attention: "SelfAttention", q: Tensor, k: Tensor, v: Tensor, frames: "Frames") -> str | None:
    """In words, by how much the cores differ; None where it is no more than TOLERANCE."""
    gradients = torch.is_grad_enabled() and q.requires_grad
    valid = frames.valid[:, None, :, None]

    def results(core) -> list[Tensor]:
        leaves = [x.detach().requires_grad_(gradients) for x in (q, k, v)]
        y = core(*leaves, frames)
        found = [y]
        if gradients:
            # In the direction of the output itself: nothing random, which would change what training draws.
            found += torch.autograd.grad(y, leaves, torch.where(valid, y, 0.0).detach())
        return [torch.where(valid, x.detach().float(), 0.0) for x in found]

    ours, theirs = results(attention.fused_core), results(attention.eager_core)
    sizes = [x.norm().item() for x in theirs]
    least = 0.05 * max(sizes[1:], default=0.0)  # a gradient that all but vanishes is rounding alone
    for name, x, reference, size in zip(("outputs", "dq", "dk", "dv"), ours, theirs, sizes, strict=False):
        difference = (x - reference).norm().item() / max(size, least if name != "outputs" else 0.0, 1e-30)
        most = (1 if name == "outputs" else 2) * TOLERANCE[q.dtype]
        if not difference <= most:  # so that NaN does not pass
            return f"{name} differ from eager PyTorch's by {difference:.2g} (at most {most:g})"
    return None
