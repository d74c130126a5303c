"""The whole recogniser: waveforms and lengths in, encoded frames or log-probabilities out."""

from torch import Tensor, nn

from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import Encoder
from asr.model.ctc import CTCHead
from asr.model.nemo_frontend import make_frontend
from asr.model.streaming import CHUNK_SECONDS, Stream
from asr.model.transducer import Transducer


class Model(nn.Module):
    """Frontend, Conformer encoder, and what reads it: a CTC head, a transducer, or both.

    Args:
        config: what to build.
        pieces: the tokenizer's vocabulary size; the heads have one class more, the blank.

    Attributes:
        head: CTC's; None where there is none.
        transducer: None where there is none.
    """

    head: CTCHead | None
    transducer: Transducer | None

    def __init__(self, config: ModelConfig, pieces: int) -> None:
        super().__init__()
        self.framing = config.framing
        self.frontend = make_frontend(config.frontend)
        self.encoder = make_encoder(config)
        self.head = self.transducer = None
        for name, head in make_heads(config, self.encoder.dim, pieces).items():
            setattr(self, name, head)

    def forward(self, waveforms: Tensor, lengths: Tensor, chunk: int = 0) -> tuple[Tensor, Tensor]:
        """waveforms (B, S), lengths (B,) in samples to CTC's (B, N, classes) fp32 and lengths (B,).

        As ``encode``; for models with a CTC head.
        """
        x, lengths = self.encode(waveforms, lengths, chunk)
        return self.log_probs(x), lengths

    def log_probs(self, x: Tensor) -> Tensor:
        """CTC's (B, N, classes) fp32 of encoded frames (B, N, D); raises UserError without a CTC head."""
        if self.head is None:
            raise UserError("a transducer without a CTC head: there are no log-probabilities of CTC's")
        return self.head(x)

    def encode(self, waveforms: Tensor, lengths: Tensor, chunk: int = 0) -> tuple[Tensor, Tensor]:
        """waveforms (B, S), lengths (B,) in samples to encoded frames (B, N, D) and lengths (B,).

        One frame stands for ``framing.seconds``. Frames beyond an utterance's length mean nothing. Lengths
        may stay on the CPU while waveforms are elsewhere, and come back from where they were. With a
        ``chunk``, so many frames see each other and what comes before them, and nothing later.
        """
        features, lengths = self.frontend(waveforms, lengths)
        return self.encoder(features, lengths, chunk)

    def stream(self, seconds: float = CHUNK_SECONDS) -> Stream:
        """A recording to hear as it is spoken, in chunks of so many ``seconds``: feed it samples.

        Raises:
            UserError: the model wants the whole recording, or ``seconds`` are no whole number of its frames.
        """
        if self.head is None:
            raise UserError("a transducer without a CTC head does not stream yet")
        return Stream(self, self.framing.frames_in(seconds))


def make_encoder(config: ModelConfig) -> Encoder:
    """The encoder; raises UserError where its options do not go together."""
    return Encoder(config.encoder, config.frontend.mels, config.attention, config.positions, config.options)


def make_heads(config: ModelConfig, dim: int, pieces: int) -> dict[str, nn.Module]:
    """What reads the encoder, of dimension ``dim``, by its name in ``Model``."""
    heads: dict[str, nn.Module] = {}
    if "ctc" in config.heads:
        heads["head"] = CTCHead(dim, pieces)
    if "transducer" in config.heads:
        heads["transducer"] = Transducer(dim, pieces, config.transducer)
    return heads
