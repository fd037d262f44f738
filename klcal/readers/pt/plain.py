"""The results of calling Python's own types: dictionaries, bytes, and values that do not matter."""

from __future__ import annotations

from typing import Any

from klcal.readers.pt.values import Bytes, Foreign, Global, Opaque, StateDict, is_scalar, malformed

__all__ = [
    "byte_array",
    "counter",
    "default_dict",
    "encoded",
    "is_key",
    "no_bytes",
    "ordered_dict",
    "scalars",
    "set_of",
]

MAX_KEY_LENGTH = 16  # elements of a tuple that is a dictionary's key


def is_key(value: Any) -> bool:
    """Whether a value can be a dictionary's key, or a set's member, and is cheap to hash and to show."""
    if type(value) is tuple:
        return len(value) <= MAX_KEY_LENGTH and all(_is_atom(each) for each in value)
    return _is_atom(value)


def _is_atom(value: Any) -> bool:
    return is_scalar(value) or type(value) in (Bytes, Foreign, Global, Opaque)


def ordered_dict(pairs: Any = ()) -> StateDict:
    """Python 3 fills it later by SETITEMS; Python 2 passed a list of pairs."""
    if type(pairs) not in (tuple, list) or any(type(pair) not in (tuple, list) for pair in pairs):
        raise malformed("collections.OrderedDict")
    if any(len(pair) != 2 or not is_key(pair[0]) for pair in pairs):
        raise malformed("collections.OrderedDict")
    made = StateDict(pairs)
    made.attributes = {}
    return made


def counter(counts: Any = None) -> dict[Any, Any]:
    """A ``Counter``: a dictionary of items and their counts."""
    if counts is not None and not isinstance(counts, dict):
        raise malformed("collections.Counter")
    return dict(counts or {})


def default_dict(*_: Any) -> dict[Any, Any]:
    """A ``defaultdict``, which SETITEMS fills. Its factory is never called."""
    return {}


def set_of(members: Any = ()) -> Opaque | Foreign:
    """A set; one of other than plain values may hold anything."""
    if type(members) not in (tuple, list):
        raise malformed("builtins.set")
    return Opaque() if all(map(is_key, members)) else Foreign("builtins.set", [members])


def scalars(*args: Any) -> Opaque:
    """A value of a few plain arguments whose content does not matter."""
    if not all(map(is_scalar, args)):
        raise malformed("a plain value")
    return Opaque(args)


def no_bytes(*args: Any) -> Bytes:
    """Empty ones: others are a text and its encoding."""
    if args:
        raise malformed("builtins.bytes")
    return Bytes("")


def encoded(*args: Any) -> Bytes | Opaque:
    """``_codecs.encode``: bytes, as protocol 2 writes them."""
    is_plain = len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1")
    return Bytes(args[0]) if is_plain else scalars(*args)


def byte_array(*args: Any) -> Opaque:
    """A ``bytearray`` of bytes that do not matter."""
    # torch would allocate bytearray(10**11); bytes come as text and its encoding.
    if any(type(arg) is int for arg in args):
        raise malformed("builtins.bytearray")
    return Opaque()
