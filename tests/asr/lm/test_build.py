"""The language-model program: estimation, perplexity, and files that are not what they should be."""

import gzip
import lzma
import math
import os
import shutil
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    """The binary alone, without the .words file beside it."""
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
    assert sorted(p.name for p in out.parent.iterdir()) == ["lm.arpa", "lm.bin", "lm.bin.words"]
    assert set((tmp_path / "new" / "lm.bin.words").read_text("utf-8").split("\n")) == {
        *WORDS,
        "NOWHERE",
        "",
    }
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


def _without_bytes(value) -> str:
    """A parameter in a test's name: archives differ from one collection to the next."""
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file"),
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
    assert sorted(item.name for item in out.parent.iterdir()) == ["model.bin", "model.bin.words"]


@needs_build_binary
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.arpa.gz", gzip.compress(ARPA.encode() * 500)[:-20], "damaged archive"),
        ("text.arpa", b"HELLO\n", "not a KenLM binary or a complete ARPA"),
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
def test_vocabulary_of_a_binary_without_words(arpa, tmp_path):
    path = tmp_path / "lm.bin"
    subprocess.run([BUILD_BINARY, "-v", arpa, path], check=True, capture_output=True)
    assert lm_files.load(path).order == 2
    with pytest.raises(UserError, match="built without its words"):
        lm_files.vocabulary(path)
    words = tmp_path / "lm.bin.words"
    words.write_text("A\nB\n")
    with pytest.raises(UserError, match="not the words of"):
        lm_files.vocabulary(path)
    words.write_text("A\n")
    assert lm_files.vocabulary(path) == ["A"]


@needs_build_binary
@pytest.mark.parametrize("options", [["trie"], ["-q", "8", "trie"], ["-a", "22", "trie"], ["probing"]])
def test_every_data_structure_loads(arpa, tmp_path, options):
    path = tmp_path / "lm.bin"
    subprocess.run([BUILD_BINARY, *options, arpa, path], check=True, capture_output=True)
    assert lm_files.load(path).score("A") == pytest.approx(-0.825, abs=0.01)
    assert lm_files.vocabulary(path) == ["A"]


def test_words_of_another_model_are_refused(model_copy):
    model_copy.with_name("copy.bin.words").write_text("OTHER\n")
    with pytest.raises(UserError, match="delete it"):
        lm_files.vocabulary(model_copy)


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


@settings(deadline=None, max_examples=40)
@given(
    st.one_of(
        st.tuples(st.just(88), st.integers(0, 255).map(lambda order: bytes([order]))),
        st.tuples(st.just(92), st.floats(width=32).map(lambda x: struct.pack("<f", x))),
        st.tuples(st.just(96), st.integers(0, 2**32 - 1).map(lambda x: struct.pack("<I", x))),
        st.tuples(st.just(104), st.integers(0, 2**32 - 1).map(lambda x: struct.pack("<I", x))),
        st.tuples(
            st.sampled_from([108, 116, 124]),
            st.integers(0, 2**64 - 1).map(lambda x: struct.pack("<Q", x)),
        ),
    )
)
def test_damaged_header_cannot_crash_the_process(model_path, tmp_path_factory, change):
    offset, value = change
    content = bytearray(model_path.read_bytes())
    content[offset : offset + len(value)] = value
    path = tmp_path_factory.mktemp("damaged") / "lm.bin"
    path.write_bytes(content)
    try:
        lm_files.load(path).score("THE CAT")
    except UserError as error:
        assert "lm.bin" in str(error)
