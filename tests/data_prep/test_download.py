"""Downloads and archives against a real server: what interrupts them costs nothing twice."""

import hashlib
import io
import random
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from asr.errors import UserError
from asr.files import require_room
from data_prep import openslr_lm
from data_prep.download import extract, fetch

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
AT_ONCE = (0, 0, 0)


@pytest.fixture
def url(server):
    server.files["/a.tar.gz"] = CONTENT
    return f"{server.url}/a.tar.gz"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archives" / "a.tar.gz"


def at_once(number, function, *arguments):
    with ThreadPoolExecutor(number) as pool:
        for done in [pool.submit(function, *arguments) for _ in range(number)]:
            done.result()


def part(path):
    return path.with_name("a.tar.gz.part")


def visible(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


@pytest.mark.parametrize("known", [{}, {"size": len(CONTENT)}, {"sha256": SHA256}, {"md5": MD5}])
def test_fetch(server, url, path, known):
    fetch(url, path, **known)
    assert path.read_bytes() == CONTENT and visible(path.parent) == {"a.tar.gz"}
    fetch(url, path, **known)
    assert len(server.requests) == 1  # what is there and right is not asked for again


def test_broken_connections_are_resumed(server, url, path):
    server.cuts = [1_000_000, 0, 700_000]
    fetch(url, path, len(CONTENT), SHA256, pauses=AT_ONCE)
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)  # every byte once
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=1000000-", "bytes=1700000-"]


def test_a_later_run_takes_only_what_is_missing(server, url, path):
    server.cuts = [1_234_567, 0, 0, 0]
    with pytest.raises(UserError, match=r"ended at 1234567 of .* run again to go on"):
        fetch(url, path, len(CONTENT), SHA256, pauses=AT_ONCE[:2])
    assert not path.exists() and part(path).stat().st_size == 1_234_567
    server.cuts = []
    fetch(url, path, len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT and server.sent == len(CONTENT)


def test_a_server_that_ignores_range_starts_again(server, url, path):
    server.resumes = False
    server.cuts = [1_000_000]
    fetch(url, path, len(CONTENT), SHA256, pauses=AT_ONCE)
    assert path.read_bytes() == CONTENT
    assert server.sent == 1_000_000 + len(CONTENT)


def test_a_server_that_sends_another_range_is_not_believed(server, url, path):
    server.cuts = [1_000_000]
    server.shift = 5
    fetch(url, path, len(CONTENT), SHA256, pauses=AT_ONCE)
    assert path.read_bytes() == CONTENT


def test_gives_up_on_a_server_that_always_breaks_off_at_the_same_place(server, url, path):
    server.resumes = False
    server.cuts = [1000] * 100
    with pytest.raises(UserError, match=r"gave up after \d attempts"):
        fetch(url, path, pauses=AT_ONCE)
    assert len(server.requests) < 10


def test_all_bytes_were_there_but_not_yet_verified(server, url, path):
    path.parent.mkdir()
    part(path).write_bytes(CONTENT)
    fetch(url, path, sha256=SHA256)  # of unknown size: the server answers 416
    assert path.read_bytes() == CONTENT and server.sent == 0


def test_a_part_longer_than_the_file_starts_again(server, url, path):
    path.parent.mkdir()
    part(path).write_bytes(CONTENT + b"more")
    fetch(url, path, sha256=SHA256, pauses=AT_ONCE)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"md5": "0" * 32}])
def test_wrong_checksum(url, path, known):
    with pytest.raises(UserError, match=r"a\.tar\.gz: .* was removed: its checksum"):
        fetch(url, path, **known)
    assert visible(path.parent) == set()


def test_wrong_size_is_told_before_the_bytes_are_taken(server, url, path):
    path.parent.mkdir()
    part(path).write_bytes(CONTENT[:1000])
    server.resumes = False
    with pytest.raises(UserError, match="is 3000000 bytes long, not 5"):
        fetch(url, path, size=5)


def test_a_wrong_file_under_the_final_name_is_kept_and_named(server, url, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"a\.tar\.gz: it is 2999999 bytes .* delete it"):
        fetch(url, path, size=len(CONTENT))
    assert path.exists() and not server.requests


def test_passing_server_errors_are_retried_and_others_are_not(server, url, path):
    server.statuses = [503, 429]
    fetch(url, path, sha256=SHA256, pauses=AT_ONCE)
    with pytest.raises(UserError, match=r"b\.tar\.gz: the server answers 404"):
        fetch(f"{server.url}/b.tar.gz", path.with_name("b"))
    assert len(server.requests) == 4


def test_no_server(path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot connect: .*refused.* after 4 attempts"):
        fetch(f"http://127.0.0.1:{port}/a", path, pauses=AT_ONCE)
    with pytest.raises(UserError, match="not an http or https address"):
        fetch("ftp://127.0.0.1/a", path)


def test_two_at_once_fetch_once(server, url, path):
    at_once(3, fetch, url, path, len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT and len(server.requests) == 1


def run(code, *arguments, **options):
    """Start ``code`` as a program of the house, in a process of its own."""
    program = (
        "import sys; from asr.errors import run_program; from data_prep.download import *\n"
        f"def main(): {code}\n"
        "run_program(main)"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def test_no_room(server, url, path):
    code = f"fetch(sys.argv[1], sys.argv[2], {len(CONTENT)}, '{SHA256}')"
    program = run(code, url, path, preexec_fn=small_files_only)
    message = program.communicate()[1].splitlines()[-1]
    assert program.returncode == 1
    assert message.startswith(f"error: {part(path)}: cannot be written") and "run again" in message
    assert visible(path.parent) == {"a.tar.gz.part"}
    fetch(url, path, len(CONTENT), SHA256)  # somebody made room
    assert path.read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1000000-"


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(url, small_disk, tmp_path):
    with pytest.raises(UserError, match=r"No space left on device; the .* bytes that came are kept"):
        fetch(url, small_disk / "a.tar.gz", len(CONTENT), SHA256)
    assert visible(small_disk) == {"a.tar.gz.part"}
    (small_disk / "a.tar.gz.part").unlink()
    archive = make_archive(tmp_path, {"corpus/split/a": CONTENT})
    with pytest.raises(UserError, match=r"No space left on device; .* removed again"):
        extract(archive, small_disk, "corpus/split/.complete")
    assert visible(small_disk) == set()
    with pytest.raises(UserError, match=r"too little room: 1000\.00 GB needed"):
        require_room(small_disk / "not" / "yet", 10**12)


def test_killed_and_run_again(server, url, path):
    server.cuts = [1_000_000]  # then the program waits before it asks again, and is killed
    program = run("fetch(sys.argv[1], sys.argv[2], pauses=[60])", url, path)
    while not part(path).exists() or part(path).stat().st_size < 1_000_000:
        time.sleep(0.01)
    program.kill()
    program.communicate()
    assert visible(path.parent) == {"a.tar.gz.part"}
    fetch(url, path, sha256=SHA256)
    assert server.sent == len(CONTENT)


def test_ctrl_c(server, url, path):
    server.cuts = [1000]
    program = run("fetch(sys.argv[1], sys.argv[2], pauses=[60])", url, path)
    while not part(path).exists() or part(path).stat().st_size < 1000:
        time.sleep(0.01)
    program.send_signal(signal.SIGINT)
    assert program.communicate()[1].splitlines()[-1] == "interrupted"
    assert program.returncode == 130


# -- archives


def make_archive(folder, files, *members):
    """A .tar.gz of ``files`` (name -> bytes), then of ``members`` just as they are."""
    path = folder / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


FILES = {"corpus/README": b"about", "corpus/split/1/a": b"a", "corpus/split/2/b": CONTENT}
MARKER = "corpus/split/.complete"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


def test_extract(tmp_path, target):
    archive = make_archive(tmp_path, FILES)
    extract(archive, target, MARKER)
    assert {name: (target / name).read_bytes() for name in FILES} == FILES
    assert visible(target) == {"corpus"} and (target / MARKER).exists()

    archive.write_bytes(b"no longer an archive")
    extract(archive, target, MARKER)  # done: not even opened


def test_a_second_split_joins_the_first(tmp_path, target):
    extract(make_archive(tmp_path, FILES), target, MARKER)
    more = {"corpus/README": b"newer", "corpus/other/c": b"c"}
    extract(make_archive(tmp_path, more), target, "corpus/other/.complete")
    assert (target / "corpus/README").read_bytes() == b"newer"
    assert (target / "corpus/split/1/a").exists() and (target / "corpus/other/c").exists()


def test_what_a_killed_run_left_is_swept_up(tmp_path, target):
    (target / ".a.tar.gz.partial" / "corpus").mkdir(parents=True)
    (target / "corpus" / "split" / "1").mkdir(parents=True)  # somebody's own half extraction
    extract(make_archive(tmp_path, FILES), target, MARKER)
    assert visible(target) == {"corpus"}
    assert (target / "corpus/split/2/b").read_bytes() == CONTENT


def test_killed_in_the_middle_nothing_looks_complete(tmp_path, target):
    archive = make_archive(tmp_path, {f"corpus/split/{i}": CONTENT[:99999] for i in range(100)})
    program = run(f"extract(sys.argv[1], sys.argv[2], '{MARKER}')", archive, target)
    while not list(target.glob(".*.partial/corpus/split/*")):
        assert program.poll() is None
        time.sleep(0.005)
    program.kill()
    program.communicate()
    assert visible(target) == {".a.tar.gz.partial"}
    extract(archive, target, MARKER)
    assert visible(target) == {"corpus"} and len(visible(target / "corpus/split")) == 101


@pytest.mark.parametrize(
    "name, members",
    [
        ("../evil", []),
        ("corpus/../../evil", []),
        ("{outside}/evil", []),
        ("corpus/ok", [link("corpus/evil", "../../evil")]),
        ("corpus/ok", [link("corpus/evil", "{outside}/evil")]),
        ("corpus/ok", [link("corpus/evil", "../evil", tarfile.LNKTYPE)]),
        ("corpus/ok", [link("corpus/up", "..", tarfile.SYMTYPE), link("corpus/up/up", "..")]),
        ("corpus/ok", [link("corpus/pipe", "", tarfile.FIFOTYPE)]),
    ],
)
def test_what_leads_out_is_refused(tmp_path, target, name, members):
    outside = str(tmp_path / "outside")
    for member in members:
        member.linkname = member.linkname.format(outside=outside)
    archive = make_archive(tmp_path, {**FILES, name.format(outside=outside): b"evil"}, *members)
    with pytest.raises(UserError, match=r"a\.tar\.gz: .*nothing extracted"):
        extract(archive, target, MARKER)
    assert visible(target) == set()
    assert visible(tmp_path) == {"a.tar.gz", "target"}


def test_links_within_the_archive_are_kept(tmp_path, target):
    inside = link("corpus/split/link", "1/a")
    extract(make_archive(tmp_path, FILES, inside), target, MARKER)
    assert (target / "corpus/split/link").read_bytes() == b"a"


@pytest.mark.parametrize("damage", [lambda c: c[:-100_000], lambda c: b"x" + c, lambda c: b""])
def test_damaged_archive(tmp_path, target, damage):
    archive = make_archive(tmp_path, FILES)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"a\.tar\.gz: damaged"):
        extract(archive, target, MARKER)
    assert visible(target) == set()


def test_archive_of_something_else(tmp_path, target):
    with pytest.raises(UserError, match=r"holds no folder corpus/other"):
        extract(make_archive(tmp_path, FILES), target, "corpus/other/.complete")
    assert visible(target) == set()


def test_no_room_to_extract(tmp_path, target):
    archive = make_archive(tmp_path, FILES)
    code = f"extract(sys.argv[1], sys.argv[2], '{MARKER}')"
    program = run(code, archive, target, preexec_fn=small_files_only)
    message = program.communicate()[1].splitlines()[-1]
    assert program.returncode == 1 and "cannot be extracted into" in message
    assert visible(target) == set()


def test_two_at_once_extract_once(tmp_path, target):
    archive = make_archive(tmp_path, FILES)
    at_once(3, extract, archive, target, MARKER)
    assert {name: (target / name).read_bytes() for name in FILES} == FILES
    assert visible(target) == {"corpus"}


# -- a program that downloads


def test_language_model(server, tmp_path, monkeypatch, capsys):
    server.files["/resources/11/3-gram.arpa.gz"] = CONTENT
    monkeypatch.setitem(openslr_lm.MODELS, "3-gram", (len(CONTENT), SHA256))
    for _ in range(2):
        openslr_lm.main(["--out", f"{tmp_path}/lm", "--which", "3-gram", "--mirror", server.url])
        assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path}/lm/3-gram.arpa.gz"
    assert (tmp_path / "lm/3-gram.arpa.gz").read_bytes() == CONTENT and len(server.requests) == 1
