"""MALA's three forms in numbers: how large outputs are, what rows sum to, and what precision costs.

    python benchmarks/forms.py [--positions rotary]

q, k, v are normal with deviation 1 (4 heads of 36). "rms" is of the output; row sums, and negative weights in
per cent, are those of the explicit weights (not formed beyond 3000 frames); errors are relative to float64,
of the core computed wholly in that precision.
"""

import torch
from common import make_parser
from torch import Tensor

from asr.attention import ATTENTIONS, Frames
from asr.attention.mala import MalaOptions
from asr.errors import run_program

DIM, HEADS = 144, 4
FORMS = ("eq13", "released", "centred")


def core(module, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
    """The core in its inputs' precision: SelfAttention.core would raise it to fp32."""
    return module.attend(q, module.summarise(q, k, v, frames, None), frames)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|."""
    return ((found.double() - exact).norm() / exact.norm()).item()


@torch.inference_mode()
def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    choices = ATTENTIONS["mala"].POSITIONS
    parser.add_argument("--positions", choices=choices, nargs="+", default=choices, help="(%(default)s)")
    args = parser.parse_args()
    print(
        f"{'positions':10} {'form':9} {'N':>6} {'rms':>9} {'rows':>8} {'neg. %':>7} {'fp32':>8} {'bf16':>8}"
    )
    for positions in args.positions:
        for n in (100, 800, 3_000, 50_000):
            torch.manual_seed(0)
            frames = Frames.whole(torch.ones(1, n, dtype=torch.bool))
            q, k, v = (torch.randn(1, HEADS, n, DIM // HEADS, dtype=torch.float64) for _ in range(3))
            for form in FORMS:
                module = ATTENTIONS["mala"](DIM, HEADS, positions, MalaOptions(form=form))
                exact = core(module, q, k, v, frames)
                row = f"{positions:10} {form:9} {n:6} {exact.square().mean().sqrt().item():9.2f}"
                if n <= 3_000:
                    weights = module.weights(q, k, frames)
                    negative = 100 * (weights < 0).double().mean().item()
                    row += f" {weights.sum(-1).mean().item():8.2f} {negative:7.1f}"
                else:
                    row += f" {'-':>8} {'-':>7}"
                for dtype in (torch.float32, torch.bfloat16):
                    low = (x.to(dtype) for x in (q, k, v))
                    row += f" {relative_error(core(module, *low, frames), exact):8.1e}"
                print(row, flush=True)


if __name__ == "__main__":
    run_program(main)
