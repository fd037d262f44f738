"""Texts from files as they are quoted in messages: short, printable, without control characters."""

from __future__ import annotations

__all__ = ["quoted"]

QUOTED_CHARACTERS = 60  # of a name; a message has 300 for everything


def quoted(text: str, limit: int = QUOTED_CHARACTERS) -> str:
    r"""The text between quotes in printable ASCII, its middle left out where it is long.

    >>> print(quoted("a\x1b[31m"), quoted("layer" * 10_000, 20))
    'a\x1b[31m' 'layerlayer...layer'
    """
    shown = ascii(text)
    if len(shown) <= limit:
        return shown
    tail = limit // 3
    return f"{shown[: limit - tail - 3]}...{shown[-tail:]}"
