"""Whether a student's weights are its teacher's, found again: hidden units of its modules beside theirs.

    python benchmarks/likeness.py --teacher TEACHER --students exp/mine/whole/checkpoints/last.ckpt

A module that learns what the same module of a teacher makes of the same inputs comes to have its weights, but
for the order of hidden units (RESULTS.md, "From nothing, with a teacher"). So every hidden unit of
feed-forwards and convolutions, a row of the first layer with the norm before it folded in, is compared with
all of the teacher's feed-forwards or convolutions, of any block. The table has the median over units of the
greatest absolute cosine, and the share of units where it is over 0.9, beside random rows. The head's rows are
compared with those of the same piece, where both have the same pieces.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from common import make_parser
from torch import Tensor, nn
from torch.nn.functional import normalize

from asr.checkpoints.checkpoint import load_model
from asr.errors import UserError, run_program
from asr.model.recogniser import Model
from asr.training.distillation import kind_of

FOUND = 0.9  # cosine from which a unit counts as found again


def hidden_units(module: nn.Module) -> Tensor:
    """Directions (units, D) of a module's first layer, in the frames that its norm has centred."""
    norm, first = (
        next(part for part in module.children() if isinstance(part, kind))
        for kind in (nn.LayerNorm, nn.Linear)
    )
    weight = first.weight * norm.weight
    return normalize(weight - weight.mean(1, keepdim=True), dim=1)


def units_of(model: Model) -> Iterator[tuple[int, str, Tensor]]:
    """Hidden units (units, D) of each module that has some, by its block and name."""
    for index, block in enumerate(model.encoder.blocks):
        for name in ("feed_forward1", "convolution", "feed_forward2"):
            yield index, name, hidden_units(block.get_submodule(name))


def by_kind(model: Model) -> dict[str, Tensor]:
    """All hidden units (units, D) of a kind of module."""
    kinds: dict[str, list[Tensor]] = {}
    for _, name, units in units_of(model):
        kinds.setdefault(kind_of(name), []).append(units)
    return {kind: torch.cat(units) for kind, units in kinds.items()}


def likeness(units: Tensor, others: Tensor) -> tuple[float, float]:
    """Median of each unit's (U, D) greatest cosine with others (M, D), and percent of them over FOUND."""
    best = (units @ others.T).abs().amax(1)
    return best.median().item(), 100 * (best > FOUND).double().mean().item()


@torch.no_grad()
def main() -> None:
    """Parse the command line and print a table a student."""
    parser = make_parser(__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="a CTC model")
    parser.add_argument("--students", type=Path, nargs="+", required=True, help="models of its dimension")
    args = parser.parse_args()
    teacher, recipe = load_model(args.teacher)
    if teacher.head is None:
        raise UserError(f"--teacher {args.teacher}: not a CTC model")
    others = by_kind(teacher)
    dim = teacher.encoder.dim
    random = normalize(torch.randn(dim * 4, dim, generator=torch.manual_seed(0)), dim=1)
    for path in args.students:
        student, other = load_model(path)
        if student.encoder.dim != dim or student.head is None:
            raise UserError(f"--students {path}: not a CTC model of the teacher's dimension")
        print(f"{path}\n{'hidden units of':<28}{'median cosine':>15}{f'over {FOUND:g} (%)':>15}")
        rows = [(f"block {index}, {name}", name, units) for index, name, units in units_of(student)]
        rows += [(f"all, {kind}", kind, units) for kind, units in by_kind(student).items()]
        rows += [(f"random rows, {kind}", kind, random) for kind in others]
        for title, name, units in rows:
            median, found = likeness(units, others[kind_of(name)])
            print(f"{title:<28}{median:>15.2f}{found:>15.1f}")
        if other.tokenizer.model == recipe.tokenizer.model:
            best = torch.cosine_similarity(student.head.project.weight, teacher.head.project.weight)
            median, found = best.median().item(), 100 * (best > FOUND).double().mean().item()
            print(f"{'rows of the head':<28}{median:>15.2f}{found:>15.1f}")


if __name__ == "__main__":
    run_program(main)
