"""Speech as it arrives: samples in blocks of any size to log-probabilities, chunk by chunk.

The numbers are those of one pass over the whole recording in which no frame sees beyond its chunk, but for
rounding. What is kept between chunks has a fixed size: a few samples and features, the sums that features
are normalised by, and in each layer a summary of all frames so far (softmax: its last keys) and the
convolution's last frames. So memory, and time for a second of speech, do not grow however long anyone speaks.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.attention import Frames
from asr.errors import UserError
from asr.model.conformer import BlockPast
from asr.model.frames import FFT, HOP
from asr.model.frontend import as_float

CHUNK_SECONDS = 0.64
# Encoded frames that go through the model at once, where more have arrived than a chunk.
AT_ONCE = 512


class Stream:
    """One recording in the course of being heard.

    Args:
        model: a ``Model`` in evaluation mode; many streams may share one.
        chunk: encoded frames (``model.framing.seconds`` each) that wait for each other. A model should be
            trained with chunks (--training.chunks).

    Raises:
        UserError: the model wants the whole recording, for its features or for its attention.
        ValueError: it is in training mode.
    """

    def __init__(self, model, chunk: int) -> None:
        if model.training:
            raise ValueError("a stream wants a model in evaluation mode")
        if chunk < 1:
            raise UserError(f"a stream's chunk of {chunk} frames: must be positive")
        refuse_to_stream(model)
        self.model, self.chunk = model, chunk
        self._factor = model.framing.factor
        self._device = model.frontend.mel.spectrogram.window.device
        self._preparer = model.frontend.preparer()
        self._samples = torch.empty(0, device=self._device)  # prepared, not yet in a chunk
        self._heard: Any = None  # what features are normalised by
        self._features = torch.empty(0, model.frontend.config.mels, device=self._device)  # of the last frame
        self._past = [BlockPast() for _ in model.encoder.blocks]
        self.frames = 0  # encoded so far
        self._finished = False

    @torch.inference_mode()
    def feed(self, samples: Tensor | np.ndarray) -> Tensor:
        """Hear more.

        Args:
            samples: (S,) at 16 kHz, a tensor or an array, any number of them: floats in [-1, 1] or 16-bit
                integers. What is no number becomes 0, and what is out of range is clipped: a fault does not
                outlast itself.

        Returns:
            log-probabilities (N, classes) fp32 of the frames that this completes, on the model's device;
            often none.
        """
        if self._finished:
            raise ValueError("the stream has been finished")
        found = []
        # A long recording given at once is taken in parts.
        for part in torch.as_tensor(samples).split(AT_ONCE * self._factor * HOP):
            part = as_float(part.to(self._device)).to(self._samples.dtype)
            part = self._preparer.push(part.nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1))
            self._samples = torch.cat((self._samples, part))
            step = self.chunk * self._factor * HOP
            chunks = (len(self._samples) - FFT + HOP) // step
            if chunks > 0:
                found.append(self._encode(chunks * self.chunk * self._factor))
        return torch.cat(found) if found else self._nothing()

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """The log-probabilities (N, classes) of what is left; nothing can be heard afterwards."""
        self._finished = True
        self._samples = torch.cat((self._samples, self._preparer.finish().to(self._samples)))
        features = (len(self._samples) - FFT) // HOP + 1 if len(self._samples) >= FFT else 0
        if not self.frames and len(self._samples):
            features = max(features, 1)  # a recording shorter than a window has a frame too
        return self._encode(features) if features else self._nothing()

    @property
    def state_bytes(self) -> int:
        """Size of all that is kept."""
        kept = self._samples, tuple(vars(self._preparer).values()), self._features, self._heard, self._past
        tensors = _tensors(kept)
        return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())

    def _encode(self, count: int) -> Tensor:
        """Log-probabilities of the next ``count`` features."""
        with torch.autocast(self._device.type, enabled=False):
            frontend, used = self.model.frontend, (count - 1) * HOP + FFT
            features = frontend.log_mel(self._samples[None, :used])
            valid = features.new_ones(features.shape[:2], dtype=torch.bool)
            features, self._heard = frontend.running(features, valid, self._heard)
            self._samples = self._samples[count * HOP :].clone()
            spans = features[0].split(max(1, AT_ONCE // self.chunk) * self.chunk * self._factor)
            return torch.cat([self._pass(span) for span in spans])

    def _pass(self, features: Tensor) -> Tensor:
        encoder = self.model.encoder
        # One encoded frame more on the left, and away with it: it saw zeros in its neighbour's place.
        known = len(self._features) // self._factor
        part = torch.cat((self._features, features))
        x, _ = encoder.subsampling(part[None], torch.tensor([len(part)], device=self._device))
        x = x[:, known:]
        self._features = features[-self._factor :].clone()
        n = x.shape[1]
        valid = torch.ones(1, n, dtype=torch.bool, device=self._device)
        lengths = torch.tensor([self.frames + n], device=self._device)
        frames = Frames(valid, lengths, self.frames, self.chunk)
        for number, block in enumerate(encoder.blocks):
            x, self._past[number] = block.advance(x, frames, self._past[number])
        self.frames += n
        return self.model.log_probs(x)[0]

    def _nothing(self) -> Tensor:
        return torch.empty(0, self.model.head.project.out_features, device=self._device)


def refuse_to_stream(model) -> None:
    """Raise UserError where a model wants the whole recording."""
    if model.frontend.config.normalise != "running":
        raise UserError(
            "this model cannot stream: its features are normalised by the mean of the whole recording; one "
            "trained with --frontend.normalise running can"
        )
    for name, attention in model.encoder.mechanisms.items():
        if reason := attention.chunk_refusal():
            raise UserError(f"this model cannot stream: {name} cannot work chunk by chunk: {reason}")


def _tensors(item: Any) -> list[Tensor]:
    if isinstance(item, Tensor):
        return [item]
    return [x for part in item for x in _tensors(part)] if isinstance(item, (tuple, list)) else []
