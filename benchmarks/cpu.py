"""What a few choices are worth on this machine's CPU: each against its alternative, in turns, as medians.

    python benchmarks/cpu.py [--opus DIR --wav DIR]
    python benchmarks/cpu.py --device cuda          # what of it a GPU may decide otherwise: the convolution

--opus and --wav: folders with the same recordings in both formats, to compare how fast they load.
Run it on an idle machine: a second busy process distorts everything that uses several threads.
"""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from common import make_parser
from step import hardware, timed
from torch import nn

from asr.attention import ATTENTIONS
from asr.data import audio
from asr.errors import UserError, run_program
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.device import choose_device, has_bf16
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.processes import cpu_count

ROUNDS = 9


def medians(*tasks: Callable[[], object], device: str = "cpu") -> list[float]:
    """Median seconds of each task, run in turns after one warm-up each."""
    times: list[list[float]] = [[] for _ in tasks]
    for task in tasks:
        task()
    for _ in range(ROUNDS):
        for task, taken in zip(tasks, times, strict=True):
            taken.append(timed(task, device))
    return [statistics.median(taken) for taken in times]


def show(what: str, slower: str, faster: str, times: list[float]) -> None:
    """One row: both medians in milliseconds and their ratio."""
    a, b = (1e3 * seconds for seconds in times)
    print(f"{what:44} {slower} {a:8.2f} ms   {faster} {b:8.2f} ms   ratio {a / b:5.2f}")


def depthwise(batch: int, frames: int, dim: int, device: str = "cpu", dtype=torch.float32) -> None:
    """The convolution module's depthwise convolution, forward and backward, both ways."""
    kernel = EncoderConfig().kernel
    where = {"device": device, "dtype": dtype}
    one = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, **where)
    two = nn.Conv2d(dim, dim, (kernel, 1), padding=(kernel // 2, 0), groups=dim, **where)
    x = torch.randn(batch, frames, dim, requires_grad=True, **where)
    times = medians(
        lambda: one(x.transpose(1, 2)).transpose(1, 2).sum().backward(),
        lambda: two(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2).sum().backward(),
        device=device,
    )
    what = "" if device == "cpu" else f", {str(dtype).removeprefix('torch.')}"
    show(f"depthwise {batch} x {frames} frames, D {dim}, kernel {kernel}{what}", "Conv1d", "Conv2d", times)


def training_step(attention: str) -> None:
    """Forward and backward of the demo's model on 28 utterances of 2 s, fp32 and bf16."""
    encoder, frontend = EncoderConfig("XS", dropout=0.0), FrontendConfig(mels=40)
    model = Model(ModelConfig(attention, encoder=encoder, frontend=frontend), pieces=128)
    waveforms, lengths = torch.randn(28, 32_000), torch.full((28,), 32_000)
    targets, target_lengths = torch.randint(1, 129, (28, 14)), torch.full((28,), 14)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            log_probs, frames = model(waveforms, lengths)
            model.head.loss(log_probs, frames, targets, target_lengths).sum().backward()

    times = medians(lambda: step(False), lambda: step(True))
    show(f"forward + backward, XS, {attention}, 28 x 2 s", "fp32  ", "bf16  ", times)


def loading(opus: Path, wav: Path) -> None:
    """Reading the same recordings from Opus and from the WAV copies that --convert wav makes."""
    copies = {path.stem: path for path in wav.rglob("*.wav")}
    pairs = [(path, copies[path.stem]) for path in sorted(opus.rglob("*.opus")) if path.stem in copies][:50]
    if not pairs:
        raise UserError(f"--opus {opus}, --wav {wav}: no recording is in both")
    times = medians(
        lambda: [audio.load(source) for source, _ in pairs], lambda: [audio.load(copy) for _, copy in pairs]
    )
    show(f"loading {len(pairs)} recordings", "Opus  ", "WAV   ", times)


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--opus", type=Path, help="folder with Opus recordings")
    parser.add_argument("--wav", type=Path, help="folder with WAV copies of them, by the same names")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    args = parser.parse_args()
    device = choose_device(args.device)
    if device.type == "cuda":
        print(f"{hardware('cuda')}, torch {torch.__version__}, medians of {ROUNDS} runs in turns")
        for dtype in (torch.bfloat16, torch.float32):
            for batch, frames, dim in ((64, 375, 144), (64, 375, 512), (16, 1500, 144)):
                depthwise(batch, frames, dim, "cuda", dtype)
        return
    bf16 = "with" if has_bf16(device) else "without"
    print(f"{cpu_count()} cores, {torch.get_num_threads()} threads, {bf16} AVX-512 BF16")
    print(f"torch {torch.__version__}, medians of {ROUNDS} runs in turns")
    depthwise(28, 51, 96)
    for attention in ATTENTIONS:
        training_step(attention)
    if args.opus and args.wav:
        loading(args.opus, args.wav)


if __name__ == "__main__":
    run_program(main)
