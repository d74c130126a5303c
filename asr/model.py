"""The whole recogniser: waveforms and lengths in, log-probabilities out."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from asr.conformer import Encoder, EncoderConfig, halve
from asr.frontend import HOP, SAMPLE_RATE, Frontend, FrontendConfig, frame_lengths
from asr.heads.ctc import CTCHead

FRAME_SECONDS = 4 * HOP / SAMPLE_RATE  # that an encoded frame stands for


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the model's function, bar its weights.

    Args:
        attention: self-attention mechanism.
        positions: auto (the mechanism's own default), relative, rotary, sinusoid or none.
        options: the mechanism's options.
        encoder: size and shape of the Conformer.
        frontend: features and their augmentation.
    """

    attention: str = "mala"
    positions: str = "auto"
    options: Any = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)


class Model(nn.Module):
    """Frontend, Conformer encoder, CTC head.

    Args:
        config: what to build.
        pieces: the tokenizer's vocabulary size; the head has one class more, the blank.
    """

    def __init__(self, config: ModelConfig, pieces: int) -> None:
        super().__init__()
        self.frontend = Frontend(config.frontend)
        self.encoder = Encoder(
            config.encoder,
            config.frontend.mels,
            config.attention,
            config.positions,
            config.options,
        )
        self.head = CTCHead(self.encoder.dim, pieces)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, views: int = 1, middle: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """waveforms (B, S), lengths (B,) in samples to (B, N, classes) fp32 and lengths (B,).

        One frame stands for 40 ms. Frames beyond an utterance's length mean nothing. ``views`` and
        ``middle`` are for training: see the frontend and the encoder.
        """
        features, lengths = self.frontend(waveforms, lengths, views)
        x, lengths = self.encoder(features, lengths, middle)
        return self.head(x), lengths


def encoded_frames(samples):
    """Frames that the encoder gives for so many samples. int or Tensor."""
    return halve(halve(frame_lengths(samples)))
