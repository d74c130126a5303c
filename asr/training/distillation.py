"""Learning from a teacher: its posteriors, its last layer, and layer by layer its attention or its blocks.

The divergence of posteriors (Hinton et al., arXiv 1503.02531), frame by frame, needs no transcripts. Matching
attention on the teacher's own inputs is the first step of LoLCATs (arXiv 2410.10254), for language models;
CALD (arXiv 2410.06846) matches layers of Wav2Vec2. Matching blocks on the teacher's own inputs is blockwise
distillation (arXiv 1911.13053), here for a student of fewer layers that begins from nothing.
"""

import hashlib
import json
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from asr.attention.base import at_least_fp32
from asr.checkpoints.checkpoint import check_tokenizer, load_model
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig, model_to_dict
from asr.model.conformer import resolve_size
from asr.model.frames import valid_frames
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig

TINY = 1e-12  # least power of an utterance's attention


class Taught(NamedTuple):
    """What a teacher makes of a batch. Without gradients."""

    log_probs: Tensor  # (B, N, classes)
    encoded: Tensor  # (B, N, D)
    attention: list[tuple[Tensor, Tensor]]  # of each layer: its input and output, (B, N, D); if asked for
    blocks: list[Tensor]  # what goes into the first and comes out of each, (B, N, D); if asked for
    valid: Tensor  # (B, N) bool

    def repeat(self, views: int) -> "Taught":
        """For a batch that comes so many times; what layers hear, which no view decides, is left as it is."""
        log_probs, encoded = (x.repeat(views, 1, 1) for x in (self.log_probs, self.encoded))
        return self._replace(log_probs=log_probs, encoded=encoded, valid=self.valid.repeat(views, 1))


class Output(NamedTuple):
    """What a student makes of a batch."""

    log_probs: Tensor  # (B, N, classes)
    x: Tensor  # (B, N, D), of the last layer
    valid: Tensor  # (B, N) bool


class Teacher:
    """A model in evaluation mode whose weights stand still.

    No module, so that it is neither in a student's checkpoints nor among what an optimiser descends.

    Args:
        model: put into evaluation mode.
        same_features: whether its front end makes the student's features.
        attention: whether what goes into and comes out of its attention is kept, which takes memory.
        blocks: the same of its blocks.
        digest: changes with weights and configuration.
    """

    def __init__(
        self,
        model: Model,
        same_features: bool,
        attention: bool = False,
        blocks: bool = False,
        digest: str = "",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.same_features = same_features
        self.digest = digest
        self._attention: list[tuple[Tensor, Tensor]] = []
        for block in model.encoder.blocks if attention else []:
            block.attention.register_forward_hook(
                lambda _, inputs, output: self._attention.append((inputs[0], output))
            )
        self._blocks: list[Tensor] = []
        if blocks:
            model.encoder.subsampling.register_forward_hook(
                lambda _, inputs, output: self._blocks.append(output[0])
            )
        for block in model.encoder.blocks if blocks else []:
            block.register_forward_hook(lambda _, inputs, output: self._blocks.append(output))

    @torch.no_grad()
    def teach(self, waveforms: Tensor, samples: Tensor, features: Tensor, frames: Tensor) -> Taught:
        """What it makes of a batch.

        Args:
            waveforms, samples: (B, S) and lengths (B,), as a student's front end hears them.
            features, frames: (B, T, mels) and lengths (B,) of the student, taken where they are the same.
        """
        if not self.same_features:
            features, frames = self.model.frontend.features(waveforms, samples)
        self._attention, self._blocks = [], []
        encoded, lengths = self.model.encoder(features, frames)
        valid = valid_frames(lengths.to(encoded.device, non_blocking=True), encoded.shape[1])
        attention, self._attention = self._attention, []
        blocks, self._blocks = self._blocks, []
        return Taught(self.model.head(encoded), encoded, attention, blocks, valid)


def load_teacher(config: TrainingConfig, student: ModelConfig, tokenizer: Tokenizer) -> Teacher | None:
    """The teacher that is configured; None for none.

    Raises:
        UserError: it cannot be read, or cannot teach that student what is asked for.
    """
    if not config.teacher:
        return None
    model, found = load_model(config.teacher)
    option = f"--training.teacher {config.teacher}"
    check_tokenizer(option, found, tokenizer)
    if model.head is None:
        raise UserError(f"{option}: a transducer without a CTC head, whose posteriors teach")
    here, there = (resolve_size(item.encoder) for item in (student, found.model))
    if student.framing.seconds != found.model.framing.seconds:
        raise UserError(
            f"{option}: its frames are {1000 * found.model.framing.seconds:g} ms long, the student's "
            f"{1000 * student.framing.seconds:g} ms (--encoder.subsampling.factor)"
        )
    by_layer = ["distil_attention"] if config.distil_attention else []
    by_layer += ["distil_start"] if config.distil_start == "nearest" else []
    wide = by_layer + [name for name in ("distil_encoder", "distil_blocks") if getattr(config, name)]
    if wide and here.dim != there.dim:
        raise UserError(
            f"--training.{wide[0]}: the teacher's dimension is {there.dim}, the student's {here.dim}; only "
            "--training.distil_posteriors takes any sizes"
        )
    if by_layer and here.layers != there.layers:
        raise UserError(
            f"--training.{by_layer[0]}: the teacher has {there.layers} layers, the student {here.layers}"
        )
    if config.distil_blocks and here.layers > there.layers:
        raise UserError(
            f"--training.distil_blocks: the teacher has {there.layers} layers, the student {here.layers}"
        )
    # Running features begin with the mean of the data that each was trained on.
    running = "running" in (student.frontend.normalise, found.model.frontend.normalise)
    same = _features(student) == _features(found.model) and not running
    if config.distil_masks == "both" and not same:
        raise UserError("--training.distil_masks both: the teacher's features are not the student's")
    blocks = config.distil_blocks > 0
    return Teacher(model, same, attention=bool(by_layer), blocks=blocks, digest=_digest(model, found.model))


def distillation_losses(
    model: Model, config: TrainingConfig, taught: Taught, output: Output | None, clean: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Each utterance's losses by their names, (B,), summed over frames; those that have a weight.

    Args:
        model: the student.
        taught: what the teacher makes of the batch, or of each view of it.
        output: what the student makes of it, or of each view of it; not wanted for layers side by side.
        clean: the student's features (B, T, mels), unmasked, and their lengths (B,).
    """
    losses = {}
    if output:
        taught = taught.repeat(len(output.x) // len(taught.encoded))
        n = min(output.x.shape[1], taught.encoded.shape[1])  # edges of features may differ by a frame
        valid = output.valid[:, :n] & taught.valid[:, :n]
    if config.distil_posteriors:
        losses["posteriors"] = divergence(output.log_probs[:, :n], taught.log_probs[:, :n], valid)
    if config.distil_encoder:
        losses["encoder"] = distance(output.x[:, :n], taught.encoded[:, :n], valid)
    if config.distil_attention:
        losses["attention"] = attention_error(model, taught)
    if config.distil_blocks:
        losses["blocks"] = block_error(model, taught, *clean)
    return losses


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


def attention_error(model: Model, taught: Taught) -> Tensor:
    """Relative error of the student's attention, each layer's on the teacher's input to it: (B,).

        frames / layers sum_l |A_l(x_l) - y_l|^2 / |y_l|^2

    x_l and y_l are what goes into and comes out of the teacher's attention in layer l; norms are over the
    valid frames of an utterance. No layer's error reaches another layer.
    """
    valid, total = taught.valid[: len(taught.attention[0][0])], 0.0
    for block, (x, wanted) in zip(model.encoder.blocks, taught.attention, strict=True):
        total = total + layer_error(block.attention(x, valid), wanted, valid)
    return total * valid.sum(-1) / len(taught.attention)


def block_error(model: Model, taught: Taught, features: Tensor, frames: Tensor) -> Tensor:
    """Relative error of the student's subsampling and of its blocks on the teacher's input to them: (B,).

        frames / (S + 1) (|f(features) - h_0|^2 / |h_0|^2 + sum_s |B_s(h_a(s)) - h_a(s+1)|^2 / |h_a(s+1)|^2)

    h_0 is the teacher's subsampled input and h_l what its layer l gives. Block s of the student's S stands
    for the teacher's layers a(s) + 1 to a(s + 1), a(s) = s L / S rounded. No error reaches another part.

    Args:
        features, frames: (B, T, mels) and lengths (B,), the student's.
    """
    hidden, blocks = taught.blocks, model.encoder.blocks
    valid = taught.valid[: len(hidden[0])]
    found, lengths = model.encoder.subsampling(features, frames.to(features.device, non_blocking=True))
    n = min(found.shape[1], valid.shape[1])  # edges of features may differ by a frame
    both = valid[:, :n] & valid_frames(lengths, n)
    total = layer_error(found[:, :n], hidden[0][:, :n], both)
    edges = [round(s * (len(hidden) - 1) / len(blocks)) for s in range(len(blocks) + 1)]
    for block, (a, b) in zip(blocks, pairwise(edges), strict=True):
        total = total + layer_error(block(hidden[a], valid), hidden[b], valid)
    return total * valid.sum(-1) / (len(blocks) + 1)


def layer_error(found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """|found - wanted|^2 / |wanted|^2 of x (B, N, D) over the valid frames (B, N): (B,)."""
    error = (_squares(found, wanted).sum(-1) * valid).sum(-1)
    power = (_squares(wanted).sum(-1) * valid).sum(-1).clamp(min=TINY)
    return error / power


def _squares(x: Tensor, other: Tensor | None = None) -> Tensor:
    x = at_least_fp32(x)
    return (x if other is None else x - at_least_fp32(other)).square()


def _features(config: ModelConfig) -> tuple:
    frontend = config.frontend
    return frontend.kind, frontend.framing_edges, frontend.mels, frontend.f_max


def _digest(model: Model, config: ModelConfig) -> str:
    digest = hashlib.sha256(json.dumps(model_to_dict(config), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
