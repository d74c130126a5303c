"""The transducer (Graves, arXiv 1211.3711): a prediction network, a joint network, and their loss.

The joint network gives, for every frame t and every number u of pieces said so far, a distribution over the
pieces and the blank: (B, T, U + 1, classes) numbers, too many to keep. The loss needs two of each
distribution, the blank's and the next piece's. They are computed a chunk of frames at a time, and again in
the backward pass (Chen et al., arXiv 1604.06174), so that one chunk is all that is ever there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from asr.attention.base import at_least_fp32
from asr.bounds import bounded
from asr.model.classes import BLANK

CHUNK = 2**22  # numbers of the joint network's layers, each, that are there at a time: 16 MiB in fp32

State = tuple[Tensor, Tensor]  # of an LSTM: (layers, B, hidden) each
_ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class TransducerConfig:
    """Size of the prediction and the joint network of a transducer; the defaults are the Conformer paper's S.

    Args:
        hidden: of the LSTM that reads the pieces said so far, and of their embedding.
        layers: of the LSTM.
        joint: of the layer in which encoder and LSTM meet.
        dropout: after the embedding and after the LSTM.
        activation: of the joint network's layer; the next three are for imported models.
        durations: frames to go on by, one of which comes with every piece and blank (TDT, Xu et al., arXiv
            2304.06795); none is a transducer without. There is no loss on them: such a model only decodes.
        most: pieces on a frame at most in greedy decoding; what says more is stuck there.
    """

    hidden: int = bounded(320, 1, 8192)
    layers: int = bounded(1, 1, 16)
    joint: int = bounded(320, 1, 8192)
    dropout: float = bounded(0.1, 0, 0.99)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    durations: tuple[int, ...] = bounded((), 0, 100)
    most: int = bounded(10, 1, 1000)


class Transducer(nn.Module):
    """Encoded frames and the pieces said so far to what comes next, and the loss on it.

    Class 0 is the blank, which ends a frame; class i is the tokenizer's piece i - 1.

    Args:
        dim: D of the encoder.
        pieces: the tokenizer's vocabulary size.
        config: sizes.
    """

    def __init__(self, dim: int, pieces: int, config: TransducerConfig) -> None:
        super().__init__()
        self.config = config
        self.prediction = Prediction(pieces, config)
        self.joint = Joint(dim, pieces, config)

    def loss(
        self, x: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, chunk: int = CHUNK
    ) -> Tensor:
        """Negative log-likelihood of each utterance, (B,), in nats, fp32 at least.

        Args:
            x: encoded frames (B, T, D).
            lengths: (B,) valid frames, at least 1; on any device.
            targets: (B, U) classes, padded with any; where x is.
            target_lengths: (B,); on any device.
            chunk: numbers of the joint network's larger layer that are there at a time, at least a frame's.
        """
        return lattice_loss(*self.lattice(x, targets, chunk), lengths, target_lengths)

    def lattice(self, x: Tensor, targets: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
        """x (B, T, D) and targets (B, U) to the log-probabilities that the loss needs, fp32 at least.

        Returns:
            of the blank (B, T, U + 1), and of the next piece (B, T, U), on every frame after every piece.
        """
        encoded = self.joint.encoder(x)
        predicted = self.joint.prediction(self.prediction(targets))
        following = F.pad(targets, (0, 1))  # after the last piece comes any: it is not looked at
        choices = torch.stack((torch.full_like(following, BLANK), following), -1)[:, None]

        def choose(encoded: Tensor, predicted: Tensor) -> Tensor:
            logits = at_least_fp32(self.joint(encoded[:, :, None], predicted[:, None]))
            chosen = logits.gather(-1, choices.expand(-1, logits.shape[1], -1, -1))
            return chosen - logits.logsumexp(-1, keepdim=True)

        project = self.joint.project
        a_frame = predicted.shape[0] * predicted.shape[1] * max(project.in_features, project.out_features)
        frames = max(1, chunk // a_frame)
        if frames >= x.shape[1]:
            chosen = choose(encoded, predicted)
        else:
            parameters = [p for p in project.parameters() if p.requires_grad]
            chosen = _InChunks.apply(choose, frames, encoded, predicted, *parameters)
        return chosen[..., 0], chosen[:, :, :-1, 1]


class _InChunks(torch.autograd.Function):
    """``choose`` of a chunk of frames at a time, in the backward pass again, and nothing of it kept between.

    What is kept has its memory before the first chunk. If it were allocated between the chunks, which are
    large and are freed again, it would leave holes in a CPU's heap into which no next chunk fits.
    """

    @staticmethod
    def forward(
        ctx,
        choose: Callable[[Tensor, Tensor], Tensor],
        frames: int,
        encoded: Tensor,
        predicted: Tensor,
        *parameters: nn.Parameter,
    ) -> Tensor:
        """encoded (B, T, joint), predicted (B, U + 1, joint), parameters of ``choose``: (B, T, U + 1, 2)."""
        ctx.choose, ctx.frames, ctx.parameters = choose, frames, parameters
        ctx.precision = _precision(encoded.device)
        ctx.save_for_backward(encoded, predicted)
        shape = *encoded.shape[:2], predicted.shape[1], 2
        chosen = torch.empty(shape, dtype=_at_least_fp32(encoded), device=encoded.device)
        with torch.autocast(**ctx.precision):
            for part, room in zip(encoded.split(frames, 1), chosen.split(frames, 1), strict=True):
                room.copy_(choose(part, predicted))
        return chosen

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        encoded, predicted = ctx.saved_tensors
        of_encoded = torch.empty_like(encoded)
        of_others = [torch.zeros_like(x, dtype=_at_least_fp32(x)) for x in (predicted, *ctx.parameters)]
        predicted = predicted.detach().requires_grad_()
        parts = (x.split(ctx.frames, 1) for x in (encoded, grad, of_encoded))
        for part, of_chosen, room in zip(*parts, strict=True):
            part = part.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(**ctx.precision):
                chosen = ctx.choose(part, predicted)
            inputs = part, predicted, *ctx.parameters
            of_part, *others = torch.autograd.grad(chosen, inputs, of_chosen)
            room.copy_(of_part)
            for total, other in zip(of_others, others, strict=True):
                total += other
        of_predicted, *of_parameters = of_others
        return None, None, of_encoded, of_predicted.to(predicted.dtype), *of_parameters


def _precision(device: torch.device) -> dict[str, Any]:
    """The autocast of here, for a backward pass too; no cache keeps weights cast where gradients are off."""
    kind = device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return {"device_type": kind, "dtype": dtype, "enabled": enabled, "cache_enabled": False}


def _at_least_fp32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class Prediction(nn.Module):
    """Embedding and LSTM over the pieces said so far; before the first comes the blank, embedded as zeros.

    In fp32 at least, whatever the caller's autocast: roundings add up along an LSTM, and it costs little.
    """

    def __init__(self, pieces: int, config: TransducerConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(pieces + 1, config.hidden, padding_idx=BLANK)
        self.lstm = nn.LSTM(config.hidden, config.hidden, config.layers, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, targets: Tensor) -> Tensor:
        """Classes (B, U) to what they let expect, (B, U + 1, hidden): before the first, after each."""
        return self.step(F.pad(targets, (1, 0), value=BLANK))[0]

    def step(self, classes: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Classes (B, n) that come next to (B, n, hidden) and the state after; no state is the beginning."""
        with torch.autocast(classes.device.type, enabled=False):
            x, state = self.lstm(self.dropout(self.embed(classes)), state)
        return self.dropout(x), state


class Joint(nn.Module):
    """Logits from an encoded frame and what the prediction network lets expect: W relu(A x + B g)."""

    def __init__(self, dim: int, pieces: int, config: TransducerConfig) -> None:
        super().__init__()
        self.encoder = nn.Linear(dim, config.joint)
        self.prediction = nn.Linear(config.hidden, config.joint)
        self.activation = _ACTIVATIONS[config.activation]
        self.project = nn.Linear(config.joint, pieces + 1 + len(config.durations))

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """What ``encoder`` and ``prediction`` give, (..., joint), broadcast, to logits (..., classes).

        Behind the classes' come the durations', where the configuration has some.
        """
        return self.project(self.activation(encoded + predicted))


def lattice_loss(blank: Tensor, piece: Tensor, lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Negative log-likelihood of each utterance, (B,), in nats: of all ways through the lattice.

    With alpha(t, u) the log-probability of having said u pieces before frame t ends (Graves, Eq. 16-18),

        alpha(t, u) = log(e^(alpha(t-1, u) + blank(t-1, u)) + e^(alpha(t, u-1) + piece(t, u-1))).

    Frames are not gone through one by one: with passed(t, u), the sum of blank(t', u) over t' < t,

        alpha(t, u) - passed(t, u) = log sum_(t' <= t) e^(alpha(t', u-1) + piece(t', u-1) - passed(t', u)),

    which is one scan for each u. In fp64, as ``passed`` may be thousands of nats.

    Args:
        blank: log-probabilities (B, T, U + 1) of the blank on frame t after u pieces.
        piece: log-probabilities (B, T, U) of piece u + 1 there. What lies beyond the lengths is not read.
        lengths: (B,) frames, at least 1; on any device.
        target_lengths: (B,) pieces; on any device.
    """
    device, dtype = blank.device, blank.dtype
    with torch.autocast(device.type, enabled=False):
        blank, piece = (x.double().permute(2, 0, 1) for x in (blank, piece))
        passed = F.pad(blank.cumsum(-1), (1, -1))
        alpha = [passed[0]]
        for u in range(len(piece)):
            entered = alpha[-1] + piece[u] - passed[u + 1]
            alpha.append(passed[u + 1] + entered.logcumsumexp(-1))
        ended = torch.stack(alpha) + blank
        last, said = (n.to(device, non_blocking=True) for n in (lengths - 1, target_lengths))
        return -ended[said, torch.arange(len(last), device=device), last].to(dtype)
