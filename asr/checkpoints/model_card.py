"""The README.md of an exported model: what it is, how well it does, how to use it, what is not known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.attention import ATTENTIONS
from asr.checkpoints.origin import TEACHER, USED, Source
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig, model_to_dict
from asr.model.conformer import resolve_size
from asr.model.frames import SAMPLE_RATE

_CARD = """\
# Speech recognition: Conformer-{kind_of_head}, {attention} attention

| | |
|---|---|
| attention | {about} |
| encoder | {layers} blocks, dimension {dim}, {heads} heads, convolution over {kernel} frames |
| parameters | {parameters:,} |
| output | {head} over {pieces} SentencePiece pieces (tokenizer {digest}) and the blank |
| frames | {frame:g} ms each |
| input | {rate} Hz, one channel; {mels} log-mel bins up to {f_max:g} Hz |
| training | {training} |
| weights | {stored}, {kind} |

## Word error rate

{results}

## Use

With the recipe's programs (`decode.py --help`), this folder in the place of a checkpoint:

    python decode.py --checkpoint FOLDER --audio talk.flac
    python decode.py --checkpoint FOLDER --data data/NAME --splits test --out results{decoding}

Recordings of other rates are resampled and channels averaged. `python train.py --init FOLDER` starts
training from these weights{onnx}.
Nothing in the folder is a pickle.

## Limits

- It writes what its tokenizer can spell, in the language, spelling and case of its training transcripts.
- Speech unlike the training data's (noise, distance, accents, telephone bands) was not measured unless the
  table above says so.
- Silence, music and other languages are given words too: there is no detection of speech.

## Training data and licence

{origin}
"""

# By --head: in the title, and as the output.
_HEADS = {
    "ctc": ("CTC", "CTC"),
    "transducer": ("Transducer", "transducer{size}"),
    "hybrid": (
        "Transducer-CTC",
        "transducer{size}, which decodes unless `--head ctc` or `--lm` is given, and CTC,",
    ),
}
_ONNX = ", and `python -m asr.checkpoints.onnx_export FOLDER --out {out}` makes\n{made}"

_UNKNOWN_ORIGIN = """\
To be stated by whoever shares this folder: the corpora the model was trained on and their licences, and the
licence of the weights. The export does not know them."""

_ORIGIN = """\
The weights were trained by others and imported, not trained by this recipe. Their names, shapes and file
format were changed and constant factors multiplied in; what they compute was not changed. Who shares them, or
anything made from them, names their authors and keeps their licence:

{sources}"""

_DERIVED = """\
{made} Who shares it, or anything made from it, names their authors, keeps to
their licences and says that they were changed:

{sources}

{about}"""
_BEGUN, _TAUGHT = (
    "Made from models of others and changed.",
    "Made with models of others as teachers, of which it learnt.",
)

_UNKNOWN_TRAINING = """\
What it was trained on by this recipe is to be stated by whoever shares this folder, with its licences."""

_ABOUT_TABLE = """\
{table}

Made with

    {command}

on `{checkpoint}`.{weights} The interval is a bootstrap over utterances."""


def _onnx(head: str) -> str:
    if head == "ctc":
        return _ONNX.format(out="model.onnx", made="an ONNX file")
    return _ONNX.format(out="onnx", made="a folder of ONNX files")


def model_card(
    config: ModelConfig,
    tokenizer: Tokenizer,
    parameters: int,
    trained: tuple[int, float],
    averaged: bool,
    results: dict[str, Any] | None,
    origin: Sequence[Source] = (),
    stored: str = "fp32",
    about: str = "",
) -> str:
    """The card's text.

    Args:
        config, tokenizer: the model's.
        parameters: their number.
        trained: optimiser steps, and seconds of audio in them.
        averaged: whether the weights are an average over training.
        results: as ``read_results`` gives them; None where there are none.
        origin: the models of others that it was made from.
        stored: how the weights are.
        about: what it was trained on, and licences; where it is empty, the card asks for it.
    """
    encoder = resolve_size(config.encoder)
    title, head = _HEADS[config.head]
    transducer = config.transducer
    size = f" (LSTM {transducer.layers} x {transducer.hidden}, joint network {transducer.joint})"
    steps, seconds = trained
    decoding = f" --head {results['head']}" if results and len(config.heads) > 1 else ""
    if results and "lm_weight" in results:
        decoding += " \\\n        --lm LM.bin"
        decoding += "".join(f" --{name.replace('_', '-')} {results[name]:g}" for name in _weights(results))
    return _CARD.format(
        attention=config.attention,
        kind_of_head=title,
        head=head.format(size=size),
        onnx=_onnx(config.heads[0]),
        about=_attention(config),
        layers=encoder.layers,
        dim=encoder.dim,
        heads=encoder.heads,
        kernel=encoder.kernel,
        parameters=parameters,
        pieces=tokenizer.pieces,
        digest=tokenizer.digest,
        frame=1000 * config.framing.seconds,
        rate=SAMPLE_RATE,
        mels=config.frontend.mels,
        f_max=config.frontend.f_max,
        training=(
            "not by this recipe: see below"
            if origin and not steps
            else f"{steps:,} steps, {seconds:,.0f} s ({seconds / 3600:,.1f} h) of audio, repetitions included"
        ),
        kind="imported" if origin and not steps else _kind(averaged),
        stored=stored,
        origin=_origin(origin, steps, about) if origin else about or _UNKNOWN_ORIGIN,
        results=_results(results) if results else "No table was given when the model was exported.",
        decoding=decoding,
    )


def _attention(config: ModelConfig) -> str:
    """Each mechanism with its positions and options, and which layers have it where there are several."""
    parts = []
    for name, options in model_to_dict(config)["options"].items():
        positions = ATTENTIONS[name].POSITIONS[0] if config.positions == "auto" else config.positions
        parts.append(", ".join([name, f"positions {positions}", *(f"{o} {v}" for o, v in options.items())]))
    several = f"{config.attention} by layer, repeated; " if len(parts) > 1 else ""
    return several + "; ".join(parts)


def _kind(averaged: bool) -> str:
    return "averaged over training" if averaged else "as after that step, not averaged"


def _origin(origin: Sequence[Source], steps: int, about: str) -> str:
    tables = []
    for source in origin:
        rows = (f"| {_cell(name)} | {_cell(text)} |" for name, text in source.items())
        tables.append("\n".join(["| | |", "|---|---|", *rows]))
    made = _TAUGHT if all(source.get(USED) == TEACHER for source in origin) else _BEGUN
    return (_DERIVED if steps else _ORIGIN).format(
        made=made, sources="\n\n".join(tables), about=about or _UNKNOWN_TRAINING
    )


def read_results(folder: str | Path, checkpoint: Path, digest: str) -> dict[str, Any]:
    """The content of decode.py's wer.json.

    Raises:
        UserError: it is missing, is not one, or is of other weights than this checkpoint's, which have that
            digest (``digest_of_weights``).
    """
    path = Path(folder) / "wer.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; --results wants a folder that decode.py --out has written")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = results["weights"]
        _results(results)  # finds what else is missing
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a wer.json of this version's decode.py; decode again") from None
    if found != digest:
        raise UserError(f"{path}: of other weights than {checkpoint} has now; decode that one")
    return results


def _results(results: dict[str, Any]) -> str:
    lines = ["| split | LM | WER % | 95 % interval | CER % | sub | ins | del | words |", "|---" * 9 + "|"]
    for row in results["rows"]:
        low, high = row["ci95"]
        lines.append(
            f"| {_cell(row['split'])} | {_cell(row['lm'])} | {row['wer']:.2f} | {low:.1f} - {high:.1f} "
            f"| {row['cer']:.2f} | {row['sub']:d} | {row['ins']:d} | {row['del']:d} | {row['words']:d} |"
        )
    weights = ""
    if "lm_weight" in results:
        tuned = ", ".join(_cell(split) for split in results["tuned_on"])
        origin = f"tuned on {tuned}" if tuned else "given, not tuned"
        given = (f"{text} {results[name]:g}" for name, text in _weights(results).items())
        weights = f" {', '.join(given)}, {origin}."
        weights += " The LM is not in this folder."
    if scored := results.get("scored"):
        each = "; ".join(f"{_cell(split)} {_cell(style)}" for split, style in scored.items())
        weights += f" Words were scored as the references are written: {each}."
    return _ABOUT_TABLE.format(
        table="\n".join(lines),
        command=" ".join(results["command"].split()),
        checkpoint=_cell(results["checkpoint"]),
        weights=weights,
    )


def _weights(results: dict[str, Any]) -> dict[str, str]:
    """The weights of an LM's search, in words; of those that not every search has, where they count."""
    always = {"lm_weight": "LM weight", "word_score": "word score", "unknown_penalty": "unknown penalty"}
    some = {"ilm_weight": "ILM weight", "ctc_weight": "CTC weight"}
    return always | {name: text for name, text in some.items() if results.get(name)}


def _cell(text: str) -> str:
    """One line that cannot end a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")
