"""The language-model program: estimation, perplexity, and files that are not what they should be."""

import gzip
import hashlib
import json
import lzma
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.manifest import Utterance, write_manifest
from asr.errors import UserError
from asr.lm import build as lm
from asr.lm import files as lm_files
from asr.lm.kenlm_tools import find_build_binary

try:
    BUILD_BINARY = find_build_binary()
except UserError:
    BUILD_BINARY = None
needs_build_binary = pytest.mark.skipif(
    BUILD_BINARY is None, reason="no build_binary; python -m asr.lm.kenlm_tools makes it"
)

TEXT = [
    "THE CAT SAT ON THE MAT",
    "THE DOG SAT ON THE LOG",
    "A CAT AND A DOG",
    "NAÏVE CAT",
    "THE CAT",
]
WORDS = {"THE", "CAT", "SAT", "ON", "MAT", "DOG", "LOG", "A", "AND", "NAÏVE"}
ARPA = """\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-1.0\t<unk>
0\t<s>\t-0.25
-0.5\t</s>
-0.3\tA\t-0.125

\\2-grams:
-0.2\t<s> A

\\end\\
"""


# The unknown word is no word, however it is spelled.
WORDLESS = ARPA.replace("-1.0\t<unk>\n", "").replace("1=4", "1=3").replace("A", "<UNK>")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXT), "utf-8")
    return path


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    if BUILD_BINARY is None:
        pytest.skip("no build_binary; python -m asr.lm.kenlm_tools makes it")
    folder = tmp_path_factory.mktemp("lm")
    text = folder / "text.txt"
    text.write_text("\n".join(TEXT), "utf-8")
    lm.estimate([text], 3, folder / "lm.bin", estimator="own")
    return folder / "lm.bin"


@pytest.fixture
def model_copy(model_path, tmp_path):
    """A binary to spoil, with its checksum."""
    shutil.copy(lm_files.checksum_path(model_path), tmp_path / "copy.bin.sha256")
    return shutil.copy(model_path, tmp_path / "copy.bin")


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_text(ARPA)
    return path


# --- estimation ---------------------------------------------------------------------------------


@needs_build_binary
def test_program_end_to_end(text, tmp_path, capsys):
    dev = tmp_path / "dev.jsonl"
    write_manifest(dev, [Utterance("1", "a.flac", 1.0, "THE CAT SAT NOWHERE", "s")])
    out = tmp_path / "new" / "lm.bin"
    options = ["--text", text, dev, "--out", out, "--dev", dev, "--estimator", "own", "--keep-arpa"]
    lm.main([str(option) for option in options])
    printed = capsys.readouterr()
    assert "own estimator" in printed.err
    assert "OOV 0 of 4 words (0.00%) in 1 sentences" in printed.out.splitlines()[-1]
    assert sorted(p.name for p in out.parent.iterdir()) == ["lm.arpa", "lm.bin", "lm.bin.sha256"]
    assert set(lm_files.vocabulary(out)) == {*WORDS, "NOWHERE"}
    sentence = "THE DOG SAT ON A MAT"
    scores = [lm_files.load(path).score(sentence) for path in (out, out.with_suffix(".arpa"))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("kind", ["plain", "gz", "xz", "crlf"])
def test_reads_text_of_each_kind(tmp_path, kind):
    content = "\n".join(["", *TEXT, "  ", "A\u00a0B \tC"]).encode()
    path = tmp_path / f"text.{kind}"
    if kind == "crlf":
        content = content.replace(b"\n", b"\r\n")
    opener = {"gz": gzip.open, "xz": lzma.open}.get(kind, open)
    with opener(path, "wb") as file:
        file.write(content)
    assert list(lm.read_sentences([path])) == [*TEXT, "A B C"]


@needs_build_binary
@pytest.mark.skipif(not shutil.which("lmplz"), reason="KenLM's lmplz is not on the PATH")
@pytest.mark.parametrize("options", [{}, {"prune": (0, 0, 1)}, {"min_count": 2}])
def test_lmplz_and_own_estimator_agree(text, tmp_path, capsys, options):
    for estimator in ("auto", "own"):
        lm.estimate([text], 3, tmp_path / estimator, estimator=estimator, **options)
    said = capsys.readouterr().err
    assert "lmplz" in said and "own estimator" in said and "Substituting fallback" in said
    auto, own = (lm_files.load(tmp_path / name) for name in ("auto", "own"))
    for sentence in [*TEXT, "THE LOG SAT", "UNHEARD OF"]:
        assert own.score(sentence) == pytest.approx(auto.score(sentence), abs=1e-3)
    words = [set(lm_files.vocabulary(tmp_path / name)) for name in ("auto", "own")]
    assert words[0] == words[1]


@needs_build_binary
def test_rare_words_are_left_out(text, tmp_path):
    lm.estimate([text], 2, tmp_path / "lm.bin", estimator="own", min_count=2)
    assert set(lm_files.vocabulary(tmp_path / "lm.bin")) == {"THE", "CAT", "DOG", "SAT", "ON", "A"}
    with pytest.raises(UserError, match="--vocab-min-count 99"):
        lm.estimate([text], 2, tmp_path / "none.bin", estimator="own", min_count=99)


@needs_build_binary
@pytest.mark.parametrize("stop", [KeyboardInterrupt, UserError])
def test_nothing_is_left_half_written(tmp_path, monkeypatch, stop):
    def interrupted(paths):
        yield "A B"
        raise stop("stopped")

    monkeypatch.setattr(lm, "read_sentences", interrupted)
    (tmp_path / "lm.bin").write_text("old")
    for estimator in ("own", "auto"):
        with pytest.raises(stop):
            lm.estimate(["x"], 2, tmp_path / "lm.bin", estimator=estimator)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("lm.bin", "old")]


@pytest.fixture
def failing_lmplz(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    fake = tools / "lmplz"
    fake.write_text("#!/bin/sh\necho 'Not enough memory' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


@needs_build_binary
@pytest.mark.usefixtures("failing_lmplz")
def test_a_failing_program_is_reported(text, tmp_path):
    with pytest.raises(UserError, match="lmplz failed with exit status 3: Not enough memory"):
        lm.estimate([text], 2, tmp_path / "out" / "lm.bin")
    assert not list((tmp_path / "out").iterdir())


@needs_build_binary
@pytest.mark.usefixtures("failing_lmplz")
def test_ctrl_c_that_ends_the_program_too_is_no_failure_of_it(tmp_path, monkeypatch):
    def interrupted(paths):
        yield "A B"
        time.sleep(0.3)  # by then the program is gone, with the sentence still to be written to it
        raise KeyboardInterrupt

    monkeypatch.setattr(lm, "read_sentences", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lm.estimate(["x"], 2, tmp_path / "out" / "lm.bin")
    assert not list((tmp_path / "out").iterdir())


def _gz_cut_short(content):
    return gzip.compress(content)[:-12]


def _xz_damaged(content):
    packed = bytearray(lzma.compress(content))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


def test_manifests_of_every_kind_are_read(tmp_path):
    rows = [{"audio_filepath": "a.wav", "duration": 1.0, "text": text} for text in ("THE CAT", "A DOG")]
    with gzip.open(tmp_path / "nemo.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    soundfile.write(tmp_path / "r.wav", np.zeros(16000), 16000)
    (kaldi / "wav.scp").write_text("r1 ../r.wav\n")
    (kaldi / "text").write_text("r1 ON A MAT\n")
    assert list(lm.read_sentences([tmp_path / "nemo.jsonl.gz", kaldi])) == ["THE CAT", "A DOG", "ON A MAT"]


def _without_bytes(value) -> str:
    """A parameter in a test's name: archives differ from one collection to the next."""
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file"),
        ("missing.jsonl", None, "no such file"),
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b" \n\n", "holds no text"),
        ("latin1.txt", "NAÏVE".encode("latin-1"), "not UTF-8"),
        ("binary.txt", b"A\0B\n", "NUL"),
        ("cut.gz", _gz_cut_short(b"A B C\n" * 1000), "damaged archive"),
        ("plain.gz", b"A B C\n", "damaged archive"),
        ("plain.xz", b"A B C\n", "damaged archive"),
        ("cut.xz", lzma.compress(b"A B C\n" * 1000)[:-20], "damaged archive"),
        ("bad.xz", _xz_damaged(os.urandom(1000).hex().encode()), "damaged archive"),
        ("bad.jsonl", b'{"id": 1}\n', "bad.jsonl:1"),
        ("latin1.jsonl", "NAÏVE".encode("latin-1"), "latin1.jsonl"),
    ],
    ids=_without_bytes,
)
def test_bad_text_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(lm.read_sentences([path]))
    assert name in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


@needs_build_binary
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 1}, "--order 1"),
        ({"order": 7}, "--order 7"),
        ({"memory": 1}, "--memory 1"),
        ({"min_count": 0}, "--vocab-min-count 0"),
        ({"prune": (2, 1)}, "prune 2 1"),
        ({"estimator": "srilm"}, "--estimator srilm"),
        ({"out": "."}, "is a folder"),
        ({"out": "text.txt/lm.bin"}, "text.txt/lm.bin"),
    ],
)
def test_bad_options_are_refused(text, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        lm.estimate(**{"texts": [text], "order": 3, "out": "lm.bin", **options})
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize("option", ["--prune 0 0 1", "--vocab-size 9", "--vocab-min-count 2"])
def test_options_of_estimation_are_not_ignored_beside_a_finished_model(arpa, tmp_path, option):
    with pytest.raises(UserError, match=rf"--arpa .*: finished; .*{option.split()[0]}"):
        lm.main(["--arpa", str(arpa), "--out", str(tmp_path / "lm.bin"), *option.split()])
    assert not (tmp_path / "lm.bin").exists()


# --- perplexity ---------------------------------------------------------------------------------


def test_perplexity_by_hand(arpa):
    # "A X": p(A | <s>) -0.2; X unknown: back off from A (-0.125; there is no context "<s> A"), -1.0;
    # </s>: <unk> has no backoff, -0.5. In all -1.825 over 3 symbols; without the unknown word -0.7 over 2.
    result = lm.perplexity(lm_files.load(arpa), ["A X"])
    assert result["perplexity"] == pytest.approx(10 ** (1.825 / 3), rel=1e-5)
    assert result["perplexity_without_oov"] == pytest.approx(10 ** (0.7 / 2), rel=1e-5)
    counts = {key: result[key] for key in ("oov", "oov_rate", "words", "sentences")}
    assert counts == {"oov": 1, "oov_rate": 0.5, "words": 2, "sentences": 1}


def test_perplexity_of_nothing(arpa):
    model = lm_files.load(arpa)
    with pytest.raises(UserError, match="no sentence"):
        lm.perplexity(model, [])
    assert math.isfinite(lm.perplexity(model, [""])["perplexity"])


# --- files --------------------------------------------------------------------------------------


@needs_build_binary
@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
def test_a_finished_arpa_is_compiled(tmp_path, name):
    path, out = tmp_path / name, tmp_path / "out" / "model.bin"
    path.write_bytes(gzip.compress(ARPA.encode()) if name.endswith(".gz") else ARPA.encode())
    lm.main(["--arpa", str(path), "--out", str(out)])
    assert lm_files.vocabulary(out) == ["A"]
    assert lm_files.load(out).score("A", bos=True, eos=False) == pytest.approx(-0.2)
    assert sorted(item.name for item in out.parent.iterdir()) == ["model.bin", "model.bin.sha256"]


@needs_build_binary
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.arpa.gz", gzip.compress(ARPA.encode() * 500)[:-20], "damaged archive"),
        ("text.arpa", b"HELLO\n", "build_binary failed"),
        ("wordless.arpa", WORDLESS.encode(), "without words"),
        ("absent.arpa", None, "--arpa .*no such file"),
    ],
    ids=_without_bytes,
)
def test_an_arpa_that_is_none_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        lm.compile_arpa(path, tmp_path / "out" / "model.bin")
    assert name in str(error.value)
    assert not list(tmp_path.rglob("model*"))


def test_loading_is_silent(model_path):
    code = f"import sys; from asr.lm.files import load; print(load({str(model_path)!r}).order)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_vocabulary_from_each_source(model_path, model_copy, arpa, tmp_path):
    assert set(lm_files.vocabulary(model_path)) == WORDS
    assert set(lm_files.vocabulary(model_copy)) == WORDS
    assert lm_files.vocabulary(arpa) == ["A"]
    packed = tmp_path / "model.arpa.gz"
    packed.write_bytes(gzip.compress(ARPA.encode()))
    assert lm_files.vocabulary(packed) == ["A"]


@needs_build_binary
def test_a_binary_without_words_is_refused(arpa, tmp_path):
    path = tmp_path / "lm.bin"
    subprocess.run([BUILD_BINARY, "-v", arpa, path], check=True, capture_output=True)
    lm_files.write_checksum(path)
    with pytest.raises(UserError, match="built without its words"):
        lm_files.vocabulary(path)


@needs_build_binary
@pytest.mark.parametrize("options", [["trie"], ["-q", "8", "trie"], ["-a", "22", "trie"], ["probing"]])
def test_every_data_structure_loads(arpa, tmp_path, options):
    path = tmp_path / "lm.bin"
    subprocess.run([BUILD_BINARY, *options, arpa, path], check=True, capture_output=True)
    lm_files.write_checksum(path)
    assert lm_files.load(path).score("A") == pytest.approx(-0.825, abs=0.01)
    assert lm_files.vocabulary(path) == ["A"]


# As OpenSLR 11 has them: SRILM's, with a blank line first, the special words among the others in no order,
# <UNK> for the unknown word, also in longer n-grams, and backoffs where something follows.
OPENSLR = """
\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.5\tZEBRA\t-0.2
-2.1\t<UNK>\t-0.1
-0.9\tA\t-0.4
-0.7\t</s>
-1.2\tCAT
-99\t<s>\t-0.3

\\2-grams:
-0.4\t<s> A\t-0.1
-0.6\tA CAT
-0.8\tA <UNK>
-0.9\tCAT </s>
-1.1\t<UNK> </s>

\\3-grams:
-0.2\t<s> A CAT
-0.3\tA CAT </s>

\\end\\
"""


@needs_build_binary
@pytest.mark.parametrize("name", ["3-gram.arpa", "3-gram.arpa.gz", "3-gram.arpa.xz"])
@pytest.mark.parametrize("unknown", ["<UNK>", "<unk>"])
@pytest.mark.parametrize("start", ["\n", "", "# made by SRILM\n\n"], ids=["blank", "none", "comment"])
def test_arpa_files_as_openslr_has_them(tmp_path, name, unknown, start):
    content = (start + OPENSLR.lstrip("\n").replace("<UNK>", unknown)).encode()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(content))
    lm.main(["--arpa", str(tmp_path / name), "--out", str(tmp_path / "lm.bin")])
    (tmp_path / "plain.arpa").write_bytes(content)
    for path in (tmp_path / "lm.bin", tmp_path / "plain.arpa"):
        assert sorted(lm_files.vocabulary(path)) == ["A", "CAT", "ZEBRA"]
        model = lm_files.load(path)
        assert model.score("A CAT") == pytest.approx(-0.4 - 0.2 - 0.3, abs=1e-4)
        # Unknown after A by its own bigram, then </s>.
        assert model.score("A DOG") == pytest.approx(-0.4 - 0.1 - 0.8 - 1.1, abs=1e-4)


@needs_build_binary
def test_a_model_without_an_unknown_word_is_said_to_be_one(tmp_path, capsys):
    path = tmp_path / "closed.arpa"
    lines = OPENSLR.lstrip("\n").splitlines(keepends=True)
    counts = {"ngram 1=6": "ngram 1=5", "ngram 2=5": "ngram 2=3"}
    kept = [counts.get(line.strip(), line.strip()) for line in lines if "<UNK>" not in line]
    path.write_text("\n".join(kept) + "\n")
    lm.main(["--arpa", str(path), "--out", str(tmp_path / "lm.bin")])
    assert "missing <unk>" in capsys.readouterr().err


@needs_build_binary
def test_words_that_kenlm_does_not_find_are_found_out(tmp_path, arpa, monkeypatch):
    monkeypatch.setattr(lm, "vocabulary", lambda path: ["A", "B"])
    with pytest.raises(UserError, match=r"model\.arpa: KenLM does not find its word 'B'"):
        lm.compile_arpa(arpa, tmp_path / "lm.bin")
    assert list(tmp_path.iterdir()) == [arpa]


# --- checksums ----------------------------------------------------------------------------------


def test_the_checksum_is_as_sha256sum_takes_it(model_path):
    listed = lm_files.checksum_path(model_path).name
    command = ["sha256sum", "--check", "--strict", listed]
    checked = subprocess.run(command, cwd=model_path.parent, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout == "lm.bin: OK\n"


@pytest.mark.parametrize("seed", range(25))
def test_a_damaged_binary_is_refused_not_crashed_on(model_copy, seed):
    content = bytearray(model_copy.read_bytes())
    for place in random.Random(seed).sample(
        range(128, len(content)), 400
    ):  # not in the header, or it is no KenLM binary
        content[place] ^= 1 + seed
    model_copy.write_bytes(content)
    for read in (lm_files.load, lm_files.vocabulary):
        with pytest.raises(UserError, match=r"copy\.bin: damaged, or not the file that copy\.bin\.sha256"):
            read(model_copy)


@pytest.mark.parametrize("read", [lm_files.load, lm_files.vocabulary])
def test_a_binary_without_a_checksum_is_refused_with_advice(model_copy, read):
    listed = lm_files.checksum_path(model_copy)
    listed.unlink()
    with pytest.raises(UserError, match=r"python -m asr\.lm --arpa") as error:
        read(model_copy)
    assert "\n" not in str(error.value)
    # The advice for one's own works.
    subprocess.run(str(error.value).partition("Where it is your own: ")[2], shell=True, check=True)
    read(model_copy)
    listed.write_text("hello\n")
    with pytest.raises(UserError, match="holds no SHA-256"):
        read(model_copy)


def test_a_link_to_a_binary_has_the_checksum_beside_the_file(model_copy, tmp_path):
    link = tmp_path / "elsewhere" / "link.bin"
    link.parent.mkdir()
    link.symlink_to(model_copy)
    assert lm_files.load(link).order == 3
    assert not lm_files.checksum_path(link).exists()


def test_a_binary_is_read_whole_only_once_after_it_changed(model_copy, monkeypatch):
    read = []
    digest = lm_files._sha256
    monkeypatch.setattr(lm_files, "_sha256", lambda path: read.append(path) or digest(path))
    for _ in range(3):  # a copy is another file, and is compared
        lm_files.load(model_copy)
    assert len(read) == 1
    times = model_copy.stat()
    content = model_copy.read_bytes()
    model_copy.write_bytes(content[::-1])
    os.utime(model_copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    with model_copy.open("rb+") as file:
        file.write(content[:64])  # what a KenLM binary begins with
    os.utime(model_copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="damaged"):
        lm_files.load(model_copy)


def test_a_binary_in_a_folder_that_one_may_only_read(model_copy, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    read = []
    digest = lm_files._sha256
    monkeypatch.setattr(lm_files, "_sha256", lambda path: read.append(path) or digest(path))
    monkeypatch.setattr(lm_files, "atomic_write", refuse)
    for _ in range(3):  # not anew for every set of weights that is tuned
        assert lm_files.load(model_copy).order == 3
    assert len(read) == 1
    with model_copy.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"X")
    with pytest.raises(UserError, match="damaged"):
        lm_files.load(model_copy)


def test_a_binary_cut_short_that_was_given_a_checksum(model_copy):
    content = model_copy.read_bytes()
    for size in (40, 100, 200, len(content) // 2, len(content) - 1):
        model_copy.write_bytes(content[:size])
        digest = hashlib.sha256(content[:size]).hexdigest()
        lm_files.checksum_path(model_copy).write_text(f"{digest}  copy.bin\n")
        with pytest.raises(UserError, match="an unfinished KenLM binary"):
            lm_files.load(model_copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"\0" * 4096,
        os.urandom(4096),
        b"mmap lm http://kheafield.com/code incomplete\n" + b"\0" * 4096,
        b"mmap lm http://kheafield.com/code format version 5\n\0",
        ARPA[: len(ARPA) // 2].encode(),
        ARPA.replace("ngram 1=4", "ngram 1=400000000000").encode(),
        ARPA.replace("ngram 1=4", "ngram 1=5").encode(),
        ARPA.replace("ngram 2=1", "ngram 2=9").encode(),
        ARPA.replace("-0.3\tA", "0.3\tA").encode(),
        ARPA.replace("-0.3\tA", "nonsense").encode(),
    ],
    ids=range(12),
)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "lm.bin"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        lm_files.load(path)
    assert "lm.bin" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("read", [lm_files.load, lm_files.vocabulary])
def test_missing_model(tmp_path, read):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(UserError, match="no such language model"):
            read(path)


@pytest.mark.parametrize("read", [lm_files.load, lm_files.vocabulary])
def test_truncated_binary_is_refused_not_crashed_on(model_copy, read):
    content = model_copy.read_bytes()
    for size in [*range(1, 160, 7), *range(160, len(content), 97), len(content) - 1]:
        model_copy.write_bytes(content[:size])
        with pytest.raises(UserError):
            read(model_copy)


# --- vocabulary, room, leftovers ------------------------------------------------------------------


@needs_build_binary
def test_the_most_frequent_words_are_kept(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("D C B A\nD C B\nD C E\nD D\n")  # D five times, C three, B two, A and E once
    for size, min_count, words in ((4, 1, "ABCD"), (2, 1, "CD"), (99, 1, "ABCDE"), (4, 2, "BCD")):
        options = {"vocab_size": size, "min_count": min_count, "estimator": "own"}
        lm.estimate([text], 2, tmp_path / "lm.bin", **options)
        assert sorted(lm_files.vocabulary(tmp_path / "lm.bin")) == list(words)
    assert "vocabulary: 2 of 5 words, 66.67% of the text\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="--vocab-size 0: must be 1 or more"):
        lm.estimate([text], 2, tmp_path / "none.bin", vocab_size=0)


@needs_build_binary
@pytest.mark.parametrize("option", ["--text", "--arpa"])
def test_too_little_room_is_found_out_before_the_work(text, arpa, tmp_path, monkeypatch, option):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    source = {"--text": text, "--arpa": arpa}[option]
    with pytest.raises(UserError, match="too little room"):
        lm.main([option, str(source), "--out", str(tmp_path / "out" / "lm.bin")])
    assert not list((tmp_path / "out").iterdir())


@needs_build_binary
def test_what_a_killed_run_left_is_removed(text, tmp_path):
    out = tmp_path / "out" / "lm.bin"
    killed = f"""
import os, signal
from asr.lm import build
build._write_binary = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
build.estimate([{str(text)!r}], 2, {str(out)!r}, estimator="own")
"""
    done = subprocess.run([sys.executable, "-c", killed], capture_output=True)
    assert done.returncode == -9
    (left,) = out.parent.iterdir()
    assert (left / "model.arpa").stat().st_size
    lm.estimate([text], 2, out, estimator="own")
    assert sorted(path.name for path in out.parent.iterdir()) == ["lm.bin", "lm.bin.sha256"]


# --- Unicode --------------------------------------------------------------------------------------


def test_text_is_read_in_one_normal_form(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("NAI\u0308VE\nNA\u00cfVE\n", "utf-8")
    assert list(lm.read_sentences([path])) == ["NA\u00cfVE"] * 2
