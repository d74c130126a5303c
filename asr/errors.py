"""The one exception that means "the user can mend this", and how a program reports it."""

import errno
import os
import signal
import sys
from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, or one's share of it
# Not allowed, or a folder where a file is wanted, or the other way round.
_UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
)


class UserError(Exception):
    """Bad input. The message is one line that names the file or the option, and says what to do."""


def run_program(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit: 0 or its return value, 1 with one line on bad input, 130 on Ctrl-C."""
    try:
        code = main()
    except UserError as error:
        code = report(str(error))
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (*FULL, *_UNUSABLE):
            raise
        what = "no room to write" if error.errno in FULL else "cannot use"
        code = report(f"{what} {error.filename or 'a file'}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def report(message: str) -> int:
    """Print an error as one line to stderr; returns the exit status, 1."""
    # A DataLoader's worker wraps the message in its traceback, whose last line is "module.Kind: message".
    if message.startswith("Caught "):
        message = message.strip().splitlines()[-1].partition(": ")[2]
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1
