"""Information theory: probabilities, densities, samples, two tensors element by element.

The functions on probabilities are here by their names: ``from klcal.divergence import kl``. The modules ``densities``
and ``samples`` are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from klcal.divergence.probabilities import *  # noqa: F403 - just what its __all__ names
from klcal.divergence.probabilities import __all__ as __all__


def __getattr__(name: str) -> ModuleType:
    if name not in ("densities", "samples", "elementwise"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
