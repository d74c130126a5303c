"""A report as one HTML page that needs nothing outside itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from asr.scoring.errors import Pair
from asr.scoring.report import plots
from asr.scoring.report.analysis import Analysis, Frequent, Group, Marked
from asr.scoring.report.comparison import Change, Comparison
from asr.scoring.report.errs import join_errors
from asr.scoring.report.report import Report, System
from asr.scoring.report.style import CSS, SCRIPT
from asr.scoring.report.text import about, lm_text, rate_cells, reading, sentences, unknown

PLACES = ("first", "second")  # of a system, as the style calls them
RATE_HEADS = ("WER %", "95 % interval", "sub", "ins", "del", "words")


@dataclass(frozen=True)
class Section:
    """One split and LM, of the systems that have it."""

    tables: list[tuple[System, Analysis]]
    comparison: Comparison | None = None


def format_page(report: Report) -> str:
    """The page."""
    names = [system.name for system in report.systems]
    title = "Error report: " + " against ".join(reversed(names))
    sections = _sections(report)
    parts = [f"<h1>{escape(title)}</h1>", _header(report)]
    if report.comparisons:
        parts.append(f"<h2>Is {escape(names[1])} better than {escape(names[0])}?</h2>")
        parts += [_verdict(item, names) for item in report.comparisons]
        parts += [f'<p class="soft">{escape(line)}</p>' for line in reading(report)]
    parts += [f'<p class="soft">Note: {escape(remark)}</p>' for remark in report.remarks]
    parts += ["<h2>Error rates</h2>", _rates(report, sections)]
    for section in sections:
        parts += _section(section, names)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _sections(report: Report) -> list[Section]:
    """What was compared first, then what only one system has."""
    sections = [
        Section(
            [
                (system, system.table(item.split, lm))
                for system, lm in zip(report.systems, item.lm, strict=True)
            ],
            item,
        )
        for item in report.comparisons
    ]
    shown = {id(table) for section in sections for _, table in section.tables}
    rest = ((system, table) for system in report.systems for table in system.tables)
    return sections + [Section([pair]) for pair in rest if id(pair[1]) not in shown]


def _header(report: Report) -> str:
    cards = []
    for place, system in zip(PLACES, report.systems, strict=False):
        heading = f'<h3 class="{place}">{escape(system.name)}</h3>' if len(report.systems) > 1 else ""
        facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about(system))
        cards.append(f'<div class="card">{heading}<dl>{facts}</dl></div>')
    return f'<div class="pair">{"".join(cards)}</div>'


def _verdict(item: Comparison, names: Sequence[str]) -> str:
    kind = "better" if item.ci95[1] < 0 else "worse" if item.ci95[0] > 0 else ""
    lines = "".join(f"<p>{escape(line)}</p>" for line in sentences(item, (names[0], names[1])))
    heading = f"{item.split}, {lm_text(item.lm)}: {item.verdict}"
    return f'<div class="card verdict {kind}"><h3>{escape(heading)}</h3>{lines}</div>'


def _rates(report: Report, sections: Sequence[Section]) -> str:
    several = len(report.systems) > 1
    heads = ["split", "LM", *RATE_HEADS, "CER %", "95 % interval", "utt.", "with errors"]
    rows, labels = [], []
    for system, item in (pair for section in sections for pair in section.tables):
        place = PLACES[report.systems.index(system)]
        name = [_cell(system.name, f"text {place}")] if several else []
        characters = rate_cells(item.characters)
        rows.append(
            [
                *name,
                _cell(item.split, "text"),
                _cell(item.lm, "text"),
                *_rate_row(rate_cells(item.words)),
                *_rate_row(characters[:2]),
                _cell(str(item.utterances)),
                _cell(f"{item.with_errors:.1f} %", value=str(item.with_errors)),
            ]
        )
        labels.append((_heading(system, item, several), item))
    table = _table(["system", *heads] if several else heads, rows, text=2 + several)
    note = f"Intervals: bootstrap over {report.by}s. A click on a column's head sorts by it."
    figure = _figure("Errors by kind", plots.draw_overview(labels))
    return f'<div class="card">{table}<p class="soft">{escape(note)}</p>{figure}</div>'


def _rate_row(cells: Sequence[str]) -> list[str]:
    rate, interval, *counts = cells
    return [_cell(rate), _cell(interval, value=rate), *map(_cell, counts)]


def _heading(system: System, item: Analysis, named: bool) -> str:
    return f"{item.split}, {lm_text(item.lm)}" + (f", {system.name}" if named else "")


def _section(section: Section, names: Sequence[str]) -> list[str]:
    """Figures by length and speaker, then the lists; of two systems, what changed between them."""
    system, item = section.tables[0]
    compared = section.comparison
    figures = []
    if compared is None:
        heading = _heading(system, item, len(names) > 1)
        rest = [_lists(item, unfolded=True)]
    else:
        heading = f"{item.split}, {lm_text(compared.lm)}"
        drawn = plots.draw_difference(compared, (names[0], names[1]))
        figures.append(_figure("Difference of WER over the draws", drawn))
        rest = [_changes(compared, names)]
        rest += [
            f"<details><summary>Errors of {escape(system.name)}</summary>{_lists(table)}</details>"
            for system, table in section.tables
        ]
    lengths = [(system.name, table.by_length) for system, table in section.tables]
    speakers = [(system.name, table.by_speaker) for system, table in section.tables]
    figures.append(_grouped("length", plots.draw_lengths, lengths))
    figures.append(_grouped("speaker", plots.draw_speakers, speakers, plots.is_wide(item.by_speaker)))
    card = f'<div class="card"><div class="pair">{"".join(figures)}</div></div>'
    return [f"<h2>{escape(heading)}</h2>", card, *rest]


def _grouped(group: str, draw: Callable, systems: list[tuple[str, list[Group]]], wide: bool = False) -> str:
    if all(groups for _, groups in systems):
        return _figure(f"WER by {group}", draw(systems), wide)
    return f'<p class="soft">WER by {group}: {unknown(group)}</p>'


def _figure(title: str, svg: str, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _lists(item: Analysis, unfolded: bool = False) -> str:
    """Everything of one split and LM that is a list."""
    groups = "".join(
        f'<div class="tall">{_groups(head, found)}</div>'
        for head, found in (("length", item.by_length), ("speaker", item.by_speaker))
        if found
    )
    folds = [("Tables by length and speaker", groups, False)] if groups else []
    folds.append(("Most frequent errors", _frequent(item.frequent), True))
    folds.append(("Utterances with the most errors", _worst(item.worst), unfolded))
    return "".join(_fold(title, body, unfolded) for title, body, unfolded in folds)


def _fold(title: str, body: str, unfolded: bool = False) -> str:
    return f"<details{' open' if unfolded else ''}><summary>{escape(title)}</summary>{body}</details>"


def _groups(head: str, groups: Sequence[Group]) -> str:
    rows = [
        [
            _cell(group.name, "text", value=str(place) if head == "length" else None),
            *_rate_row(rate_cells(group.words)),
            _cell(str(group.utterances)),
            _cell("" if group.seconds is None else f"{group.seconds / 60:.1f}"),
        ]
        for place, group in enumerate(groups)
    ]
    return _table([head, *RATE_HEADS, "utterances", "minutes"], rows)


def _frequent(item: Frequent) -> str:
    confused = [(f"{said} → {heard}", count) for (said, heard), count in item.substitutions]
    kinds = (("Substitutions", confused), ("Deletions", item.deletions), ("Insertions", item.insertions))
    return f'<div class="pair narrow">{"".join(_counts(title, found) for title, found in kinds)}</div>'


def _counts(title: str, items: Sequence[tuple[str, int]]) -> str:
    largest = max((count for _, count in items), default=1)
    rows = [
        [
            _cell(word, "text"),
            _cell(str(count)),
            f'<td class="barred" data-v="{count}">'
            f'<span class="bar" style="width:{100 * count / largest:.0f}%"></span></td>',
        ]
        for word, count in items
    ]
    return _table([title, "count", ""], rows) if rows else f'<p class="soft">{title}: none</p>'


def _worst(items: Sequence[Marked]) -> str:
    if not items:
        return '<p class="soft">No utterance has an error.</p>'
    rows = [
        [
            _cell(item.id, "text"),
            _cell(item.speaker, "text"),
            _cell("" if item.seconds is None else f"{item.seconds:.1f}"),
            _cell(str(item.errors)),
            _cell(f"{item.wer:.0f}"),
            f'<td class="text words">{marked_html(item.pairs)}</td>',
        ]
        for item in items
    ]
    heads = ["utterance", "speaker", "seconds", "errors", "WER %", "reference with errors"]
    return _table(heads, rows, text=2, last_text=1)


def _changes(item: Comparison, names: Sequence[str]) -> str:
    return "".join(
        _fold(title, _changed(changes, names) if changes else '<p class="soft">Nowhere.</p>')
        for title, changes in (
            (f"Where {names[1]} gains most", item.improved),
            (f"Where {names[1]} loses most", item.worsened),
        )
    )


def _changed(changes: Iterable[Change], names: Sequence[str]) -> str:
    rows = [
        [
            _cell(change.first.id, "text"),
            _cell(f"{change.second.errors - change.first.errors:+d}"),
            f'<td class="text words">{marked_html(change.first.pairs)}</td>',
            f'<td class="text words">{marked_html(change.second.pairs)}</td>',
        ]
        for change in changes
    ]
    return _table(["utterance", "errors", *names], rows, last_text=2)


def marked_html(pairs: Sequence[Pair]) -> str:
    """An alignment with what was missed struck out and what was recognised instead beside it."""
    words = []
    for said, heard in join_errors(pairs):
        if said == heard:
            words.append(escape(said))
        else:
            missed = f"<del>{escape(said)}</del>" if said else ""
            words.append(missed + (f"<ins>{escape(heard)}</ins>" if heard else ""))
    return " ".join(words)


def _cell(text: str, kind: str = "", value: str | None = None) -> str:
    """A cell; ``value`` is what it sorts by where that is not its text."""
    attributes = f' class="{kind}"' if kind else ""
    if value is not None:
        attributes += f' data-v="{escape(value)}"'
    return f"<td{attributes}>{escape(text)}</td>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1, last_text: int = 0) -> str:
    """A table that can be sorted; ``text`` columns on the left and ``last_text`` on the right hold text."""
    head = ""
    for place, name in enumerate(heads):
        kind = ' class="text"' if place < text or place >= len(heads) - last_text else ""
        head += f'<th scope="col"{kind}>{escape(name)}</th>'
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
