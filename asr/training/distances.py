"""How far what a student makes is from what its teacher makes, utterance by utterance."""

from torch import Tensor

from asr.attention.base import at_least_fp32

TINY = 1e-12  # least power of an utterance's frames


def divergence(found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Sum over frames of KL(wanted || found) in nats: (B,).

    Args:
        found, wanted: log-probabilities (B, N, classes).
        valid: (B, N).
    """
    return ((wanted.exp() * (wanted - found)).sum(-1) * valid).sum(-1)


def distance(found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Sum over frames of the mean squared difference of x (B, N, D): (B,)."""
    return (_squares(found, wanted).mean(-1) * valid).sum(-1)


def layer_error(found: Tensor, wanted: Tensor, valid: Tensor, centred: bool = False) -> Tensor:
    """|found - wanted|^2 / |wanted|^2 of x (B, N, D) over the valid frames (B, N): (B,).

    ``centred``, over |wanted - its mean frame|^2: a trained module's output may be a constant for the most
    part, which says nothing and is soon learnt.
    """
    error = (_squares(found, wanted).sum(-1) * valid).sum(-1)
    power = (_squares(wanted, _mean_frame(wanted, valid) if centred else None).sum(-1) * valid).sum(-1)
    return error / power.clamp(min=TINY)


def stream_error(found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Error of x (B, N, D) over the variance of y (B, N, D), for the best scale: (B,).

        min_a |a x - y|^2 / |y - mean y|^2

    over the valid frames (B, N) of an utterance; ``mean y`` (D) is theirs. Frames between blocks are read
    through layer norms, so that they may have any scale, and in a trained model most of their power may be a
    constant, which says nothing.
    """
    x, y, mask = at_least_fp32(found), at_least_fp32(wanted), valid[..., None]
    scale = (x * y * mask).sum((1, 2)) / (x.square() * mask).sum((1, 2)).clamp(min=TINY)
    error = ((scale.detach()[:, None, None] * x - y).square() * mask).sum((1, 2))
    power = (_squares(y, _mean_frame(y, valid)).sum(-1) * valid).sum(-1)
    return error / power.clamp(min=TINY)


def _mean_frame(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of x (B, N, D) over an utterance's valid frames: (B, 1, D)."""
    mask = valid[..., None]
    return (at_least_fp32(x) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def _squares(x: Tensor, other: Tensor | None = None) -> Tensor:
    x = at_least_fp32(x)
    return (x if other is None else x - at_least_fp32(other)).square()
