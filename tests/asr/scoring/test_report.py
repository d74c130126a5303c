"""Reports from result folders as decode.py writes them: the numbers, the page, and what bad folders give."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import Utterance
from asr.decoding.evaluation import Posteriors, Row, write_results
from asr.errors import UserError
from asr.scoring.errors import align, score
from asr.scoring.report import __main__ as program
from asr.scoring.report.errs import format_errs, join_errors, mark
from asr.scoring.report.page import format_page
from asr.scoring.report.report import make_report
from asr.scoring.report.results import Decoded, decoded_path, read_decoded, write_decoded
from asr.scoring.report.text import format_report, rate_cells
from asr.scoring.report.write import report_on, write_report

WORDS = "THE CAT SAT ON A MAT AND THEN IT RAN".split()
sentence = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)


def spoil(text: str, share: float, rng: random.Random) -> str:
    """A hypothesis with errors of all kinds."""
    words = []
    for word in text.split():
        if rng.random() >= share:
            words.append(word)
        else:
            words += rng.choice([[], [rng.choice(WORDS)], [word, rng.choice(WORDS)]])
    return " ".join(words)


def utterances(count: int = 60) -> list[Utterance]:
    rng = random.Random(0)
    return [
        Utterance(
            id=f"{index % 4}-1-{index:04d}",
            audio="",
            duration=round(rng.uniform(1, 30), 2),
            text=" ".join(rng.choices(WORDS, k=rng.randrange(1, 12))),
            speaker=f"speaker{index % 4}",
        )
        for index in range(count)
    ]


def write(folder, share, spoken=None, attention="mala", lms=("none", "3gram"), splits=("test",), **about):
    """A result folder, as decode.py writes it, of a system that gets this share of words wrong."""
    spoken = utterances() if spoken is None else spoken
    rng = random.Random(folder.name)  # the path differs from run to run
    texts = [item.text for item in spoken]
    rows = []
    for split in splits:
        for lm in lms:
            hypotheses = [spoil(text, share, rng) for text in texts]
            rows.append(Row(split, lm, score(texts, hypotheses), 0.01, hypotheses, seconds=1.0))
    posteriors = {split: Posteriors(spoken, [], 1.0) for split in splits}
    base = {"checkpoint": "best.ckpt", "attention": attention, "parameters": 1_500_000, "command": "python x"}
    write_results(folder, rows, posteriors, {**base, **about})
    return folder


@pytest.fixture
def systems(tmp_path):
    """Two systems on the same split, the second much better."""
    return write(tmp_path / "linear", 0.4, attention="linear"), write(tmp_path / "mala", 0.1)


class Page(HTMLParser):
    """A page's tables, and whether it is well formed and whole."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} {name}"
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append("".join(self.cell))
            self.cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "script"):
            assert "url(" not in data and "@import" not in data and "://" not in data
        else:
            self.text += data
        if self.cell is not None:
            self.cell.append(data)


# The files beside wer.json


def test_decoded_utterances_survive_a_file(tmp_path):
    written = [Decoded("1-2", "A B", "A É", "s", 1.5), Decoded("1-3", "", "", "", None)]
    write_decoded(tmp_path / "x.jsonl", written)
    assert read_decoded(tmp_path / "x.jsonl") == written


def test_results_hold_every_utterance_as_decoded(tmp_path):
    spoken = utterances(5)
    folder = write(tmp_path / "r", 0.3, spoken, lms=("none",))
    found = read_decoded(decoded_path(folder, "test", "none"))
    assert [(item.id, item.speaker, item.duration, item.ref) for item in found] == [
        (item.id, item.speaker, item.duration, item.text) for item in spoken
    ]
    lines = (folder / "test.none.hyp.trn").read_text().splitlines()
    assert lines == [f"{item.hyp} ({item.id})" for item in found]


ERRS = """%WER = 57.14
Errors: 1 insertions, 1 deletions, 2 substitutions, over 7 reference words (4 correct)
Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, PER-WORD STATS:

PER-UTT DETAILS: corr or (ref->hyp)  
1-1:\tTHE (CAT->HAT) SAT (*->DOWN)
1-2:\tTHE (DOG RAN->FOG) AWAY
1-3:\t

SUBSTITUTIONS: count ref -> hyp
1   CAT -> HAT
1   RAN -> FOG

DELETIONS: count ref
1   DOG

INSERTIONS: count hyp
1   DOWN

PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp
CAT   0 1 1 0
DOG   0 1 1 0
DOWN   0 1 0 1
FOG   0 1 0 1
HAT   0 1 0 1
RAN   0 1 1 0
AWAY   1 0 1 1
SAT   1 0 1 1
THE   2 0 2 2
"""  # noqa: W291, E501


def test_errs_file_is_icefalls():
    pairs = [("THE CAT SAT", "THE HAT SAT DOWN"), ("THE DOG RAN AWAY", "THE FOG AWAY"), ("", "")]
    decoded = [Decoded(f"1-{number}", *pair) for number, pair in enumerate(pairs, 1)]
    found = format_errs(decoded)
    # Of two alignments with as few edits, either may be taken.
    other = ERRS.replace("RAN -> FOG", "DOG -> FOG").replace("1   DOG\n", "1   RAN\n")
    assert found in (ERRS, other)


@given(reference=sentence, hypothesis=sentence)
def test_marked_errors_can_be_read_back(reference, hypothesis):
    pairs = align(reference, hypothesis)
    text = mark(pairs)
    sides = [
        re.sub(r"\(([^()]*?)->([^()]*?)\)", lambda m, side=side: m[side].replace("*", ""), text).split()
        for side in (1, 2)
    ]
    assert sides == [reference.split(), hypothesis.split()]
    joined = join_errors(pairs)
    assert not any(a[0] != a[1] and b[0] != b[1] for a, b in pairwise(joined))


# One system


def test_report_of_one_system_agrees_with_its_table(tmp_path):
    folder = write(tmp_path / "r", 0.3, lm_weight=0.6, word_score=1.25, tuned_on=["dev"])
    page = report_on(folder)
    assert page == folder / "report.html"
    table = json.loads((folder / "wer.json").read_text())["rows"]
    found = json.loads((folder / "report.json").read_text())["systems"][0]["tables"]
    assert [(row["split"], row["lm"]) for row in found] == [("test", "none"), ("test", "3gram")]
    for row, expected in zip(found, table, strict=True):
        assert row["words"]["rate"] == pytest.approx(expected["wer"])
        assert row["characters"]["rate"] == pytest.approx(expected["cer"])
        assert row["words"]["ci95"] == pytest.approx(expected["ci95"])
        parts = [row["words"][part] for part in ("substitutions", "insertions", "deletions", "length")]
        assert parts == [expected[part] for part in ("sub", "ins", "del", "words")]
        for groups in (row["by_length"], row["by_speaker"]):
            assert sum(group["utterances"] for group in groups) == expected["utterances"]
            for part in ("substitutions", "insertions", "deletions", "length"):
                assert sum(group["words"][part] for group in groups) == row["words"][part]
        errs = (folder / f"errs-test-{expected['lm']}.txt").read_text()
        assert errs.startswith(f"%WER = {expected['wer']:.2f}\n")
        (said, heard), count = row["frequent"]["substitutions"][0]
        assert f"SUBSTITUTIONS: count ref -> hyp\n{count}   {said} -> {heard}\n" in errs
        worst = row["worst"][0]
        assert worst["errors"] == max(item["errors"] for item in row["worst"])
        assert f"{worst['id']}:\t{mark(worst['pairs'])}\n" in errs


def test_text_json_and_page_say_the_same(tmp_path):
    folder = write(tmp_path / "r", 0.3)
    report = make_report(folder)
    write_report(report, folder)
    text, page = (folder / "report.txt").read_text(), Page((folder / "report.html").read_text())
    assert text == format_report(report)
    lines = [line.split("  ") for line in text.splitlines()]
    in_text = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    every_row = [row for table in page.tables for row in table]
    for item in report.systems[0].tables:
        cells = [*rate_cells(item.words), *rate_cells(item.characters)[:2], str(item.utterances)]
        assert [item.split, item.lm, *cells, f"{item.with_errors:.1f} %"] in page.tables[0]
        wer, interval, *parts = rate_cells(item.words)
        short = [wer, interval, *rate_cells(item.characters)[:2], *parts, str(item.utterances)]
        assert [item.split, item.lm, *short, f"{item.with_errors:.1f} %"] in in_text
        assert len(item.by_speaker) == 4
        for group in [*item.by_length, *item.by_speaker]:
            row = [group.name, *rate_cells(group.words), str(group.utterances)]
            assert row in in_text
            assert [*row, f"{group.seconds / 60:.1f}"] in every_row
        (said, heard), count = item.frequent.substitutions[0]
        assert [f"{said} → {heard}", str(count), ""] in every_row
        assert f"{said} -> {heard} ({count})" in text
        assert item.worst[0].id in text and any(row[0] == item.worst[0].id for row in every_row)
    for name, value in (("checkpoint", "best.ckpt"), ("parameters", "1.50 M"), ("command", "python x")):
        assert f"{name}{value}" in page.text
        assert re.search(rf"{name} +{re.escape(value)}\n", text)


HOSTILE = "<script>alert(1)</script>&\"'$x_1$"


def test_page_needs_nothing_from_outside_and_escapes_everything(tmp_path):
    spoken = [
        replace(item, speaker=f"{HOSTILE}{index % 3}", id=f"{index}<b>&", text=f"{item.text} <i>")
        for index, item in enumerate(utterances(12))
    ]
    about = {"attention": HOSTILE, "checkpoint": "https://example.com/<x>", "command": HOSTILE}
    first = write(tmp_path / "one", 0.5, spoken, lms=("none", "<u>"), **about)
    second = write(tmp_path / "two", 0.4, spoken, lms=("none", "<s>"), **about)
    for arguments, out in (((first,), first), ((first, second), tmp_path / "out")):
        html = write_report(make_report(*arguments), out).read_text()
        page = Page(html)
        assert page.references and all(reference.startswith("#f") for reference in page.references)
        assert {reference[1:] for reference in page.references} <= set(page.ids)
        assert len(set(page.ids)) == len(page.ids)
        assert html.count("<script") == 1 and HOSTILE in page.text
        assert not page.tags & {
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "image",
            "i",
            "b",
            "u",
            "s",
        }


def test_the_same_results_give_the_same_report(tmp_path):
    folder = write(tmp_path / "r", 0.3, lms=("none",))
    names = ("report.txt", "report.json", "report.html")
    found = []
    for _ in range(2):
        report_on(folder)
        found.append([(folder / name).read_text() for name in names])
    assert found[0] == found[1]


def test_speakers_and_lengths_may_be_unknown(tmp_path, systems):
    for folder in systems:
        path = decoded_path(folder, "test", "none")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            del line["speaker"], line["duration"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = make_report(*systems)
    bare, full = report.systems[0].tables
    assert (bare.by_length, bare.by_speaker, bare.seconds) == ([], [], None)
    assert full.by_length and full.by_speaker and full.seconds > 0
    write_report(report, tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text())
    for text in (page.text, (tmp_path / "out" / "report.txt").read_text()):
        assert "WER by speaker: not known" in text and "WER by length: not known" in text
    with pytest.raises(UserError, match="--by speaker: test has utterances without a speaker"):
        make_report(*systems, by="speaker")


def test_speakers_that_one_system_s_manifest_lacks(tmp_path):
    unknown = [replace(item, speaker="unknown") for item in utterances()]
    folders = write(tmp_path / "old", 0.4, spoken=unknown), write(tmp_path / "new", 0.1)
    write_report(make_report(*folders), tmp_path / "out")
    assert "unknown" in Page((tmp_path / "out" / "report.html").read_text()).text


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_faultless_system_and_a_useless_one(tmp_path, share):
    spoken = [replace(item, text=item.text if index else "") for index, item in enumerate(utterances(8))]
    folder = write(tmp_path / "r", 0.0, spoken, lms=("none",))
    if share:
        path = decoded_path(folder, "test", "none")
        write_decoded(path, [replace(item, hyp="") for item in read_decoded(path)])
    table = make_report(folder).systems[0].tables[0]
    assert (table.words.rate, table.words.ci95) == (100 * share, (100 * share, 100 * share))
    page = Page(report_on(folder).read_text())
    assert ("No utterance has an error." in page.text) == (share == 0)


# Two systems


def test_a_better_system_is_called_better(systems, tmp_path):
    report = make_report(*systems)
    assert [system.name for system in report.systems] == ["linear", "mala"]
    assert [item.lm for item in report.comparisons] == [("none", "none"), ("3gram", "3gram")]
    for item, first, second in zip(
        report.comparisons, report.systems[0].tables, report.systems[1].tables, strict=True
    ):
        assert item.wer == pytest.approx((first.words.rate, second.words.rate))
        assert item.difference == pytest.approx(second.words.rate - first.words.rate)
        assert item.ci95[0] < item.difference < item.ci95[1] < 0
        assert item.better == item.probability_of_improvement == 1
        assert item.verdict.startswith("mala is better than linear")
        assert sum(item.utterances.values()) == item.drawn == 60
        assert sum(item.histogram["counts"]) == item.draws
        for change in item.improved:
            assert change.first.id == change.second.id and change.second.errors < change.first.errors
    write_report(report, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "report.json").read_text())["comparisons"]
    page = Page((tmp_path / "out" / "report.html").read_text())
    for text in ((tmp_path / "out" / "report.txt").read_text(), page.text):
        assert text.count("mala is better than linear") == 2
        for item in stored:
            assert f"difference {item['difference']:+.2f} points" in text
            assert f"95 % interval {item['ci95'][0]:+.2f} to {item['ci95'][1]:+.2f}." in text
            assert f"probability of improvement {100 * item['probability_of_improvement']:.2f} %" in text


def test_swapped_systems_flip_the_verdict(systems):
    there, back = make_report(*systems), make_report(*reversed(systems))
    for one, other in zip(there.comparisons, back.comparisons, strict=True):
        assert other.difference == pytest.approx(-one.difference)
        assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
        assert other.verdict.startswith("linear is worse than mala")
        assert other.improved == [
            replace(item, first=item.second, second=item.first) for item in one.worsened
        ]


def test_a_system_does_not_differ_from_itself(systems):
    report = make_report(systems[0], systems[0])
    assert [system.name for system in report.systems] == ["first", "second"]
    for item in report.comparisons:
        assert (item.difference, *item.ci95, item.better, item.equal) == (0, 0, 0, 0, 1)
        assert item.verdict.startswith("no difference between second and first")
        assert item.improved == item.worsened == []


def test_systems_as_good_as_each_other_are_not_ranked(tmp_path):
    folders = [write(tmp_path / name, 0.3, attention=name) for name in ("one", "two")]
    item = make_report(*folders).comparisons[0]
    assert item.ci95[0] < 0 < item.ci95[1]
    assert item.verdict.startswith("no clear difference between two and one")


def rewrite(folder, change, lm="none") -> None:
    path = decoded_path(folder, "test", lm)
    write_decoded(path, change(read_decoded(path)))


def test_utterances_are_matched_by_id(systems):
    before = make_report(*systems).comparisons[0]
    rewrite(systems[1], lambda items: random.Random(1).sample(items, len(items)))
    assert make_report(*systems).comparisons[0] == before


def test_drawing_speakers(systems):
    report = make_report(*systems, by="speaker")
    assert [item.drawn for item in report.comparisons] == [4, 4]
    text = format_report(report)
    assert "of the 4 speakers" in text and "intervals by bootstrap over speakers" in text
    assert "fewer than 20 speakers" in text


def renamed(items: Sequence[Decoded]) -> list[Decoded]:
    return [replace(items[0], id="other"), *items[1:]]


BAD = {
    "other utterances": (renamed, "not the same utterances; 0-1-0000 is only in .*linear"),
    "fewer utterances": (lambda items: items[1:], r"0-1-0000 is only in .*linear \(1 such\)"),
    "other references": (
        lambda items: [replace(items[0], ref="SOMETHING ELSE"), *items[1:]],
        "0-1-0000 has two references",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_systems_on_other_speech_are_refused(case, systems, tmp_path):
    change, message = BAD[case]
    rewrite(systems[1], change)
    with pytest.raises(UserError, match=message) as error:
        program.main([*map(str, systems), "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_lms_with_other_names_are_compared_with_a_remark(tmp_path):
    first = write(tmp_path / "a", 0.3, lms=("none", "3gram"), attention="linear")
    second = write(tmp_path / "b", 0.3, lms=("none", "4gram"))
    report = make_report(first, second)
    assert [item.lm for item in report.comparisons] == [("none", "none"), ("3gram", "4gram")]
    assert "test: the LMs have different names, 3gram and 4gram" in report.remarks[0]


def test_what_cannot_be_compared_is_left_out_with_a_remark(tmp_path):
    spoken = utterances(6)
    first = write(tmp_path / "a", 0.3, spoken, "linear", splits=("test", "dev"))
    second = write(tmp_path / "b", 0.3, spoken, lms=("none", "4gram", "5gram"))
    report = make_report(first, second)
    assert [(item.split, item.lm) for item in report.comparisons] == [("test", ("none", "none"))]
    assert [remark.partition(": ")[0] for remark in report.remarks] == [
        "test, LM 3gram",
        "dev, LM none",
        "dev, LM 3gram",
        "test, LM 4gram",
        "test, LM 5gram",
    ]
    assert "dev, LM 3gram, linear" in Page(format_page(report)).text
    other = write(tmp_path / "c", 0.3, splits=("moon",))
    with pytest.raises(UserError, match="share no split and LM"):
        make_report(second, other)


# The program


def test_the_program_prints_and_writes(systems, tmp_path, capsys):
    program.main([str(systems[0])])
    shown = capsys.readouterr().out
    assert shown.startswith((systems[0] / "report.txt").read_text())
    assert shown.endswith(f"written to {systems[0] / 'report.html'}, report.txt and report.json beside it\n")
    program.main([*map(str, systems), "--out", str(tmp_path / "out"), "--by", "speaker"])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["by"] == "speaker"


def damage(folder, name, content) -> None:
    (folder / name).write_text(content)


BAD_FOLDERS = {
    "no table": (lambda folder: (folder / "wer.json").unlink(), "no wer.json in it; give a folder that"),
    "no json": (lambda folder: damage(folder, "wer.json", "{"), "wer.json: not a table of decode.py"),
    "no rows": (lambda folder: damage(folder, "wer.json", '{"rows": []}'), "wer.json: holds no row"),
    "a split that is a path": (
        lambda folder: damage(folder, "wer.json", '{"rows": [{"split": "../x", "lm": "none"}]}'),
        "not a table of",
    ),
    "an LM that is a path": (
        lambda folder: damage(folder, "wer.json", '{"rows": [{"split": "x", "lm": "/etc/y"}]}'),
        "not a table of",
    ),
    "rows of another kind": (lambda folder: damage(folder, "wer.json", '{"rows": [1]}'), "not a table of"),
    "no utterances": (
        lambda folder: decoded_path(folder, "test", "none").unlink(),
        r"test\.none\.jsonl: no such file; it comes from decode\.py, so decode again",
    ),
    "empty": (lambda folder: damage(folder, "test.none.jsonl", ""), r"test\.none\.jsonl:1: not an utterance"),
    "no text": (
        lambda folder: damage(folder, "test.none.jsonl", '{"id": "a", "ref": "A"}\n'),
        r"test\.none\.jsonl:1: not an utterance with id, ref and hyp",
    ),
    "wrong type": (
        lambda folder: damage(
            folder, "test.none.jsonl", '{"id": "a", "ref": "", "hyp": "", "duration": NaN}\n'
        ),
        r"test\.none\.jsonl:1: a field of the wrong type",
    ),
    "twice": (
        lambda folder: damage(folder, "test.none.jsonl", '{"id": "a", "ref": "A", "hyp": "A"}\n' * 2),
        r"test\.none\.jsonl: an utterance id appears twice",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders_are_one_line_and_leave_nothing(case, tmp_path):
    spoil_it, message = BAD_FOLDERS[case]
    folder = write(tmp_path / "r", 0.3, utterances(3))
    spoil_it(folder)
    with pytest.raises(UserError, match=message) as error:
        program.main([str(folder)])
    assert "\n" not in str(error.value) and not list(folder.glob("report.*"))


def test_options_that_do_not_go_together(systems, tmp_path):
    with pytest.raises(UserError, match="--out: name a folder"):
        program.main([*map(str, systems)])
    alone = [replace(item, speaker="one") for item in utterances(5)]
    with pytest.raises(UserError, match="--by speaker: test has one speaker only"):
        program.main([str(write(tmp_path / "r", 0.3, alone)), "--by", "speaker"])
