"""How a program ends."""

import subprocess
import sys

PROGRAM = """
from asr.errors import run_program

def main():
    for number in range(100_000):
        print(number, flush=True)

run_program(main)
"""


def test_a_reader_that_has_seen_enough_is_no_error():
    writer = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout.readline() == b"0\n"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait() == 141  # as a shell reports SIGPIPE
