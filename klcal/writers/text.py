"""Names of tensors as safe text: they come from files, and must not act on a terminal or in a line of text."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

__all__ = ["escape", "is_narrow", "shorten", "told_apart", "width_to_tell"]

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


def shorten(text: str, width: int, measure: Callable[[str], int] = len, head: float = 0.5) -> str:
    """The text, without its middle if it is wider than ``width``: both ends of a name are informative.

    Args:
        text: any.
        width: the maximum width of the result.
        measure: returns the width of a text, at least 1 for each character.
        head: the share of the room that the beginning gets.

    >>> shorten("model.layers.0.self_attn.q_proj.weight", 21)
    'model.laye…roj.weight'
    """
    if measure(text) <= width:
        return text
    if width < 1:
        return ""
    kept = width - 1  # for the ellipsis
    begin = int(kept * head)
    if is_narrow(text):
        return text[:begin] + ELLIPSIS + text[len(text) - kept + begin :]
    front = "".join(_fitting(text, begin, measure))
    tail = "".join(_fitting(reversed(text), kept - begin, measure))
    return front + ELLIPSIS + tail[::-1]


def is_narrow(text: str) -> bool:
    """Whether every character of an escaped text is one column wide, for all that can be known quickly."""
    return text.replace(ELLIPSIS, "").isascii()


def _fitting(chars: Iterable[str], width: int, measure: Callable[[str], int]) -> Iterable[str]:
    for char in chars:
        width -= measure(char)
        if width < 0:
            return
        yield char


HEADS = (0.5, 0.0, 0.25, 0.75, 1.0)  # shares that the beginning of a name may get; the first is the most pleasant
PART = re.compile(r"[^./:]+[./:]*|[./:]+")  # the parts of names: "layers.", "0.", "weight"


def told_apart(names: Sequence[str], width: int, measure: Callable[[str], int] = len) -> list[str]:
    """Names shortened to a width; different names stay different, if the width allows it.

    Parts that all names have in common at their ends are left out first, as few as suffice; then the middles of names.

    >>> told_apart([f"model.layers.{i}.mlp.gate.weight" for i in (0, 10)], 20)
    ['…0.mlp.gate.weight', '…10.mlp.gate.weight']
    >>> told_apart([f"model.layers.{i}.mlp.gate.weight" for i in (0, 10)], 18)
    ['…0.mlp.gate.…', '…10.mlp.gate.…']
    """
    known = list(dict.fromkeys(names))
    best, told = known, 0
    for found in _shortened(known, width, measure):
        if (different := len(set(found))) > told and all(measure(each) <= width for each in found):
            best, told = found, different
            if told == len(known):
                break
    shown = dict(zip(known, best, strict=True))
    return [shown[name] for name in names]


def width_to_tell(names: Sequence[str], least: int, measure: Callable[[str], int] = len) -> int:
    """The smallest width, at least ``least``, at which different names stay different when shortened."""
    known = list(dict.fromkeys(names))
    widths = range(least, max(map(measure, known), default=least) + 1)
    return least + bisect_left(widths, len(known), key=lambda width: len(set(told_apart(known, width, measure))))


def _shortened(names: list[str], width: int, measure: Callable[[str], int]) -> Iterator[list[str]]:
    """Forms of some names, the most pleasant first."""
    yield names
    rest = _without_common(names, width, measure)
    yield rest
    for head in HEADS:
        yield [shorten(name, width, measure, head) for name in rest]


def _without_common(names: list[str], width: int, measure: Callable[[str], int]) -> list[str]:
    """Names without common first and last parts, as many of these as do not fit. At least one part is left of each."""
    parts = [PART.findall(name) for name in names]
    first = parts[0] if len(parts) > 1 else []
    before = _in_common(parts)
    after = _in_common([each[before:][::-1] for each in parts])
    widest, front, back = max(map(measure, names), default=0), 0, 0
    while widest - _saved(first[:front], measure) - _saved(first[len(first) - back :], measure) > width:
        if front < before:
            front += 1
        elif back < after:
            back += 1
        else:
            break
    dots = ELLIPSIS * (front > 0), ELLIPSIS * (back > 0)
    return ["".join((dots[0], *each[front : len(each) - back], dots[1])) for each in parts]


def _in_common(lists: list[list[str]]) -> int:
    """How many first items all have in common, if each is to have another one."""
    if len(lists) < 2:
        return 0
    same = (len(set(items)) == 1 for items in zip(*lists, strict=False))
    return max(0, min(sum(1 for _ in takewhile(bool, same)), min(map(len, lists)) - 1))


def _saved(parts: list[str], measure: Callable[[str], int]) -> int:
    """How much narrower a name is with an ellipsis for some of its parts."""
    return measure("".join(parts)) - 1 if parts else 0
