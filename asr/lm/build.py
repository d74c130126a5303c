"""N-gram language models: estimation, the KenLM binary, perplexity and vocabulary.

    python -m asr.lm --text novels.txt.xz --order 3 --out data/lm/3gram.bin --dev data/mini/dev.jsonl

writes ``3gram.bin``, which the decoder loads, and ``3gram.bin.sha256``, without which it does not.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from unicodedata import normalize

import kenlm
from tqdm import tqdm

from asr.data.manifest import is_manifest, read_manifest
from asr.errors import UserError
from asr.files import require_room, work_folder
from asr.lm import ngram
from asr.lm.files import (
    MAX_ORDER,
    UNREADABLE,
    load,
    text_lines,
    vocabulary,
    why_unreadable,
    write_checksum,
)
from asr.lm.kenlm_tools import find_build_binary

ESTIMATORS = ("auto", "lmplz", "own")

# KenLM offers a hash table, about twice as fast to query, and a trie, less than half as large. Decoding
# spends its time in the beam search, and memory is what users with a large model run out of.
_DATA_STRUCTURE = "trie"

# Disk that estimating takes at its height, bytes for each word of the text, by order. Measured on 12 million
# words (order 3: 49, 4: 108) and on 3 million; a larger text repeats itself more and takes less.
_BYTES_A_WORD = {2: 20, 3: 50, 4: 110, 5: 170, 6: 230}


def perplexity(model: kenlm.Model, sentences: Iterable[str]) -> dict[str, float | int]:
    """Return the perplexity of ``sentences`` under ``model`` and its parts.

    Each sentence counts its words and one ``</s>``. ``perplexity`` scores an out-of-vocabulary word as
    ``<unk>``; ``perplexity_without_oov`` leaves such words out of the sum and of the count.

    Raises:
        UserError: there is no sentence.
    """
    total = total_oov = 0.0
    words = oov = count = 0
    for sentence in sentences:
        count += 1
        for log_prob, _, is_oov in model.full_scores(sentence):
            words += 1
            total += log_prob
            if is_oov:
                oov += 1
                total_oov += log_prob
    if not count:
        raise UserError("no sentence to measure the perplexity on")
    words -= count  # full_scores ends each sentence with </s>
    return {
        "perplexity": 10 ** (-total / (words + count)),
        "perplexity_without_oov": 10 ** (-(total - total_oov) / (words - oov + count)),
        "oov": oov,
        "oov_rate": oov / words if words else 0.0,
        "words": words,
        "sentences": count,
    }


def read_sentences(paths: Iterable[str | Path]) -> Iterator[str]:
    """Yield the sentences, in NFC, of text files (plain, .gz, .xz) and manifests; no blank lines.

    Raises:
        UserError: a file that is missing, empty, a damaged archive, or not UTF-8 text.
    """
    for path in map(Path, paths):
        if not path.is_file() and not (path.is_dir() and is_manifest(path)):
            raise UserError(f"{path}: no such file")
        found = False
        try:
            for sentence in _lines(path):
                if "\0" in sentence:
                    raise UserError(f"{path}: not a text file: it holds a NUL character")
                # Any white space, a no-break space too, is one blank: KenLM splits at fewer characters.
                if sentence := " ".join(normalize("NFC", sentence).split()):
                    found = True
                    yield sentence
        except UNREADABLE as error:
            raise UserError(f"{path}: {why_unreadable(error)}") from None
        if not found:
            raise UserError(f"{path}: holds no text")


def estimate(
    texts: Sequence[str | Path],
    order: int,
    out: str | Path,
    *,
    estimator: str = "auto",
    min_count: int = 1,
    vocab_size: int | None = None,
    prune: Sequence[int] = (),
    memory: int = 2048,
    keep_arpa: bool = False,
) -> None:
    """Estimate a modified Kneser-Ney model and write its KenLM binary and that one's checksum.

    Args:
        texts: files that ``read_sentences`` reads.
        order: longest n-gram, 2 (KenLM's least) to 6.
        out: the binary; ``<out>.sha256`` is written beside it, and with ``keep_arpa`` ``<out>`` as .arpa.
        estimator: ``lmplz``, our ``own``, or ``auto``: lmplz where it is on the PATH.
        min_count: words seen less often are left out of the vocabulary.
        vocab_size: so many words, the most frequent, are the vocabulary; of equally frequent ones, those
            that sort first.
        prune: see :func:`asr.lm.ngram.estimate`.
        memory: MiB to use while estimating, the vocabulary apart.

    Raises:
        UserError: a bad text or option, or a program that is missing or fails.
    """
    out = Path(out)
    if not 2 <= order <= MAX_ORDER:
        raise UserError(f"--order {order}: KenLM takes models of order 2 to {MAX_ORDER}")
    if memory < 64:
        raise UserError(f"--memory {memory}: at least 64 MiB are needed")
    for option, value in (("--vocab-min-count", min_count), ("--vocab-size", vocab_size)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: must be 1 or more")
    ngram.check_prune(prune, order)
    lmplz = _choose_lmplz(estimator)
    build_binary = find_build_binary()
    _make_folder(out)
    with work_folder(out) as folder:
        counts = _count_words(texts)
        require_room(out.parent, counts.total() * _BYTES_A_WORD[order])
        keep = _frequent_words(counts, min_count, vocab_size)
        arpa = folder / "model.arpa"
        if lmplz:
            print(f"estimating with {lmplz}", file=sys.stderr)
            _run_lmplz(lmplz, texts, order, arpa, memory, prune, keep)
        else:
            print("estimating with our own estimator (asr.lm.ngram)", file=sys.stderr)
            sentences = read_sentences(texts)
            ngram.estimate(sentences, order, arpa, memory=memory, prune=prune, vocabulary=keep)
        _write_binary(build_binary, arpa, out, memory)
        if keep_arpa:
            arpa.replace(out.with_suffix(".arpa"))


def compile_arpa(arpa: str | Path, out: str | Path, *, memory: int = 2048) -> None:
    """Write the KenLM binary of an ARPA file, plain or .gz or .xz, and its checksum.

    Raises:
        UserError: a file that is missing, damaged or not ARPA, or a program that is missing.
    """
    arpa, out = Path(arpa), Path(out)
    if not arpa.is_file():
        raise UserError(f"--arpa {arpa}: no such file")
    build_binary = find_build_binary()
    _make_folder(out)
    with work_folder(out) as folder:
        plain = folder / "model.arpa"
        try:
            with plain.open("w", encoding="utf-8") as file:
                file.writelines(tqdm(text_lines(arpa), "unpacking", unit_scale=True, disable=None))
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the disk, not the archive
            raise UserError(f"{arpa}: {why_unreadable(error)}") from None
        try:
            _write_binary(build_binary, plain, out, memory)
        except UserError as error:
            raise UserError(f"{arpa}: {error}") from None


def _write_binary(build_binary: Path, arpa: Path, out: Path, memory: int) -> None:
    """Write ``out`` and its checksum from an ARPA file, in whose folder the trie is sorted."""
    require_room(out.parent, arpa.stat().st_size)  # as much again, for sorting and the binary
    print("building the KenLM binary", file=sys.stderr)
    binary = arpa.with_name("model.bin")
    command = [build_binary, "-S", f"{memory}M", "-T", arpa.with_name("trie"), _DATA_STRUCTURE]
    _run([*command, arpa, binary])
    write_checksum(binary)
    _check_usable(binary)
    with binary.open("rb+") as file:
        os.fsync(file.fileno())
    binary.replace(out)
    write_checksum(out)


def _check_usable(binary: Path) -> None:
    """Load a model as the decoder would, and see that KenLM knows each of its words."""
    model, words = load(binary), vocabulary(binary)
    if not words:
        raise UserError("a language model without words")
    for word in words:
        if word not in model:
            raise UserError(f"KenLM does not find its word {word!r}")


def _lines(path: Path) -> Iterator[str]:
    if is_manifest(path):
        return (utterance.text for utterance in read_manifest(path))
    return text_lines(path)


def _count_words(texts: Sequence[str | Path]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for sentence in tqdm(read_sentences(texts), "counting words", unit_scale=True, disable=None):
        counts.update(sentence.split())
    return counts


def _frequent_words(counts: Counter[str], min_count: int, size: int | None) -> set[str] | None:
    """The vocabulary; None where all words are in it."""
    if min_count == 1 and (size is None or size >= len(counts)):
        return None
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    words = {word for word in ranked if counts[word] >= min_count}
    if not words:
        raise UserError(f"--vocab-min-count {min_count}: no word of the text is that frequent")
    covered = sum(counts[word] for word in words) / counts.total()
    print(f"vocabulary: {len(words)} of {len(counts)} words, {covered:.2%} of the text")
    return words


def _choose_lmplz(estimator: str) -> str | None:
    if estimator not in ESTIMATORS:
        raise UserError(f"--estimator {estimator}: must be one of {', '.join(ESTIMATORS)}")
    lmplz = None if estimator == "own" else shutil.which("lmplz")
    if estimator == "lmplz" and lmplz is None:
        raise UserError("--estimator lmplz: it is not on the PATH; use own, or build KenLM with CMake")
    return lmplz


def _make_folder(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out.parent).close()  # find out now, not after an hour, that one may not
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None


def _run_lmplz(
    lmplz: str,
    texts: Sequence[str | Path],
    order: int,
    arpa: Path,
    memory: int,
    prune: Sequence[int],
    keep: Collection[str] | None,
) -> None:
    command = [lmplz, "-o", str(order), "-S", f"{memory}M", "-T", f"{arpa.parent}/lmplz"]
    command += ["--discount_fallback", "--arpa", str(arpa)]
    if prune:
        command += ["--prune", *map(str, prune)]
    if keep is not None:
        (arpa.parent / "keep").write_text("\n".join(keep), "utf-8")
        command += ["--limit_vocab_file", f"{arpa.parent}/keep"]
    _run(command, tqdm(read_sentences(texts), "reading", unit_scale=True, disable=None))


def _run(command: Sequence[str | Path], sentences: Iterable[str] = ()) -> None:
    """Run a program of KenLM on ``sentences``; end it if we are interrupted."""
    with TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            _feed(process.stdin, sentences)
            process.wait()
        finally:
            process.kill()
            process.wait()
            # After an error there may be text left for a reader that is gone now.
            with suppress(BrokenPipeError):
                process.stdin.close()
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    for line in lines:
        # Without <unk> every word that the LM lacks is all but impossible.
        if line.startswith(("Substituting fallback discounts", "The ARPA file is missing <unk>")):
            print(line, file=sys.stderr)
    if process.returncode:
        said = [line for line in lines if line.strip() and line.strip() not in ("ERROR", "SUCCESS")]
        reason = said[-1] if said else "no message"
        name, status = Path(command[0]).name, process.returncode
        raise UserError(f"{name} failed with exit status {status}: {reason}")


def _feed(pipe: IO[bytes], sentences: Iterable[str]) -> None:
    try:
        pipe.writelines(f"{sentence}\n".encode() for sentence in sentences)
        pipe.close()
    except BrokenPipeError:
        pass  # The program ended early; its exit status and its last words say why.


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m asr.lm",
        description="Estimate a modified Kneser-Ney n-gram model, or take one in ARPA format, and write "
        "it as a KenLM binary. Decoding takes a binary only with its checksum (FILE.sha256) beside it: KenLM "
        "trusts binaries, and a damaged or malicious one can crash it or worse. From others take ARPA files.",
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--text",
        nargs="+",
        metavar="FILE",
        help="training text, a sentence a line, plain or .gz or .xz; or manifests, Kaldi's folders too",
    )
    source.add_argument(
        "--arpa", metavar="FILE", help="a finished model, plain or .gz or .xz; nothing is estimated"
    )
    add("--out", required=True, metavar="FILE", help="the binary; its checksum goes to FILE.sha256")
    add("--order", type=int, default=3, help="longest n-gram, 2 to 6 (default 3)")
    add(
        "--dev",
        nargs="+",
        metavar="FILE",
        help="manifests or texts to measure the perplexity on, in one line",
    )
    add(
        "--vocab-min-count",
        type=int,
        default=1,
        metavar="N",
        help="leave words seen fewer than N times out of the vocabulary (default 1: keep all)",
    )
    add(
        "--vocab-size",
        type=int,
        metavar="N",
        help="keep only the N most frequent words in the vocabulary (LibriSpeech's LMs: 200000)",
    )
    add(
        "--prune",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="leave out n-grams seen N times or fewer, a number for each order; 0 0 1 is what SRILM "
        "leaves out by itself, and so in LibriSpeech's LMs",
    )
    add(
        "--memory",
        type=int,
        default=2048,
        metavar="MIB",
        help="memory for sorting, in MiB (default 2048); what does not fit goes to the disk",
    )
    add(
        "--estimator",
        choices=ESTIMATORS,
        default="auto",
        help="KenLM's lmplz, our own, or auto: lmplz where it is on the PATH (default)",
    )
    add("--keep-arpa", action="store_true", help="keep the ARPA file, as FILE with .arpa")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate a language model as the command line says."""
    options = _parse(arguments)
    if options.arpa and (options.prune or options.vocab_size or options.vocab_min_count != 1):
        raise UserError(
            f"--arpa {options.arpa}: finished; --prune, --vocab-size and --vocab-min-count want --text"
        )
    # Before the long part, not after it.
    dev = list(read_sentences(options.dev)) if options.dev else None
    if options.arpa:
        compile_arpa(options.arpa, options.out, memory=options.memory)
    else:
        estimate(
            options.text,
            options.order,
            options.out,
            estimator=options.estimator,
            min_count=options.vocab_min_count,
            vocab_size=options.vocab_size,
            prune=options.prune,
            memory=options.memory,
            keep_arpa=options.keep_arpa,
        )
    print(f"{options.out}: {Path(options.out).stat().st_size / 2**20:.1f} MiB")
    if dev:
        result = perplexity(load(options.out), dev)
        print(
            f"perplexity {result['perplexity']:.2f},"
            f" without OOVs {result['perplexity_without_oov']:.2f};"
            f" OOV {result['oov']} of {result['words']} words ({result['oov_rate']:.2%})"
            f" in {result['sentences']} sentences"
        )
