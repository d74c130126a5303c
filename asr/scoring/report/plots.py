"""The figures of a report, as SVG to stand inside a page."""

import hashlib
import io
import re
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure

from asr.scoring.report.analysis import Analysis, Group
from asr.scoring.report.comparison import Comparison

SYSTEMS = ("#2f6db3", "#d9822b")  # the first system, the second
PARTS = {"substitutions": "#5b7fa8", "deletions": "#c9a24b", "insertions": "#b5616a"}
NAMED_SPEAKERS = 60  # more than these have no room for their names
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, sharp, and can be searched
    "svg.hashsalt": "report",  # the same numbers give the same file
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.axisbelow": True,
    "axes.labelcolor": "#3c4650",
    "xtick.color": "#3c4650",
    "ytick.color": "#3c4650",
    "grid.color": "#e3e7eb",
    "font.size": 9.0,
    "legend.frameon": False,
}


def draw_overview(tables: Sequence[tuple[str, Analysis]]) -> str:
    """Errors by kind, a bar a split, LM and system, with the interval of their sum."""
    with matplotlib.rc_context(STYLE):
        figure, ax = _axes(10.6, 0.7 + 0.42 * len(tables))
        places = np.arange(len(tables))[::-1]
        left = np.zeros(len(tables))
        for part, colour in PARTS.items():
            sizes = np.array(
                [100 * getattr(item.words, part) / max(item.words.length, 1) for _, item in tables]
            )
            ax.barh(places, sizes, 0.62, left, color=colour, label=part)
            left += sizes
        low, high = _distances([item.words.rate for _, item in tables], [i.words.ci95 for _, i in tables])
        ax.errorbar(left, places, xerr=(low, high), fmt="none", ecolor="#222222", elinewidth=1, capsize=3)
        ax.set_yticks(places, [label for label, _ in tables])
        ax.set_xlabel("percent of the reference's words")
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        figure.legend(loc="outside upper right", ncols=3, fontsize=8)
        return _svg(figure)


def draw_lengths(systems: Sequence[tuple[str, Sequence[Group]]]) -> str:
    """WER by length of the utterance, a colour a system."""
    with matplotlib.rc_context(STYLE):
        names = [group.name for group in systems[0][1]]
        figure, ax = _axes(5.2, 2.9)
        _points(ax, names, systems)
        ax.set_xticks(
            range(len(names)),
            [f"{group.name}\n{group.utterances} utt." for group in systems[0][1]],
            fontsize=7.5,
        )
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_xlabel("length of the utterance")
        return _svg(figure)


def draw_speakers(systems: Sequence[tuple[str, Sequence[Group]]]) -> str:
    """WER by speaker, the first system's highest on the left."""
    with matplotlib.rc_context(STYLE):
        names = [group.name for group in systems[0][1]]
        named = len(names) <= NAMED_SPEAKERS
        figure, ax = _axes(10.6 if is_wide(names) else 5.2, 2.9)
        _points(ax, names, systems)
        rotation = 90 if len(names) > 8 else 0
        shown = names if named else []
        ax.set_xticks(range(len(shown)), shown, rotation=rotation, fontsize=7.5)
        ax.set_xlim(-0.7, len(names) - 0.3)
        ax.set_xlabel("speaker" if named else f"{len(names)} speakers")
        return _svg(figure)


def is_wide(speakers: Sequence) -> bool:
    """Whether the figure of so many speakers takes the whole width of a page."""
    return len(speakers) > 16


def draw_difference(comparison: Comparison, names: tuple[str, str]) -> str:
    """The difference of WER over the draws, with the interval and the side of either system."""
    with matplotlib.rc_context(STYLE):
        figure, ax = _axes(5.2, 2.9)
        edges = np.array(comparison.histogram["edges"])
        share = 100 * np.array(comparison.histogram["counts"]) / comparison.draws
        middle = (edges[1:] + edges[:-1]) / 2
        colours = [SYSTEMS[1] if place < 0 else SYSTEMS[0] for place in middle]
        ax.bar(middle, share, np.diff(edges), color=colours, alpha=0.75)
        top = 1.12 * share.max()
        ax.axvline(0, color="#222222", linewidth=1)
        ax.plot(comparison.ci95, (top, top), color="#222222", linewidth=1.2, marker="|", markersize=7)
        ax.plot(comparison.difference, top, color="#222222", marker="o", markersize=4)
        reach = 1.06 * max(abs(edges[0]), abs(edges[-1]))
        ax.set(xlim=(-reach, reach), ylim=(0, 1.25 * share.max()))
        ax.set(xlabel="difference of WER, percent points", ylabel="draws, %")
        ax.set_title(f"{names[1]} better", loc="left", fontsize=9, color=SYSTEMS[1])
        ax.set_title(f"{names[0]} better", loc="right", fontsize=9, color=SYSTEMS[0])
        return _svg(figure)


def _axes(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _points(ax, names: Sequence[str], systems: Sequence[tuple[str, Sequence[Group]]]) -> None:
    """A point and its interval for every group, in the order of ``names``; a system may lack some of them."""
    for number, (label, groups) in enumerate(systems):
        places = np.array([names.index(group.name) for group in groups if group.name in names])
        words = [group.words for group in groups if group.name in names]
        rates = [item.rate for item in words]
        ax.errorbar(
            places + (0.22 * number - 0.11 if len(systems) > 1 else 0),
            rates,
            yerr=_distances(rates, [item.ci95 for item in words]),
            fmt="o",
            markersize=4.5,
            elinewidth=1.2,
            color=SYSTEMS[number],
            label=label,
        )
    ax.set_ylim(bottom=0)
    ax.set_ylabel("WER, %")
    ax.grid(axis="y")
    if len(systems) > 1:
        ax.legend(fontsize=8)


def _distances(rates: Sequence[float], intervals: Sequence[tuple[float, float]]) -> np.ndarray:
    """Whiskers (2, n): a percentile interval may, with few utterances, leave the rate itself out."""
    low, high = np.array(intervals).reshape(-1, 2).T  # also of none
    return np.maximum([np.array(rates) - low, high - np.array(rates)], 0)


def _svg(figure: Figure) -> str:
    """A figure as SVG to stand in a page: no head of a file, and ids unlike those of other figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    prefix = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    used = set(re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", text))
    used = {name for pair in used for name in pair if name}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = text.replace("url(#", f"url(#{prefix}").replace('xlink:href="#', f'xlink:href="#{prefix}')
    return re.sub(r' xmlns(:xlink)?="[^"]+"', "", text, count=2)
