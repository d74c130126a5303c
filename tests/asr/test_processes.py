"""How many processes the programs start."""

import subprocess
import sys

import numpy as np

from asr.processes import resident_gib


def printed(code: str) -> str:
    """What ``code`` prints in a process that may run on one CPU only."""
    begin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    return subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True, check=True
    ).stdout


def test_cpus_that_this_process_may_not_use_do_not_count():
    assert printed("from asr.processes import cpu_count; print(cpu_count())") == "1\n"


def test_programs_start_as_many_processes_as_they_have_cpus():
    parse = "options.parse(['--checkpoint', 'x', '--audio', 'y'], '')"
    assert printed(f"from asr.decoding import options; print({parse}.jobs)") == "1\n"


def test_counting_cpus_does_not_wait_for_torch():
    assert printed("import asr.processes, sys; print('torch' in sys.modules)") == "False\n"


def test_processes_of_beam_search_do_without_torch():
    """They run the program's file, and import what they search with."""
    assert printed("import asr.decoding.beam, decode, sys; print('torch' in sys.modules)") == "False\n"


def test_memory_goes_and_its_peak_stays():
    before = resident_gib()
    held = np.ones(2**24)  # 128 MiB
    assert resident_gib() - before > 0.12
    del held
    assert resident_gib(peak=True) - before > 0.12 > resident_gib() - before
