"""A teacher of the same function whose modules are learnt from nothing: frames of power 1 between them.

Every module of a block reads its input through a layer norm, so that what runs from one block's norm to the
next may have any scale. In trained models it has: in one, the first block's frames have the size of 2400, the
norms before attention give 0.1. A step of Adam moves a weight by about the learning rate, whatever its size,
and new weights would take thousands of steps to get there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr.attention import SelfAttention
from asr.data.batches import collate, some_speech
from asr.data.joining import Joined
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.model.frames import valid_frames
from asr.model.frontend import as_float
from asr.model.recogniser import Model

SECONDS = 60.0  # of audio that the scales are taken from


@torch.no_grad()
def unit_streams(model: Model, features: Tensor, lengths: Tensor) -> None:
    """Change the weights so that the mean square of each block's input is 1, and encoded frames stay.

    The norms before attention come to have neither weight nor bias of their own, which the projections take
    over, where nothing else reads them. All but the eps of layer norms is exact.

    Args:
        model: in evaluation mode.
        features, lengths: (B, T, mels) and (B,) of some speech, on which the mean squares are taken.
    """
    encoder, sizes = model.encoder, []
    for block in encoder.blocks:
        attention = block.attention
        if attention.positions != "sinusoid" and not attention.wants_token:
            _fold(block.attention_norm, attention)
    on_device = lengths.to(features.device)
    x, on_device = encoder.subsampling(features, on_device)
    valid = valid_frames(on_device, x.shape[1])
    for block in encoder.blocks:
        sizes.append(x[valid].double().square().mean().sqrt().item())
        x = block(x, valid)
    before: nn.Linear | nn.LayerNorm = encoder.subsampling.project
    for block, size in zip(encoder.blocks, sizes, strict=True):
        branches = block.attention.output, block.convolution.contract
        feed_forwards = block.feed_forward1[-2], block.feed_forward2[-2]
        for layer in (before, *branches, *feed_forwards):
            layer.weight /= size
            layer.bias /= size
        before = block.norm


def _fold(norm: nn.LayerNorm, attention: SelfAttention) -> None:
    for name in ("query", "key", "value", "gate"):
        if linear := getattr(attention, name, None):
            linear.bias += linear.weight @ norm.bias
            linear.weight *= norm.weight
    norm.weight.fill_(1)
    norm.bias.zero_()


def unit_streams_on(model: Model, utterances: Sequence[Utterance | Joined], tokenizer: Tokenizer) -> None:
    """``unit_streams`` on some of the utterances, evenly from the whole list."""
    batch = collate([*some_speech(utterances, SECONDS, tokenizer)])
    features = model.frontend.features(as_float(batch.waveforms), batch.lengths)
    unit_streams(model, *features)
