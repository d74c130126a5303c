"""One training step (features to updated weights) of encoders of the same size, in turns.

    python benchmarks/step.py                                  # ours with each attention, and torchaudio's
    python benchmarks/step.py --encoders mala torchaudio transformers --batches 32x15 256x15
    python benchmarks/step.py --encoders mala mala@8 softmax softmax@8 [--forward]     # 4x full, 8x depthwise

Batches are UTTERANCESxSECONDS of random features, all of full length. Every encoder stands behind the same
4x subsampling and before the same CTC head and loss (256 pieces, 4 a second), with bf16 autocast where the
device has it (a CPU too, as in training) and the same fused AdamW. Ours are named by their attention; with @8
they are FastConformer's (depthwise 8x subsampling of 256 channels, convolutions over 9 frames). --forward
times encoder and CTC head in evaluation mode, as decoding runs them. Peers: torchaudio.models.Conformer, and
where they are installed (in an environment of the benchmark's own: none is a dependency) transformers'
Parakeet encoder, SpeechBrain's and ESPnet's. "x real time" is seconds of audio per second; "matrix rate" is
the share of a large product's, measured on the spot, that the step's matrix products reach.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from common import make_parser
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from asr.attention import ATTENTIONS
from asr.attention.fused import set_mode
from asr.device_options import add_device_options
from asr.errors import UserError, run_program
from asr.model.conformer import (
    SIZES,
    Encoder,
    EncoderConfig,
    Subsampling,
    SubsamplingConfig,
    resolve_size,
)
from asr.model.ctc import CTCHead
from asr.model.device import choose_device, choose_dtype
from asr.model.frames import valid_frames
from asr.processes import cpu_count

MELS, PIECES, PIECES_PER_SECOND = 80, 256, 4
FAST = {"subsampling": SubsamplingConfig("depthwise", 8, 256), "kernel": 9}  # arXiv 2305.05084


class Recogniser(nn.Module):
    """An encoder with the CTC head and loss around it."""

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, CTCHead(dim, PIECES)

    def forward(self, features: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        x, lengths = self.encoder(features, lengths)
        return self.head.loss(self.head(x), lengths, targets, target_lengths).sum() / target_lengths.sum()


class BehindSubsampling(nn.Module):
    """Our subsampling before a peer's blocks."""

    def __init__(self, dim: int, blocks: nn.Module, call: Callable) -> None:
        super().__init__()
        self.subsampling, self.blocks, self.call = Subsampling(MELS, dim), blocks, call

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.subsampling(features, lengths)
        return self.call(self.blocks, x, lengths), lengths


def torchaudio_encoder(config: EncoderConfig) -> nn.Module:
    """torchaudio.models.Conformer: softmax attention without positions."""
    from torchaudio.models import Conformer

    blocks = Conformer(
        config.dim, config.heads, config.dim * config.expansion, config.layers, config.kernel, config.dropout
    )
    return BehindSubsampling(config.dim, blocks, lambda blocks, x, lengths: blocks(x, lengths)[0])


def transformers_encoder(config: EncoderConfig) -> nn.Module:
    """transformers' ParakeetEncoder blocks (FastConformer's, relative positions)."""
    from transformers.models.parakeet.configuration_parakeet import ParakeetEncoderConfig
    from transformers.models.parakeet.modeling_parakeet import (
        ParakeetEncoderBlock,
        ParakeetEncoderRelPositionalEncoding,
    )

    theirs = ParakeetEncoderConfig(
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.dim * config.expansion,
        conv_kernel_size=config.kernel,
        attn_implementation="sdpa",
    )
    blocks = nn.ModuleList([ParakeetEncoderBlock(theirs, i) for i in range(config.layers)])
    blocks.append(ParakeetEncoderRelPositionalEncoding(theirs))

    def call(blocks, x: Tensor, lengths: Tensor) -> Tensor:
        valid = valid_frames(lengths, x.shape[1])
        positions = blocks[-1](x)
        mask = (valid[:, None, :] & valid[:, :, None])[:, None]
        for block in blocks[:-1]:
            x = block(x, attention_mask=mask, position_embeddings=positions)
        return x

    return BehindSubsampling(config.dim, blocks, call)


def speechbrain_encoder(config: EncoderConfig) -> nn.Module:
    """SpeechBrain's ConformerEncoder with relative positions."""
    from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    from speechbrain.nnet.attention import RelPosEncXL

    blocks = nn.ModuleList(
        [
            ConformerEncoder(
                config.layers,
                config.dim,
                config.dim * config.expansion,
                config.heads,
                kernel_size=config.kernel,
                dropout=config.dropout,
                attention_type="RelPosMHAXL",
            ),
            RelPosEncXL(config.dim),
        ]
    )

    def call(blocks, x: Tensor, lengths: Tensor) -> Tensor:
        padding = ~valid_frames(lengths, x.shape[1])
        return blocks[0](x, src_key_padding_mask=padding, pos_embs=blocks[1](x))[0]

    return BehindSubsampling(config.dim, blocks, call)


def espnet_encoder(config: EncoderConfig) -> nn.Module:
    """ESPnet's ConformerEncoder with relative positions; its own linear input layer after our subsampling."""
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    blocks = ConformerEncoder(
        config.dim,
        output_size=config.dim,
        attention_heads=config.heads,
        linear_units=config.dim * config.expansion,
        num_blocks=config.layers,
        input_layer="linear",
        macaron_style=True,
        rel_pos_type="latest",
        pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn",
        cnn_module_kernel=config.kernel,
    )
    return BehindSubsampling(config.dim, blocks, lambda blocks, x, lengths: blocks(x, lengths)[0])


PEERS = {
    "torchaudio": ("torchaudio", torchaudio_encoder),
    "transformers": ("transformers", transformers_encoder),
    "speechbrain": ("speechbrain", speechbrain_encoder),
    "espnet": ("espnet2", espnet_encoder),
}


def build(name: str, config: EncoderConfig) -> Recogniser:
    """An encoder by its name, ready to train."""
    torch.manual_seed(0)
    if name in PEERS:
        encoder = PEERS[name][1](config)
    else:
        name, _, factor = name.partition("@")
        attention, _, positions = name.partition(":")
        config = replace(config, **FAST) if factor else config
        encoder = Encoder(config, MELS, attention, positions or "auto")
    return Recogniser(encoder, config.dim).train()


def hardware(device: str) -> str:
    """The GPU's name, or the number of CPU cores."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{cpu_count()} CPU cores"


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large product."""
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    seconds = statistics.median(timed(lambda: a @ b, device) for _ in range(8))
    return 2 * n**3 / seconds


def timed(task: Callable[[], object], device: str) -> float:
    """Seconds of one run, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    task()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def make_forward(name: str, config: EncoderConfig, batch, device: str, dtype, compiled: bool) -> Callable:
    """Log-probabilities of one batch, as decoding makes them."""
    model = build(name, config).to(device).eval()
    if compiled:
        model = torch.compile(model)

    @torch.inference_mode()
    def forward() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            model.head(model.encoder(*batch[:2])[0])

    return forward


def make_step(name: str, config: EncoderConfig, batch, device: str, dtype, compiled: bool) -> Callable:
    """Forward, backward and optimiser step of one encoder on one batch."""
    model = build(name, config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    run = model
    if compiled and name in PEERS:
        run = torch.compile(model)
    elif compiled:
        model.encoder.compile_blocks()  # as train.py --training.compile true does

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = run(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(args, names: list[str], utterances: int, seconds: float, device: str, dtype, rate: float) -> None:
    """Print the rows of one batch size."""
    config = resolve_size(EncoderConfig(args.size))
    frames, pieces = int(100 * seconds), max(1, int(PIECES_PER_SECOND * seconds))
    batch = (
        torch.randn(utterances, frames, MELS, device=device),
        torch.full((utterances,), frames, device=device),
        torch.randint(1, PIECES + 1, (utterances, pieces), device=device),
        torch.full((utterances,), pieces, device=device),
    )
    make = make_forward if args.forward else make_step
    steps, counted, peaks, times = {}, {}, {}, {}
    for name in names:
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        try:
            set_mode("eager")  # the counter does not see into fused kernels
            with FlopCounterMode(display=False) as counter:
                make(name, config, batch, device, dtype, False)()
            set_mode(args.kernels)
            counted[name] = counter.get_total_flops()
            step = make(name, config, batch, device, dtype, args.compile)
            for _ in range(3 if device == "cuda" else 1):
                step()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                step()
                peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
            steps[name], times[name] = step, []
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(f"{f'{utterances}x{seconds:g}':>8} {name:16} out of memory")
    for _ in range(args.rounds):
        for name, step in steps.items():
            times[name].append(timed(step, device))
    audio = utterances * seconds
    yardstick = statistics.median(times["torchaudio"]) if "torchaudio" in times else None
    for name in sorted(times, key=lambda name: statistics.median(times[name])):
        median = statistics.median(times[name])
        share = counted[name] / median / rate
        row = format_row(median, audio, yardstick, peaks.get(name), share)
        print(f"{f'{utterances}x{seconds:g}':>8} {name:16}{row}", flush=True)


def format_row(
    seconds: float, audio: float, yardstick: float | None, peak: float | None, share: float
) -> str:
    """The columns of an encoder's row; a dash for what was not measured.

    Args:
        seconds: of a step.
        audio: seconds of audio in it.
        yardstick: seconds of torchaudio's step.
        peak: GiB.
        share: of the rate of a large matrix product.
    """
    ratio = "-" if yardstick is None else f"{yardstick / seconds:.2f}"
    memory = "-" if peak is None else f"{peak:.2f}"
    row = f"{1e3 * seconds:10.1f}{audio / seconds:12,.0f}{audio / seconds / 3600:9.2f}{ratio:>12}{memory:>9}"
    return f"{row}{100 * share:12.1f} %"


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--encoders",
        nargs="+",
        help="attentions of ours (softmax:rotary gives positions, mala@8 subsampling) and peers (all there)",
    )
    add(
        "--batches",
        nargs="+",
        help="(32x15 256x15 on a GPU, 8x5 on a CPU)",
    )
    add("--size", choices=SIZES, default="S", help="size of the encoders (%(default)s)")
    add("--rounds", type=int, help="timed steps of each (20 on a GPU, 5 on a CPU)")
    add("--compile", action="store_true", help="compile all encoders, peers too")
    add("--forward", action="store_true", help="encoder and head alone, in evaluation mode")
    add_device_options(parser)
    args = parser.parse_args()
    device = choose_device(args.device).type
    args.batches = args.batches or (["32x15", "256x15"] if device == "cuda" else ["8x5"])
    args.rounds = args.rounds or (20 if device == "cuda" else 5)
    there = [name for name, (package, _) in PEERS.items() if importlib.util.find_spec(package)]
    names = args.encoders or [*ATTENTIONS, *there]
    for name in names:
        ours, _, factor = name.partition("@")
        if name not in PEERS and (ours.partition(":")[0] not in ATTENTIONS or factor not in ("", "8")):
            raise UserError(f"--encoders {name}: choose from {', '.join([*ATTENTIONS, *PEERS])}")
    shapes = []
    for shape in args.batches:
        try:
            utterances, seconds = shape.split("x")
            shapes.append((int(utterances), float(seconds)))
        except ValueError:
            raise UserError(f"--batches {shape}: must look like 32x15, utterances by seconds") from None
    dtype = choose_dtype(args.precision, torch.device(device), cpu_too=True)
    rate = matrix_rate(device, dtype)
    print(
        f"{hardware(device)}, torch {torch.__version__}, {dtype}, {rate / 1e12:.2f} TFLOP/s, size {args.size}"
    )
    titles = ("ms a step", "x real time", "h per s", "torchaudio/", "peak GiB", "matrix rate")
    widths = (10, 12, 9, 12, 9, 14)
    titled = "".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True))
    print(f"{'batch':>8} {'encoder':16}{titled}")
    for utterances, seconds in shapes:
        measure(args, names, utterances, seconds, device, dtype, rate)


if __name__ == "__main__":
    run_program(main)
