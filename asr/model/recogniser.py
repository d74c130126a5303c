"""The whole recogniser: waveforms and lengths in, log-probabilities out."""

from torch import Tensor, nn

from asr.model.config import ModelConfig
from asr.model.conformer import Encoder
from asr.model.ctc import CTCHead
from asr.model.nemo_frontend import make_frontend
from asr.model.streaming import CHUNK_SECONDS, Stream


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

    def forward(self, waveforms: Tensor, lengths: Tensor, chunk: int = 0) -> tuple[Tensor, Tensor]:
        """waveforms (B, S), lengths (B,) in samples to (B, N, classes) fp32 and lengths (B,).

        One frame stands for ``framing.seconds``. Frames beyond an utterance's length mean nothing. Lengths
        may stay on the CPU while waveforms are elsewhere, and come back from where they were. With a
        ``chunk``, so many frames see each other and what comes before them, and nothing later.
        """
        features, lengths = self.frontend(waveforms, lengths)
        x, lengths = self.encoder(features, lengths, chunk)
        return self.head(x), lengths

    def stream(self, seconds: float = CHUNK_SECONDS) -> Stream:
        """A recording to hear as it is spoken, in chunks of so many ``seconds``: feed it samples.

        Raises:
            UserError: the model wants the whole recording, or ``seconds`` are no whole number of its frames.
        """
        return Stream(self, self.framing.frames_in(seconds))
