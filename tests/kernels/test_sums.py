"""Sums in one order, a logarithm and a power of our own."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from klcal.kernels.sums import last_axis_sum, log, power_of_two, unit_sums
from tests.support.kernels import both

TERMS = st.lists(st.floats(-1e6, 1e6), max_size=40)


@given(st.lists(TERMS, min_size=1, max_size=6))
def test_the_sum_of_a_unit_depends_on_no_other_unit(units):
    starts = np.append(0, np.cumsum([len(each) for each in units]))
    together = unit_sums(np.array([term for each in units for term in each]), starts)
    for each, found in zip(units, together.tolist(), strict=True):
        assert found == unit_sums(np.array(each), np.array([0, len(each)]))[0] == last_axis_sum(np.array([each]))[0]
        assert found == math.fsum(each) or abs(found - math.fsum(each)) <= 1e-9 * sum(map(abs, each))


def test_numpys_own_sums_depend_on_where_they_stand():
    """The broken twin: reduceat adds a segment in an order that depends on its length alone, but not in ours."""
    terms = np.random.default_rng(0).standard_normal(1_000)
    ours = unit_sums(terms, np.array([0, 1_000]))[0]
    assert ours != terms.sum()
    assert abs(ours - math.fsum(terms.tolist())) < 1e-12


@given(st.floats(1e-300, 1e300))
def test_the_logarithm_is_right_to_the_last_bits(value):
    assert abs(float(log(value)) - math.log(value)) <= 4 * math.ulp(max(abs(math.log(value)), 0.7))


@given(st.floats(-1, 1))
def test_the_power_of_two_is_right_to_the_last_bits(exponent):
    assert abs(float(power_of_two(exponent)) - 2.0**exponent) <= 4 * math.ulp(1.0)


@given(st.lists(st.floats(2.0**-1022, 1e308), max_size=40))
def test_both_kernels_have_the_same_logarithm(values):
    compiled, numpy = both(lambda: log(np.array(values)))
    assert np.array_equal(compiled, numpy)


def test_numpys_logarithm_is_another():
    """The broken twin: it differs in the last bit of some, and from one machine to the next."""
    values = np.random.default_rng(0).random(10_000) + 1
    assert (np.log(values) != log(values)).any()
