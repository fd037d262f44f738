"""Rows of tables to a file that a runtime loads, one module per consumer: values in, text out.

A new format is a ``Runtime``, a line here, a reader in ``readers/runtimes.py`` and a proof in ``tests/consumers``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klcal.writers.runtimes.runtime import Runtime

__all__ = ["FORMATS", "runtime_of"]

_HOMES = {
    "ort": ("ort", "OVERRIDES"),
    "ort-cache": ("ort", "CACHE"),
    "aimet-2.0.0": ("aimet", "AIMET_2"),
    "aimet-1.0.0": ("aimet", "AIMET_1"),
    "aimet-0.6.1": ("aimet", "AIMET_0"),
    "litert": ("litert", "LITERT"),
    "tensorrt-cache": ("tensorrt", "CACHE"),
}

FORMATS = tuple(_HOMES)


def runtime_of(name: str) -> Runtime:
    """The runtime of a format, imported when it is asked for."""
    module, attribute = _HOMES[name]
    found: Runtime = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found
