"""torch, imported where a test first uses it: without torch that test is skipped, and all others run."""

from __future__ import annotations

from typing import Any

import pytest


class _Torch:
    """Stands for the module: every public attribute is that of the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):  # what pytest looks for in everything it collects
            raise AttributeError(name)
        return getattr(pytest.importorskip("torch", reason="it needs torch, which is not installed"), name)


torch = _Torch()
