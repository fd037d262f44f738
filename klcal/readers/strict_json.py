"""Strict JSON: everything that some JSON reader would refuse or read differently is refused.

If two readers take a document differently, two people see two different files. So everything is refused that some
readers accept and others do not: duplicate keys, NaN, half surrogate pairs, a byte order mark. Whole numbers are ints
only if they are natural: "-0" is a float to some readers.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from klcal.errors import InputError

__all__ = ["MAX_BYTES", "parse", "unique"]

DAMAGED = "download or save it again"
FEWER = "save fewer tensors in a file"

MAX_BYTES = 1 << 25  # a hundred bytes for each of 300,000 tensors; the parsed text can take four times as much memory
MAX_VALUES = 2_000_000  # commas and brackets; each can create an object of a hundred bytes
MAX_DIGITS = 20  # of the largest 64-bit number; int() of a million would take minutes


def parse(text: bytes, max_bytes: int | None = None, max_values: int | None = None) -> dict[str, Any]:
    """The object that ``text`` holds.

    Raises:
        InputError: If it is anything else.
    """
    max_bytes, max_values = max_bytes or MAX_BYTES, max_values or MAX_VALUES
    if len(text) > max_bytes:
        raise InputError(f"the JSON has {len(text):,} bytes; {max_bytes:,} are allowed", FEWER)
    if sum(map(text.count, (b",", b"[", b"{"))) > max_values:  # known before they take memory
        raise InputError(f"the JSON has more than {max_values:,} values", FEWER)
    if not text.startswith(b"{"):
        raise InputError("the JSON does not begin with '{'", DAMAGED)
    try:
        found = json.loads(
            text.decode(),
            object_pairs_hook=unique,
            parse_int=_number,
            parse_constant=_refuse,
        )
    except UnicodeDecodeError:
        raise InputError("the JSON is not UTF-8", DAMAGED) from None
    except (ValueError, RecursionError):
        raise InputError("the JSON is damaged", DAMAGED) from None
    if b"\\ud" in text.lower():  # else there is no half of a pair: UTF-8 itself holds none
        _check_text(found)
    return found  # type: ignore[no-any-return]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs, for ``json.loads``.

    Raises:
        InputError: If a key is there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError("the JSON has a key twice in one object", DAMAGED)
    return found


def _number(digits: str) -> int | float:
    """A natural number of 64 bits as an int; any other number, which no field may have, as a float."""
    return int(digits) if digits.isdecimal() and len(digits) <= MAX_DIGITS else float(digits)


def _refuse(constant: str) -> NoReturn:
    raise InputError(f"the JSON holds {constant}, which is not JSON", DAMAGED)


def _check_text(found: dict[str, Any]) -> None:
    r"""Refuses half surrogate pairs, which "\ud800" makes and no UTF-8 can hold."""
    waiting: list[Any] = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError("the JSON holds half a surrogate pair", DAMAGED) from None
