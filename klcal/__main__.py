"""The ``klcal`` command, also as ``python -m klcal``.

Signals are taken care of before anything is imported: an interrupt often lands in the imports.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["Interrupted", "main"]


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception, so that nothing mistakes it for a failed tensor."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _handle(handler: signal.Handlers | None = None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in `nohup` and background jobs
            signal.signal(number, handler or _interrupt)


def main() -> None:
    """Run the command line and exit."""
    try:
        _handle()
        from klcal.cli.main import run

        code = run(sys.argv[1:])
    except Interrupted as stop:
        code = stop.exit_code
        if sys.stderr is not None:
            sys.stderr.write("klcal: interrupted\n")
    _handle(signal.SIG_DFL)  # nothing is left to clean up
    sys.exit(code)


if __name__ == "__main__":
    main()
