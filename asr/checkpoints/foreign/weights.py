"""NeMo's weights under our names and in our shapes.

subsampling's linear layer   its inputs are (channel, mel bin) there and (mel bin, channel) here; where
                             xscaling is set, the factor sqrt(D) after it goes into it
linear_pos                   sines and cosines alternate in its inputs there; here sines come first
pos_bias_u, pos_bias_v       one axis more; tied ones are stored for each layer
pointwise convolutions       linear layers here
depthwise convolutions       one axis more (2-D here)
the CTC head, the embedding  the blank is the last class there and the first here; a joint network's
and the joint network        durations stay behind it
"""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from asr.checkpoints.foreign.configuration import Imported
from asr.errors import UserError
from asr.model.classes import BLANK
from asr.model.conformer import Encoder
from asr.model.frames import subsampled
from asr.model.nemo_frontend import make_frontend
from asr.model.recogniser import make_heads

Change = Callable[[Tensor], Tensor]
Row = tuple[str, str, Change]

# Without meaning in evaluation mode: counts, sinusoids.
_UNUSED = r".*\.num_batches_tracked|encoder\.pos_enc\.pe"
# The biases that ``use_bias: false`` leaves out.
_BIASES = (
    r"encoder\.layers\.\d+\.(feed_forward\d\.linear\d|self_attn\.linear_\w+|conv\.\w+wise_conv\d?)\.bias"
)


def convert_weights(
    theirs: dict[str, Tensor], imported: Imported, pieces: int, name: str
) -> dict[str, Tensor]:
    """The state dict of our model.

    Args:
        theirs: by NeMo's names; emptied, so that memory holds no weight twice.
        imported: what their configuration says.
        pieces: of the tokenizer, without the blank.
        name: of their file, for errors.

    Raises:
        UserError: a weight is missing, unknown, or has a shape that the configuration does not give it.
    """
    wanted = _wanted(imported, pieces, name)
    ours: dict[str, Tensor] = {}
    for key, target, change in _rows(imported, pieces):
        left_out = not imported.use_bias and re.fullmatch(_BIASES, key)
        if left_out and key in theirs:
            raise UserError(f"{name}: {key}: present, but its configuration says that there are no biases")
        if key in theirs:
            has = tuple(theirs[key].shape)
            ours[target] = _changed(theirs.pop(key), change, key, name)
        elif target.startswith("frontend."):
            ours[target] = wanted[target]  # computed
        elif left_out:
            ours[target] = torch.zeros(wanted[target].shape)
        else:
            raise UserError(f"{name}: lacks {key}")
        if ours[target].shape != wanted[target].shape:
            needs = tuple(wanted[target].shape)
            raise UserError(
                f"{name}: {key} has shape {has}, which does not give {needs}: not what its "
                "configuration or tokenizer describes"
            )
    if "transducer" in imported.model.heads and ours["transducer.prediction.embed.weight"][BLANK].any():
        raise UserError(f"{name}: decoder.prediction.embed.weight: the blank's row is not zero")
    for key in sorted(theirs):
        if not re.fullmatch(_UNUSED, key):
            raise UserError(f"{name}: {key[:80]}: weights of something that cannot be computed exactly here")
    return ours


def _wanted(imported: Imported, pieces: int, name: str) -> dict[str, Tensor]:
    """Our model's state dict, of which only the front end takes memory."""
    config = imported.model
    try:
        with torch.device("meta"):
            encoder = Encoder(
                config.encoder, config.frontend.mels, config.attention, config.positions, config.options
            )
            heads = make_heads(config, encoder.dim, pieces)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    parts = {"frontend": make_frontend(config.frontend), "encoder": encoder, **heads}
    return nn.ModuleDict(parts).state_dict()


def _changed(value: Tensor, change: Change, key: str, name: str) -> Tensor:
    if not value.is_floating_point():
        raise UserError(f"{name}: {key} is not of floating-point numbers")
    try:
        return change(value.float()).contiguous().clone()  # tied biases share their memory
    except (RuntimeError, IndexError):
        raise UserError(f"{name}: {key} has shape {tuple(value.shape)}, which no such layer has") from None


def _rows(imported: Imported, pieces: int) -> Iterator[Row]:
    """(their name, ours, what to do) for every weight of the model."""
    config = imported.model.encoder
    yield "preprocessor.featurizer.window", "frontend.mel.spectrogram.window", _same
    yield "preprocessor.featurizer.fb", "frontend.mel.mel_scale.fb", lambda fb: fb.squeeze(0).T
    yield from _subsampling(imported)
    for i in range(config.layers):
        for theirs, ours, change in _block():
            yield f"encoder.layers.{i}.{theirs}", f"encoder.blocks.{i}.{ours}", change

    def blank_first(value: Tensor) -> Tensor:
        value = value.squeeze(-1) if value.ndim == 3 else value
        return torch.cat((value[pieces : pieces + 1], value[:pieces], value[pieces + 1 :]))

    if imported.head:
        for part in ("weight", "bias"):
            yield f"{imported.head}.{part}", f"head.project.{part}", blank_first
    if "transducer" in imported.model.heads:
        yield from _transducer(imported, blank_first)


def _transducer(imported: Imported, blank_first: Change) -> Iterator[Row]:
    yield "decoder.prediction.embed.weight", "transducer.prediction.embed.weight", blank_first
    for layer in range(imported.model.transducer.layers):
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            name = f"lstm.{part}_l{layer}"
            yield f"decoder.prediction.dec_rnn.{name}", f"transducer.prediction.{name}", _same
    yield from _pair("joint.enc", "transducer.joint.encoder")
    yield from _pair("joint.pred", "transducer.joint.prediction")
    for part in ("weight", "bias"):
        yield f"{imported.projection}.{part}", f"transducer.joint.project.{part}", blank_first


def _subsampling(imported: Imported) -> Iterator[Row]:
    config = imported.model.encoder
    kind, factor = config.subsampling.kind, config.subsampling.factor
    places = {"0": "first"}
    if kind == "full":
        places |= {"2": "second", "4": "third"}
    else:
        places |= {"2": "second.0", "3": "second.1", "5": "third.0", "6": "third.1"}
    bins = subsampled(imported.model.frontend.mels, factor)
    scale = config.dim**0.5 if imported.xscaling else 1.0
    for theirs, ours in places.items():
        if factor == 8 or not ours.startswith("third"):
            yield from _pair(f"encoder.pre_encode.conv.{theirs}", f"encoder.subsampling.{ours}")

    def project(weight: Tensor) -> Tensor:
        return weight.unflatten(1, (-1, bins)).transpose(1, 2).flatten(1) * scale

    yield "encoder.pre_encode.out.weight", "encoder.subsampling.project.weight", project
    yield "encoder.pre_encode.out.bias", "encoder.subsampling.project.bias", lambda bias: bias * scale


def _pair(theirs: str, ours: str) -> Iterator[Row]:
    for part in ("weight", "bias"):
        yield f"{theirs}.{part}", f"{ours}.{part}", _same


def _block() -> Iterator[Row]:
    same = {"norm_self_att": "attention_norm", "norm_conv": "convolution.norm", "norm_out": "norm"}
    for k in (1, 2):
        same[f"norm_feed_forward{k}"] = f"feed_forward{k}.0"
        same[f"feed_forward{k}.linear1"] = f"feed_forward{k}.1"
        same[f"feed_forward{k}.linear2"] = f"feed_forward{k}.4"
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "output")):
        same[f"self_attn.linear_{theirs}"] = f"attention.{ours}"
    same["conv.batch_norm"] = "convolution.batch_norm"
    for theirs, ours in same.items():
        yield from _pair(theirs, ours)
    for part in ("running_mean", "running_var"):
        yield f"conv.batch_norm.{part}", f"convolution.batch_norm.{part}", _same
    for theirs, ours in (("pos_bias_u", "content_bias"), ("pos_bias_v", "offset_bias")):
        yield f"self_attn.{theirs}", f"attention.{ours}", lambda bias: bias[:, None]
    yield "self_attn.linear_pos.weight", "attention.offset.weight", _sines_first
    for theirs, ours in (("pointwise_conv1", "expand"), ("pointwise_conv2", "contract")):
        yield f"conv.{theirs}.weight", f"convolution.{ours}.weight", lambda weight: weight.squeeze(-1)
        yield f"conv.{theirs}.bias", f"convolution.{ours}.bias", _same
    yield "conv.depthwise_conv.weight", "convolution.depthwise.weight", lambda weight: weight[..., None]
    yield "conv.depthwise_conv.bias", "convolution.depthwise.bias", _same


def _same(value: Tensor) -> Tensor:
    return value


def _sines_first(weight: Tensor) -> Tensor:
    return torch.cat((weight[:, 0::2], weight[:, 1::2]), 1)
