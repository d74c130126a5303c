"""A report as data: one system, or two and what their comparison says. Whatever is shown is computed here."""

from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from asr.scoring.normalise import Normaliser
from asr.scoring.report.analysis import Analysis, Counted, analyse
from asr.scoring.report.comparison import Comparison, compare_systems, match_utterances, pair_tables
from asr.scoring.report.results import Results, read_results


@dataclass(frozen=True)
class System:
    """A result folder."""

    name: str
    folder: str
    about: dict  # checkpoint, attention, parameters, command, LM weights: wer.json without its rows
    tables: list[Analysis]

    def table(self, split: str, lm: str) -> Analysis:
        """One of them."""
        return next(item for item in self.tables if (item.split, item.lm) == (split, lm))


@dataclass(frozen=True)
class Report:
    """Everything that a report says."""

    by: str  # what the bootstrap draws: utterance or speaker
    systems: list[System]  # one or two
    comparisons: list[Comparison]
    remarks: list[str]


def make_report(
    folder: str | Path,
    other: str | Path | None = None,
    by: str = "utterance",
    normaliser: Normaliser | None = None,
) -> Report:
    """Read one or two result folders and compute their report.

    Args:
        by: what the bootstrap draws, utterance or speaker.
        normaliser: what references and hypotheses are brought to before they are compared.

    Raises:
        UserError: a folder cannot be read, or the two do not hold the same utterances.
    """
    results = [read_results(path) for path in (folder, other) if path is not None]
    if normaliser:
        results = [_normalised(item, normaliser) for item in results]
    pairs, remarks = pair_tables(*results) if other is not None else ([], [])
    # Matched before anything is counted: a mismatch should not take time to be found.
    folders = (str(folder), str(other))
    matched = [(first, match_utterances(first, second, folders)) for first, second in pairs]
    names = _names(results)
    with tqdm(
        total=sum(len(item.tables) for item in results), desc="report", leave=False, disable=None
    ) as bar:
        counted: dict[int, Counted] = {}
        systems = []
        for name, item in zip(names, results, strict=True):
            analyses = []
            for table in item.tables:
                counted[id(table)] = Counted(table)
                analyses.append(analyse(counted[id(table)], by))
                bar.update()
            systems.append(System(name, str(item.folder), item.about, analyses))
    comparisons = [
        compare_systems(counted[id(first)], Counted(second), (names[0], names[1]), by)
        for first, second in matched
    ]
    return Report(by, systems, comparisons, remarks)


def _normalised(results: Results, normaliser: Normaliser) -> Results:
    tables = [
        replace(
            table,
            utterances=[
                replace(item, ref=normaliser.apply(item.ref), hyp=normaliser.apply(item.hyp))
                for item in table.utterances
            ],
        )
        for table in results.tables
    ]
    scored = {table.split: str(normaliser) for table in tables}
    return Results(results.folder, {**results.about, "scored": scored}, tables)


def _names(results: list[Results]) -> list[str]:
    """What tells the systems apart: the attention, else the folder, else their order."""
    for names in (
        [str(item.about.get("attention", "")) for item in results],
        [str(item.folder) for item in results],
    ):
        if all(names) and len(set(names)) == len(names):
            return names
    return ["first", "second"][: len(results)]
