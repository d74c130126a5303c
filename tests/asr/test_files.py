"""Room on the disk, and what programs leave behind that are killed."""

import signal
import subprocess
import sys

import pytest

from asr.errors import UserError
from asr.files import require_room, work_folder

WAITING = """
import sys, time
from asr.files import work_folder
with work_folder(sys.argv[1]) as folder:
    (folder / "large").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def begin(path) -> tuple[subprocess.Popen, str]:
    """A program at work on ``path``, and its folder."""
    program = subprocess.Popen([sys.executable, "-c", WAITING, path], stdout=subprocess.PIPE, text=True)
    return program, program.stdout.readline().strip()


def test_a_killed_programs_folder_is_removed_by_the_next_and_a_running_ones_is_not(tmp_path, capsys):
    killed, left = begin(tmp_path / "lm.bin")
    running, used = begin(tmp_path / "lm.bin")
    other, others = begin(tmp_path / "other.bin")
    for program in (killed, other):
        program.send_signal(signal.SIGKILL)
        program.wait()
    try:
        with work_folder(tmp_path / "lm.bin") as folder:
            there = {str(path) for path in tmp_path.iterdir()}
        assert there == {str(folder), used, others}
        assert capsys.readouterr().err == f"{left}: left by a program that was killed; removed\n"
    finally:
        running.kill()
        running.wait()
    assert {str(path) for path in tmp_path.iterdir()} == {used, others}


def test_a_work_folder_goes_whatever_happens_in_it(tmp_path):
    with pytest.raises(ZeroDivisionError), work_folder(tmp_path / "a [1].bin") as folder:
        (folder / "large").touch()
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_room_is_told_where_it_is_much_and_refused_where_it_is_not_there(tmp_path, capsys):
    require_room(tmp_path / "not" / "yet", 1000)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"too little room: 1000000000\.00 GB needed"):
        require_room(tmp_path, 10**18)
    assert capsys.readouterr().out.startswith("this needs 1000000000.00 GB in ")
