"""The loss to descend: what transcripts and a teacher say of a batch, weighed, over all ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from asr.data.batches import Batch
from asr.distributed import sum_over_ranks, world_size
from asr.model.frames import subsampled, valid_frames
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig
from asr.training.distillation import Output, Teacher, distillation_losses
from asr.training.splicing import spliced
from asr.training.streaming import draw_chunk

PER_PIECE = ("ctc", "transducer", "consistency")  # losses on transcripts; a teacher's go by the frame


class Losses(NamedTuple):
    """Of a batch."""

    total: Tensor  # to descend
    utterances: Tensor  # (B,) each utterance's share of it before the division by pieces or frames
    parts: dict[str, Tensor]  # those without weights, a piece (PER_PIECE) or a frame, by name


def training_loss(
    model: Model, batch: Batch, config: TrainingConfig, teacher: Teacher | None = None
) -> Losses:
    """The loss to descend: CTC and the transducer's in nats a piece, and what a teacher adds, a frame.

    Divided by the pieces, or frames, of all ranks over their number: the mean of the ranks' gradients is then
    the gradient of the whole batch, however its pieces are spread. An utterance without a transcript takes
    part in what the teacher says alone.
    """
    sums, frames = _sums(model, batch, config, teacher)
    sizes = [batch.target_lengths.sum().to(batch.waveforms.device, non_blocking=True)]
    sizes += [] if frames is None else [frames]
    sizes = sum_over_ranks(torch.stack(sizes))  # one message
    pieces, frames = sizes[0].clamp(min=1), sizes[-1]
    total, utterances, parts = 0.0, 0.0, {}
    for name, losses in sums.items():
        by = pieces if name in PER_PIECE else frames
        weight = getattr(config, name if name in PER_PIECE else f"distil_{name}")
        utterances = utterances + weight * losses
        parts[name] = losses.detach().sum() * world_size() / by
        total = total + weight * losses.sum() * world_size() / by
    return Losses(total, utterances, parts)


def _sums(
    model: Model, batch: Batch, config: TrainingConfig, teacher: Teacher | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Each utterance's losses (B,) by name, over pieces or frames; the frames, with a teacher."""
    views = 2 if config.consistency else 1
    batch = spliced(batch, config.splice)
    waveforms, samples = model.frontend.perturb(batch.waveforms, batch.lengths)
    clean = model.frontend.features(waveforms, samples)
    features, lengths = model.frontend.masked(*clean, views)
    output, sums, frames = None, {}, None
    chunk = draw_chunk(config)
    if config.uses_encoder:
        stream = list(model.encoder.residual_stream(features, lengths, chunk))
        x, middle = stream[-1], stream[len(stream) // 2]
        encoded_lengths = subsampled(lengths, model.framing.factor)
        valid = valid_frames(encoded_lengths.to(x.device, non_blocking=True), x.shape[1])
        output = Output(model.head(x) if config.uses_head else None, stream, valid)
    if config.ctc:
        sums["ctc"] = _ctc_losses(
            model, batch, config.intermediate, output.log_probs, middle, encoded_lengths
        )
    if config.transducer:
        sums["transducer"] = model.transducer.loss(x, encoded_lengths, *_targets(batch, views))
    if teacher:
        heard = (features, lengths) if config.distil_masks == "both" else clean
        # What a whole model learns comes of the full context; what a module learns, of what it hears itself.
        chunk = 0 if config.uses_encoder else chunk
        taught = teacher.teach(waveforms, samples, *heard, chunk)
        sums |= distillation_losses(model, config, taught, output, features, lengths)
        frames = taught.valid[: len(batch.ids)].sum()
    sums = {name: losses.view(-1, len(batch.ids)).mean(0) for name, losses in sums.items()}  # over the views
    if config.consistency:
        sums["consistency"] = model.head.consistency(output.log_probs, encoded_lengths)
    if batch.transcribed is not None:
        transcribed = batch.transcribed.to(waveforms.device, non_blocking=True)
        for name in sums.keys() & PER_PIECE:
            sums[name] = torch.where(transcribed, sums[name], 0.0)
    return sums, frames


def _ctc_losses(
    model: Model, batch: Batch, intermediate: float, log_probs: Tensor, middle: Tensor, lengths: Tensor
) -> Tensor:
    """CTC of each utterance in each of its views, with that of the middle block where it has a weight."""
    targets, target_lengths = _targets(batch, len(log_probs) // len(batch.ids))
    losses = model.head.loss(log_probs, lengths, targets, target_lengths)
    if intermediate:  # intermediate CTC (Lee and Watanabe, arXiv 2102.03216)
        inner = model.head.loss(model.head(middle), lengths, targets, target_lengths)
        losses = (1 - intermediate) * losses + intermediate * inner
    return losses


def _targets(batch: Batch, views: int) -> tuple[Tensor, Tensor]:
    """Classes and their number for each view of the batch."""
    return batch.targets.repeat(views, 1), batch.target_lengths.repeat(views)
