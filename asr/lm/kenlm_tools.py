"""KenLM's ``build_binary``, which turns an ARPA file into the binary that decoding loads.

The ``kenlm`` package brings only the Python reader. ``python -m asr.lm.kenlm_tools`` compiles the program
from that package's own source archive, which needs a C++ compiler, not CMake and not Boost, and installs
it beside the Python interpreter, that is, in the virtual environment.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from asr.errors import UserError, run_program
from asr.files import atomic_path
from asr.processes import cpu_count

VERSION = "0.3.0"
SHA256 = "c4628bb9fb63c8a6f9240035b8b037385cfc404cb72e933cf48878291edac1e8"

_SOURCES = ("lm/*.cc", "util/*.cc", "util/double-conversion/*.cc")
# C++11 as KenLM's own setup.py says: its std::unary_function is gone from later standards.
_FLAGS = ("-O2", "-w", "-std=c++11", "-DNDEBUG", "-DKENLM_MAX_ORDER=6", "-I.")

# pip asks a source archive for its metadata even to download it, which would need KenLM's build tools and
# run its setup.py. This stands in for setuptools and answers what pip asks, without building anything.
_STAND_IN_BACKEND = f"""
import pathlib


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = pathlib.Path(folder) / "kenlm-{VERSION}.dist-info"
        info.mkdir()
        metadata = "Metadata-Version: 2.1\\nName: kenlm\\nVersion: {VERSION}\\n"
        (info / "METADATA").write_text(metadata)
        return info.name
"""


def find_build_binary() -> Path:
    """Return the path of ``build_binary``: on the PATH, or else beside the Python interpreter.

    Raises:
        UserError: it is in neither place.
    """
    found = shutil.which("build_binary") or shutil.which("build_binary", path=_beside_python())
    if found is None:
        raise UserError("KenLM's build_binary is not on the PATH; python -m asr.lm.kenlm_tools makes it")
    return Path(found)


def install(archive: Path | None = None) -> Path:
    """Compile ``build_binary`` and install it beside the Python interpreter; return its path.

    Args:
        archive: KenLM's source archive; downloaded with pip if not given.

    Raises:
        UserError: no network, an archive that is not the one expected, no compiler, or no right to write.
    """
    folder = Path(_beside_python())
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: no right to write there; use a virtual environment")
    compiler = _find_compiler()
    with TemporaryDirectory(prefix="kenlm-") as name:
        work = Path(name)
        archive = archive or _download(work)
        source = _unpack(archive, work / "source")
        objects = _compile(compiler, source)
        with atomic_path(folder / "build_binary") as target:
            libraries = ["-lrt"] if sys.platform.startswith("linux") else []
            _run([*compiler, *objects, *libraries, "-o", str(target)], source)
    return folder / "build_binary"


def _beside_python() -> str:
    # Not resolved: in a virtual environment the interpreter is a link out of it.
    return str(Path(sys.executable).parent)


def _find_compiler() -> list[str]:
    if named := os.environ.get("CXX"):
        command = named.split()
        if shutil.which(command[0]) is None:
            raise UserError(f"CXX={named}: no such compiler")
        return command
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise UserError(
        "no C++ compiler on the PATH (c++, g++, clang++): install one, such as the package g++, or set CXX"
    )


def _download(folder: Path) -> Path:
    """Fetch the source archive with pip, so that whatever index or proxy pip is set up for is used."""
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip"]
    elif uvx := shutil.which("uvx"):
        pip = [uvx, "pip"]
    else:
        raise UserError(
            f"pip is not in this environment: install it, or download kenlm-{VERSION}.tar.gz"
            " from the package index yourself and pass it with --archive"
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"kenlm=={VERSION} --hash=sha256:{SHA256}\n")
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_STAND_IN_BACKEND)
    paths = [str(backend.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    print(f"downloading the source of KenLM {VERSION}", file=sys.stderr)
    options = ["--no-deps", "--no-binary=kenlm", "--no-build-isolation", "--no-cache-dir"]
    result = subprocess.run(
        [*pip, "download", *options, "--require-hashes", "-r", str(requirements), "-d", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    archive = folder / f"kenlm-{VERSION}.tar.gz"
    if result.returncode or not archive.is_file():
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1] if errors else (result.stderr or result.stdout).strip()[-200:]
        raise UserError(
            f"could not download kenlm-{VERSION}.tar.gz ({reason}); without a network,"
            " bring the file and pass it with --archive"
        )
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{archive}: {error.strerror}") from None
    if digest != SHA256:
        raise UserError(f"{archive}: not the source of KenLM {VERSION}: its SHA-256 is {digest}")
    with tarfile.open(archive) as tar:
        # Its SHA-256 was checked; the filter, which Python before 3.11.4 lacks, is for good measure.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / f"kenlm-{VERSION}"


def _compile(compiler: list[str], source: Path) -> list[str]:
    """Compile all that ``build_binary`` needs, a file to a core; return the object files' names."""
    files = sorted(file for pattern in _SOURCES for file in source.glob(pattern))
    files = [f for f in files if not f.name.endswith(("main.cc", "test.cc"))]
    files.append(source / "lm" / "build_binary_main.cc")
    objects = [str(file.with_suffix(".o").relative_to(source)) for file in files]

    def compile_one(file: Path, target: str) -> None:
        name = str(file.relative_to(source))
        _run([*compiler, *_FLAGS, "-c", name, "-o", target], source)

    pool = ThreadPoolExecutor(cpu_count())
    try:
        results = pool.map(compile_one, files, objects)
        bar = tqdm(results, "compiling build_binary", len(files), unit=" files", disable=None)
        for _ in bar:
            pass
    finally:
        # After an error, or Ctrl-C, start no further file.
        pool.shutdown(cancel_futures=True)
    return objects


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        reason = lines[0] if lines else result.stderr.strip()[-200:]
        raise UserError(f"{command[0]} could not compile KenLM: {reason}")


def main(arguments: list[str] | None = None) -> None:
    """Make ``build_binary`` unless it is there."""
    parser = argparse.ArgumentParser("python -m asr.lm.kenlm_tools", description=__doc__)
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="FILE",
        help=f"kenlm-{VERSION}.tar.gz, for a machine without a network",
    )
    options = parser.parse_args(arguments)
    try:
        print(f"{find_build_binary()} is there; nothing to do")
    except UserError:
        print(f"installed {install(options.archive)}")


if __name__ == "__main__":
    run_program(main)
