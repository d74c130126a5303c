"""What training for streams adds: a chunk drawn for each batch, and what running features begin with."""

import torch

from asr.data.batches import collate, some_speech
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.conformer import Encoder
from asr.model.frames import valid_frames
from asr.model.frontend import as_float
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig

SECONDS = 600.0  # of audio whose mean and deviation running features begin with


def draw_chunk(config: TrainingConfig) -> int:
    """The chunk of a batch, in encoded frames; 0 for the full context (dynamic chunks, arXiv 2012.05481)."""
    if not config.chunks or torch.rand(()).item() >= config.chunk_share:
        return 0
    return config.chunks[int(torch.randint(len(config.chunks), ()))]


def validation_chunk(config: TrainingConfig) -> int:
    """That of validation: the full context where batches have it too, else the largest."""
    return max(config.chunks) if config.chunks and config.chunk_share == 1 else 0


def check_chunks(encoder: Encoder, config: TrainingConfig) -> None:
    """Raise UserError where there are chunks that the encoder's attention cannot take."""
    for name, attention in encoder.mechanisms.items():
        if config.chunks and (reason := attention.chunk_refusal()):
            raise UserError(f"--training.chunks {config.chunks}: {name} cannot work chunk by chunk: {reason}")


@torch.no_grad()
def set_prior(model: Model, utterances: list[Utterance], tokenizer: Tokenizer) -> str:
    """Let running features begin with mean and deviation of some utterances, evenly from the whole list.

    Returns:
        what was done, in words.
    """
    frontend, frames = model.frontend, []
    for item in some_speech(utterances, SECONDS, tokenizer):
        batch = collate([item])
        features = frontend.log_mel(frontend.prepare(as_float(batch.waveforms), batch.lengths))
        frames.append(features[valid_frames(frontend.framing.features(batch.lengths), features.shape[1])])
    found = torch.cat(frames).double()
    frontend.running.mean.copy_(found.mean(0))
    frontend.running.deviation.copy_(found.std(0, correction=0))
    minutes = len(found) / 6000
    return f"running features begin with mean and deviation of {minutes:.1f} minutes of the training data"
