"""Draw the README's pictures: python docs/figures/draw.py (they lie beside this file).

    encoder.svg              where the encoder's self-attention is exchanged; names come from asr.attention
    time.svg, memory.svg     against the length of a recording, from length.json

length.json is what benchmarks/long_audio.py measured:

    options="--audio LIBRISPEECH/train-clean-5 --out docs/figures/length.json"; export OMP_NUM_THREADS=1
    python benchmarks/long_audio.py $options --attention mala --minutes 1 3 10 --whole
    python benchmarks/long_audio.py $options --attention softmax --minutes 1 3 --whole
    python benchmarks/long_audio.py $options --attention mala softmax --minutes 0.3
    python benchmarks/long_audio.py $options --attention softmax --minutes 5
    python benchmarks/long_audio.py $options --attention linear inline nala --minutes 3

Every picture has a ground of its own and follows the reader's light or dark mode; a phone shows it whole with
letters of 11 pixels or more.
"""

import json
import sys
from dataclasses import dataclass
from html import escape
from math import log10
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent.parent))

from asr.attention import ATTENTIONS  # noqa: E402
from asr.files import atomic_write  # noqa: E402

# class: light, dark
COLOURS = {
    "paper": ("fill", "#ffffff", "#161b22"),
    "ink": ("fill", "#1f2933", "#e6edf3"),
    "soft": ("fill", "#5f6b77", "#9aa7b4"),
    "box": ("fill", "#eef2f6", "#262e38"),
    "frame": ("stroke", "#8a94a0", "#6e7a88"),
    "grid": ("stroke", "#dfe4e8", "#30363d"),
    "mala": ("stroke", "#2f6db3", "#6aa9e9"),
    "softmax": ("stroke", "#a4570a", "#f0a04b"),
    "mala-ink": ("fill", "#2f6db3", "#6aa9e9"),
    "softmax-ink": ("fill", "#a4570a", "#f0a04b"),
    "chosen": ("fill", "#d9e8f8", "#1d3a5c"),
}
FIXED = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-size:15px}"
    ".code{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:14px}"
    ".title{font-weight:600}.small{font-size:13px}.middle{text-anchor:middle}.end{text-anchor:end}"
    ".line{fill:none;stroke-width:2.5}.frame,.grid{stroke-width:1}.arrow{fill:none;stroke-width:1.5}"
    ".dashed{stroke-dasharray:6 5}.hollow{fill:none}"
    ".line.softmax{stroke-width:6}"  # seen below MALA's where both are the same
)


def style() -> str:
    """The classes, and what they become in dark mode."""
    light, dark = (
        "".join(f".{name}{{{row[0]}:{row[mode]}}}" for name, row in COLOURS.items()) for mode in (1, 2)
    )
    return f"<style>{FIXED}{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"


def picture(width: int, height: int, about: str, parts: list[str]) -> str:
    """An SVG file; ``about`` is for those who do not see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    head += f'width="{width}" height="{height}" role="img"><title>{escape(about)}</title>'
    ground = f'<rect class="paper" width="{width}" height="{height}" rx="8"/>'
    return "\n".join([head, style(), ground, *parts, "</svg>", ""])


def text(x: float, y: float, content: str, classes: str = "ink") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, classes: str = "box frame") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{classes}"/>'


def arrow(x: float, y: float, to_y: float) -> str:
    """Downwards."""
    line = f"M{x:g} {y:g}V{to_y:g}M{x - 4:g} {to_y - 5:g}L{x:g} {to_y:g}L{x + 4:g} {to_y - 5:g}"
    return f'<path d="{line}" class="arrow frame"/>'


def draw_encoder() -> str:
    """The encoder from above to below, and what may stand in the place of its self-attention."""
    left, width, height, gap = 28, 204, 34, 12
    middle, inside = left + width / 2, 12
    parts, y = [text(middle, 26, "waveform, 16 kHz", "soft middle")], 40.0

    def stage(label: str, classes: str = "box frame") -> float:
        nonlocal y
        parts.append(arrow(middle, y - gap, y))
        parts.append(box(left, y, width, height, classes))
        parts.append(text(middle, y + 22, label, "ink middle"))
        y += height + gap
        return y - gap - height / 2

    stage("log-mel, 80 bins")
    stage("subsampling, 4× or 8×")
    top = y + 2
    y += 40
    block = [text(left - inside + 10, top + 20, "Conformer block, × 16", "ink title")]
    stage("½ feed-forward")
    chosen = stage("self-attention", "chosen mala")
    for label in ("convolution", "½ feed-forward", "layer norm"):
        stage(label)
    frame = box(left - inside, top, width + 2 * inside, y - gap + inside - top, "hollow frame")
    y += inside
    parts += [frame, *block]
    stage("CTC, transducer, or both")
    bottom = y - gap

    x, names, row = 288, list(ATTENTIONS), 24
    parts.append(f'<path d="M{left + width} {chosen:g}H{x}" class="line mala"/>')
    parts.append(box(x, top, 176, 50 + row * len(names), "chosen mala"))
    parts.append(text(x + 12, top + 26, "--attention", "ink code title"))
    parts.append(text(x + 164, top + 26, "time", "soft end"))
    for number, name in enumerate(names):
        at = top + 54 + row * number
        parts.append(text(x + 12, at, name, "ink code"))
        parts.append(text(x + 164, at, "N²" if name == "softmax" else "N", "soft end"))
    about = "Conformer encoder; its self-attention is one of " + ", ".join(names)
    return picture(480, round(bottom + 16), about, parts)


@dataclass(frozen=True)
class Line:
    """Points (minutes, value) of a mechanism, encoded in chunks or at once."""

    name: str
    label: str
    at_once: bool
    points: list[tuple[float, float]]


def read_lines(rows: list[dict], value: str, at_once: bool) -> list[Line]:
    """Of mala and softmax; with ``at_once`` those of one pass too."""
    lines = []
    for name, label in (("softmax", "softmax"), ("mala", "MALA")):
        for whole in (False, True)[: 1 + at_once]:
            found = [row for row in rows if row["attention"] == name and row["at_once"] == whole]
            points = sorted((row["minutes"], row[value]) for row in found)
            lines.append(
                Line(name, f"{label}, in one pass" if whole else f"{label}, in chunks", whole, points)
            )
    return lines


def draw_chart(title: str, about: str, lines: list[Line]) -> str:
    """Lines over the length of a recording; both axes are logarithmic."""
    width, height, left, right, top, bottom = 400, 320, 52, 18, 88, 52
    x_low, x_high = spread([x for line in lines for x, _ in line.points])
    y_low, y_high = spread([y for line in lines for _, y in line.points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = log10(x / x_low) / log10(x_high / x_low)
        up = log10(y / y_low) / log10(y_high / y_low)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [text(14, 26, title, "ink title")]
    for tick in ticks(y_low, y_high):
        x, y = place(x_low, tick)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{width - right}" class="grid"/>')
        parts.append(text(x - 8, round(y + 5, 1), f"{tick:g}", "soft end"))
    for tick in ticks(x_low, x_high):
        x, y = place(tick, y_low)
        parts.append(f'<path d="M{x:.1f} {y:.1f}V{top}" class="grid"/>')
        parts.append(text(round(x, 1), y + 20, f"{tick:g}", "soft middle"))
    parts.append(
        text((left + width - right) / 2, height - 10, "length of the recording (minutes)", "soft middle")
    )
    for line in lines:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line.points))
        dashed = " dashed" * line.at_once
        parts.append(f'<path d="M{path}" class="line {line.name}{dashed}"/>')
        for x, y in (place(*point) for point in line.points):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{line.name}-ink"/>')
    for line in lines:
        x, y = (14 if line.name == "softmax" else 216), 52 + 22 * line.at_once
        dashed = " dashed" * line.at_once
        parts.append(f'<path d="M{x} {y - 5}h22" class="line {line.name}{dashed}"/>')
        parts.append(text(x + 30, y, line.label, f"{line.name}-ink"))
    return picture(width, height, about, parts)


def spread(values: list[float]) -> tuple[float, float]:
    """Ends of an axis with a little room."""
    return min(values) / 1.15, max(values) * 1.15


def ticks(low: float, high: float) -> list[float]:
    """1, 3, 10, 30 ... within an axis; 1, 2, 5, 10 where it is short."""
    steps = (1, 3) if high / low > 20 else (1, 2, 5)
    return [s * 10**e for e in range(-3, 5) for s in steps if low <= s * 10**e <= high]


def draw_all() -> dict[str, str]:
    """Every picture by the name of its file."""
    rows = json.loads((FOLDER / "length.json").read_text())["rows"]
    times, memory = read_lines(rows, "cpu_seconds", False), read_lines(rows, "gib", True)
    return {
        "encoder.svg": draw_encoder(),
        "time.svg": draw_chart("CPU seconds to encode", "Time against length", times),
        "memory.svg": draw_chart("peak memory (GiB)", "Memory against length", memory),
    }


def main() -> None:
    """Write them."""
    for name, content in draw_all().items():
        atomic_write(FOLDER / name, content)
        print(f"{FOLDER / name}: {len(content.encode()) / 1024:.1f} kB")


if __name__ == "__main__":
    main()
