"""Means and co-moments that differ from query to query, in linear time: chunks, and forgetting.

Frame j weighs w_ij for query i: 2^(-|i - j| / h) with a half-life of h frames, or 1, and 0 where i does not
see j. What a query must know is then its own

    n_i = sum_j w_ij      kbar_i = sum_j w_ij phi(k_j) / n_i      vbar_i likewise
    C_i = sum_j w_ij (phi(k_j) - kbar_i)(v_j - vbar_i)^T / n_i

Frames are cut into blocks. Within one, pairs of frames are formed; what lies before and after it comes as one
summary each (asr.attention.masked.Statistics), carried from block to block and faded on the way. So it costs
N (BLOCK + f) d and not N^2 d, and what is carried has a fixed size: it is the past of a stream.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.attention.chunks import visible
from asr.attention.masked import Statistics, merge_statistics, weighted_statistics

BLOCK = 64  # frames; pairs of frames in a block then cost about as much as the carried summary


class Seen(NamedTuple):
    """What each query knows of the frames that it sees."""

    key_mean: Tensor  # (B, H, N, f) of phi(k), unrotated
    value_mean: Tensor  # (B, H, N, d)
    product: Tensor  # (B, H, N, d): placed phi(q_i) C_i


class Layout(NamedTuple):
    """How n frames are cut: groups, which see themselves and earlier ones, of one or several blocks each."""

    n: int
    group: int  # frames of a group, but for the last
    size: int  # frames of a block, but for a group's last

    @classmethod
    def of(cls, n: int, chunk: int) -> "Layout":
        """Groups are chunks, or several small chunks; all is one group where the chunk is 0."""
        chunk = min(chunk, n) if chunk else n
        group = min(n, chunk * max(1, BLOCK // chunk))
        return cls(n, group, min(group, BLOCK))

    @property
    def blocks(self) -> int:
        """Of a group."""
        return -(-self.group // self.size)

    def fold(self, x: Tensor) -> Tensor:
        """(..., n, e) to (..., M, size, e), filled up with zeros."""
        x = F.pad(x, (0, 0, 0, -self.n % self.group)).unflatten(-2, (-1, self.group))
        x = F.pad(x, (0, 0, 0, self.blocks * self.size - self.group))
        return x.unflatten(-2, (self.blocks, self.size)).flatten(-4, -3)

    def unfold(self, y: Tensor) -> Tensor:
        """Inverse of ``fold``."""
        y = y.unflatten(-3, (-1, self.blocks)).flatten(-3, -2)
        return y[..., : self.group, :].flatten(-3, -2)[..., : self.n, :]

    def lengths(self) -> list[int]:
        """Frames of each block; none, it may be, at the end of a last group that is not full."""
        found = []
        for group in range(0, self.n, self.group):
            end = min(group + self.group, self.n)
            starts = (group + self.size * block for block in range(self.blocks))
            found += [max(0, min(self.size, end - start)) for start in starts]
        return found


def fade(rate: Tensor | None, frames: Tensor) -> Tensor:
    """What so many ``frames`` (...) later is left of a weight of 1: (H, ...), or (1, ...) of ones.

    rate: (H,) of forgetting, in nats a frame; None where nothing is forgotten.
    """
    if rate is None:
        return torch.ones_like(frames)[None]
    return torch.exp(-rate.view(-1, *[1] * frames.ndim) * frames)


def faded(state: Statistics, left: Tensor) -> Statistics:
    """The same means with less weight: ``left`` (H, 1, 1) of it."""
    return state._replace(count=state.count * left, comoment=state.comoment * left)


def summarise_to_ends(
    phi_k: Tensor, placed_k: Tensor, v: Tensor, valid: Tensor, rate: Tensor | None
) -> tuple[Statistics, Statistics]:
    """A stretch as queries right after its last frame see it less one frame's fading, and right before it.

    Args:
        phi_k, placed_k, v: (B, H, N, f), the same, (B, H, N, d).
        valid: (B, N).
        rate: see ``fade``.
    """
    number = torch.arange(v.shape[-2], device=v.device, dtype=v.dtype)[:, None]
    keep = valid[:, None, :, None].to(v.dtype)
    to_end = weighted_statistics(phi_k, placed_k, v, keep * fade(rate, number.flip(0)))
    if rate is None:
        return to_end, to_end
    return to_end, weighted_statistics(phi_k, placed_k, v, keep * fade(rate, number))


def carry(
    parts: Sequence[Statistics], lengths: Sequence[int], rate: Tensor | None, first: Statistics | None
) -> list[Statistics]:
    """What is known before each of consecutive stretches, and after the last: one more than ``parts``.

    Merged and kept in fp64, so that nothing is lost over hours.

    Args:
        parts: each stretch as seen from its end.
        lengths: frames of each.
        rate: see ``fade``.
        first: what is known before the first; None for nothing.
    """
    wide = [Statistics(*(item.double() for item in part)) for part in parts]
    states = [first or Statistics(*(torch.zeros_like(item) for item in wide[0]))]
    for part, length in zip(wide, lengths, strict=True):
        left = fade(rate, torch.full((1, 1), float(length), device=part.count.device, dtype=torch.float64))
        states.append(merge_statistics(faded(states[-1], left), part))
    return states


def see(
    placed_q: Tensor,
    phi_k: Tensor,
    placed_k: Tensor,
    v: Tensor,
    valid: Tensor,
    chunk: int,
    rate: Tensor | None = None,
    before: Statistics | None = None,
    after: Statistics | None = None,
) -> tuple[Seen, Statistics]:
    """What each query knows of the frames that it sees.

    Args:
        placed_q: phi(q) (B, H, N, f) with its positions.
        phi_k, placed_k: the same of the keys, without and with.
        v: (B, H, N, d).
        valid: (B, N).
        chunk: see ``asr.attention.chunks``; 0: all frames see all.
        rate: see ``fade``.
        before: summary (B, H, ...) in fp64 of the frames before the first, faded to the last of them.
        after: without a chunk, of the frames after the last, faded to the first of them.

    Returns:
        that, and the summary of all so far, in fp64, which is the next call's ``before``.
    """
    layout = Layout.of(v.shape[-2], chunk)
    lengths = layout.lengths()
    q, phi_k, placed_k, v = (layout.fold(x) for x in (placed_q, phi_k, placed_k, v))
    keep = layout.fold(valid[:, None, :, None].to(v.dtype))  # (B, 1, M, P, 1)
    place = torch.arange(layout.size, device=v.device, dtype=v.dtype)[:, None]  # (P, 1) in its block
    length = torch.tensor(lengths, device=v.device, dtype=v.dtype)[:, None, None]  # (M, 1, 1)

    to_end = weighted_statistics(phi_k, placed_k, v, keep * fade(rate, (length - 1 - place).clamp(min=0)))
    states = carry(_unstack(to_end), lengths, rate, before)
    outside = [(_stack(states[:-1]), fade(rate, (place + 1).expand(len(lengths), -1, -1)))]
    if layout.blocks > 1 or after is not None:
        to_start = (
            to_end
            if rate is None
            else weighted_statistics(phi_k, placed_k, v, keep * fade(rate, place[None]))
        )
        later = _carry_back(_unstack(to_start), lengths, layout.blocks, rate, after)
        outside.append((_stack(later), fade(rate, (length - place).clamp(min=1))))

    within = visible(layout.size, chunk if chunk < layout.size else 0, v.device)
    within = within & (keep.transpose(-2, -1) > 0)  # (B, 1, M, P, P)
    # Not a product: what padding has for a gradient may be infinite, and must not come through.
    pairs = torch.where(within, fade(rate, (place - place.T).abs())[:, None], 0.0)
    # Near what the block's queries see. Any would do, so that no gradient need go through it.
    centre = _stack(states[1:]).value_mean.detach().to(v.dtype)
    centred_v = v - centre
    keys, values = (pairs @ torch.cat((phi_k, centred_v), -1)).split([phi_k.shape[-1], v.shape[-1]], -1)
    count = pairs.sum(-1, keepdim=True)
    # Keys are not centred: products of positive features are exact to their own size, which is that of m.
    scores = q @ placed_k.transpose(-2, -1)
    along = (pairs * scores).sum(-1, keepdim=True)  # sum_j w_ij phi(q_i) . phi(k_j)
    parts = []  # of what is not in the block: its weight, phi(q_i) . mean phi(k), mean v, and phi(q_i) n C
    for state, left in outside:
        step = (state.value_mean - centre).to(v.dtype)
        n, key_mean, placed, comoment = (
            x.to(v.dtype) for x in (state.count, state.key_mean, state.placed_mean, state.comoment)
        )
        weight, score = left * n, q @ placed.transpose(-2, -1)
        parts.append((weight, score, step, left * (q @ comoment)))
        count, keys, values = count + weight, keys + weight * key_mean, values + weight * step
        along = along + weight * score
    some = torch.where(count > 0, count, 1)
    along = along / some
    product = (pairs * (scores - along)) @ centred_v
    for weight, score, step, inner in parts:
        product = product + inner + weight * (score - along) * step
    seen = keys / some, centre + values / some, product / some
    return Seen(*(layout.unfold(x) for x in seen)), states[-1]


def _carry_back(
    parts: Sequence[Statistics], lengths: list[int], blocks: int, rate: Tensor | None, last: Statistics | None
) -> list[Statistics]:
    """What comes after each block in its group, faded to the first frame of it."""
    found: list[Statistics] = []
    for start in range(0, len(parts), blocks):
        group = slice(start, start + blocks)
        found += carry(parts[group][::-1], lengths[group][::-1], rate, last)[:-1][::-1]
    return found


def _stack(states: Sequence[Statistics]) -> Statistics:
    """(B, H, ...) each to (B, H, M, ...)."""
    return Statistics(*(torch.stack(items, 2) for items in zip(*states, strict=True)))


def _unstack(states: Statistics) -> list[Statistics]:
    return [Statistics(*items) for items in zip(*(item.unbind(2) for item in states), strict=True)]
