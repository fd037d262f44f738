"""Information theory: probabilities, densities, samples, two tensors element by element.

The functions on probabilities are here by their names: ``from klcal.divergence import kl``.
"""

from __future__ import annotations

from klcal.divergence.probabilities import *  # noqa: F403 - just what its __all__ names
from klcal.divergence.probabilities import __all__ as __all__
