"""A report as plain text, for a terminal and report.txt."""

import textwrap
from collections.abc import Sequence

from asr.scoring.report.analysis import Analysis, Group, Marked, Rate
from asr.scoring.report.comparison import Comparison
from asr.scoring.report.errs import mark
from asr.scoring.report.report import Report, System

SHOWN = 10  # of a list; the rest is in report.html and report.json
WIDTH = 110  # of a paragraph
FEW_GROUPS = 20  # drawing from fewer gives a rough interval


def format_report(report: Report) -> str:
    """The whole report."""
    blocks = [_system(report, item) for item in report.systems]
    if report.comparisons:
        blocks += [_comparison(item, report.systems) for item in report.comparisons]
        blocks.append("\n".join(textwrap.fill(line, WIDTH) for line in reading(report)))
    blocks += ["\n".join(f"note: {remark}" for remark in report.remarks)] if report.remarks else []
    for system in report.systems:
        blocks += [_table(system, item, len(report.systems) > 1) for item in system.tables]
    return "\n\n".join(blocks) + "\n"


def about(system: System) -> list[tuple[str, str]]:
    """What is known of how the results came about, as names and values."""
    known = system.about
    lines = [("results", system.folder), ("checkpoint", str(known.get("checkpoint", "")))]
    parameters = known.get("parameters")
    lines.append(("attention", str(known.get("attention", ""))))
    if isinstance(parameters, int):
        lines.append(("parameters", f"{parameters / 1e6:.2f} M"))
    if "lm_weight" in known:
        tuned = known.get("tuned_on") or []
        how = f"tuned on {' + '.join(map(str, tuned))}" if tuned else "not tuned"
        named = {
            "lm_weight": "LM weight",
            "word_score": "word score",
            "unknown_penalty": "unknown penalty",
            "ilm_weight": "ILM weight",
            "ctc_weight": "CTC weight",
        }
        weights = [f"{name} {known[field]}" for field, name in named.items() if field in known]
        lines.append(("LM", ", ".join([*weights, how])))
    if isinstance(scored := known.get("scored"), dict):
        lines.append(("scored", "; ".join(f"{split} {how}" for split, how in scored.items())))
    lines.append(("command", str(known.get("command", ""))))
    return [(name, value) for name, value in lines if value]


def interval_text(ci95: tuple[float, float], signed: bool = False) -> str:
    """An interval in percent."""
    form = "+.2f" if signed else ".2f"
    return f"{ci95[0]:{form}} to {ci95[1]:{form}}"


def lm_text(lm: str | tuple[str, str]) -> str:
    """How an LM is called in a heading."""
    names = [lm] if isinstance(lm, str) else list(dict.fromkeys(lm))
    return " against ".join(_lm_text(name) for name in names)


def _lm_text(name: str) -> str:
    without, _, more = name.partition("none+")
    if not without and more:  # beam search without an LM
        return f"no LM, {more}"
    return "no LM" if name == "none" else f"LM {name}"


def sentences(item: Comparison, names: tuple[str, str]) -> list[str]:
    """A comparison in words: how large the difference is, and how often the second came out ahead."""
    first, second = names
    relative = f", {100 * item.difference / item.wer[0]:+.1f} % relative" if item.wer[0] else ""
    ties = f", the same in {100 * item.equal:.2f} %" if item.equal else ""
    changed = item.utterances
    return [
        f"WER {item.wer[1]:.2f} % ({second}) against {item.wer[0]:.2f} % ({first}): difference "
        f"{item.difference:+.2f} points{relative}; 95 % interval {interval_text(item.ci95, True)}.",
        f"{second} had the lower WER in {100 * item.better:.2f} % of {item.draws} draws of the {item.drawn} "
        f"{item.by}s{ties}: probability of improvement {100 * item.probability_of_improvement:.2f} %.",
        f"By utterance: {second} makes fewer errors in {changed['better']}, as many in {changed['equal']}, "
        f"more in {changed['worse']}.",
    ]


def reading(report: Report) -> list[str]:
    """How to read the comparisons."""
    unit = report.by
    lines = [
        f"How to read this: a draw takes as many {unit}s as there are, with replacement, the same for both "
        "systems, and compares their WER (paired bootstrap, Bisani and Ney 2004). The probability of "
        "improvement is the share of draws that the second system wins, a tie counting half: 50 % is the "
        "toss of a coin. It says how surely these two trained models would keep their order on other speech "
        "of the same kind. It says nothing of other training runs: another seed moves WER as well.",
    ]
    if unit == "utterance":
        lines.append(
            "Utterances of one speaker are not independent of each other, which makes these intervals too "
            "narrow where a system suits some speakers; --by speaker draws whole speakers."
        )
    if any(item.drawn < FEW_GROUPS for item in report.comparisons):
        lines.append(f"With fewer than {FEW_GROUPS} {unit}s to draw from, take the intervals as rough.")
    return lines


def unknown(group: str) -> str:
    """Why there is no table by length or speaker."""
    return f"not known, as not every utterance has its {'duration' if group == 'length' else group}."


def columns(rows: Sequence[Sequence[str]], left: int = 1, indent: str = "") -> str:
    """A table, the first row its head; ``left`` columns are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        indent
        + "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, indent + "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _system(report: Report, system: System) -> str:
    head = f"System: {system.name}" if len(report.systems) > 1 else "Error report"
    lines = [head, *(f"  {name:11}{value}" for name, value in about(system)), ""]
    heads = "split,LM,WER,95 % interval,CER,95 % interval,sub,ins,del,words,utt,with errors"
    rows = [heads.split(",")]
    for item in system.tables:
        rows.append([item.split, item.lm, *rate_cells(item.words)[:2], *rate_cells(item.characters)[:2]])
        rows[-1] += [*rate_cells(item.words)[2:], str(item.utterances), f"{item.with_errors:.1f} %"]
    lines.append(columns(rows, left=2))
    lines.append(f"WER and CER in percent; intervals by bootstrap over {report.by}s.")
    return "\n".join(lines)


def rate_cells(rate: Rate) -> list[str]:
    """Rate, interval, substitutions, insertions, deletions, length."""
    counts = (rate.substitutions, rate.insertions, rate.deletions, rate.length)
    return [f"{rate.rate:.2f}", interval_text(rate.ci95), *map(str, counts)]


def _comparison(item: Comparison, systems: Sequence[System]) -> str:
    names = (systems[0].name, systems[1].name)
    lines = [f"{item.split}, {lm_text(item.lm)}: {item.verdict}.", *sentences(item, names)]
    return "\n  ".join(lines)


def _table(system: System, item: Analysis, named: bool) -> str:
    title = f"{item.split}, {lm_text(item.lm)}" + (f", {system.name}" if named else "")
    lines = [title, "=" * len(title)]
    for head, groups in (("length", item.by_length), ("speaker", item.by_speaker)):
        lines += ["", _groups(head, groups)]
    frequent = item.frequent
    confused = [f"{said} -> {heard}" for (said, heard), _ in frequent.substitutions]
    for title, words, counts in (
        ("Substitutions", confused, [count for _, count in frequent.substitutions]),
        ("Deletions", *_split(frequent.deletions)),
        ("Insertions", *_split(frequent.insertions)),
    ):
        shown = ", ".join(f"{word} ({count})" for word, count in zip(words, counts, strict=True))
        lines += ["", f"{title}, the most frequent: {shown or 'none'}"]
    lines += ["", "Utterances with the most errors:" if item.worst else "No utterance has an error."]
    lines += [f"  {marked_text(utterance)}" for utterance in item.worst[:SHOWN]]
    return "\n".join(lines)


def _split(items: Sequence[tuple[str, int]]) -> tuple[list[str], list[int]]:
    return [word for word, _ in items], [count for _, count in items]


def _groups(head: str, groups: Sequence[Group]) -> str:
    if not groups:
        return f"WER by {head}: {unknown(head)}"
    shown = groups if head == "length" else groups[:SHOWN]
    rows = [[f"by {head}", "WER", "95 % interval", "sub", "ins", "del", "words", "utt"]]
    rows += [[group.name, *rate_cells(group.words), str(group.utterances)] for group in shown]
    text = columns(rows)
    if len(shown) < len(groups):
        text += f"\nthe highest {len(shown)} of {len(groups)} speakers"
    return text


def marked_text(item: Marked) -> str:
    """An utterance on one line."""
    return f"{item.id} ({item.errors} errors, WER {item.wer:.0f} %): {mark(item.pairs)}"
