"""A .npz file, written from front to back: only a piece of one array is held at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from klcal.errors import OutputError
from klcal.writers.safetensors_file import Stored
from klcal.writers.text import escape

__all__ = ["NUMPY", "write"]

EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: equal arrays make equal files
MOST_NAME_BYTES = 60_000  # the format has 65,535, and the suffix
NUMPY = {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IUF" for size in (1, 2, 4, 8)}
NUMPY |= {"BOOL": "|b1", "C64": "<c8", "I8": "|i1", "U8": "|u1"}
del NUMPY["F8"]
"""NumPy's dtype of each that .safetensors names, where there is one."""


def write(tensors: Iterable[Stored], out: BinaryIO) -> dict[str, int]:
    """Writes an archive of .npy files, not compressed, in the order given.

    Returns:
        The bytes of each array.

    Raises:
        OutputError: two arrays have one name, or one has a name that no member can have.
    """
    written: dict[str, int] = {}
    with zipfile.ZipFile(out, "w") as archive:
        for tensor in tensors:
            if tensor.name in written:
                what = f"two arrays would be called '{escape(tensor.name)}'"
                raise OutputError(what, "rename one of them in the input, or leave one out with --exclude")
            _check_name(tensor.name)
            with archive.open(zipfile.ZipInfo(f"{tensor.name}.npy", EPOCH), "w", force_zip64=True) as member:
                header = {"descr": NUMPY[tensor.dtype], "fortran_order": False, "shape": tensor.shape}
                np.lib.format.write_array_header_1_0(member, header)
                for piece in tensor.data():
                    member.write(piece)
            written[tensor.name] = tensor.nbytes
    return written


def _check_name(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if "\0" in name or not 0 < size <= MOST_NAME_BYTES:
        raise OutputError(f"'{escape(name)}' cannot be the name of an array in a .npz file", "use --to safetensors")
