"""Both kernels in one process, and what differs between their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pytest

import klcal
from klcal.kernels.library import VARIABLE, library

KERNELS = ("compiled", "numpy")
Answer = TypeVar("Answer")
IS_COMPILED = pytest.mark.skipif(library() is None, reason="the kernel was not built")


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Everything within is done by a kernel; the test is skipped where there is no compiled one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        library.cache_clear()
        if name == "compiled" and library() is None:
            pytest.skip("klcal was installed without a C compiler")
        patch.setenv(VARIABLE, name)
        library.cache_clear()
        try:
            yield
        finally:
            library.cache_clear()


def both(compute: Callable[[], Answer]) -> tuple[Answer, Answer]:
    """What each kernel computes."""
    with kernel("compiled"):
        compiled = compute()
    with kernel("numpy"):
        return compiled, compute()


def columns(row: klcal.Row) -> dict[str, Any]:
    """All numbers of a row, and of its units."""
    found = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "units"}
    if row.units is not None:
        found |= {f"unit.{field.name}": getattr(row.units, field.name) for field in fields(row.units)}
    return found


def differing(one: klcal.Row, other: klcal.Row) -> list[str]:
    """What differs, by a bit: a repr tells all floats apart, and NaN equals NaN."""
    mine, theirs = columns(one), columns(other)
    return [name for name in mine if repr(np.array(mine[name]).tolist()) != repr(np.array(theirs[name]).tolist())]
