"""The abilities of an output stream: its width, and whether it can show more than ASCII."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, TextIO

__all__ = ["UNLIMITED", "USUAL", "has_blocks", "width_of"]

DIGITS_READ = 9  # of a number of columns; nobody has more
USUAL = 80  # columns, where nothing is known
UNLIMITED = 1 << 12  # columns: wider than any row of such cells


def width_of(out: TextIO, elsewhere: int = UNLIMITED) -> int:
    """The width by ``COLUMNS``, or else that of the terminal; a dumb terminal is asked too, which Rich does not do.

    Args:
        out: where the text goes.
        elsewhere: the width if ``out`` is not a terminal.
    """
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said[:DIGITS_READ]) > 0:
        return min(int(said[:DIGITS_READ]), UNLIMITED)
    if not out.isatty():
        return elsewhere
    with suppress(OSError, ValueError):
        return os.get_terminal_size(out.fileno()).columns or USUAL
    return USUAL


def has_blocks(out: IO[str]) -> bool:
    """Whether blocks and lines can be shown: not where the terminal, ``LC_ALL`` or the encoding lacks them."""
    if out.isatty() and os.environ.get("TERM") == "dumb":
        return False
    if out is sys.stdout and os.environ.get("LC_ALL") in ("C", "POSIX"):  # Python writes UTF-8 all the same
        return False
    try:
        "█░├".encode(getattr(out, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
