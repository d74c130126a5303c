"""The attention core alone: fused kernels, eager and compiled PyTorch, in turns.

    python benchmarks/attention.py                          # lengths 100 to 100 000 and three usual shapes
    python benchmarks/attention.py --shapes 64x375 1x15000 --attention mala softmax:rotary softmax:relative
    python benchmarks/attention.py --shapes 64x375 --shortest 0.5       # a batch with padding

Shapes are BATCHxFRAMES at size S (4 heads of 36); with --shortest, utterances' lengths run evenly from that
share of the frames to all of them. Mechanisms are named with their positions after a colon (rotary where they
take them). On a GPU inputs are bf16, as training gives them, and softmax's fused core is PyTorch's flash
kernel, or the memory-efficient one for relative positions; on a CPU all are fp32 and there are no fused
kernels. "softmax torch", the yardstick, is PyTorch's own choice of kernel, without positions or mask. "of
copy" is the share of the bandwidth of a large copy, measured on the spot, at which a fused core moves what
it must: q, k, v and the output forward, 11 such arrays with the gradients. "eager/" and "softmax/" say how
many times as long those take. Medians; run it on an idle machine.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import make_parser
from step import hardware
from torch import Tensor

from asr.attention import ATTENTIONS, Frames, SelfAttention
from asr.attention.fused import set_mode
from asr.device_options import add_device_options
from asr.errors import UserError, run_program
from asr.model.device import choose_device, choose_dtype
from asr.model.frames import valid_frames

DIM, HEADS = 144, 4
LENGTHS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
NAMES = ["linear", "inline", "mala", "softmax", "softmax:relative"]
FRAMES = 24_000  # of a batch, where the length allows for several utterances
USUAL = ("64x375", "64x1500", "1x15000")
MOST_PRODUCTS = {"cuda": 2e10, "cpu": 3e8}  # B N^2 beyond which softmax is left out


class Clock:
    """Times tasks in turns until each has run for ``budget`` seconds or ``rounds`` times."""

    def __init__(self, device: str, rounds: int, budget: float = 1.5) -> None:
        self.device, self.rounds, self.budget = device, rounds, budget

    def medians(self, tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds by task; one that runs out of memory, or is refused, is left out."""
        times: dict[str, list[float]] = {}
        for name, task in tasks.items():
            try:
                for _ in range(2):  # compile, and fill the allocator's cache
                    self.once(task)
                times[name] = []
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            except UserError as error:  # a fused core that does not agree with the eager one
                print(f"{name}: {error}", flush=True)
        for _ in range(self.rounds):
            for name, taken in times.items():
                if sum(taken) < self.budget:
                    taken.append(self.once(tasks[name]))
        return {name: statistics.median(taken) for name, taken in times.items()}

    def once(self, task: Callable[[], object]) -> float:
        """Seconds of one run."""
        if self.device == "cpu":
            started = time.perf_counter()
            task()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        task()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3


def copy_bandwidth(clock: Clock) -> float:
    """Bytes per second that a large copy reads and writes."""
    x = torch.empty(2**28 if clock.device == "cuda" else 2**25, device=clock.device)
    y = torch.empty_like(x)
    return 2 * x.numel() * 4 / clock.medians({"copy": lambda: y.copy_(x)})["copy"]


def make(name: str) -> SelfAttention:
    """A mechanism by NAME or NAME:POSITIONS."""
    attention, _, positions = name.partition(":")
    if attention not in ATTENTIONS:
        raise UserError(f"--attention {name}: choose from {', '.join(ATTENTIONS)}")
    default = "rotary" if "rotary" in ATTENTIONS[attention].POSITIONS else "auto"
    return ATTENTIONS[attention](DIM, HEADS, positions or default)


def cores(name: str, frames: Frames, dtype) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """One mechanism's core by implementation, each from q, k, v (B, N, H, d)."""
    module = make(name).to(frames.valid.device)

    def run(core, mode: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        set_mode(mode)
        return core(*(x.transpose(1, 2) for x in (q, k, v)), frames)

    torch._dynamo.reset()  # it compiles a function for eight shapes, and then no more
    compiled = torch.compile(module.core, dynamic=False)
    found = {
        "eager": lambda *qkv: run(module.core, "eager", *qkv),
        "compiled": lambda *qkv: run(compiled, "eager", *qkv),
    }
    set_mode("auto")
    if module.eager_because(module.example(1, 1, dtype)[0]) is None:
        found["fused"] = lambda *qkv: run(module.core, "fused", *qkv)
    return found


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's own, without positions or mask."""
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))


def measure(clock: Clock, args: argparse.Namespace, batch: int, n: int, copy: float) -> None:
    """Print the rows of one shape."""
    dtype = choose_dtype(args.precision, torch.device(clock.device))
    shape = (batch, n, HEADS, DIM // HEADS)
    leaves = [torch.randn(shape, device=clock.device, dtype=dtype, requires_grad=True) for _ in range(3)]
    dy = torch.randn(shape, device=clock.device).transpose(1, 2)
    gradients = {kind: dy.to(kind) for kind in (dtype, torch.float32)}  # eager cores return fp32
    lengths = (n * torch.linspace(args.shortest, 1, batch, device=clock.device)).long()
    lengths[-1] = n
    frames = Frames.whole(valid_frames(lengths, n))
    quadratic = batch * n * n <= MOST_PRODUCTS[clock.device]
    implementations = {
        f"{name} {how}": core
        for name in args.attention
        if quadratic or not name.startswith("softmax")
        for how, core in cores(name, frames, dtype).items()
        if not (how == "compiled" and args.no_compile)
    }
    if quadratic:
        implementations["softmax torch"] = softmax

    def forward(core) -> None:
        with torch.no_grad():
            core(*leaves)

    def both(core) -> None:
        y = core(*leaves)
        torch.autograd.grad(y, leaves, gradients[y.dtype])

    forwards = clock.medians({name: lambda c=core: forward(c) for name, core in implementations.items()})
    boths = clock.medians({name: lambda c=core: both(c) for name, core in implementations.items()})
    size = batch * n * DIM * dtype.itemsize
    for name in implementations:
        row = f"{f'{batch}x{n}':>10} {name:25}"
        for times, arrays in ((forwards, 4), (boths, 11)):
            if name not in times:
                row += f"{'out of memory or refused':>33}"
                continue
            seconds = times[name]
            row += f"{1e3 * seconds:10.3f}"
            for yardstick, width in ((f"{name.split()[0]} eager", 7), ("softmax torch", 8)):
                row += f"{times[yardstick] / seconds:{width}.1f}" if yardstick in times else f"{'-':>{width}}"
            row += f"{100 * arrays * size / seconds / copy:6.0f} %" if name.endswith("fused") else f"{'':8}"
        print(row, flush=True)


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    usual = [*(f"{max(1, FRAMES // n)}x{n}" for n in LENGTHS), *USUAL]
    add("--shapes", nargs="+", default=usual, metavar="BxN", help="batches and frames (%(default)s)")
    add("--attention", nargs="+", default=NAMES, metavar="NAME[:POSITIONS]", help="(%(default)s)")
    add("--shortest", type=float, default=1.0, help="share of the frames in the shortest (%(default)s)")
    add("--rounds", type=int, default=21, help="timed runs of each, at most (%(default)s)")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add_device_options(parser, "device", "precision")
    args = parser.parse_args()
    if not 0 <= args.shortest <= 1:
        raise UserError(f"--shortest {args.shortest:g}: must lie between 0 and 1")
    for name in args.attention:
        make(name)  # refuses what there is not
    shapes = []
    for shape in args.shapes:
        batch, _, n = shape.partition("x")
        if not (batch.isdigit() and n.isdigit() and int(batch) and int(n)):
            raise UserError(f"--shapes {shape}: must look like 64x375, utterances by frames")
        shapes.append((int(batch), int(n)))
    warnings.filterwarnings("ignore", ".*lru_cache.*")
    device = choose_device(args.device).type
    clock = Clock(device, args.rounds)
    copy = copy_bandwidth(clock)
    print(
        f"{hardware(device)}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s, medians of up to "
        f"{args.rounds} runs"
    )
    titles = f"{'ms':>10}{'eager/':>7}{'softmax/':>8}{'of copy':>8}"
    print(f"{'':36}{'forward':>32}{'forward + backward':>32}")
    print(f"{'shape':>10} {'core':25}{titles}{titles}")
    for batch, n in shapes:
        measure(clock, args, batch, n, copy)


if __name__ == "__main__":
    run_program(main)
