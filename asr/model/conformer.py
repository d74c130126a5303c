"""The Conformer encoder (Gulati et al., arXiv 2005.08100) with selectable self-attention."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.attention import ATTENTIONS, Frames, SelfAttention, parse_attention
from asr.attention.base import Past
from asr.attention.chunks import convolve, last_frames
from asr.bounds import bounded
from asr.distributed import moments_over_ranks
from asr.errors import UserError
from asr.model.frames import subsampled, valid_frames


@dataclass(frozen=True)
class SubsamplingConfig:
    """How features become the encoder's frames.

    Args:
        kind: full (3x3 convolutions, as in Conformer) or depthwise (depthwise ones but for the first, as in
            FastConformer, arXiv 2305.05084: cheaper).
        factor: 10 ms features a frame: 4 (frames of 40 ms) or 8 (80 ms, half as many for the encoder).
        channels: of the convolutions; 0 for the encoder's dim.
    """

    kind: Literal["full", "depthwise"] = "full"
    factor: Literal[4, 8] = 4
    channels: int = bounded(0, 0, 4096)


@dataclass(frozen=True)
class EncoderConfig:
    """Size and shape of the encoder.

    Args:
        size: XS, S, M or L; sets dim, layers and heads where those are left at 0.
        dim: model dimension D.
        layers: number of Conformer blocks.
        heads: attention heads.
        kernel: width of the depthwise convolution in encoded frames; odd.
        expansion: width of the feed-forward layers as a multiple of dim.
        dropout: dropout after every module.
        batch_norm: statistics in training of the frames of all processes' batches (all), or of each one's own
            (local: no messages; validation and checkpoints then have the first process's averages), or those
            of the model that --init names, unchanged (frozen: imported models come with it, docs/imports.md;
            without --init, for --training.distil_modules and distil_stages, mean 0 and variance 1, a plain
            scale and bias).
        subsampling: how features become frames.
    """

    size: str = "S"
    dim: int = bounded(0, 0, 8192)
    layers: int = bounded(0, 0, 256)
    heads: int = bounded(0, 0, 256)
    kernel: int = bounded(31, 1, 1001)
    expansion: int = bounded(4, 1, 64)
    dropout: float = bounded(0.1, 0, 0.99)
    batch_norm: Literal["all", "local", "frozen"] = "all"
    subsampling: SubsamplingConfig = field(default_factory=SubsamplingConfig)


# XS is ours, for tests and the demo; S, M, L are the Conformer paper's Table 1.
SIZES = {
    "XS": {"dim": 96, "layers": 6, "heads": 4},
    "S": {"dim": 144, "layers": 16, "heads": 4},
    "M": {"dim": 256, "layers": 16, "heads": 4},
    "L": {"dim": 512, "layers": 17, "heads": 8},
}


def resolve_size(config: EncoderConfig) -> EncoderConfig:
    """Fill what is 0 from the named size; raises UserError for a size or number that cannot be."""
    if config.size not in SIZES:
        raise UserError(f"--encoder.size {config.size}: choose one of {', '.join(SIZES)}")
    wanted = {name: getattr(config, name) or value for name, value in SIZES[config.size].items()}
    config = replace(config, **wanted)
    for name in ("dim", "layers", "heads", "kernel", "expansion"):
        if getattr(config, name) < 1:
            raise UserError(f"--encoder.{name} {getattr(config, name)}: must be positive")
    if config.kernel % 2 == 0:
        raise UserError(f"--encoder.kernel {config.kernel}: must be odd")
    return config


class BlockPast(NamedTuple):
    """What a block keeps of the frames that it has seen."""

    attention: Past | None = None
    convolution: Tensor | None = None  # (B, halo, D), what the depthwise convolution saw of the last frames


class Encoder(nn.Module):
    """Features to encoded frames, four or eight times fewer.

    Args:
        config: size and shape.
        features: number of mel bins.
        attention: a name in the registry, or several with commas, one a layer, repeated over the layers.
        positions: ``auto`` or one of every mechanism's own.
        options: the mechanisms' ``Options`` by their names; their defaults for those that are not there.
    """

    def __init__(
        self,
        config: EncoderConfig,
        features: int,
        attention: str,
        positions: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        names, options = parse_attention(attention), options or {}
        config = resolve_size(config)
        if len(names) > config.layers:
            raise UserError(f"--attention {attention}: names {len(names)} layers of {config.layers}")
        self.dim = config.dim
        self.subsampling = Subsampling(features, config.dim, config.subsampling)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList()
        self.names = tuple(islice(cycle(names), config.layers))
        for name in self.names:
            mechanism = ATTENTIONS[name](config.dim, config.heads, positions, options.get(name))
            self.blocks.append(ConformerBlock(config, mechanism))

    @property
    def mechanisms(self) -> dict[str, SelfAttention]:
        """One attention layer of each mechanism, by name."""
        return {name: block.attention for name, block in zip(self.names, self.blocks, strict=True)}

    def forward(self, features: Tensor, lengths: Tensor, chunk: int = 0) -> tuple[Tensor, Tensor]:
        """features (B, T, F) and lengths (B,) in frames to (B, N, D) and lengths (B,), N = ceil(T / factor).

        Lengths may stay on the CPU while features are elsewhere, and come back from where they were. With a
        ``chunk``, so many encoded frames see each other and what comes before them, and nothing later.
        """
        for x in self.residual_stream(features, lengths, chunk):
            output = x
        return output, subsampled(lengths, self.subsampling.factor)

    def residual_stream(self, features: Tensor, lengths: Tensor, chunk: int = 0) -> Iterator[Tensor]:
        """What goes into the first block (B, N, D), then what comes out of one after the other."""
        on_device = lengths.to(features.device, non_blocking=True)  # for masks; the device is not waited for
        x, on_device = self.subsampling(features, on_device)
        x = self.dropout(x)
        valid = valid_frames(on_device, x.shape[1])
        yield x
        for block in self.blocks:
            x = block(x, valid, chunk)
            yield x

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Run the blocks under torch.compile, bar the attention cores, which have kernels of their own.

        One compilation serves all blocks, batch sizes and lengths. Weights keep their names.
        """
        for block in self.blocks:
            block.attention.core = torch.compiler.disable(block.attention.core)
            block.attention.advance = torch.compiler.disable(block.attention.advance)
            block.compile(dynamic=True, backend=backend)

    def attention_core(self, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
        """In words, what computes the attention core from such q, k and v, and why no fused kernel does."""
        cores = {}
        for name, attention in self.mechanisms.items():
            q = torch.empty(1, attention.heads, 1, attention.head_dim, device=device, dtype=dtype)
            reason = attention.eager_because(q)
            cores[name] = f"eager PyTorch ({reason})" if reason else attention.FUSED
        if len(set(cores.values())) == 1:
            return next(iter(cores.values()))
        return "; ".join(f"{name}: {core}" for name, core in cores.items())


class Subsampling(nn.Module):
    """Two or three convolutions of kernel 3 and stride 2, each with a ReLU, then a linear layer.

    With depthwise convolutions, a pointwise one follows each (FastConformer, arXiv 2305.05084).

    Args:
        features: mel bins F.
        dim: D.
        config: kind, factor and channels.
    """

    def __init__(self, features: int, dim: int, config: SubsamplingConfig | None = None) -> None:
        super().__init__()
        config = config or SubsamplingConfig()
        channels = config.channels or dim
        self.factor = config.factor
        self.first = nn.Conv2d(1, channels, kernel_size=3, stride=2, padding=1)
        self.second = _stride(channels, config.kind)
        if self.factor == 8:
            self.third = _stride(channels, config.kind)
        self.project = nn.Linear(channels * subsampled(features, self.factor), dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, F), lengths (B,) to (B, N, D), lengths (B,).

        Frame n comes of features factor (n - 1) + 1 to factor (n + 1) - 1: none that stand for a later frame.
        """
        x = x[:, None].contiguous(memory_format=torch.channels_last)
        for convolution in (self.first, self.second, *([self.third] if self.factor == 8 else [])):
            # The frame after an utterance's last must be zero, as if the batch ended there.
            x = x * valid_frames(lengths, x.shape[2])[:, None, :, None]
            x = F.relu(convolution(x))
            lengths = subsampled(lengths, 2)
        return self.project(x.permute(0, 2, 3, 1).flatten(2)), lengths


def _stride(channels: int, kind: str) -> nn.Module:
    """A convolution (B, C, T, F) to (B, C, T/2, F/2)."""
    if kind == "full":
        return nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
    return nn.Sequential(
        StridedDepthwise(channels, channels, kernel_size=3, stride=2, padding=1, groups=channels),
        nn.Conv2d(channels, channels, kernel_size=1),
    )


class StridedDepthwise(nn.Conv2d):
    """Trained in fp32 on a CPU: its gradients take 4 to 10 times as long in bf16 (oneDNN, torch 2.11)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, T, F) to (B, C, T/2, F/2)."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype))


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, layer norm (paper Eq. 1)."""

    def __init__(self, config: EncoderConfig, attention: nn.Module) -> None:
        super().__init__()
        dim = config.dim
        self.feed_forward1 = FeedForward(dim, config.expansion, config.dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.attention_dropout = nn.Dropout(config.dropout)
        self.convolution = Convolution(dim, config.kernel, config.dropout, config.batch_norm)
        self.feed_forward2 = FeedForward(dim, config.expansion, config.dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, valid: Tensor, chunk: int = 0) -> Tensor:
        """x (B, N, D), valid (B, N) to (B, N, D)."""
        x = self.before_attention(x)
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), valid, chunk))
        return self.after_attention(x, valid, chunk)

    def advance(self, x: Tensor, frames: Frames, past: BlockPast) -> tuple[Tensor, BlockPast]:
        """Frames x (B, N, D) that go on after earlier ones to (B, N, D), and what the next call wants.

        In evaluation mode; ``frames`` have a chunk, and all of them are valid.
        """
        x = self.before_attention(x)
        y, attention = self.attention.advance(self.attention_norm(x), frames, past.attention)
        x = x + y
        y, convolution = self.convolution.advance(x, frames, past.convolution)
        return self.after_convolution(x + y), BlockPast(attention, convolution)

    def before_attention(self, x: Tensor) -> Tensor:
        """The first half feed-forward; every frame by itself."""
        return x + 0.5 * self.feed_forward1(x)

    def after_attention(self, x: Tensor, valid: Tensor, chunk: int = 0) -> Tensor:
        """Convolution and second half feed-forward; a frame sees ``convolution.halo`` on either side."""
        return self.after_convolution(x + self.convolution(x, valid, chunk))

    def after_convolution(self, x: Tensor) -> Tensor:
        """The second half feed-forward and the last norm; every frame by itself."""
        return self.norm(x + 0.5 * self.feed_forward2(x))


class FeedForward(nn.Sequential):
    """Layer norm, expand, swish, contract."""

    def __init__(self, dim: int, expansion: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, dim * expansion),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(dim * expansion, dim),
            nn.Dropout(dropout),
        )


class Convolution(nn.Module):
    """Layer norm, pointwise + GLU, depthwise, batch norm, swish, pointwise."""

    def __init__(self, dim: int, kernel: int, dropout: float, batch_norm: str = "all") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        # One frame wide in the other dimension: a 2-D convolution takes (B, N, D) memory as it lies,
        # and is 2 to 3 times as fast on a CPU as a 1-D one (benchmarks/cpu.py).
        self.depthwise = nn.Conv2d(dim, dim, (kernel, 1), padding=(kernel // 2, 0), groups=dim)
        self.batch_norm = MaskedBatchNorm(dim, statistics=batch_norm)
        self.contract = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def halo(self) -> int:
        """Frames on either side that a frame sees."""
        return self.depthwise.kernel_size[0] // 2

    def forward(self, x: Tensor, valid: Tensor, chunk: int = 0) -> Tensor:
        """x (B, N, D), valid (B, N) to (B, N, D)."""
        return self._after(convolve(self.depthwise, self._before(x, valid), chunk), valid)

    def advance(self, x: Tensor, frames: Frames, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, N, D) to (B, N, D); ``before`` and the second result: see ``BlockPast``."""
        inner = self._before(x, frames.valid)
        y = self._after(convolve(self.depthwise, inner, frames.chunk, before), frames.valid)
        return y, last_frames(inner, self.halo, before)

    def _before(self, x: Tensor, valid: Tensor) -> Tensor:
        # Padding must look like the zeros beyond an utterance's ends.
        return F.glu(self.expand(self.norm(x)), dim=-1) * valid[..., None]

    def _after(self, x: Tensor, valid: Tensor) -> Tensor:
        return self.dropout(self.contract(F.silu(self.batch_norm(x, valid))))


class MaskedBatchNorm(nn.Module):
    """Batch normalisation whose statistics leave padding out. Computed in fp32.

    Args:
        dim: D.
        statistics: in training, of the batches of all ranks (all), of this one's alone (local), or the
            running ones, which then stand still (frozen).
    """

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5, statistics: str = "all") -> None:
        super().__init__()
        self.statistics = statistics
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, N, D), valid (B, N) to (B, N, D) in x's dtype."""
        mean, var = self.running_mean, self.running_var
        if self.training and self.statistics != "frozen":
            keep = valid[..., None]
            wide = x.to(mean.dtype)
            count = valid.sum().to(mean.dtype)
            mean = (wide * keep).sum((0, 1)) / count.clamp(min=1)
            var = ((wide - mean).square() * keep).sum((0, 1)) / count.clamp(min=1)
            if self.statistics == "all":
                mean, var, count = moments_over_ranks(mean, var, count)
            self._remember(mean.detach(), (var * count / (count - 1).clamp(min=1)).detach())
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x * scale + (self.bias - mean * scale)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        # A batch without numbers is skipped by the optimiser; it must not stay in these averages either.
        usable = (mean + var).isfinite().all()
        self.running_mean.lerp_(torch.where(usable, mean, self.running_mean), self.momentum)
        self.running_var.lerp_(torch.where(usable, var, self.running_var), self.momentum)
