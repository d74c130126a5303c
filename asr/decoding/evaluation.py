"""Posteriors of splits to tables: greedy and beam search on them, scored and written."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from asr.data.style import Style
from asr.data.tokenizer import Tokenizer
from asr.decoding.greedy import greedy
from asr.decoding.label_looping import greedy_in_batches
from asr.decoding.nbest import Alternative, alternatives
from asr.decoding.posteriors import Encoded, Posteriors
from asr.decoding.weights import Weights
from asr.files import atomic_write
from asr.model.transducer import Transducer
from asr.scoring.errors import Score, oracle_word_error_rate, score, write_trn
from asr.scoring.normalise import Normaliser, as_scored_in
from asr.scoring.report.errs import format_errs
from asr.scoring.report.results import Decoded, decoded_path, write_decoded

if TYPE_CHECKING:
    from asr.decoding.beam import BeamPool  # with Numba, which greedy decoding does without
    from asr.decoding.transducer_beam import TransducerSearch


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    split: str
    lm: str
    score: Score
    rtf: float
    hypotheses: list[str]
    seconds: float  # from posteriors to words; rtf counts the acoustic model's as well
    nbest: list[tuple[Alternative, ...]] | None = None  # of each utterance, as the model writes
    oracle_wer: float | None = None  # were the best of each list chosen
    references: list[str] | None = None  # as they are scored; None: as they are


def decode_greedy(split: str, posteriors: Posteriors, tokenizer: Tokenizer, style: Style | Normaliser) -> Row:
    """Best path, without an LM. Hypotheses are brought to a style, the references'."""
    started = time.monotonic()
    hypotheses = [
        style.apply(tokenizer.decode(greedy(torch.from_numpy(item)[None], torch.tensor([len(item)]))[0]))
        for item in posteriors.log_probs
    ]
    return _row(split, "none", posteriors, hypotheses, time.monotonic() - started, style)


def decode_transducer(
    split: str, encoded: Encoded, tokenizer: Tokenizer, transducer: Transducer, style: Style | Normaliser
) -> Row:
    """A transducer's likeliest next class again and again, without an LM; in a style, the references'."""
    started = time.monotonic()
    found = greedy_in_batches(transducer, encoded.frames)
    hypotheses = [style.apply(tokenizer.decode(item.classes)) for item in found]
    return _row(split, "none", encoded, hypotheses, time.monotonic() - started, style)


def decode_beam(
    split: str,
    encoded: Posteriors | Encoded,
    tokenizer: Tokenizer,
    pool: "BeamPool | TransducerSearch",
    lm_name: str,
    weights: Weights,
    style: Style | Normaliser,
    n_best: int = 0,
) -> Row:
    """Beam search. Hypotheses are brought to a style, the references'; n-best lists are not."""
    started, show = time.monotonic(), f"{split}, beam search"
    if not n_best:
        found = pool.decode(encoded.outputs, weights, show)
        hypotheses = [style.apply(tokenizer.decode(classes)) for classes in found]
        return _row(split, lm_name, encoded, hypotheses, time.monotonic() - started, style)
    found = pool.n_best(encoded.outputs, weights, n_best, show)
    lists = [alternatives(item, tokenizer, n_best) for item in found]
    texts = [[style.apply(item.text) for item in several] or [""] for several in lists]
    row = _row(split, lm_name, encoded, [several[0] for several in texts], time.monotonic() - started, style)
    return replace(row, nbest=lists, oracle_wer=oracle_word_error_rate(row.references, texts))


def _row(
    split: str,
    lm: str,
    found: Posteriors | Encoded,
    hypotheses: list[str],
    seconds: float,
    style: Style | Normaliser,
) -> Row:
    rtf = (found.seconds + seconds) / found.audio_seconds
    references = as_scored_in(style, found.references)
    return Row(split, lm, score(references, hypotheses), rtf, hypotheses, seconds, references=references)


def count_unknown(
    references: Sequence[str], vocabulary: Iterable[str], style: Style | None
) -> tuple[int, int]:
    """Words of the references that an LM does not have, and all of them.

    An LM leaves a word that it does not have to the acoustic model, at the unknown penalty: the rate says how
    much of the WER an LM of other words could mend.

    Args:
        references: of a split.
        vocabulary: the LM's words.
        style: what words are looked up as; None: as they are.
    """
    known = set(vocabulary)
    words = [word for text in references for word in (style.apply(text) if style else text).split()]
    return sum(word not in known for word in words), len(words)


def format_table(rows: Sequence[Row]) -> str:
    """The table as text."""
    width = max(len("split"), *(len(row.split) for row in rows))
    lm_width = max(len(row.lm) for row in rows)
    head = f"{'split':{width}}  {'LM':{lm_width}}    WER   95 % interval    CER    sub    ins    del  words"
    lines = [head, "-" * len(head)]
    for row in rows:
        s = row.score
        interval = f"{s.ci95[0]:.1f} - {s.ci95[1]:.1f}"
        lines.append(
            f"{row.split:{width}}  {row.lm:{lm_width}}  {s.wer:5.2f}   {interval:>13}  {s.cer:5.2f}"
            f"  {s.sub:5}  {s.ins:5}  {s.deletions:5}  {s.words:5}"
        )
    return "\n".join(lines)


def write_results(
    out: Path, rows: Sequence[Row], found: dict[str, Posteriors] | dict[str, Encoded], about: dict
) -> None:
    """Write wer.json, the table, and per row what asr.scoring.report reads and what a person or sclite does.

    For a split and an LM: ``SPLIT.LM.jsonl`` (report/results.py), ``errs-SPLIT-LM.txt`` with every error
    marked (report/errs.py), reference and hypotheses in sclite's trn format, and where there are n-best lists
    ``SPLIT.LM.nbest.jsonl``, a line an utterance: id, ref, alternatives (``Alternative.as_record``).
    """
    # Were this stopped half-way, an old wer.json would stand beside new hypotheses.
    (out / "wer.json").unlink(missing_ok=True)
    for row in rows:
        decoded = [
            Decoded(item.id, reference, hypothesis, item.speaker, item.duration)
            for item, reference, hypothesis in zip(
                found[row.split].utterances,
                row.references or found[row.split].references,
                row.hypotheses,
                strict=True,
            )
        ]
        ids = [item.id for item in decoded]
        write_trn(out / f"{row.split}.ref.trn", ids, [item.ref for item in decoded])
        write_trn(out / f"{row.split}.{row.lm}.hyp.trn", ids, row.hypotheses)
        write_decoded(decoded_path(out, row.split, row.lm), decoded)
        atomic_write(out / f"errs-{row.split}-{row.lm}.txt", format_errs(decoded))
        if row.nbest is not None:
            atomic_write(out / f"{row.split}.{row.lm}.nbest.jsonl", _format_lists(decoded, row.nbest))
    records = []
    for row in rows:
        record = {"split": row.split, "lm": row.lm, **asdict(row.score), "rtf": round(row.rtf, 5)}
        record["del"] = record.pop("deletions")
        if row.oracle_wer is not None:
            record["oracle_wer"] = row.oracle_wer
        records.append(record)
    atomic_write(out / "table.txt", format_table(rows) + "\n")
    atomic_write(out / "wer.json", json.dumps({**about, "rows": records}, indent=2) + "\n")


def _format_lists(decoded: Sequence[Decoded], lists: Sequence[tuple[Alternative, ...]]) -> str:
    lines = []
    for item, several in zip(decoded, lists, strict=True):
        record = {"id": item.id, "ref": item.ref, "alternatives": [other.as_record() for other in several]}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)
