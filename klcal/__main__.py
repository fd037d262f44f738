"""The ``klcal`` command, also as ``python -m klcal``.

Signals are taken care of before anything is imported: an interrupt often lands in the imports.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

__all__ = ["Interrupted", "main"]


Handler = signal.Handlers | Callable[[int, FrameType | None], None]


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Not an Exception, so that nothing mistakes it for a failed tensor."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _handle(_ignore)  # `timeout` and impatience send a second one, which must not stop the cleaning up
    raise Interrupted(number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Unlike SIG_IGN, also when the signal has arrived already."""


def _handle(handler: Handler) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in `nohup` and background jobs
            signal.signal(number, handler)


def main() -> None:
    """Run the command line and exit."""
    end: Handler = signal.SIG_DFL  # nothing is left to clean up
    try:
        _handle(_interrupt)
        for library in ("OPENBLAS", "MKL"):  # of NumPy: --jobs has the cores, and threads would need memory
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # warnings of libraries to programmers are no messages for users
        from klcal.cli.main import run

        code = run(sys.argv[1:])
    except Interrupted as stop:
        code = stop.exit_code
        end = signal.SIG_IGN  # and the code of the first signal is to be seen, however many follow
        with suppress(OSError):  # nobody reads it: not even then is the code another one
            if sys.stderr is not None:
                os.write(sys.stderr.fileno(), b"klcal: interrupted\n")
    _handle(end)
    sys.exit(code)


if __name__ == "__main__":
    main()
