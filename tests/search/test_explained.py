"""An explanation is true: its costs are those of the values, its methods choose what they choose alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import klcal
from klcal.calibration.sketches import calibrate_sketch
from klcal.calibration.values import calibrate
from klcal.quantizers.scheme import Scheme
from klcal.search.methods import parse
from klcal.search.settings import Settings
from klcal.sketches.pieces import without_outermost
from klcal.sketches.values import sketch
from klcal.tables.explanation import Explanation
from klcal.tables.rows import Row
from tests.support.brute_force import Levels

SCHEMES = [
    ("uint8", "affine"),
    ("int8", "symmetric"),
    ("int4", "symmetric-signed"),
    ("int4", "symmetric-full"),
    ("uint4", "affine"),
    ("int16", "symmetric"),
    ("float8_e4m3fn", "symmetric"),
    ("nf4", "symmetric"),
]


def values_of(size: int = 20_000, seed: int = 0) -> np.ndarray:
    """Few distinct values, which a sketch knows exactly, and two outliers."""
    values = np.round(np.random.default_rng(seed).standard_normal(size) * 256) / 256
    values[:2] = 9, -6
    return values.astype(np.float32)


def explained(values, **options) -> tuple[Row, Explanation]:
    row = calibrate(values, detail="all", **options)
    assert row.explanation is not None
    return row, row.explanation


def error_of(values: np.ndarray, dtype: str, kind: str, scale: float, zero_point: int | None) -> float:
    """The mean squared error by looking for the nearest level of each value."""
    levels = Levels.of(dtype, kind)
    if levels.floats is not None:
        known = levels.floats
    else:
        integers = Scheme(dtype, kind).integers
        known = np.arange(integers[0], integers[-1] + 1) - float(zero_point or 0)
    known = np.sort(known * scale)
    edges = (known[1:] + known[:-1]) / 2
    nearest = known[np.searchsorted(edges, values.astype(np.float64))]
    return float(np.mean((values - nearest) ** 2))


@pytest.mark.parametrize(("dtype", "kind"), SCHEMES)
def test_every_method_chooses_and_costs_what_it_does_alone(dtype, kind):
    values = values_of()
    row, found = explained(values, dtype=dtype, scheme=kind)
    assert calibrate(values, dtype=dtype, scheme=kind) == row
    assert [each.method.partition(":")[0] for each in found.methods] == [
        "kl",
        "kl-classic",
        "mse",
        "minmax",
        "percentile",
    ]
    for each in found.methods:
        alone = calibrate(values, dtype=dtype, scheme=kind, method=each.method)
        for field in ("scale", "zero_point", "low", "high", "mse", "sqnr_db", "clipped", "rounded_to_zero"):
            assert getattr(each, field) == getattr(alone, field), (each.method, field)
        if alone.kl is not None:
            assert each.divergence == pytest.approx(alone.kl, rel=1e-9)


@pytest.mark.parametrize(("dtype", "kind"), SCHEMES)
def test_candidates_cost_what_quantizing_the_values_costs(dtype, kind):
    values = np.random.default_rng(3).standard_normal(4000).astype(np.float32)  # so few are known exactly
    row, found = explained(values, dtype=dtype, scheme=kind)
    curve, least = found.curve, next(each for each in found.methods if each.method == "mse").mse
    assert curve.scale == tuple(sorted(curve.scale))
    assert curve.scale[curve.chosen] == abs(row.scale)
    for scale, point, distortion in itertools.islice(
        zip(curve.scale, curve.zero_point, curve.distortion, strict=True), 0, None, 7
    ):
        errors = [error_of(values, dtype, kind, sign * scale, point) for sign in (1, -1)]
        wanted = min(errors, key=lambda error: abs(found.weight * error / (2 * least) - distortion))
        assert distortion == pytest.approx(found.weight * wanted / (2 * least), rel=1e-5)
    if kind != "symmetric-signed":  # whose deployed scales have a sign
        for near in found.nearby:
            scale = float(np.float32(row.scale * (1 + near.change)))
            assert near.mse == pytest.approx(error_of(values, dtype, kind, scale, row.zero_point), rel=1e-5)


@pytest.mark.parametrize("method", ["kl", "mse", "kl:weight=1", "kl-classic", "minmax", "percentile:99"])
def test_the_loss_is_what_the_method_minimises(method):
    _, found = explained(values_of(), dtype="int4", method=method)
    curve, name = found.curve, method.partition(":")[0]
    assert found.objective == (name if name in ("kl", "mse", "kl-classic") else None)
    assert found.weight == (1.0 if method == "kl:weight=1" else 4.0)
    for divergence, distortion, loss in zip(curve.divergence, curve.distortion, curve.loss, strict=True):
        if name == "mse":
            assert loss == distortion
        elif name != "kl-classic":
            assert loss == pytest.approx(divergence + distortion, rel=1e-12)
    if found.objective is not None:
        known = [each for each in curve.loss if each is not None]
        assert curve.loss[curve.chosen] <= min(known) * 1.02, "no candidate is better, within the search's accuracy"
    mse = next(each for each in found.methods if each.method == "mse")
    assert mse.distortion == pytest.approx(found.weight / 2, rel=1e-12)
    assert found.methods[0].loss == curve.loss[curve.chosen]


def test_few_values_are_judged_by_their_error_alone():
    _, found = explained(values_of(500))
    assert found.objective == "mse"
    assert found.curve.loss == found.curve.distortion


@pytest.mark.parametrize("count", [1, 2, 20])
def test_without_the_outermost_values_the_rest_is_calibrated(count):
    values = values_of(20_000)
    _, found = explained(values, dtype="int8")
    order = np.argsort(-np.abs(values), kind="stable")
    rest = np.delete(values, order[:count])
    assert without_outermost(sketch(values), count) == sketch(rest)
    wanted = {2: 0, 20: 1}.get(count)
    if wanted is not None:
        alone, less = calibrate(rest, dtype="int8"), found.without[wanted]
        assert (less.count, less.scale, less.sqnr_db) == (count, alone.scale, alone.sqnr_db)
        assert less.beyond == np.abs(rest).max()
        error = error_of(rest, "int8", "symmetric", found.methods[0].scale, 0)
        energy = float(np.mean(rest.astype(np.float64) ** 2))
        assert less.sqnr_db_as_is == pytest.approx(10 * math.log10(energy / error), rel=1e-6)


def test_buckets_lose_their_outermost_values_too():
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    found = without_outermost(sketch(values), 100)
    assert found.nonzero[0] == values.size - 100
    kept = np.sort(np.abs(values))[-101]
    assert kept <= max(found.maximum[0], -found.minimum[0]) <= kept * 1.001


@pytest.mark.parametrize("per", ["channel", "group:32", "block:16,16"])
@pytest.mark.parametrize(("dtype", "scale_format"), [("int4", "float32"), ("float4_e2m1fn", "float8_e4m3fn")])
def test_a_unit_is_explained_as_it_was_calibrated(per, dtype, scale_format):
    values = np.random.default_rng(1).standard_normal((48, 64)).astype(np.float32) * np.arange(1, 49)[:, None]
    whole = calibrate(values, dtype=dtype, per=per, scale_format=scale_format)
    for number, wanted in enumerate(whole.each_unit()):
        if number % 17:
            continue
        row = unit_of(values, number, dtype=dtype, per=per, scale_format=scale_format)
        assert row.unit == number
        for field in ("scale", "zero_point", "low", "high", "kl", "mse", "sqnr_db", "clipped", "global_scale", "per"):
            assert getattr(row, field) == getattr(wanted, field), field
        assert row.explanation.methods[0].scale == row.scale


def unit_of(values, number, *, dtype, per, scale_format) -> Row:
    scheme = Scheme.parse(dtype, scale_format=scale_format)
    settings = Settings(parse("kl"), scheme, detail="all", unit=number)
    return calibrate_sketch(sketch(values, per=per), settings)


def test_importance_changes_the_choice_and_the_losses_of_candidates():
    rng = np.random.default_rng(2)
    values, importance = rng.standard_normal((64, 32)).astype(np.float32), rng.uniform(0.01, 10, 32)
    row, found = explained(values, dtype="int4", importance=importance)
    assert row.importance
    assert found.without == ()
    assert found.curve.loss[found.curve.chosen] <= min(found.curve.loss) * 1.02
    assert found.methods[0].mse == row.mse


def test_a_tensor_without_a_scale_has_no_curve():
    for values in ([0.0, 0.0], [math.nan, 1.0], []):
        row = calibrate(np.array(values, np.float32), detail="all")
        assert row.explanation.curve is None
        assert row.explanation.methods == ()
    assert klcal.calibrate(np.array([math.nan, 1.0], np.float32), detail="all").explanation.histogram.counts[64] == 1


def test_values_without_error_have_no_distortion():
    row, found = explained(np.arange(-7, 8, dtype=np.float32), dtype="int4")
    assert row.mse == 0
    assert set(found.curve.distortion) == {None}
    assert found.nearby[0].mse > 0


def test_the_histogram_alone_is_cheap_to_ask_for():
    values = np.ones((4, 5), np.float32)
    for per in ("tensor", "channel"):
        found = calibrate(values, per=per, detail="histogram").explanation
        assert found.curve is None
        assert found.histogram.counts[64] == 20
    assert calibrate(values).explanation is None
    with pytest.raises(klcal.UsageError, match="detail is 'much'"):
        calibrate(values, detail="much")
