"""Which part of a student costs what: WER of its teacher with some modules of the student.

    python benchmarks/parts.py --teacher TEACHER --student exp/modules/checkpoints/last.ckpt --data DATA \\
        --split dev --every 14

For a student whose modules learnt side by side (recipes/linearise/modules.yaml), each from the teacher's
input to it: its modules and the teacher's fit together. Blocks come in as many groups as --groups says, then
all of them; "whole" is the student. Every --every'th utterance of the split is recognised greedily. The error
of the stream is what goes into the first block of a group, less the teacher's, over what varies in it
(asr/training/distillation.py, stream_error), in the student's own pass.
"""

import copy
import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from common import make_parser
from torch import Tensor

from asr.checkpoints.checkpoint import check_tokenizer, load_model
from asr.data.batches import read_samples
from asr.data.manifest import Utterance, read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.greedy import greedy
from asr.errors import UserError, run_program
from asr.model.frames import valid_frames
from asr.model.frontend import as_float
from asr.model.recogniser import Model
from asr.scoring.errors import word_error_rate
from asr.training.distances import stream_error
from asr.training.distillation import features_kind
from asr.training.unit_streams import unit_streams

BATCH = 8  # utterances at a time


def features_of(model: Model, utterances: list[Utterance]) -> list[tuple[Tensor, Tensor]]:
    """Features (B, T, F) and lengths (B,) of all utterances, in batches."""
    found = []
    for start in range(0, len(utterances), BATCH):
        waveforms = [torch.from_numpy(read_samples(item)) for item in utterances[start : start + BATCH]]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        found.append(model.frontend.features(as_float(padded), lengths))
    return found


def word_errors(model: Model, batches: Iterable, texts: list[str], tokenizer: Tokenizer) -> float:
    """WER in percent, greedy."""
    hypotheses = []
    for features, lengths in batches:
        x, frames = model.encoder(features, lengths)
        hypotheses += [tokenizer.decode(classes) for classes in greedy(model.head(x), frames)]
    return word_error_rate(texts, hypotheses)


def exchanged(teacher: Model, student: Model, subsampling: bool, blocks: range, head: bool) -> Model:
    """The teacher with parts of the student."""
    model = copy.deepcopy(teacher)
    if subsampling:
        model.encoder.subsampling = student.encoder.subsampling
    for index in blocks:
        model.encoder.blocks[index] = student.encoder.blocks[index]
    if head:
        model.head = student.head
    return model


def errors_of_stream(teacher: Model, student: Model, batches: Iterable) -> list[float]:
    """Relative error before the first block and after each, over all utterances."""
    total, frames = 0.0, 0
    for features, lengths in batches:
        x, wanted = (list(model.encoder.residual_stream(features, lengths)) for model in (student, teacher))
        valid = valid_frames(teacher.encoder.subsampling(features, lengths)[1], x[0].shape[1])
        found = torch.stack([stream_error(*pair, valid) for pair in zip(x, wanted, strict=True)])
        total, frames = total + (found * valid.sum(1)).sum(1), frames + valid.sum()
    return (total / frames).tolist()


@torch.no_grad()
def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="a CTC model")
    add("--student", type=Path, required=True, help="one of the same sizes and features")
    add("--data", type=Path, required=True, help="folder of manifests")
    add("--split", default="dev", help="(%(default)s)")
    add("--every", type=int, default=14, help="utterance of the split (%(default)s)")
    add("--groups", type=int, default=4, help="of blocks (%(default)s)")
    args = parser.parse_args()
    (teacher, recipe), (student, other) = load_model(args.teacher), load_model(args.student)
    check_tokenizer(f"--student {args.student}", other, recipe.tokenizer)
    layers = len(teacher.encoder.blocks)
    sizes = [(len(model.encoder.blocks), model.encoder.dim) for model in (teacher, student)]
    if teacher.head is None or student.head is None or sizes[0] != sizes[1]:
        raise UserError(f"--student {args.student}: not a CTC model of the teacher's sizes")
    if features_kind(recipe.model) != features_kind(other.model):
        raise UserError(f"--student {args.student}: its features are not the teacher's")
    utterances = list(read_manifest(args.data / f"{args.split}.jsonl"))[:: args.every]
    texts = [item.text for item in utterances]
    batches = features_of(teacher, utterances)
    unit_streams(teacher, *batches[0])  # the scale that students learn
    edges = [round(i * layers / args.groups) for i in range(args.groups + 1)]
    stream = errors_of_stream(teacher, student, batches)
    none = range(0)
    rows = [("none", exchanged(teacher, student, False, none, False), None)]
    rows += [("subsampling", exchanged(teacher, student, True, none, False), None)]
    for start, stop in itertools.pairwise(edges):
        part = exchanged(teacher, student, False, range(start, stop), False)
        rows.append((f"blocks {start} to {stop - 1}", part, stream[start]))
    rows += [("all blocks", exchanged(teacher, student, False, range(layers), False), None)]
    rows += [("head", exchanged(teacher, student, False, none, True), stream[-1])]
    rows += [("all but the head", exchanged(teacher, student, True, range(layers), False), None)]
    rows += [("whole", student, None)]
    words = sum(len(text.split()) for text in texts)
    print(f"{len(utterances)} utterances of {args.split}, {words} words, greedy")
    print(f"{'of the student':20}{'WER':>7}  error of what goes in")
    for name, model, error in rows:
        rate = word_errors(model, batches, texts, recipe.tokenizer)
        print(f"{name:20}{rate:7.1f}{'' if error is None else f'  {error:.3f}'}", flush=True)


if __name__ == "__main__":
    run_program(main)
