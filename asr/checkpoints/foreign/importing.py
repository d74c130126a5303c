"""Importing: from another toolkit's file to an exported folder of ours, named by the user or in the cache.

The cache is magnitude-asr/imported in $XDG_CACHE_HOME, or in ~/.cache where that is not set: a folder for
each imported file, named after its content's digest, which may be deleted at any time.
"""

import hashlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from asr.checkpoints.folder import write_folder
from asr.checkpoints.foreign import huggingface
from asr.checkpoints.foreign.archive import CONFIG, TOKENIZER, WEIGHTS, Archive, read_archive, read_tensors
from asr.checkpoints.foreign.configuration import Imported, convert_config, parse_config
from asr.checkpoints.foreign.pieces import Case, adapt, check_vocabulary, from_vocabulary
from asr.checkpoints.foreign.weights import convert_weights
from asr.checkpoints.model_card import model_card
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.files import locked

VERSION = 3  # of what an import makes; a new one makes the cache's folders again


@dataclass(frozen=True)
class ImportOptions:
    """How to import.

    Args:
        edges: of the features, new or old; auto takes those of the NeMo that saved the model.
        case: upper gives the pieces of a model without capitals in upper case; keep leaves all as they are.
        tokenizer: SentencePiece model to take instead of the file's own; its pieces must be the same.
        licence: of the weights, for the model card.
    """

    edges: Literal["auto", "new", "old"] = "auto"
    case: Case = "upper"
    tokenizer: Path | None = None
    licence: str = ""


def is_foreign(path: Path) -> bool:
    """Whether a path names a model to import: FILE.nemo, the same unpacked, a folder of Hugging Face's."""
    if path.is_dir():
        return (path / CONFIG).is_file() or huggingface.is_huggingface(path)
    return path.suffix == ".nemo"


def import_model(path: Path, out: Path, options: ImportOptions | None = None) -> str:
    """Make an exported folder of another toolkit's model; returns a sentence about it.

    Raises:
        UserError: it cannot be read, or cannot be computed exactly here; nothing is written.
    """
    options = options or ImportOptions()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not is_foreign(path):
        kinds = "neither a .nemo file, packed or unpacked, nor a folder of Hugging Face's Parakeet-CTC"
        raise UserError(f"{path}: {kinds}")
    found = _read(path, options)
    imported, tokenizer = found.imported, found.tokenizer
    ours = convert_weights(found.weights, imported, tokenizer.pieces, str(path))
    edges = imported.model.frontend.edges
    source = {
        "imported from": path.resolve().name,
        "SHA-256": digest(path),
        "model": imported.about,
        "features": f"NeMo's, with its {edges} edges",
        "licence": options.licence or found.licence or "not stated in the file: see where it was published",
    }
    parameters = sum(value.numel() for name, value in ours.items() if not _is_buffer(name))
    card = model_card(imported.model, tokenizer, parameters, (0, 0.0), False, None, [source])
    write_folder(out, imported.model, tokenizer, ours, False, (0, 0.0), card, [source])
    about = f"{imported.about}: {parameters / 1e6:.2f} M parameters, {tokenizer.pieces} pieces, {edges} edges"
    if not tokenizer.spells:
        about += "; to decode, not to train (which wants --tokenizer, from its .nemo file)"
    return about


def _is_buffer(name: str) -> bool:
    return name.startswith("frontend.") or name.endswith(("running_mean", "running_var"))


def cached(path: Path) -> Path:
    """The exported folder of another toolkit's model, imported when it is first asked for.

    Raises:
        UserError: see ``import_model``; also where the cache cannot be written.
    """
    folder = cache_folder() / f"{VERSION}-{digest(path)[:32]}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder.parent}: cannot be written: {error.strerror}; set XDG_CACHE_HOME to a folder that "
                "can, or import the model with python -m asr.checkpoints import"
            ) from None
        with locked(folder):
            if not folder.is_dir():  # another program may have made it meanwhile
                print(f"importing {path} (kept in {folder})", file=sys.stderr)
                print(import_model(path, folder), file=sys.stderr)
    return folder


def cache_folder() -> Path:
    """Where imported models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magnitude-asr" / "imported"


def digest(path: Path) -> str:
    """SHA-256 of a file, or of what an import reads of a folder."""
    parts = [path]
    if path.is_dir():
        names = (CONFIG, WEIGHTS, huggingface.CONFIG, huggingface.FEATURES, huggingface.PROCESSOR)
        names += (huggingface.WEIGHTS, huggingface.TOKENIZER, huggingface.CARD)
        parts = [path / name for name in names if (path / name).is_file()]
        parts += sorted(path.glob(f"*{TOKENIZER}"))
    digests = []
    for part in parts:
        try:
            with part.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{part}: cannot be read: {error.strerror}") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass(frozen=True)
class _Found:
    """What was read of a model."""

    imported: Imported
    tokenizer: Tokenizer | None  # None where the file has not exactly one
    weights: dict[str, Tensor]  # by NeMo's names
    licence: str = ""


def _read(path: Path, options: ImportOptions) -> _Found:
    found = (_read_huggingface if huggingface.is_huggingface(path) else _read_nemo)(path, options)
    if options.tokenizer:
        given = adapt(_file(options.tokenizer), str(options.tokenizer), options.case)
        if found.tokenizer:
            check_vocabulary(found.tokenizer, given, f"--tokenizer {options.tokenizer}")
        found = replace(found, tokenizer=given)
    if found.tokenizer is None:
        raise UserError(f"{path}: does not hold one SentencePiece model (*{TOKENIZER})")
    return found


def _read_huggingface(path: Path, options: ImportOptions) -> _Found:
    folder = huggingface.read_folder(path)
    imported = convert_config(folder.config, str(path), options.edges)
    bias = folder.weights.get(f"{imported.head}.bias")
    size = 0 if bias is None else bias.numel() - 1  # the blank has no piece
    name = str(path / huggingface.TOKENIZER)
    tokenizer = from_vocabulary(folder.tokenizer, name, size, options.case)
    return _Found(imported, tokenizer, folder.weights, folder.licence)


def _read_nemo(path: Path, options: ImportOptions) -> _Found:
    archive = _unpacked(path) if path.is_dir() else read_archive(path)
    imported = parse_config(archive.config, f"{path}: {CONFIG}", options.edges)
    tokenizer = None
    if archive.tokenizer:
        tokenizer = adapt(archive.tokenizer, f"{path}: *{TOKENIZER}", options.case)
    return _Found(imported, tokenizer, read_tensors(archive.weights, f"{path}: {WEIGHTS}"))


def _unpacked(path: Path) -> Archive:
    """A .nemo file's parts from the folder that it was unpacked to."""
    found = sorted(path.glob(f"*{TOKENIZER}"))
    tokenizer = _file(found[0]) if len(found) == 1 else None
    return Archive(_file(path / CONFIG), _file(path / WEIGHTS), tokenizer)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
