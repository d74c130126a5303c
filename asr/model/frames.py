"""Rates, hops and lengths, from samples to encoded frames: the one place that knows them."""

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
HOP, WINDOW, FFT = 160, 400, 512  # samples: 10 ms, 25 ms, 32 ms
FRAME_SECONDS = 4 * HOP / SAMPLE_RATE  # that an encoded frame stands for


def frame_lengths(samples):
    """Number of 10 ms frames in so many samples, at least 1. int or Tensor."""
    frames = (samples - FFT) // HOP + 1
    return frames.clamp(min=1) if isinstance(frames, Tensor) else max(frames, 1)


def halve(length):
    """Length after a convolution of kernel 3, stride 2, padding 1: ceil(length / 2). int or Tensor."""
    return (length + 1) // 2


def valid_frames(lengths: Tensor, n: int) -> Tensor:
    """lengths (B,) to a mask (B, n), True where the frame exists."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def encoded_frames(samples):
    """Frames that the encoder gives for so many samples. int or Tensor."""
    return halve(halve(frame_lengths(samples)))
