"""Tensor files in: ``find`` says which, each source describes its tensors, their parts read the data.

A new format is a module with a function ``describe`` and a line in ``formats.py``.
"""

from __future__ import annotations

import os

from klcal.errors import InputError, UsageError
from klcal.readers.description import Chunk, Description, Part
from klcal.readers.find import Found, Source, find

__all__ = ["Chunk", "Description", "Found", "Part", "Source", "find", "read"]


def read(path: str | os.PathLike[str]) -> dict[str, Description]:
    """The tensors of a file, of a sharded checkpoint or of a directory, by name; their data are not read yet.

    ``klcal.sketch`` and ``klcal.calibrate`` take each of them, and read it in chunks. Tensors that cannot be
    calibrated are there too, with a ``status`` and a ``reason``; float8 and int8 codes that have a scale beside
    them have what they stand for as ``dequantized``. Where a directory holds several files, the file's name stands
    before the tensor's.

    Raises:
        InputError: the path leads to nothing that can be used.
        UsageError: the path is not one.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"the path is {path!r}", "give that of a file or a directory, a text or a pathlib.Path")
    found = find([os.fspath(path)])
    for error in found.errors:
        raise InputError(f"{error.source}: {error.reason}")
    several = len(found.sources) > 1
    tensors = {}
    for source in found.sources:
        try:
            described = source.describe()
        except InputError as error:
            raise InputError(f"{source.name}: {error.what}", error.hint) from None
        tensors.update({f"{source.name}: {each.name}" if several else each.name: each for each in described})
    return tensors
