"""From a checkpoint to an exported folder."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.checkpoints.checkpoint import build_model, digest_of_weights, read_trained
from asr.checkpoints.eight_bits import from_eight_bits, to_eight_bits
from asr.checkpoints.folder import write_folder
from asr.checkpoints.model_card import model_card, read_results
from asr.errors import UserError


class ExportOptions(NamedTuple):
    """Options of an export.

    Args:
        results: folder with decode.py's wer.json for the model card.
        about: text file for the card: what the model was trained on, and licences.
        bits: of a weight in a matrix, in the file: 32, or 8 (asr/checkpoints/eight_bits.py).
    """

    results: Path | None = None
    about: Path | None = None
    bits: int = 32


PLAIN = ExportOptions()


def export(path: Path, out: Path, options: ExportOptions = PLAIN) -> None:
    """Make a folder of a checkpoint's model, to share: see asr/checkpoints/folder.py.

    Args:
        path: checkpoint, or a folder made by this.
        out: the folder to make.
        options: what to store, and what the model card says.

    Raises:
        UserError: one of them cannot be used; nothing is written.
    """
    export_content(read_trained(path), path, out, options)


def export_content(content: dict[str, Any], path: Path, out: Path, options: ExportOptions = PLAIN) -> None:
    """``export`` of what ``read_trained`` has read from ``path``."""
    about = _read_about(options.about) if options.about else ""
    model, recipe = build_model(content, path)
    parameters = sum(p.numel() for p in model.parameters())
    results = options.results
    found = read_results(results, path, digest_of_weights(model.state_dict())) if results else None
    trained = content["global_step"], float(content.get("audio_seconds", 0))
    averaged = bool(content.get("average"))
    origin = content["origin"]
    weights = model.state_dict()
    if options.bits == 8:
        exact, weights = weights, to_eight_bits(weights, {name for name, _ in model.named_parameters()})
        if results and not _same(exact, from_eight_bits(weights)):
            raise UserError(
                f"--results {results}: of 32-bit weights; decode the folder that --bits 8 makes, and export "
                "that one with its own results"
            )
    stored = "8 bits and a scale a row" if options.bits == 8 else "fp32"
    card = model_card(
        recipe.model, recipe.tokenizer, parameters, trained, averaged, found, origin, stored, about
    )
    write_folder(out, recipe.model, recipe.tokenizer, weights, averaged, trained, card, origin)
    table = "" if results else "; no table of results (--results)"
    print(f"{out}: {recipe.model.attention}, {parameters / 1e6:.2f} M parameters{table}")


def _same(weights: dict[str, Tensor], restored: dict[str, Tensor]) -> bool:
    """Whether eight bits held them: they come from eight bits."""
    return all(torch.equal(restored[name], value) for name, value in weights.items())


def _read_about(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"--about {path}: {reason}") from None
