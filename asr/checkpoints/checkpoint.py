"""Checkpoints: written in one step, read without running code from them.

A checkpoint holds, beside Lightning's own state, an entry ``recipe`` with the model's configuration
and the tokenizer, so that a checkpoint is all that decoding needs. To share the model alone, make a
folder of it, which the programs take in a checkpoint's place:

    python -m asr.checkpoints export exp/NAME/checkpoints/best.ckpt --out NAME --results exp/NAME/results
"""

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.checkpoints.folder import read_folder, read_folder_origin
from asr.checkpoints.hub import fetch, is_hub
from asr.checkpoints.origin import Source, checked
from asr.checkpoints.records import check_extents, check_records
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import atomic_path
from asr.model.config import ModelConfig, model_from_dict, model_to_dict
from asr.model.conformer import resolve_size
from asr.model.recogniser import Model, make_encoder, make_heads

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_FORMAT = 1
_PARTS = {"recipe", "state_dict", "global_step", "training"}


class DamagedCheckpoint(UserError):
    """A file that was a checkpoint once, or never was one."""


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint says about itself."""

    model: ModelConfig
    tokenizer: Tokenizer


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write to a temporary file and rename it.

    The last checkpoint but one stays, as ``previous.ckpt``, for the case that a disk damages the last.
    """
    # By way of memory: on a full disk torch.save to a file fails with an error that does not say so.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = Path(path)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # the new one is safe before the one before the last is let go
        if path.name == LAST and path.exists():
            _keep(path, path.with_name(PREVIOUS))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU.

    Raises:
        UserError: missing, damaged, or not a checkpoint of this project. A file that asks to run code
            is refused, not run.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; a checkpoint of train.py is needed (an exported model: --init)")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        check_records(path, path.stat().st_size, path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DamagedCheckpoint(
            f"{path}: holds more than tensors and plain values, or is no checkpoint; not loaded"
        ) from None
    except UserError:
        raise
    except (OSError, MemoryError) as error:  # nothing is said about the file itself
        raise UserError(f"{path}: cannot be read: {error}") from None
    except Exception:  # a damaged file makes PyTorch raise almost anything
        raise DamagedCheckpoint(f"{path}: not a checkpoint, or a damaged one") from None
    if not isinstance(content, dict) or not content.keys() >= _PARTS:
        raise UserError(f"{path}: a PyTorch file, but not a checkpoint of train.py")
    if not isinstance(content["recipe"], dict) or content["recipe"].get("format") != _FORMAT:
        raise UserError(f"{path}: made by another version of train.py")
    _check_extents(content, path)
    return content | {"origin": checked(content.get("origin"), path)}


def read_trained(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint, or of an exported model's folder in the same layout.

    ``hf:OWNER/NAME`` is fetched first (hub.py), and another toolkit's model imported, into the cache.

    Raises:
        UserError: see ``read_checkpoint``, ``asr.checkpoints.folder.read_folder`` and
            ``asr.checkpoints.foreign.importing.import_model``.
    """
    path = _imported(Path(path))
    return read_folder(path) if path.is_dir() else read_checkpoint(path)


def read_origin(path: str | Path) -> list[Source]:
    """The models of others that one which ``read_trained`` reads was made from."""
    path = _imported(Path(path))
    return read_folder_origin(path) if path.is_dir() else read_checkpoint(path)["origin"]


def _imported(path: Path) -> Path:
    """The path, or the folder in the cache of another toolkit's model, or of one of the hub."""
    if is_hub(path):
        path = fetch(str(path))
    if path.is_dir() or path.suffix == ".nemo":
        # A checkpoint of ours starts without what reads those of others.
        from asr.checkpoints.foreign.importing import cached, is_foreign

        return cached(path) if path.exists() and is_foreign(path) else path
    return path


def read_last(path: Path, rank: int = 0) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to go on from and its content: ``path``, or the one before where it is damaged.

    (None, {}) where there is none. A damaged one is renamed and kept, by the first of several ranks.
    """
    previous = path.with_name(PREVIOUS)
    if path.exists():
        try:
            return path, read_checkpoint(path)
        except DamagedCheckpoint as error:
            if not previous.exists():
                raise
            if rank == 0:
                aside = path.with_name(f"{path.name}.damaged")
                path.replace(aside)
                print(f"{error}; kept as {aside.name}, going on from {previous.name}, the one before")
        except UserError:
            if path.exists() or not previous.exists():
                raise  # else another rank has just renamed it
    return (previous, read_checkpoint(previous)) if previous.exists() else (None, {})


def _keep(path: Path, other: Path) -> None:
    """Make ``other`` hold what ``path`` holds, in one step."""
    with atomic_path(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def _check_extents(content: dict[str, Any], path: Path) -> None:
    """Raise UserError where weights and tokenizer are larger than the file: views that repeat a few bytes."""
    parts = [content["state_dict"], content.get("average") or {}, content["recipe"]]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: not weights by their names, as train.py writes them")
    tensors = [value for part in parts for value in part.values() if isinstance(value, Tensor)]
    check_extents(tensors, path.stat().st_size, path)


def pack_recipe(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``recipe`` entry."""
    return {
        "format": _FORMAT,
        "model": model_to_dict(config),
        "tokenizer": torch.frombuffer(bytearray(tokenizer.model), dtype=torch.uint8),
    }


def unpack_recipe(content: dict[str, Any], path: str | Path) -> Recipe:
    """Inverse of ``pack_recipe``; ``path`` is named in errors."""
    entry = content["recipe"]
    try:
        config = model_from_dict(entry["model"])
        tokenizer = Tokenizer(entry["tokenizer"].numpy().tobytes())
    except (UserError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from None
    return Recipe(config, tokenizer)


def load_model(path: str | Path) -> tuple[Model, Recipe]:
    """Build the model of a checkpoint or an exported folder, in evaluation mode, on the CPU.

    With averaged weights if there are some.

    Raises:
        UserError: see ``read_trained``; also where weights do not fit the configuration.
    """
    return build_model(read_trained(path), path)


def build_model(content: dict[str, Any], path: str | Path) -> tuple[Model, Recipe]:
    """``load_model`` of what ``read_trained`` has read; ``path`` is named in errors."""
    recipe = unpack_recipe(content, path)
    _check_sizes(content, recipe, path)
    model = Model(recipe.model, recipe.tokenizer.pieces)
    load_weights(model, content, path)
    return model.eval(), recipe


def load_weights(model: Model, content: dict[str, Any], path: str | Path) -> None:
    """Put a checkpoint's weights into a model, the averaged ones if it has them.

    Raises:
        UserError: they do not fit it; ``path`` is named.
    """
    try:
        model.load_state_dict(weights_of(content))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: weights do not fit the configuration: {reason}") from None


def weights_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights by their names in the model, the averaged ones if it has them."""
    prefix = "model."
    return content.get("average") or {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix)
    }


def digest_weights(digest: "hashlib._Hash", weights: Mapping[str, Tensor]) -> None:
    """Add weights to a digest."""
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights and their names, in hex."""
    digest = hashlib.sha256()
    digest_weights(digest, weights)
    return digest.hexdigest()


def _check_sizes(content: dict[str, Any], recipe: Recipe, path: str | Path) -> None:
    """Raise UserError where configuration and weights differ in size, before memory is taken for a model."""
    found, config = weights_of(content), recipe.model
    misfit = f"{path}: weights do not fit the configuration"
    try:
        size = resolve_size(config.encoder)
        if size.layers > len(found):  # each has several; to make a million of them would take a while
            raise UserError(f"it has {size.layers} layers")
        with torch.device("meta"):
            encoder = make_encoder(config)
            heads = make_heads(config, encoder.dim, recipe.tokenizer.pieces)
    except UserError as error:
        raise UserError(f"{misfit}: {error}") from None
    except (RuntimeError, TypeError, OverflowError):  # what PyTorch makes of a size beyond its integers
        raise UserError(f"{misfit}: a size in it is out of range") from None
    for name, wanted in nn.ModuleDict({"encoder": encoder, **heads}).state_dict().items():
        has = found.get(name)
        if not isinstance(has, Tensor) or has.shape != wanted.shape:
            has = tuple(has.shape) if isinstance(has, Tensor) else "missing"
            raise UserError(f"{misfit}: {name} is {has}, not {tuple(wanted.shape)}")


def check_same(path: str | Path, found: Recipe, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raise UserError unless a checkpoint was trained with this model and tokenizer."""
    here, there = model_to_dict(config), model_to_dict(found.model)
    for name in ("attention", "positions", "options", "encoder", "frontend", "head", "transducer"):
        if here[name] != there[name]:
            raise UserError(f"{path}: trained with {name} {there[name]}, but this run asks for {here[name]}")
    check_tokenizer(path, found, tokenizer)


def check_tokenizer(path: str | Path, found: Recipe, tokenizer: Tokenizer) -> None:
    """Raise UserError unless a checkpoint was trained with this tokenizer."""
    if found.tokenizer.model != tokenizer.model:
        raise UserError(
            f"{path}: trained with another tokenizer "
            f"({found.tokenizer.pieces} pieces, {found.tokenizer.digest}; "
            f"here {tokenizer.pieces} pieces, {tokenizer.digest})"
        )
