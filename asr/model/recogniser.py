"""The whole recogniser: waveforms and lengths in, log-probabilities out."""

from torch import Tensor, nn

from asr.model.config import ModelConfig
from asr.model.conformer import Encoder
from asr.model.ctc import CTCHead
from asr.model.nemo_frontend import make_frontend


class Model(nn.Module):
    """Frontend, Conformer encoder, CTC head.

    Args:
        config: what to build.
        pieces: the tokenizer's vocabulary size; the head has one class more, the blank.
    """

    def __init__(self, config: ModelConfig, pieces: int) -> None:
        super().__init__()
        self.framing = config.framing
        self.frontend = make_frontend(config.frontend)
        self.encoder = Encoder(
            config.encoder,
            config.frontend.mels,
            config.attention,
            config.positions,
            config.options,
        )
        self.head = CTCHead(self.encoder.dim, pieces)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveforms (B, S), lengths (B,) in samples to (B, N, classes) fp32 and lengths (B,).

        One frame stands for ``framing.seconds``. Frames beyond an utterance's length mean nothing. Lengths
        may stay on the CPU while waveforms are elsewhere, and come back from where they were.
        """
        features, lengths = self.frontend(waveforms, lengths)
        x, lengths = self.encoder(features, lengths)
        return self.head(x), lengths
