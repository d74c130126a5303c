"""What each accuracy lever costs in time: whole training steps with it beside steps without, in turns.

    python benchmarks/levers.py [--attention mala] [--size S] [--batch 32x15]

A step goes from waveforms (noise, all of full length) to updated weights, by the loss and options that
train.py uses. Medians, and the ratio to the step without any lever.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from common import make_parser
from step import PIECES, PIECES_PER_SECOND, hardware, timed
from torch.optim.swa_utils import get_ema_multi_avg_fn

from asr.attention import ATTENTIONS
from asr.attention.fused import set_mode
from asr.data.batches import Batch
from asr.device_options import add_device_options
from asr.errors import UserError, run_program
from asr.model.config import ModelConfig
from asr.model.conformer import SIZES, EncoderConfig
from asr.model.device import choose_device, choose_dtype
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig
from asr.training.losses import training_loss

LEVERS = {
    "none": {},
    "average 0.999": {"average": 0.999},
    "intermediate 0.3": {"intermediate": 0.3},
    "consistency 0.2": {"consistency": 0.2},
    "accumulate 2 (two batches)": {"accumulate": 2},
}


def make_step(args: argparse.Namespace, batch: Batch, dtype, options: dict) -> Callable[[], None]:
    """A training step as train.py makes it."""
    config, device = TrainingConfig(**{"average": 0.0, **options}), batch.waveforms.device.type
    torch.manual_seed(0)
    model = Model(ModelConfig(args.attention, encoder=EncoderConfig(args.size)), PIECES).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    average = [value.detach().clone() for value in model.state_dict().values()]
    weights = list(model.state_dict().values())

    def step() -> None:
        for _ in range(config.accumulate):
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = training_loss(model, batch, config).total
            (loss / config.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if config.average:
            with torch.no_grad():
                get_ema_multi_avg_fn(config.average)(average, weights, None)

    return step


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--attention", choices=ATTENTIONS, default="mala", help="(%(default)s)")
    add("--size", choices=SIZES, default="S", help="size of the encoder (%(default)s)")
    add("--batch", help="utterances x seconds (32x15 on a GPU, 8x5 on a CPU)")
    add("--rounds", type=int, help="timed steps of each (20 on a GPU, 7 on a CPU)")
    add_device_options(parser)
    args = parser.parse_args()
    device = choose_device(args.device).type
    dtype = choose_dtype(args.precision, torch.device(device), cpu_too=True)
    set_mode(args.kernels)
    args.batch = args.batch or ("32x15" if device == "cuda" else "8x5")
    args.rounds = args.rounds or (20 if device == "cuda" else 7)
    try:
        utterances, seconds = (int(part) for part in args.batch.split("x"))
    except ValueError:
        raise UserError(f"--batch {args.batch}: must look like 32x15, utterances by seconds") from None
    samples, pieces = seconds * SAMPLE_RATE, max(1, PIECES_PER_SECOND * seconds)
    batch = Batch(
        ids=[str(number) for number in range(utterances)],
        waveforms=torch.randint(-(2**12), 2**12, (utterances, samples), dtype=torch.int16, device=device),
        lengths=torch.full((utterances,), samples),
        targets=torch.randint(1, PIECES + 1, (utterances, pieces), device=device),
        target_lengths=torch.full((utterances,), pieces),
        texts=[""] * utterances,
    )
    steps = {name: make_step(args, batch, dtype, options) for name, options in LEVERS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.rounds + 1):
        # Every step draws the same speed and masks in a round.
        for name, step in steps.items():
            torch.manual_seed(number)
            taken = timed(step, device)
            if number > 0:  # the first one warms up
                times[name].append(taken)
    what = f"{dtype}, {args.attention}, size {args.size}, {args.batch} s"
    print(f"{hardware(device)}, torch {torch.__version__}, {what}")
    print(f"{'lever':28}{'ms a step':>10}{'ratio':>8}")
    plain = statistics.median(times["none"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:28}{1e3 * median:10.1f}{median / plain:8.2f}")


if __name__ == "__main__":
    run_program(main)
