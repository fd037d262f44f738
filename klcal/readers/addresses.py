"""Addresses of remote files: told apart from paths, shown without secrets, and taken apart."""

from __future__ import annotations

import posixpath
import re

from klcal.errors import InputError, redacted

__all__ = ["beside", "is_http", "is_pattern", "is_remote", "shown"]

SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
HTTP = ("http://", "https://")


def is_remote(path: str) -> bool:
    """Whether a path is an address.

    >>> is_remote("s3://bucket/model.safetensors"), is_remote("models/s3.npy"), is_remote("c://x")
    (True, False, False)
    """
    return SCHEME.match(path) is not None


def is_http(path: str) -> bool:
    """Whether a path is an address of a web server."""
    return path.lower().startswith(HTTP)


def shown(path: str) -> str:
    """A path for people, and to be taken apart: of an address nothing that is secret, or only for the server.

    >>> shown("https://me:secret@host/m.npz?signature=abc"), shown("a?b.npz")
    ('https://host/m.npz', 'a?b.npz')
    """
    return redacted(path) if is_remote(path) else path


def is_pattern(path: str) -> bool:
    """Whether an address is a pattern. By HTTP, a question mark begins a query, which only the server understands.

    >>> is_pattern("https://host/a.npy?x=*"), is_pattern("s3://bucket/?.npy"), is_pattern("https://host/*.npy")
    (False, True, True)
    """
    return not set("*[").isdisjoint(path.partition("?")[0]) if is_http(path) else not set("*?[").isdisjoint(path)


def beside(path: str, name: str) -> str:
    """The path of a file in the folder of another one, or below that folder.

    Raises:
        InputError: the name has characters that a server interprets, and could lead anywhere.

    >>> beside("a/m.onnx", "m.onnx_data"), beside("https://host/a/m.onnx?b=c/d", "m.onnx_data")
    ('a/m.onnx_data', 'https://host/a/m.onnx_data')
    """
    if is_remote(path) and not set("%?#").isdisjoint(name):
        raise InputError("its name is not that of a file in the same folder", "take it from a source you trust")
    return posixpath.join(posixpath.dirname(shown(path)), name)
