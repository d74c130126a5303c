"""Whether a mechanism's core runs in the fused GPU kernels or in eager PyTorch, and why."""

from typing import Literal

from torch import Tensor

from asr.errors import UserError

_mode = "auto"


def set_mode(mode: Literal["auto", "eager", "fused"]) -> None:
    """Choose for this process: ``auto`` (fused where it can be), ``eager``, or ``fused`` or an error."""
    global _mode
    _mode = mode


def refusal(q: Tensor, phi: str, gain: str | None) -> str | None:
    """Why the fused kernels will not take this; None where they will.

    Args:
        q: queries (B, H, N, d); only device, dtype and d matter.
        phi: name of the feature map.
        gain: the kernels' name of the mechanism, None where they have none.

    Raises:
        UserError: the mode is ``fused`` and they will not.
    """
    reason = "switched off" if _mode == "eager" else _kernels_refusal(q, phi, gain)
    if reason and _mode == "fused":
        raise UserError(f"fused attention kernels: {reason}")
    return reason


def _kernels_refusal(q: Tensor, phi: str, gain: str | None) -> str | None:
    if gain is None:
        return "not made for this mechanism or these options"
    from asr.attention.kernels import centred  # imports Triton, which not every machine has

    return centred.refusal(q, phi, gain)


def centred_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, table, phi: str, gain: str) -> Tensor:
    """The fused core; see ``asr.attention.kernels.centred``. q, k, v and the result (B, H, N, d)."""
    from asr.attention.kernels import centred

    by_frame = (x.transpose(1, 2) for x in (q, k, v))
    return centred.centred_attention(*by_frame, lengths, table, phi, gain).transpose(1, 2)
