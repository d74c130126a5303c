"""A model as one ONNX file: encoder and CTC head, batch and length dynamic, checked against PyTorch.

    python -m asr.checkpoints.onnx_export exp/NAME/checkpoints/best.ckpt --out model.onnx

Input ``features`` (B, T, mels) fp32 and ``lengths`` (B,) int64 in frames; output ``log_probs``
(B, N, classes) fp32, N = ceil(T / subsampling), and ``output_lengths`` (B,) int64. Frames beyond a length may
hold anything, and mean nothing in the output. Features are those of asr/model/frontend.py in
evaluation mode, unless the metadata has ``features`` nemo (asr/model/nemo_frontend.py): 16 kHz samples
in [-1, 1]; frames of 400 samples every 160 under a periodic Hann window, in the middle of 512 samples that
lie wholly inside the utterance (no padding at its ends); power spectrum of 512 points; HTK mel filters
without area normalisation from 0 Hz to f_max; natural logarithm of at least 1e-8; each mel bin less its mean
over the utterance and divided by its deviation, or by 0.5 if that is more.

With --waveforms the file does this too: ``waveforms`` (B, S) fp32 at 16 kHz, S at least 512, and ``lengths``
in samples, in the place of the features.

A transducer becomes a folder of three graphs instead, as sherpa-onnx loads them: see
asr/checkpoints/onnx_transducer.py.

The file's metadata says what else a program must know: see ``metadata``. Unlike asr/model/long.py, the graph
takes an utterance at once, so that memory grows with its length, and softmax attention's with its square.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from asr.checkpoints.checkpoint import Recipe, load_model
from asr.errors import UserError, run_program
from asr.files import atomic_write
from asr.model.classes import BLANK
from asr.model.frames import FFT, HOP, SAMPLE_RATE, WINDOW
from asr.model.recogniser import Model

OPSET = 20
TOLERANCE = 1e-3  # nats; rounding in fp32 gives about 1e-5
LARGEST_FILE = 2**31 - 2**20  # bytes, of a file in protobuf's format, less some for the graph
INPUTS, OUTPUTS = {False: "features", True: "waveforms"}, ["log_probs", "output_lengths"]
# Frames of each utterance in a batch: the one to trace, and those to compare, some shorter, some longer.
TRACED = (97, 50)
COMPARED = (
    (1,),
    (2,),
    (5, 1),
    (4, 3, 2, 1),
    (38,),
    (40, 17, 33),
    TRACED,
    (203, 203, 1, 64, 150),
    (1601, 300),
)


class Graph(nn.Module):
    """What is exported: features, or waveforms, and lengths to log-probabilities and lengths."""

    def __init__(self, model: Model, waveforms: bool) -> None:
        super().__init__()
        self.model = model
        self.waveforms = waveforms

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, mels) and frames (B,), or (B, S) and samples (B,), to (B, N, classes) and frames (B,)."""
        if self.waveforms:
            return self.model(inputs, lengths)
        x, lengths = self.model.encoder(inputs, lengths)
        return self.model.head(x), lengths

    def example(self, frames: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """A batch of random input, not zero beyond the lengths, whose utterances have so many frames."""
        generator = torch.Generator().manual_seed(sum(frames))
        lengths = torch.tensor(frames)
        if not self.waveforms:
            shape = len(frames), max(frames), self.model.frontend.config.mels
            return torch.randn(shape, generator=generator), lengths
        # As many samples as give no frame more, and some fewer.
        lengths = lengths * HOP + FFT - 1 - sum(self.model.framing.pads)
        lengths -= torch.randint(HOP, lengths.shape, generator=generator)
        lengths.clamp_(min=1)
        return 0.1 * torch.randn(len(frames), int(lengths.max()), generator=generator), lengths


def to_onnx(model: Model, recipe: Recipe, waveforms: bool = False) -> bytes:
    """The model as the content of an ONNX file; not checked: see ``largest_difference``.

    Args:
        model: in evaluation mode, on the CPU.
        recipe: of the same model, for the metadata.
        waveforms: whether the front end is in the graph.

    Raises:
        UserError: onnx or onnxscript is not installed, or the model is too large for one file, or of a kind
            that no graph is made of.
    """
    check_exportable(model, recipe)
    batch, name = {0: "batch"}, INPUTS[waveforms]
    shapes = {name: batch | {1: "samples" if waveforms else "frames"}, "lengths": batch}
    graph = Graph(model, waveforms)
    return exported(graph, graph.example(TRACED), shapes, OUTPUTS, metadata(recipe, waveforms))


def check_exportable(model: Model, recipe: Recipe) -> None:
    """Raise UserError where packages are not installed or no graph is made of such a model."""
    if recipe.model.frontend.normalise == "running":
        raise UserError("ONNX: no graph is made of running features (--frontend.normalise running)")
    if any(getattr(chosen, "forget", "none") != "none" for chosen in recipe.model.options.values()):
        raise UserError("ONNX: no graph is made of attention that forgets")
    need("onnx", "onnxscript")
    if 4 * sum(p.numel() for p in model.parameters()) > LARGEST_FILE:
        raise UserError("the model has more than 2 GiB of weights, which one ONNX file cannot hold")


def exported(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    shapes: dict[str, dict[int, str]],
    outputs: list[str],
    facts: dict[str, str],
) -> bytes:
    """A module as the content of an ONNX file.

    Args:
        example: its arguments, to trace it with.
        shapes: the arguments' names, and of each the axes that may have any size, by number, with a name.
        outputs: names of what it returns.
        facts: the file's metadata.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    # It tells what it cannot export of packages that are not here.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    dynamic = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in shapes.values())
    with torch.no_grad():
        program = torch.export.export(graph, example, dynamic_shapes=dynamic, strict=False)
        made = torch.onnx.export(
            program,
            input_names=list(shapes),
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    ClearMetadataAndDocStringPass()(made.model)  # stack traces, with this machine's paths
    made.model.metadata_props.update(facts)
    return made.model_proto.SerializeToString()


def metadata(recipe: Recipe, waveforms: bool) -> dict[str, str]:
    """What the file says about itself beside the graph. Numbers are in decimal, lists in JSON."""
    frontend, tokenizer = recipe.model.frontend, recipe.tokenizer
    facts: dict[str, Any] = {
        "input": INPUTS[waveforms],
        "sample_rate": SAMPLE_RATE,  # Hz
        "hop": HOP,  # samples, as are the next two
        "window": WINDOW,
        "fft": FFT,
        "features": frontend.kind,
        "edges": recipe.model.framing.edges,  # asr/model/frames.py
        "mels": frontend.mels,
        "f_max": frontend.f_max,  # Hz
        "subsampling": recipe.model.framing.factor,  # features a frame of output
        "blank": BLANK,
        "pieces": tokenizer.pieces,
        # In the order of the classes, the blank left out; U+2581 begins a word.
        "vocabulary": json.dumps([tokenizer.piece(i + 1) for i in range(tokenizer.pieces)]),
        "tokenizer": tokenizer.digest,
        "attention": recipe.model.attention,
    }
    return {name: str(value) for name, value in facts.items()}


def largest_difference(data: bytes, model: Model, waveforms: bool = False) -> float:
    """The largest difference in nats between onnxruntime and PyTorch, over ``COMPARED``.

    Infinite where lengths or shapes differ, or a value is not a number.
    """
    need("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    graph = Graph(model, waveforms)
    largest = 0.0
    for frames in tqdm(COMPARED, desc="comparing", unit="batch", leave=False, disable=None):
        inputs, lengths = graph.example(frames)
        with torch.inference_mode():
            wanted, wanted_lengths = (item.numpy() for item in graph(inputs, lengths))
        fed = {INPUTS[waveforms]: inputs.numpy(), "lengths": lengths.numpy()}
        found, found_lengths = session.run(OUTPUTS, fed)
        if found.shape != wanted.shape or not np.array_equal(found_lengths, wanted_lengths):
            return float("inf")
        largest = max(largest, difference_within(found, wanted, wanted_lengths))
    return largest


def difference_within(found: np.ndarray, wanted: np.ndarray, lengths: np.ndarray) -> float:
    """The largest difference of two (B, N, ...) over each one's frames, lengths (B,); infinite for NaN."""
    differences = [
        np.abs(one[:n] - other[:n]).max() for one, other, n in zip(found, wanted, lengths, strict=True)
    ]
    return float(max(differences)) if np.isfinite(differences).all() else float("inf")


def need(*packages: str) -> None:
    """Raise UserError, with advice, unless these can be imported."""
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise UserError(
                f"{package} is not installed; in this project's folder: pip install -e '.[onnx]' "
                "--constraint constraints.txt"
            ) from None


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, export, compare, and write the file if it is right."""
    from asr.checkpoints.onnx_transducer import export_transducer  # which takes its tools from here

    parser = argparse.ArgumentParser(
        prog="python -m asr.checkpoints.onnx_export",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="a checkpoint of train.py, or an exported folder")
    add(
        "--out",
        type=Path,
        required=True,
        help="file to write, such as model.onnx; of a transducer, folder to make",
    )
    add(
        "--head",
        choices=("ctc", "transducer"),
        help="of a model that has both, the one to export (default: transducer, which decodes)",
    )
    add("--waveforms", action="store_true", help="put the front end into the graph: 16 kHz samples in")
    add(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference in log-probability from PyTorch, in nats (%(default)s);\n"
        "above it no file is written",
    )
    args = parser.parse_args(argv)
    need("onnx", "onnxscript", "onnxruntime")  # before minutes of work
    model, recipe = load_model(args.checkpoint)
    head = recipe.model.heads[0] if args.head is None else args.head
    if head not in recipe.model.heads:
        raise UserError(f"--head {head}: {args.checkpoint} has {' and '.join(recipe.model.heads)}")
    if head == "transducer":
        if args.waveforms:
            raise UserError("--waveforms: a transducer's graphs take features, as sherpa-onnx gives them")
        return export_transducer(args.out, model, recipe, args.tolerance)
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: a folder; name a file in it")
    print(f"exporting {recipe.model.attention}, {len(model.encoder.blocks)} blocks (some seconds a block)")
    data = to_onnx(model, recipe, args.waveforms)
    difference = largest_difference(data, model, args.waveforms)
    batches = f"{len(COMPARED)} batches of 1 to {max(map(max, COMPARED))} frames"
    print(f"largest difference from PyTorch over {batches}: {difference:.2g} nats")
    if not difference <= args.tolerance:
        raise UserError(
            f"--out {args.out}: not written: {difference:.2g} nats from PyTorch, more than --tolerance "
            f"{args.tolerance:g}"
        )
    atomic_write(args.out, data)
    print(f"{args.out}: {len(data) / 2**20:.1f} MiB, opset {OPSET}")


if __name__ == "__main__":
    run_program(main)
