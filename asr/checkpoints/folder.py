"""An exported model: a folder of four files that holds no pickle, to share and to decode with.

``model.safetensors`` has the weights (fp32, or eight bits: asr/checkpoints/eight_bits.py; the averaged
ones where training kept an average), ``tokenizer.model`` the SentencePiece model, ``config.json``
what both are for, and ``README.md`` the model card (asr/checkpoints/model_card.py). Made by
python -m asr.checkpoints export.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from asr.checkpoints.eight_bits import from_eight_bits
from asr.checkpoints.origin import Source, checked
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import atomic_folder
from asr.model.config import ModelConfig, model_to_dict
from asr.model.frames import SAMPLE_RATE

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.model", "README.md"
_FORMAT = 1
_KEYS = {
    "format",  # of this file
    "model",  # asr.model.config.model_to_dict's
    "sample_rate",  # Hz
    "pieces",  # the tokenizer's, without the blank
    "tokenizer",  # its digest
    "weights",  # SHA-256 of the file
    "averaged",  # whether they are an average over training
    "steps",  # of the optimiser
    "audio_seconds",  # trained on, repetitions included
}
_ORIGIN = "origin"  # of a model made from others' only (asr/checkpoints/origin.py)


def write_folder(
    out: str | Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    weights: dict[str, Tensor],
    averaged: bool,
    trained: tuple[int, float],
    card: str,
    origin: Sequence[Source] = (),
) -> None:
    """Write an exported model in one step.

    Args:
        out: folder to make.
        config, tokenizer, weights: the model; ``weights`` is its state dict, or ``to_eight_bits`` of it.
        averaged: whether the weights are an average over training.
        trained: optimiser steps, and seconds of audio in them.
        card: text of README.md.
        origin: the models of others that it was made from.

    Raises:
        UserError: ``out`` exists and is not an empty folder.
    """
    small = torch.int8, torch.bfloat16
    stored = {name: value if value.dtype in small else value.float() for name, value in weights.items()}
    data = safetensors.torch.save({name: value.contiguous() for name, value in stored.items()})
    about = {
        "format": _FORMAT,
        "model": model_to_dict(config),
        "sample_rate": SAMPLE_RATE,
        "pieces": tokenizer.pieces,
        "tokenizer": tokenizer.digest,
        "weights": hashlib.sha256(data).hexdigest(),
        "averaged": averaged,
        "steps": trained[0],
        "audio_seconds": trained[1],
    }
    if origin:
        about[_ORIGIN] = list(origin)
    with atomic_folder(out) as folder:
        (folder / WEIGHTS).write_bytes(data)
        (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        (folder / TOKENIZER).write_bytes(tokenizer.model)
        (folder / CARD).write_text(card, encoding="utf-8")


def read_folder(path: str | Path) -> dict[str, Any]:
    """An exported model's content, in the layout of a checkpoint's (checkpoint.py), on the CPU.

    Raises:
        UserError: a file is missing, damaged, or does not belong to the others. Nothing in them can
            ask to run code.
    """
    folder = Path(path)
    about = _read_config(folder / CONFIG)
    model = _read(folder / TOKENIZER)
    tokenizer = _tokenizer(model)
    if tokenizer is None or (tokenizer.digest, tokenizer.pieces) != (about["tokenizer"], about["pieces"]):
        raise UserError(f"{folder / TOKENIZER}: not the tokenizer that the model was trained with")
    data = _read(folder / WEIGHTS)
    if hashlib.sha256(data).hexdigest() != about["weights"]:
        raise UserError(f"{folder / WEIGHTS}: damaged, or not the weights that {CONFIG} is about")
    try:
        weights = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError):
        raise UserError(f"{folder / WEIGHTS}: not a safetensors file") from None
    try:
        weights = from_eight_bits(weights)
    except ValueError as error:
        raise UserError(f"{folder / WEIGHTS}: {error}") from None
    if any(value.dtype != torch.float32 for value in weights.values()):
        raise UserError(f"{folder / WEIGHTS}: not all in fp32 or in eight bits")
    named = {f"model.{name}": value for name, value in weights.items()}
    return {
        "recipe": {
            "format": _FORMAT,
            "model": about["model"],
            "tokenizer": torch.frombuffer(bytearray(model), dtype=torch.uint8),
        },
        "state_dict": named,
        "average": weights if about["averaged"] else None,
        "global_step": about["steps"],
        "audio_seconds": about["audio_seconds"],
        "origin": about[_ORIGIN],
    }


def read_folder_origin(path: Path) -> list[Source]:
    """The models of others that an exported model was made from.

    Raises:
        UserError: see ``read_folder``.
    """
    return _read_config(path / CONFIG)[_ORIGIN]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON") from None
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: not about an exported model")
    if about["format"] != _FORMAT:
        raise UserError(f"{path}: format {about['format']!r}; this version reads {_FORMAT}")
    if about.keys() - {_ORIGIN} != _KEYS:
        wrong = ", ".join(sorted((about.keys() - {_ORIGIN}) ^ _KEYS))
        raise UserError(f"{path}: missing or unknown: {wrong}")
    if about["sample_rate"] != SAMPLE_RATE:
        raise UserError(f"{path}: sample_rate {about['sample_rate']!r}; this version reads {SAMPLE_RATE}")
    for name in ("steps", "audio_seconds"):
        if type(about[name]) not in (int, float) or not 0 <= about[name] < 1e15:
            raise UserError(f"{path}: {name} {about[name]!r}: out of range")
    return about | {_ORIGIN: checked(about.get(_ORIGIN), path)}


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: missing; an exported model has {CONFIG}, {WEIGHTS} and {TOKENIZER}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _tokenizer(model: bytes) -> Tokenizer | None:
    try:
        return Tokenizer(model)
    except (RuntimeError, TypeError):
        return None
