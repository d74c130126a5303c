"""How many processes to start, what each does before its first task, and what memory it takes."""

import multiprocessing
import os
import re
import signal
import sys
import threading
from pathlib import Path


def cpu_count() -> int:
    """CPUs that this process may run on: not all of the machine under Slurm, taskset or a container's set."""
    return len(os.sched_getaffinity(0))


def resident_gib(peak: bool = False) -> float:
    """GiB of memory that this process holds, or the most that it has held. Linux only."""
    field = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 2**20


def ignore_interrupts(_worker: int = 0) -> None:
    """Leave Ctrl-C, which reaches the whole group of processes, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start_worker() -> None:
    """Leave Ctrl-C to the parent, use one thread, and end when the parent does."""
    ignore_interrupts()
    os.environ["OMP_NUM_THREADS"] = "1"  # the pool is the parallelism, should this process import PyTorch
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes outlive a parent that is killed, and wait for work for ever. Not these."""
    multiprocessing.parent_process().join()
    os._exit(1)
