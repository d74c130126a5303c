"""From a checkpoint to an exported folder."""

from pathlib import Path
from typing import Any

from asr.checkpoints.checkpoint import build_model, read_trained
from asr.checkpoints.folder import write_folder
from asr.checkpoints.model_card import model_card, read_results


def export(path: Path, out: Path, results: Path | None) -> None:
    """Make a folder of a checkpoint's model, to share: see asr/checkpoints/folder.py.

    Args:
        path: checkpoint, or a folder made by this.
        out: the folder to make.
        results: folder with decode.py's wer.json for the model card.

    Raises:
        UserError: one of them cannot be used; nothing is written.
    """
    export_content(read_trained(path), path, out, results)


def export_content(content: dict[str, Any], path: Path, out: Path, results: Path | None) -> None:
    """``export`` of what ``read_trained`` has read from ``path``."""
    model, recipe = build_model(content, path)
    parameters = sum(p.numel() for p in model.parameters())
    found = read_results(results, path, recipe.model, parameters) if results else None
    trained = content["global_step"], float(content.get("audio_seconds", 0))
    averaged = bool(content.get("average"))
    origin = content["origin"]
    card = model_card(recipe.model, recipe.tokenizer, parameters, trained, averaged, found, origin)
    write_folder(out, recipe.model, recipe.tokenizer, model.state_dict(), averaged, trained, card, origin)
    table = "" if results else "; no table of results (--results)"
    print(f"{out}: {recipe.model.attention}, {parameters / 1e6:.2f} M parameters{table}")
