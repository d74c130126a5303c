"""Whether a student's weights are its teacher's, found again: hidden units of feed-forwards beside theirs.

    python benchmarks/likeness.py --teacher TEACHER --students exp/mine/whole/checkpoints/last.ckpt

A module that learns what the same module of a teacher makes of the same inputs comes to have its weights, but
for the order of hidden units (RESULTS.md, "From nothing, with a teacher"). So every hidden unit, a row of the
first layer with the norm before it folded in, is compared with all of the teacher's, of any block. The table
has the median over units of the greatest absolute cosine, and the share of units where it is over 0.9, beside
random rows. The head's rows are compared with those of the same piece, where both have the same pieces.
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

FOUND = 0.9  # cosine from which a unit counts as found again


def hidden_units(feed_forward: nn.Sequential) -> Tensor:
    """Directions (units, D) of a feed-forward's first layer, in the frames that its norm has centred."""
    norm, first = feed_forward[0], next(part for part in feed_forward if isinstance(part, nn.Linear))
    weight = first.weight * norm.weight
    return normalize(weight - weight.mean(1, keepdim=True), dim=1)


def feed_forwards(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Hidden units of each feed-forward, by the name that the table has for it."""
    for index, block in enumerate(model.encoder.blocks):
        yield f"block {index}, first", hidden_units(block.feed_forward1)
        yield f"block {index}, second", hidden_units(block.feed_forward2)


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
    others = torch.cat([units for _, units in feed_forwards(teacher)])
    random = normalize(
        torch.randn(others.shape[1] * 4, others.shape[1], generator=torch.manual_seed(0)), dim=1
    )
    for path in args.students:
        student, other = load_model(path)
        if student.encoder.dim != teacher.encoder.dim or student.head is None:
            raise UserError(f"--students {path}: not a CTC model of the teacher's dimension")
        print(f"{path}\n{'feed-forward':<18}{'median cosine':>15}{f'over {FOUND:g} (%)':>15}")
        for name, units in [*feed_forwards(student), ("random rows", random)]:
            median, found = likeness(units, others)
            print(f"{name:<18}{median:>15.2f}{found:>15.1f}")
        if other.tokenizer.model == recipe.tokenizer.model:
            rows = torch.cosine_similarity(student.head.project.weight, teacher.head.project.weight)
            median, found = rows.median().item(), 100 * (rows > FOUND).double().mean().item()
            print(f"{'rows of the head':<18}{median:>15.2f}{found:>15.1f}")


if __name__ == "__main__":
    run_program(main)
