"""The same by the compiled kernel and by NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from klcal.kernels.library import library

Answer = TypeVar("Answer")
IS_COMPILED = pytest.mark.skipif(library() is None, reason="the kernel was not built")


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """The kernel of this name, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLCAL_KERNEL", name)
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
