"""The divergence of the literature, on cases that can be computed by hand."""

from __future__ import annotations

import math

import numpy as np

from klcal.quantizers.scheme import Scheme
from klcal.search.classic import classic_divergences
from klcal.sketches.distribution import Distribution
from klcal.sketches.values import sketch


def divergence(values: list[float], scale: float, sub: int) -> float:
    scheme = Scheme("int4", "symmetric")
    sums = Distribution.of(sketch(np.float32(values))).prefix_sums(0)
    return float(classic_divergences(sums, scheme, np.array([scale]), scheme.belows, sub)[0])


def test_clipped_mass_in_an_empty_sub_bin_is_infinite():
    """P has the clipped value in the outermost sub-bin, Q has nothing there: the support condition."""
    assert divergence([6.75, 6.75, 10.0], 1.0, 8) == math.inf


def test_clipped_mass_beside_kept_values_is_counted():
    """A value at 7 steps less a quarter is in the fourth of eight sub-bins; at 7.49, with what is clipped, in the last.

    Of 5 values: two in the lower sub-bin, one kept and two clipped in the upper: p = 2/5, 3/5; q = 3/10 each.
    """
    values = [6.75, 6.75, 7.49, 10.0, 10.0]
    expected = 0.4 * math.log(0.4 / 0.3) + 0.6 * math.log(0.6 / 0.3)
    assert math.isclose(divergence(values, 1.0, 8), expected, rel_tol=1e-12)


def test_nothing_clipped_and_even_cells_have_no_divergence():
    assert divergence([1.0, 1.25, -3.0, -3.25], 1.0, 8) == 0
