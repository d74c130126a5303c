"""A transducer as three ONNX graphs in the layout of sherpa-onnx's NeMo transducers: a folder with

    encoder.onnx   audio_signal (B, mels, T) fp32, length (B,) -> outputs (B, D, N), encoded_lengths (B,)
    decoder.onnx   targets (B, 1) int32, target_length (B,) int32, states.h, states.c (layers, B, hidden)
                   -> outputs (B, hidden, 1), prednet_lengths (B,), next.h, next.c
    joiner.onnx    encoder_outputs (B, D, T), decoder_outputs (B, hidden, U) -> outputs (B, T, U, classes)
    tokens.txt     a piece and its class a line, the blank "<blk>" last

Classes are NeMo's, the blank last and a TDT model's durations behind it; the blank is also what comes before
the first piece. What sherpa-onnx 2.0.1 makes of it, as --model-type nemo_transducer (benchmarks/sherpa.py):

inputs, outputs   by their order; lengths of the encoder int64, of the prediction network int32
metadata          the encoder's only: vocab_size (without the blank), subsampling_factor, normalize_type,
                  pred_rnn_layers, pred_hidden, feat_dim; "tdt" in url says that there are durations
durations         it takes them to be 0, 1, 2, ...: a model with others is refused here
pieces on a frame 10 at most, with durations 5, whatever ``most`` of the model's configuration
features          NeMo's, nearly: another window, 5 ms later, and no filters above 7.6 kHz. A model with
                  --frontend.kind mel wants its own (asr/checkpoints/onnx_export.py says which)
operators         those of ONNX Runtime 1.28, which has no cosine in fp64 (asr/attention/positions.py)
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr.checkpoints.checkpoint import Recipe
from asr.checkpoints.onnx_export import (
    OPSET,
    TRACED,
    check_exportable,
    difference_within,
    exported,
    metadata,
    need,
)
from asr.errors import UserError
from asr.files import atomic_folder
from asr.model.recogniser import Model
from asr.model.transducer import Transducer

ENCODER, DECODER, JOINER, TOKENS = "encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"
_COMPARED = ((1,), (5, 1), TRACED, (203, 203, 1, 64, 150))  # frames of each utterance in a batch
_STEPS = 5  # of the prediction network


class _Encoder(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.encoder(features.transpose(1, 2), lengths)
        return x.transpose(1, 2), lengths


class _Decoder(nn.Module):
    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.prediction = transducer.prediction
        self.pieces = self.prediction.embed.num_embeddings - 1

    def forward(self, targets: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        classes = (targets.long() + 1) % (self.pieces + 1)  # the blank is 0 here
        x, (h, c) = self.prediction.step(classes, (h, c))
        return x.transpose(1, 2), lengths + 0, h, c  # an input cannot be an output


class _Joiner(nn.Module):
    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.joint, pieces = transducer.joint, transducer.prediction.embed.num_embeddings - 1
        classes = self.joint.project.out_features
        self.register_buffer("order", torch.tensor([*range(1, pieces + 1), 0, *range(pieces + 1, classes)]))

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        encoded = self.joint.encoder(encoded.transpose(1, 2))[:, :, None]
        predicted = self.joint.prediction(predicted.transpose(1, 2))[:, None]
        return self.joint(encoded, predicted)[..., self.order]


def transducer_graphs(model: Model, recipe: Recipe) -> dict[str, bytes]:
    """The files of the folder by their names, not checked: see ``largest_logit_difference``.

    Raises:
        UserError: sherpa-onnx could not read the model's durations; see ``check_exportable`` too.
    """
    check_exportable(model, recipe)
    config = recipe.model.transducer
    if config.durations != tuple(range(len(config.durations))):
        raise UserError(
            f"ONNX: durations {list(config.durations)}: sherpa-onnx takes them to be 0, 1, 2, ..."
        )
    batch, tokenizer = {0: "batch"}, recipe.tokenizer
    facts = metadata(recipe, False) | {
        "input": "audio_signal",
        "blank": str(tokenizer.pieces),
        "vocab_size": str(tokenizer.pieces),  # without the blank
        "normalize_type": "per_feature",
        "pred_rnn_layers": str(config.layers),
        "pred_hidden": str(config.hidden),
        "subsampling_factor": str(recipe.model.framing.factor),
        "model_type": "EncDecRNNTBPEModel",
        "feat_dim": str(recipe.model.frontend.mels),
        "url": "tdt" if config.durations else "",
    }
    features, lengths = (
        torch.randn(len(TRACED), recipe.model.frontend.mels, max(TRACED)),
        torch.tensor(TRACED),
    )
    state = torch.zeros(config.layers, 3, config.hidden)
    one = torch.zeros(3, 1, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
    files = {
        ENCODER: exported(
            _Encoder(model),
            (features, lengths),
            {"audio_signal": batch | {2: "frames"}, "length": batch},
            ["outputs", "encoded_lengths"],
            facts,
        ),
        DECODER: exported(
            _Decoder(model.transducer),
            (*one, state, state.clone()),
            {"targets": batch, "target_length": batch, "states.h": {1: "batch"}, "states.c": {1: "batch"}},
            ["outputs", "prednet_lengths", "next.h", "next.c"],
            {},
        ),
        JOINER: exported(
            _Joiner(model.transducer),
            (torch.randn(3, model.encoder.dim, 4), torch.randn(3, config.hidden, 5)),
            {"encoder_outputs": batch | {2: "frames"}, "decoder_outputs": batch | {2: "labels"}},
            ["outputs"],
            {},
        ),
    }
    pieces = [tokenizer.piece(number + 1) for number in range(tokenizer.pieces)]
    lines = [f"{piece} {number}\n" for number, piece in enumerate([*pieces, "<blk>"])]
    return files | {TOKENS: "".join(lines).encode()}


@torch.inference_mode()
def largest_logit_difference(files: dict[str, bytes], model: Model) -> float:
    """The largest difference of logits between the graphs, one after the other, and PyTorch.

    Infinite where lengths differ, or a value is not a number.
    """
    need("onnxruntime")
    from onnxruntime import InferenceSession

    encoder, decoder, joiner = (
        InferenceSession(files[name], providers=["CPUExecutionProvider"])
        for name in (ENCODER, DECODER, JOINER)
    )
    names = [item.name for item in decoder.get_inputs()]
    transducer, largest = model.transducer, 0.0
    blank = transducer.prediction.embed.num_embeddings - 1
    for frames in _COMPARED:
        generator = torch.Generator().manual_seed(sum(frames))
        features = torch.randn(len(frames), max(frames), model.frontend.config.mels, generator=generator)
        fed = {"audio_signal": features.transpose(1, 2).numpy(), "length": np.array(frames)}
        found, found_lengths = encoder.run(None, fed)
        x, lengths = model.encoder(features, torch.tensor(frames))
        if not np.array_equal(found_lengths, lengths.numpy()):
            return float("inf")
        said = torch.randint(blank, (len(frames), _STEPS), generator=generator)
        targets = torch.cat((torch.full((len(frames), 1), blank), said), 1).int().numpy()
        state = [np.zeros((transducer.config.layers, len(frames), transducer.config.hidden), np.float32)] * 2
        steps = []
        for target in targets.T:
            fed = [target[:, None], np.ones(len(frames), np.int32), *state]
            step, _, *state = decoder.run(None, dict(zip(names, fed, strict=True)))
            steps.append(step)
        fed = {"encoder_outputs": found, "decoder_outputs": np.concatenate(steps, 2)}
        [logits] = joiner.run(None, fed)
        predicted = transducer.prediction(said + 1).transpose(1, 2)
        wanted = _Joiner(transducer)(x.transpose(1, 2), predicted).numpy()
        largest = max(largest, difference_within(logits, wanted, lengths.numpy()))
    return largest


def export_transducer(out: Path, model: Model, recipe: Recipe, tolerance: float) -> None:
    """Export, compare, and make the folder if the graphs are right.

    Raises:
        UserError: they differ by more than ``tolerance``, ``out`` exists, or see ``transducer_graphs``.
    """
    print(f"exporting {recipe.model.attention}, {len(model.encoder.blocks)} blocks, and the transducer")
    files = transducer_graphs(model, recipe)
    difference = largest_logit_difference(files, model)
    print(f"largest difference of logits from PyTorch over {len(_COMPARED)} batches: {difference:.2g}")
    if not difference <= tolerance:
        raise UserError(
            f"--out {out}: not written: {difference:.2g} from PyTorch, more than --tolerance {tolerance:g}"
        )
    with atomic_folder(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    print(f"{out}: {', '.join(files)}, {sum(map(len, files.values())) / 2**20:.1f} MiB, opset {OPSET}")
    if recipe.model.frontend.kind != "nemo":
        print("sherpa-onnx computes NeMo's features; this model wants its own (see the module's --help)")
