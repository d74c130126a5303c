"""What attention does: maps, score distributions and entropies of checkpoints on a recording.

After the MALA paper's Figures 2-4, on speech.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from asr.attention import Frames, SelfAttention
from asr.attention.base import at_least_fp32
from asr.attention.features import KERNELS
from asr.checkpoints.checkpoint import load_model
from asr.files import atomic_path, atomic_write
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model

LARGEST = 50  # weights shown per query, largest first


@dataclass
class Layer:
    """One layer's attention on the recording, all heads."""

    weights: Tensor  # (H, N, N)
    norms: Tensor  # (H, N) of phi(q)

    @cached_property
    def entropies(self) -> Tensor:
        """(H, N), 0 to 1."""
        return entropy(self.weights)

    def numbers(self) -> dict:
        """What numbers.json says of it."""
        w, n = self.weights, self.weights.shape[-1]
        share = w.abs() / w.abs().sum(-1, keepdim=True).clamp(min=1e-30)
        return {
            "entropy": self.entropies.mean().item(),
            "entropy_norm_correlation": rank_correlation(self.norms, self.entropies),
            "negative_share": (w < 0).double().mean().item(),
            "negative_mass": (w.clamp(max=0).abs().sum(-1) / w.abs().sum(-1)).mean().item(),
            "largest_times_n": (n * w.amax(-1)).mean().item(),
            "frames_attended": (1 / share.square().sum(-1)).mean().item(),
            "row_sum": [w.sum(-1).min().item(), w.sum(-1).max().item()],
        }


@dataclass
class Study:
    """All layers of one checkpoint."""

    name: str
    checkpoint: str
    frame_seconds: float
    layers: list[Layer] = field(default_factory=list)


def entropy(weights: Tensor) -> Tensor:
    """Entropy of |w| / sum |w| over the last dimension, in units of its greatest, log N."""
    share = weights.abs() / weights.abs().sum(-1, keepdim=True).clamp(min=1e-30)
    return -torch.xlogy(share, share).sum(-1) / np.log(max(weights.shape[-1], 2))


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation over all entries; 0 where one of the two is constant."""
    ranks = torch.stack([_ranks(x.flatten()) for x in (a, b)])
    constant = a.max() == a.min() or b.max() == b.min()
    return 0.0 if constant else torch.corrcoef(ranks)[0, 1].item()


def _ranks(x: Tensor) -> Tensor:
    """Ranks of x (n,); equal values share the mean of theirs."""
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


@torch.inference_mode()
def study(checkpoint: Path, waveform: Tensor) -> Study:
    """Run a checkpoint on a waveform (S,) and keep what every layer's attention did."""
    model, recipe = load_model(checkpoint)
    name = f"{recipe.model.attention}, {_positions(model)}"
    found = Study(name, str(checkpoint), model.framing.seconds)

    def keep(module: SelfAttention, args: tuple, _output) -> None:
        x, valid, *_ = args
        frames = Frames.whole(valid)
        q, k = (at_least_fp32(y) for y in module.project(x, frames)[1:3])
        phi = KERNELS[getattr(module, "kernel", "identity")](q)  # the magnitude that the mechanism can see
        found.layers.append(Layer(module.weights(q, k, frames)[0], phi[0].norm(dim=-1)))

    for block in model.encoder.blocks:
        block.attention.register_forward_hook(keep)
    model(waveform[None], torch.tensor([len(waveform)]))
    return found


def _positions(model: Model) -> str:
    return ", ".join(dict.fromkeys(item.positions for item in model.encoder.mechanisms.values()))


def draw_maps(studies: list[Study], head: int) -> Figure:
    """First, middle and last layer of every checkpoint, one head."""
    figure, axes = _grid(3, len(studies), 3.2, "key (s)", "query (s)")
    for column, item in zip(axes.T, studies, strict=True):
        last = len(item.layers) - 1
        for ax, index in zip(column, (0, last // 2, last), strict=True):
            layer = item.layers[index]
            w = layer.weights[head % len(layer.weights)].numpy()
            seconds = item.frame_seconds * len(w)
            limit = np.quantile(np.abs(w), 0.99) or 1.0
            ax.imshow(w, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(0, seconds, seconds, 0))
            ax.set_title(f"{item.name}: layer {index + 1}\ncolour to ±{limit * len(w):.2g}/N", fontsize=8)
    return figure


def draw_distributions(studies: list[Study]) -> Figure:
    """Histogram of N w over everything, and the mean of the largest weights of each query."""
    figure, axes = _grid(1, 2, 4.8, "", "")
    left, right = axes[0]
    for item in studies:
        n = item.layers[0].weights.shape[-1]
        values = torch.cat([layer.weights.flatten() for layer in item.layers]).numpy() * n
        bins = np.linspace(*np.quantile(values, (0.001, 0.999)), 120)
        left.hist(values, bins, histtype="step", density=True, label=item.name)
        ordered = torch.stack([layer.weights.sort(-1, descending=True).values for layer in item.layers])
        right.plot(
            range(1, 1 + min(n, LARGEST)), n * ordered.mean((0, 1, 2))[:LARGEST].numpy(), label=item.name
        )
    left.set(yscale="log", xlabel="weight times N", ylabel="density", title="All weights")
    right.set(xlabel="rank", ylabel="mean weight times N", title="Largest weights of a query")
    left.axvline(0, color="grey", linewidth=0.5)
    for ax in (left, right):
        ax.legend(fontsize=8)
    return figure


def draw_entropy(studies: list[Study]) -> Figure:
    """Entropy against query norm, a colour a layer."""
    figure, axes = _grid(1, len(studies), 3.6, "norm of the query", "entropy / log N")
    for ax, item in zip(axes[0], studies, strict=True):
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(item.layers)))
        for number, (layer, colour) in enumerate(zip(item.layers, colours, strict=True), start=1):
            label = f"layer {number}" if number in (1, len(item.layers)) else None
            ax.scatter(
                layer.norms.flatten(), layer.entropies.flatten(), s=2, alpha=0.4, color=colour, label=label
            )
        mean = np.mean([rank_correlation(layer.norms, layer.entropies) for layer in item.layers])
        ax.set_title(f"{item.name}\nmean rank correlation {mean:+.2f}", fontsize=9)
        ax.legend(fontsize=7, markerscale=4)
    return figure


def _grid(rows: int, columns: int, size: float, x_label: str, y_label: str):
    figure = Figure(figsize=(size * columns, size * rows + 0.3), layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes[-1]:
        ax.set_xlabel(x_label)
    for ax in axes[:, 0]:
        ax.set_ylabel(y_label)
    return figure, axes


def summary(studies: list[Study]) -> str:
    """A table: means over layers."""
    columns = ("entropy", "entropy_norm_correlation", "negative_share", "largest_times_n", "frames_attended")
    titles = ("entropy", "with norm", "negative", "largest x N", "frames")
    width = max(len(item.name) for item in studies)
    lines = [f"{'attention':{width}}" + "".join(f"{title:>13}" for title in titles)]
    for item in studies:
        layers = [layer.numbers() for layer in item.layers]
        means = (np.mean([layer[column] for layer in layers]) for column in columns)
        lines.append(f"{item.name:{width}}" + "".join(f"{mean:13.3f}" for mean in means))
    return "\n".join(lines)


def write_attention(checkpoints: list[Path], waveform: Tensor, out: Path, head: int, audio: str) -> str:
    """Draw everything of this file into a folder, with the numbers; returns the table of ``summary``.

    Args:
        checkpoints: one a mechanism.
        waveform: (S,) in [-1, 1] at 16 kHz.
        head: whose maps are drawn, from 0.
        audio: what the waveform is called in numbers.json.
    """
    studies = [study(checkpoint, waveform) for checkpoint in checkpoints]
    figures = {
        "maps": draw_maps(studies, head),
        "distributions": draw_distributions(studies),
        "entropy": draw_entropy(studies),
    }
    for name, figure in figures.items():
        with atomic_path(out / f"{name}.png") as path:
            figure.savefig(path, format="png")
    numbers = [
        {
            "checkpoint": item.checkpoint,
            "attention": item.name,
            "layers": [layer.numbers() for layer in item.layers],
        }
        for item in studies
    ]
    content = {"audio": audio, "seconds": len(waveform) / SAMPLE_RATE, "checkpoints": numbers}
    atomic_write(out / "numbers.json", json.dumps(content, indent=2) + "\n")
    return summary(studies)
