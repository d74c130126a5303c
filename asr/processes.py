"""How many processes to start, and what each does before its first task."""

import multiprocessing
import os
import signal
import threading


def cpu_count() -> int:
    """CPUs that this process may run on: not all of the machine under Slurm, taskset or a container's set."""
    return len(os.sched_getaffinity(0))


def start_worker() -> None:
    """Leave Ctrl-C to the parent, use one thread, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent acts
    import torch  # here, as counting CPUs need not wait for it

    torch.set_num_threads(1)  # the pool is the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes outlive a parent that is killed, and wait for work for ever. Not these."""
    multiprocessing.parent_process().join()
    os._exit(1)
