"""Names are data: what a file calls its tensors must not act on a terminal or in a line of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["escape", "shorten"]

ELLIPSIS = "…"


def escape(text: str) -> str:
    r"""The text on one line, with nothing in it that acts: other characters become backslash escapes.

    Control and format characters (ESC, newlines, C1, bidi), separators other than the space, lone surrogates
    and unassigned code points are escaped, and the backslash itself, so that different texts stay different.

    >>> escape("\x1b[31mconv\n"), escape("größe"), escape("a\\b")
    ('\\x1b[31mconv\\n', 'größe', 'a\\\\b')
    """
    if text.isprintable() and "\\" not in text:
        return text
    acting = {char for char in set(text) if char == "\\" or not char.isprintable()}
    return text.translate({ord(char): _escaped(char) if char in acting else char for char in set(text)})


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def shorten(text: str, width: int, measure: Callable[[str], int] = len) -> str:
    """The text with its middle left out where it is wider than ``width``: both ends of a name tell much.

    >>> shorten("model.layers.0.self_attn.q_proj.weight", 21)
    'model.laye…roj.weight'
    """
    if measure(text) <= width:
        return text
    if width < 1:
        return ""
    kept = width - 1  # for the ellipsis
    head = "".join(_fitting(text, kept // 2, measure))
    tail = "".join(_fitting(reversed(text), kept - kept // 2, measure))
    return head + ELLIPSIS + tail[::-1]


def _fitting(chars: Iterable[str], width: int, measure: Callable[[str], int]) -> Iterable[str]:
    for char in chars:
        width -= measure(char)
        if width < 0:
            return
        yield char
