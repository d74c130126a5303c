"""The one exception that means "the user can mend this", and how a program reports it."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one line that names the file or the option, and says what to do."""


def run_program(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit: 0 or its return value, 1 with one line on bad input, 130 on Ctrl-C."""
    try:
        code = main()
    except UserError as error:
        code = _report(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        code = _report(f"no room to write {error.filename or 'a file'}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _report(message: str) -> int:
    # A DataLoader's worker wraps the message in its traceback, whose last line is "module.Kind: message".
    *above, last = message.strip().splitlines() or [""]
    print(f"error: {last.partition(': ')[2] if above else last}", file=sys.stderr)
    return 1
