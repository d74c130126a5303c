"""A report's three files: text, JSON and a page."""

import json
from dataclasses import asdict
from pathlib import Path

from asr.files import atomic_write
from asr.scoring.report.page import format_page
from asr.scoring.report.report import Report, make_report
from asr.scoring.report.text import format_report


def write_report(report: Report, out: Path) -> Path:
    """Write report.txt, report.json and report.html; returns the page's path."""
    text, page = format_report(report), format_page(report)
    content = json.dumps(asdict(report), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(out / "report.txt", text)
    atomic_write(out / "report.json", content + "\n")
    atomic_write(out / "report.html", page)
    return out / "report.html"


def report_on(folder: Path) -> Path:
    """Report on one result folder, inside it; returns the page's path."""
    return write_report(make_report(folder), folder)
