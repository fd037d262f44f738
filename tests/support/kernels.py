"""Both kernels in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from klcal.kernels.library import VARIABLE, library

KERNELS = ("compiled", "numpy")


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
        yield
    library.cache_clear()
