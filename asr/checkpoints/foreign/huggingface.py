"""A Hugging Face folder of Parakeet-CTC as what NeMo would have called it.

Written from transformers 5.x (ParakeetForCTC, ParakeetFeatureExtractor), which is a translation of NeMo's
FastConformer-CTC. Only its three JSON files and model.safetensors are read.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from asr.checkpoints.foreign.configuration import Options
from asr.checkpoints.foreign.plain_yaml import read_yaml
from asr.errors import UserError

CONFIG, FEATURES, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
WEIGHTS, TOKENIZER, CARD = "model.safetensors", "tokenizer.json", "README.md"

# In this order: relative_k_proj holds k_proj.
_NAMES = [
    (r"^encoder\.subsampling\.layers\.", "encoder.pre_encode.conv."),
    (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
    (r"\.relative_k_proj\.", ".linear_pos."),
    (r"\.([qkv])_proj\.", r".linear_\1."),
    (r"\.o_proj\.", ".linear_out."),
    (r"\.bias_([uv])$", r".pos_bias_\1"),
    (r"^ctc_head\.", "decoder.decoder_layers.0."),
]


@dataclass(frozen=True)
class Folder:
    """What an import needs of a folder."""

    config: Options  # in NeMo's layout
    weights: dict[str, Tensor]  # by NeMo's names
    tokenizer: bytes  # tokenizer.json
    licence: str  # by the model card's own words; empty where it says none


def is_huggingface(path: Path) -> bool:
    """Whether a folder's config.json is one of transformers' (ours has no model_type)."""
    try:
        return path.is_dir() and "model_type" in _json(path / CONFIG)
    except UserError:
        return False


def read_folder(path: Path) -> Folder:
    """The parts of a folder.

    Raises:
        UserError: a part is missing or damaged, or it is not a Parakeet-CTC.
    """
    config = _config(path)
    if not (path / WEIGHTS).is_file():
        raise UserError(f"{path / WEIGHTS}: missing; weights in one file of this name are needed")
    try:
        weights = safetensors.torch.load_file(path / WEIGHTS)
    except (SafetensorError, ValueError, KeyError, OSError):
        raise UserError(f"{path / WEIGHTS}: not a safetensors file, or a damaged one") from None
    return Folder(
        config,
        {_name(name): value for name, value in weights.items()},
        _bytes(path / TOKENIZER),
        _licence(path / CARD),
    )


def _config(path: Path) -> Options:
    """NeMo's configuration of the same model; options that NeMo has not are checked here."""
    name, found = path / CONFIG, _json(path / CONFIG)
    if found.get("model_type") != "parakeet_ctc":
        raise UserError(f"{name}: model_type {str(found.get('model_type'))[:60]}: only parakeet_ctc is read")
    encoder, features = found.get("encoder_config"), _features(path)
    if not isinstance(encoder, dict):
        raise UserError(f"{name}: has no encoder_config")
    for option, only in (
        ("hidden_act", "silu"),
        ("subsampling_conv_kernel_size", 3),
        ("subsampling_conv_stride", 2),
    ):
        if encoder.get(option, only) != only:
            has = str(encoder[option])[:60]
            raise UserError(f"{name}: {option} {has}: cannot be computed exactly here (only {only} is)")
    biases = encoder.get("attention_bias", True)
    if encoder.get("convolution_bias", True) != biases:
        raise UserError(
            f"{name}: attention_bias {str(biases)[:60]}: only the same as convolution_bias is read"
        )
    blank, classes = found.get("pad_token_id", 1024), found.get("vocab_size", 1025)
    if type(classes) is not int or blank != classes - 1:
        raise UserError(f"{name}: pad_token_id {str(blank)[:60]}: the blank must be the last of vocab_size")
    dim, inner = encoder.get("hidden_size", 1024), encoder.get("intermediate_size", 4096)
    if type(dim) is not int or type(inner) is not int or dim < 1 or inner % dim:
        raise UserError(f"{name}: intermediate_size {str(inner)[:60]}: not a multiple of hidden_size")
    return {
        "target": "EncDecCTCModelBPE",
        "nemo_version": "3.0.0",  # whose edges transformers has
        "tokenizer": {"type": "bpe"},
        "encoder": {
            "feat_in": encoder.get("num_mel_bins", 80),
            "n_layers": encoder.get("num_hidden_layers", 24),
            "d_model": dim,
            "n_heads": encoder.get("num_attention_heads", 8),
            "ff_expansion_factor": inner // dim,
            "conv_kernel_size": encoder.get("conv_kernel_size", 9),
            "use_bias": biases,
            "xscaling": encoder.get("scale_input", True),
            "subsampling": "dw_striding",
            "subsampling_factor": encoder.get("subsampling_factor", 8),
            "subsampling_conv_channels": encoder.get("subsampling_conv_channels", 256),
        },
        "preprocessor": {
            "sample_rate": features.get("sampling_rate", 16000),
            "window_size": None,
            "window_stride": None,
            "n_window_size": features.get("win_length", 400),
            "n_window_stride": features.get("hop_length", 160),
            "n_fft": features.get("n_fft", 512),
            "preemph": features.get("preemphasis", 0.97),
            "features": features.get("feature_size", 80),
        },
    }


def _features(path: Path) -> dict[str, Any]:
    if (path / FEATURES).is_file():
        return _json(path / FEATURES)
    features = _json(path / PROCESSOR).get("feature_extractor")
    if not isinstance(features, dict):
        raise UserError(f"{path / PROCESSOR}: has no feature_extractor")
    return features


def _name(name: str) -> str:
    for theirs, nemo in _NAMES:
        name = re.sub(theirs, nemo, name)
    return name


def _licence(path: Path) -> str:
    """The ``license`` of a model card's front matter."""
    try:
        parts = path.read_text(encoding="utf-8").split("---")
        return str(read_yaml(parts[1])["license"])[:100] if not parts[0].strip() else ""
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a configuration")
    return content


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
