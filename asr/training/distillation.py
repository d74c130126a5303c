"""Learning from a teacher: its posteriors, its last layer, and each module on what the teacher's hears.

The divergence of posteriors (Hinton et al., arXiv 1503.02531), frame by frame, needs no transcripts. Matching
attention on the teacher's own inputs is the first step of LoLCATs (arXiv 2410.10254), for language models;
CALD (arXiv 2410.06846) matches layers of Wav2Vec2. Matching every module so is blockwise distillation (arXiv
1911.13053) in its finest form: a student that begins from nothing has only shallow things to learn.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.checkpoints.checkpoint import check_tokenizer, digest_weights, load_model
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig, model_to_dict
from asr.model.conformer import resolve_size
from asr.model.frames import subsampled, valid_frames
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig
from asr.training.distances import distance, divergence, layer_error, stream_error
from asr.training.shuffling import Heard, ShuffledFrames, halos_of
from asr.training.streaming import check_chunks
from asr.training.teacher_memory import Said, TeacherMemory

HEAD = "head"  # the CTC head's name in a model


class Taught(NamedTuple):
    """What a teacher makes of a batch. Without gradients."""

    log_probs: Tensor  # (B, N, classes)
    stream: dict[int, Tensor]  # (B, N, D) by depth: 0 before the first block, n after the nth
    modules: dict[str, Heard]  # of those asked for, by name
    valid: Tensor  # (B, N) bool

    def repeat(self, views: int) -> "Taught":
        """For a batch that comes so many times; what modules hear, which no view decides, stays as it is."""
        stream = {depth: x.repeat(views, 1, 1) for depth, x in self.stream.items()}
        log_probs = self.log_probs.repeat(views, 1, 1)
        return self._replace(log_probs=log_probs, stream=stream, valid=self.valid.repeat(views, 1))


class Output(NamedTuple):
    """What a student makes of a batch."""

    log_probs: Tensor  # (B, N, classes)
    stream: list[Tensor]  # (B, N, D), before the first block and after each
    valid: Tensor  # (B, N) bool


class Teacher:
    """A model in evaluation mode whose weights stand still.

    No module, so that it is neither in a student's checkpoints nor among what an optimiser descends.

    Args:
        model: put into evaluation mode.
        same_features: whether its front end makes the student's features.
        modules: names of those whose inputs and outputs are kept, which takes memory.
        depths: of the frames that are kept between blocks (``Taught.stream``); the last block's always are.
        shuffle: frames of theirs that are kept and shuffled (``ShuffledFrames``); 0: each batch has its own.
        digest: changes with weights and configuration.

    Attributes:
        memory: what it has said before, which is recalled; None: it hears every batch.
    """

    def __init__(
        self,
        model: Model,
        same_features: bool,
        modules: Sequence[str] = (),
        depths: Iterable[int] = (),
        shuffle: int = 0,
        digest: str = "",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.same_features = same_features
        self.depths = {*depths, len(model.encoder.blocks)}
        self.memory: TeacherMemory | None = None
        self.digest = digest
        self.shuffled = ShuffledFrames(shuffle, halos_of(model, modules)) if shuffle else None
        self._modules: dict[str, Heard] = {}
        for name in modules:
            model.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._modules[name] = Heard(inputs, _frames(output))

    @torch.no_grad()
    def teach(
        self,
        waveforms: Tensor,
        samples: Tensor,
        features: Tensor,
        frames: Tensor,
        chunk: int = 0,
        training: bool = True,
    ) -> Taught:
        """What it makes of a batch.

        Args:
            waveforms, samples: (B, S) and lengths (B,), as a student's front end hears them.
            features, frames: (B, T, mels) and lengths (B,) of the student, taken where they are the same.
            chunk: in which it hears, in encoded frames; 0 for the full context.
            training: a batch to learn from, for which its memory and its shuffled frames are.
        """
        if not self.same_features:
            features, frames = self.model.frontend.features(waveforms, samples)
        lengths = subsampled(frames, self.model.framing.factor)
        memory, classes = self.memory if training else None, self.model.head.project.out_features
        paths = memory.paths(waveforms, samples) if memory else []
        said = memory and memory.recall(paths, classes, waveforms.device)
        self._modules = {}
        log_probs, stream = said or self._hear(features, frames, chunk)
        if memory and not said:
            log_probs, stream = memory.keep(paths, Said(log_probs, stream), lengths)
        valid = valid_frames(lengths.to(log_probs.device, non_blocking=True), log_probs.shape[1])
        modules, self._modules = self._modules, {}
        if self.shuffled and training:
            modules = self.shuffled.exchange(modules, valid)
        return Taught(log_probs, stream, modules, valid)

    def _hear(self, features: Tensor, frames: Tensor, chunk: int) -> tuple[Tensor, dict[int, Tensor]]:
        stream = {}
        for depth, x in enumerate(self.model.encoder.residual_stream(features, frames, chunk)):
            if depth in self.depths:
                stream[depth] = x
        return self.model.head(x), stream

    def remember(self, folder: Path) -> None:
        """Keep what it says in a folder, and recall what lies there. Its weights must stay from now on."""
        digest = hashlib.sha256(self.digest.encode())
        digest_weights(digest, self.model.state_dict())
        self.memory = TeacherMemory(folder, digest.hexdigest(), self.depths)


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
    by_layer = [name for name in ("distil_attention", "distil_modules") if getattr(config, name)]
    by_layer += ["distil_start"] if config.distil_start == "nearest" else []
    by_depth = [name for name in ("distil_blocks", "distil_stages") if getattr(config, name)]
    wide = by_layer + by_depth + (["distil_encoder"] if config.distil_encoder else [])
    if wide and here.dim != there.dim:
        raise UserError(
            f"--training.{wide[0]}: the teacher's dimension is {there.dim}, the student's {here.dim}; only "
            "--training.distil_posteriors takes any sizes"
        )
    if by_layer and here.layers != there.layers:
        raise UserError(
            f"--training.{by_layer[0]}: the teacher has {there.layers} layers, the student {here.layers}"
        )
    # A block that stands for one of the teacher's might come to be its copy, as modules do.
    most = there.layers // 2 if config.distil_stages else there.layers
    if by_depth and here.layers > most:
        raise UserError(
            f"--training.{by_depth[-1]}: the teacher has {there.layers} layers, the student {here.layers}; "
            f"at most {most} can be taught so"
        )
    # Running features begin with the mean of the data that each was trained on.
    running = "running" in (student.frontend.normalise, found.model.frontend.normalise)
    same = features_kind(student) == features_kind(found.model) and not running
    for name, needed in (
        ("distil_masks both", config.distil_masks == "both"),
        ("distil_modules", config.distil_modules),
    ):
        if needed and not same:
            raise UserError(f"--training.{name}: the teacher's features are not the student's")
    if config.distils_layers:
        check_chunks(model.encoder, config)
    digest = _digest(model, found.model)
    shuffle = round(60 * config.shuffle_minutes / found.model.framing.seconds)
    staged = config.distil_blocks + config.distil_stages > 0
    depths = matched_depths(here.layers, there.layers) if staged else ()
    return Teacher(model, same, modules_to_match(model, config), depths, shuffle, digest)


def modules_to_match(model: Model, config: TrainingConfig) -> list[str]:
    """Names of the modules that a student learns on a teacher's own inputs, which both have."""
    names = []
    for index, block in enumerate(model.encoder.blocks):
        if config.distil_modules:
            parts = [
                name for name, part in block.named_children() if next(part.parameters(), None) is not None
            ]
        else:
            parts = ["attention"] if config.distil_attention or config.distil_start == "nearest" else []
        names += [f"encoder.blocks.{index}.{part}" for part in parts]
    if not config.distil_modules:
        return names
    kinds, names = config.taught_modules, ["encoder.subsampling", *names, HEAD]
    return [name for name in names if not kinds or kind_of(name) in kinds]


def matched_depths(layers: int, teacher_layers: int) -> list[int]:
    """Before a student's first block and after each: after how many of the teacher's it is as deep."""
    return [round(teacher_layers * index / layers) for index in range(layers + 1)]


def kind_of(name: str) -> str:
    """What --training.taught_modules calls a module of that name."""
    name = name.rpartition(".")[2]
    return {HEAD: "ctc", "attention_norm": "norm"}.get(name, name.rstrip("12"))


def distillation_losses(
    model: Model,
    config: TrainingConfig,
    taught: Taught,
    output: Output | None,
    features: Tensor,
    frames: Tensor,
) -> dict[str, Tensor]:
    """Each utterance's losses by their names, (B,), summed over frames; those that have a weight.

    Args:
        model: the student.
        taught: what the teacher makes of the batch, or of each view of it.
        output: what the student makes of it, or of each view of it; not wanted for what learns side by side.
        features, frames: (B, T, mels) and lengths (B,), which the student hears.
    """
    losses = {}
    if output:
        taught = taught.repeat(len(output.valid) // len(taught.valid))
        n = min(output.valid.shape[1], taught.valid.shape[1])  # edges of features may differ by a frame
        valid = output.valid[:, :n] & taught.valid[:, :n]
    if config.distil_posteriors:
        losses["posteriors"] = divergence(output.log_probs[:, :n], taught.log_probs[:, :n], valid)
    if config.distil_encoder:
        losses["encoder"] = distance(
            output.stream[-1][:, :n], taught.stream[max(taught.stream)][:, :n], valid
        )
    if config.distil_blocks:
        depths = matched_depths(len(model.encoder.blocks), max(taught.stream))
        pairs = zip(output.stream, depths, strict=True)
        errors = [stream_error(found[:, :n], taught.stream[depth][:, :n], valid) for found, depth in pairs]
        losses["blocks"] = sum(errors) * valid.sum(-1) / len(errors)
    if config.distil_attention:
        losses["attention"] = module_error(model, taught)
    if config.distil_modules:
        losses["modules"] = module_error(model, taught, centred=True)
    if config.distil_stages:
        losses["stages"] = stages_error(model, taught, features, frames)
    return losses


def stages_error(model: Model, taught: Taught, features: Tensor, frames: Tensor) -> Tensor:
    """Error of the student's stages, each on the teacher's frames before it, times frames: (B,).

        frames / S (|f_0(features) - y_0|^2 / v_0 + sum_k |f_k(y_(k-1)) - y_k|^2 / v_k + KL of the head)

    f_0 is the subsampling, f_k the student's block k, and y_k the teacher's frames at the same share of its
    depth, v_k their |y_k - mean y_k|^2 over the utterance; the head hears the teacher's last frames. S counts
    all of them. No stage's error reaches another one.
    """
    encoder = model.encoder
    depths = matched_depths(len(encoder.blocks), max(taught.stream))
    first, _ = encoder.subsampling(features, frames.to(features.device, non_blocking=True))
    n = min(first.shape[1], taught.valid.shape[1])  # edges of features may differ by a frame
    valid = taught.valid[:, :n]
    wanted = [taught.stream[depth][:, :n] for depth in depths]
    found = [first[:, :n]]
    found += [block(x, valid) for block, x in zip(encoder.blocks, wanted, strict=False)]
    errors = [layer_error(x, y, valid, centred=True) for x, y in zip(found, wanted, strict=True)]
    head = divergence(model.head(wanted[-1]), taught.log_probs[:, :n], valid)
    return (sum(errors) * valid.sum(-1) + head) / (len(errors) + 1)


def module_error(model: Model, taught: Taught, centred: bool = False) -> Tensor:
    """Relative error of the student's modules, each on the teacher's inputs to it: (B,).

        frames / M sum_m |f_m(x_m) - y_m|^2 / |y_m|^2

    and, for the head among them, the divergence of its posteriors, in nats a frame: as numbers its
    log-probabilities are mostly those of pieces that nobody said.

    x_m and y_m are what goes into and comes out of the teacher's module m of those M that are taught; norms
    are over the valid frames of an utterance, or over all that were drawn where frames are shuffled. No
    module's error reaches another one. ``centred`` is ``layer_error``'s.
    """
    total = 0.0
    for name, (inputs, wanted, counts) in taught.modules.items():
        found = _frames(model.get_submodule(name)(*inputs))
        valid = taught.valid[: len(wanted)]
        if counts is not None:  # pieces from anywhere, as one utterance
            found, wanted, valid = (x.flatten(0, 1)[None] for x in (found, wanted, counts))
        if name == HEAD:
            total = total + divergence(found, wanted, valid) / valid.sum(-1).clamp(min=1)
        else:
            total = total + layer_error(found, wanted, valid, centred)
    frames = taught.valid.sum(-1)
    return total.repeat(len(frames) // len(total)) * frames / len(taught.modules)


def _frames(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Subsampling gives lengths as well."""
    return output[0] if isinstance(output, tuple) else output


def features_kind(config: ModelConfig) -> tuple:
    """What makes a model's features, but for how they are normalised while it streams."""
    frontend = config.frontend
    return frontend.kind, frontend.framing_edges, frontend.mels, frontend.f_max


def _digest(model: Model, config: ModelConfig) -> str:
    digest = hashlib.sha256(json.dumps(model_to_dict(config), sort_keys=True).encode())
    digest_weights(digest, model.state_dict())
    return digest.hexdigest()
