"""Finding build_binary, and making it: a small stand-in archive goes through the same steps in a second."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from asr.errors import UserError
from asr.lm import kenlm_tools

SOURCES = {
    "lm/build_binary_main.cc": (
        "#include <cstdio>\n"
        '#include "lm/answer.hh"\n'
        "int main() {\n"
        '  std::printf("order %d answer %d", KENLM_MAX_ORDER, answer());\n'
        "}\n"
    ),
    "lm/answer.hh": "int answer();\n",
    "lm/answer.cc": '#include "answer.hh"\nint answer() { return 42; }\n',
    "lm/query_main.cc": "#error another program\n",
    "lm/model_test.cc": "#error a test\n",
    "util/empty.cc": "",
    "util/double-conversion/empty.cc": "",
}


@pytest.fixture
def python_folder(tmp_path, monkeypatch):
    """A folder that stands for the one of the Python interpreter, with nothing in it and a bare PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    # Compilers and what they call, but no build_binary that a developer may have.
    path = os.environ["PATH"].split(os.pathsep)
    clean = [p for p in path if not Path(p, "build_binary").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(clean))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def make_archive(tmp_path, monkeypatch):
    def make(sources):
        archive = tmp_path / "kenlm.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, text in sources.items():
                info = tarfile.TarInfo(f"kenlm-{kenlm_tools.VERSION}/{name}")
                info.size = len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(kenlm_tools, "SHA256", digest)
        return archive

    return make


def test_compiles_installs_and_is_found(python_folder, make_archive, capsys):
    try:
        kenlm_tools._find_compiler()
    except UserError:
        pytest.skip("no C++ compiler")
    with pytest.raises(UserError, match=r"python -m asr\.lm\.kenlm_tools"):
        kenlm_tools.find_build_binary()
    archive = make_archive(SOURCES)
    kenlm_tools.main(["--archive", str(archive)])
    program = python_folder / "build_binary"
    assert [p.name for p in python_folder.iterdir()] == ["build_binary"]
    assert subprocess.check_output([program], text=True) == "order 6 answer 42"
    assert kenlm_tools.find_build_binary() == program

    archive.unlink()  # not needed again
    kenlm_tools.main(["--archive", str(archive)])
    assert "is there; nothing to do" in capsys.readouterr().out


def test_the_path_comes_first(python_folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    for folder in (python_folder, other):
        (folder / "build_binary").write_text("#!/bin/sh\n")
    (python_folder / "build_binary").chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    assert kenlm_tools.find_build_binary().parent == python_folder  # the other cannot be run
    (other / "build_binary").chmod(0o755)
    assert kenlm_tools.find_build_binary().parent == other


def test_code_that_does_not_compile(python_folder, make_archive):
    archive = make_archive({**SOURCES, "util/empty.cc": "#error broken on purpose\n"})
    with pytest.raises(UserError, match=r"could not compile KenLM: .*broken on purpose") as error:
        kenlm_tools.install(archive)
    assert "\n" not in str(error.value)
    assert not list(python_folder.iterdir())


def test_another_archive_is_refused(python_folder, make_archive, monkeypatch):
    archive = make_archive(SOURCES)
    monkeypatch.setattr(kenlm_tools, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="SHA-256"):
        kenlm_tools.install(archive)
    with pytest.raises(UserError, match=r"missing\.tar\.gz: No such file"):
        kenlm_tools.install(archive.with_name("missing.tar.gz"))
    assert not list(python_folder.iterdir())


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4 has no filter")
def test_an_archive_cannot_write_outside(python_folder, make_archive, tmp_path):
    archive = make_archive({"../../../outside": "x"})
    with pytest.raises(tarfile.OutsideDestinationError):
        kenlm_tools.install(archive)
    assert not (tmp_path / "outside").exists()


def test_no_compiler(python_folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UserError, match="CXX=no-such-compiler"):
        kenlm_tools.install()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(python_folder))
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        kenlm_tools.install()


def test_no_network(tmp_path, monkeypatch):
    # An index that cannot be reached; pip's own configuration must not lead elsewhere.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match=r"could not download .*--archive") as error:
        kenlm_tools._download(tmp_path)
    assert "\n" not in str(error.value)


def test_no_right_to_write(python_folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="no right to write"):
        kenlm_tools.install()
