"""The compiled kernel, where it was built: a plain C library, called through ctypes, which lets go of the GIL.

``KLCAL_KERNEL=numpy`` in the environment leaves it alone. NumPy computes the same, to the bit, only more slowly.
ctypes costs no start-up, because NumPy imports it, and one library serves every version of Python.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klcal.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["address", "compiled", "library", "name"]

VERSION = 10  # of the functions' arguments; an older library than this text is not used
VARIABLE = "KLCAL_KERNEL"
NAMES = ("compiled", "numpy")
FILE = Path(__file__).with_name("compiled.so")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None where NumPy is to do its work.

    Raises:
        UsageError: KLCAL_KERNEL names no kernel, or the compiled one, which is not there.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", *NAMES):
        raise UsageError(f"{VARIABLE} is {wanted!r}", f"set it to {' or '.join(NAMES)}, or not at all")
    if wanted == "numpy":
        return None
    try:
        found = ctypes.CDLL(str(FILE))
        found.klcal_version.restype = ctypes.c_int64
        if found.klcal_version() == VERSION:
            return found
    except (OSError, AttributeError):
        pass
    if wanted:
        raise UsageError(f"{VARIABLE} is {wanted!r}, and it was not built", "install klcal where there is a C compiler")
    return None


def compiled() -> ctypes.CDLL:
    """The compiled kernel, where whoever calls has asked whether it is there."""
    found = library()
    if found is None:
        raise AssertionError("there is no compiled kernel")
    return found


def name() -> str:
    """Which kernel is in use.

    >>> name() in ("compiled", "numpy")
    True
    """
    return "compiled" if library() else "numpy"


def address(array: npt.NDArray[Any]) -> int:
    """Where the values of a contiguous array lie."""
    if not array.flags.c_contiguous:
        raise AssertionError("the kernel takes contiguous arrays")
    return array.ctypes.data
