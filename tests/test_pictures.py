"""The pictures of README and docs: drawn from what is beside them, small, and legible in both modes."""

import importlib.util
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from asr.attention import ATTENTIONS

PAGES = [Path("README.md"), Path("RESULTS.md"), *Path("docs").glob("*.md")]
FIGURES = Path("docs/figures")


@pytest.fixture(scope="module")
def draw():
    spec = importlib.util.spec_from_file_location("draw", FIGURES / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_those_that_the_script_draws(draw):
    for name, content in draw.draw_all().items():
        assert (FIGURES / name).read_text() == content, f"{name}: run python docs/figures/draw.py"


def test_the_encoder_names_every_mechanism(draw):
    shown = set(ElementTree.fromstring(draw.draw_encoder()).itertext())
    assert shown >= set(ATTENTIONS)


def test_a_chart_has_every_point_inside(draw):
    lines = [draw.Line("mala", "MALA", False, [(0.5, 0.01), (3, 2.0), (180, 900.0)])]
    picture = ElementTree.fromstring(draw.draw_chart("a", "b", lines))
    points = [(float(item.get("cx")), float(item.get("cy"))) for item in picture.iter() if item.get("cx")]
    width, height = (float(picture.get(name)) for name in ("width", "height"))
    assert len(points) == 3 and points == sorted(points)
    assert all(0 < x < width and 0 < y < height for x, y in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


SEEN = [(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "box", "chosen")]
SEEN += [("mala-ink", "paper"), ("softmax-ink", "paper")]


@pytest.mark.parametrize("mode", [1, 2], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), SEEN)
def test_contrast(draw, ink, ground, mode):
    a, b = sorted(luminance(draw.COLOURS[name][mode]) for name in (ink, ground))
    assert (b + 0.05) / (a + 0.05) >= 4  # WCAG asks for 4.5 of small letters, 3 of large ones


def test_pictures_are_small_and_shown():
    pictures = [path for path in FIGURES.iterdir() if path.suffix in (".svg", ".png")]
    assert sum(path.stat().st_size for path in pictures) < 300_000
    pages = "".join(path.read_text() for path in PAGES)
    assert all(path.name in pages for path in pictures)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = page.read_text()
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            path = page.parent / target if target else page
            assert path.exists(), f"{page}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page}: {target}#{anchor}"


def test_the_table_of_the_readme_is_what_was_measured():
    rows = json.loads((FIGURES / "length.json").read_text())["rows"]
    measured = {row["attention"]: row for row in rows if row["minutes"] == 3 and not row["at_once"]}
    found = re.findall(r"^\| `(\w+)`.*\| ([\d.]+) s \| ([\d.]+) GiB \|$", Path("README.md").read_text(), re.M)
    assert len(found) > 1
    for name, seconds, gib in found:
        assert seconds == f"{measured[name]['cpu_seconds']:.1f}"
        assert gib == f"{measured[name]['gib']:.2f}"
