"""The compiled kernel: a plain C library that is called through ctypes, which releases the GIL during a call.

If it was not built, or if ``KLCAL_KERNEL=numpy`` is set in the environment, NumPy computes the same bits, more slowly.
ctypes costs no time at start-up, because NumPy imports it, and one library serves every version of Python.
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

VERSION = 16  # of the functions' arguments: a library with another version is not used
VARIABLE = "KLCAL_KERNEL"
NAMES = ("compiled", "numpy")
FILE = Path(__file__).with_name("compiled.so")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None if NumPy does its work.

    Raises:
        UsageError: KLCAL_KERNEL is neither "compiled" nor "numpy", or it is "compiled" and the kernel was not built.
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
    """The compiled kernel, for callers that have checked that there is one."""
    found = library()
    if found is None:
        raise AssertionError("there is no compiled kernel")
    return found


def name() -> str:
    """The kernel that is in use.

    >>> name() in ("compiled", "numpy")
    True
    """
    return "compiled" if library() else "numpy"


def address(array: npt.NDArray[Any]) -> int:
    """The address of the first value of a C-contiguous array. The caller has to keep the array alive."""
    if not array.flags.c_contiguous:
        raise AssertionError("the kernel takes contiguous arrays")
    return array.ctypes.data
