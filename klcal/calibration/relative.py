"""The global scale of a tensor whose units have scales relative to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from klcal.quantizers.scale_formats import global_scale_of
from klcal.search.choices import Spans, full_choices
from klcal.search.settings import Settings
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import Sketch

__all__ = ["relative_to_range", "relative_to_sketches"]


def relative_to_sketches(settings: Settings, sketches: Sequence[Sketch]) -> Settings:
    """The settings with the global scale of a tensor, if the scales of its units are relative to one.

    The global scale depends on the range of all units together; values of importance 0 do not count in it.
    """
    scheme = settings.scheme
    if not scheme.is_relative:
        return settings
    decides = [each if _counts_whole(each) else Distribution.weighted(each) for each in sketches]
    low = min(min(float(each.min.min()) for each in decides), 0.0)
    high = max(max(float(each.max.max()) for each in decides), 0.0)
    return relative_to_range(settings, low, high)


def _counts_whole(found: Sketch) -> bool:
    """Whether all pieces count, so that the range is that of the sketch."""
    return found.weights is None or bool(found.weights[2].all())


def relative_to_range(settings: Settings, low: float, high: float) -> Settings:
    """The settings with the global scale of a tensor with values from low to high, low ≤ 0 ≤ high."""
    scheme = settings.scheme
    span = Spans(np.array([low]), np.array([high]), np.zeros(1, bool))
    full = float(full_choices(scheme.of_one_unit, span).scale[0]) if low < high else 0.0
    return replace(settings, scheme=replace(scheme, global_scale=global_scale_of(full) or 1.0))
