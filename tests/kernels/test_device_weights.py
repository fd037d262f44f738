"""Weights added up on a device: sketches and rows are the CPU's, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.kernels.cuda import SOURCE, kernels
from klcal.kernels.cuda_units import UnitCounts, count_units, unit_weights
from klcal.quantizers.granularity import parse_per
from klcal.quantizers.layout import layout
from klcal.sketches import device_units
from klcal.sketches.arrays import checked_tensor
from klcal.sketches.counting import FLOAT_DTYPES, pattern_values
from klcal.sketches.device_units import all_units, counted_on_device, host_sketch
from klcal.sketches.importance import HEAVIEST, Importance
from klcal.sketches.patterns import UNITS
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import weights_of
from klcal.sketches.weighted import _counted
from tests.kernels.test_device_search import spoiled, there
from tests.kernels.test_units import LAWS, RESOLUTIONS, SEEDS, stored
from tests.support.devices import TORCH_DTYPES, Shim, as_tensor, never_waiting, real_device
from tests.support.kernels import IS_COMPILED, differing
from tests.support.lazy import torch

pytestmark = IS_COMPILED

PERS = ["channel", "channel:1", "group:128", "group:100", "block:16,48"]


def counted(tensor, importance, per: str, launcher: Shim | None = None, resolution=UNITS):
    """The units of a tensor as if it lay on a device, which the CPU is."""
    place = layout(parse_per(per), tuple(tensor.shape))
    weights = weights_of(importance, tuple(tensor.shape), place.order, place)
    told = tensor, checked_tensor(tensor), place.tiles, all_units(place), launcher or Shim()
    at_once = device_units.AT_ONCE
    return place, counted_on_device(*told, importance=weights, resolution=resolution, at_once=at_once)


def sketch_of(tensor, importance, per: str, launcher: Shim | None = None, resolution=UNITS) -> Sketch:
    place, found = counted(tensor, importance, per, launcher, resolution)
    parts = [(each.numbers, host_sketch(each)) for each in found]
    numbers = np.concatenate([own for own, _ in parts])
    return Sketch.stack([sketch for _, sketch in parts]).take(np.argsort(numbers), place.grid)


def row_of(tensor, importance, per: str, launcher: Shim | None = None, **asked) -> klcal.Row:
    return there(tensor, per, launcher, importance=importance, **asked)


def hostile(rows: int, columns: int) -> np.ndarray:
    """Those of ``spoiled``, and a row with infinities."""
    values = spoiled(rows, columns)
    values[8, 5:] = np.inf
    return values


def importance_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Importances of many orders of magnitude, of which some are 0, whole rows of them too."""
    rng = np.random.default_rng(seed)
    found = rng.lognormal(0, 4, shape)
    found[rng.random(shape) < 0.3] = 0
    if len(shape) > 1:
        found[9 : 9 + shape[0] // 8] = 0
    return found


@pytest.mark.parametrize("per", PERS)
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_sketches_with_weights_are_those_of_the_cpu(dtype, per, monkeypatch):
    monkeypatch.setattr(device_units, "AT_ONCE", 7 * 5000)
    tensor = torch.from_numpy(hostile(140, 300)).to(getattr(torch, dtype))
    for some in (tensor, tensor.T[:280]):
        for shape in (some.shape[1:], some.shape):
            weights = importance_of(tuple(shape))
            assert sketch_of(some, weights, per) == klcal.sketch(some, per=per, importance=weights)


@pytest.mark.parametrize("per", ["channel", "channel:2", "group:7,1", "block:4,16"])
def test_matrices_of_experts_have_weights_of_their_own(per):
    tensor = torch.from_numpy(hostile(5 * 12, 80).reshape(5, 12, 80))
    for shape in ((80,), (5, 80), (5, 12, 80)):
        weights = importance_of(shape)
        assert sketch_of(tensor, weights, per) == klcal.sketch(tensor, per=per, importance=weights)


def test_what_is_shared_is_sent_once(monkeypatch):
    """A weight for each column, not for each value; once more for smaller blocks in the last rows."""
    sizes = []
    sent = device_units.sent
    monkeypatch.setattr(device_units, "sent", lambda array, values: sizes.append(array.size) or sent(array, values))
    tensor, weights = torch.from_numpy(hostile(140, 300)), importance_of((300,))
    for per in PERS:
        assert sketch_of(tensor, weights, per).units
        assert sum(sizes) == 300 * (2 if per.startswith("block") else 1)
        sizes.clear()


# --- the kernel


def both(values: np.ndarray, dtype: str, size: int, weights: np.ndarray, resolution, launcher=None, place: str = "cpu"):
    """The sums of weights by a device, at the places of the keys, and the CPU's sketch."""
    tensor, there = as_tensor(values.copy(), dtype).to(place), torch.from_numpy(weights).to(place)
    kept = resolution.few, resolution.mantissa_bits, resolution.least_bits
    table = pattern_values(dtype).view(np.uint32) if values.itemsize == 1 else None
    found = count_units(tensor, dtype, size, kept, launcher or Shim(), table)
    sums = unit_weights(tensor, dtype, size, found, there, launcher or Shim(), table)
    starts = np.arange(0, values.size + 1, size)
    return at_keys(found, sums), _counted(values, weights, dtype, starts, np.ones(starts.size - 1), resolution).weights


def at_keys(found: UnitCounts, sums) -> np.ndarray:
    ranges = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    return np.concatenate([sums.cpu().numpy()[:, first:end] for first, end in ranges], axis=1)


@settings(max_examples=60)
@given(
    st.sampled_from(list(FLOAT_DTYPES)),
    st.one_of(st.integers(1, 200), st.sampled_from([4096, 9000, 40_000])),
    st.integers(1, 5),
    st.sampled_from(list(LAWS)),
    RESOLUTIONS,
    SEEDS,
)
def test_a_device_weighs_as_the_cpu_does(dtype, size, units, law, resolution, seed):
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(size * units) < 0.2, 0, rng.integers(1, int(HEAVIEST) + 1, size * units))
    mine, theirs = both(stored(dtype, law, "as drawn", size * units, seed), dtype, size, weights, resolution)
    assert np.array_equal(mine, theirs)


def test_no_values_weigh_nothing():
    none = torch.empty(0)
    found = count_units(none, "float32", 8, (4096, 10, 7), Shim())
    assert unit_weights(none, "float32", 8, found, none.long(), Shim()).shape == (3, 0)


def test_a_kernel_that_finds_the_place_beside_is_noticed(tmp_path):
    for path in SOURCE.glob("*.*"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "device_units.cu").read_text()
    assert text.count("left / 2] <= pattern)") == 1
    (tmp_path / "device_units.cu").write_text(text.replace("left / 2] <= pattern)", "left / 2] < pattern)"))
    values, weights = np.float32([1, 1, 2, 3, 4]), np.arange(5)
    for source, is_right in ((SOURCE, True), (tmp_path, False)):
        assert np.array_equal(*both(values, "float32", 5, weights, UNITS, Shim(source=source))) == is_right


# --- rows

CASES = [
    ("group:128", (20, 256), {"dtype": "int4", "method": "mse"}),
    ("group:32", (20, 64), {"dtype": "uint4", "method": "kl", "scheme": "affine"}),
    ("group:16", (20, 64), {"dtype": "float4_e2m1fn", "method": "mse", "scale_format": "float8_e4m3fn"}),
    ("block:8,32", (20, 64), {"dtype": "int8", "method": "kl-classic", "nonfinite": "ignore"}),
    ("channel", (20, 5000), {"dtype": "int8", "method": "kl"}),
    ("channel:1", (2000, 12), {"dtype": "int4", "method": "kl", "scheme": "symmetric-signed"}),
]


@pytest.mark.parametrize(("per", "shape", "asked"), CASES, ids=str)
def test_rows_with_importance_are_those_of_the_cpu(per, shape, asked):
    tensor = torch.from_numpy(hostile(*shape))
    for of in (shape[1:], shape):
        weights = importance_of(of)
        row = row_of(tensor, weights, per, **asked)
        assert not differing(row, klcal.calibrate(tensor, per=per, importance=weights, **asked))
        assert row.importance


def test_values_of_importance_0_do_not_count_in_the_global_scale():
    tensor, weights = torch.ones(4, 32), np.ones((4, 32))
    tensor[1, 3], weights[1, 3] = 1000, 0
    asked = {"dtype": "float4_e2m1fn", "method": "mse", "scale_format": "float8_e4m3fn"}
    row = row_of(tensor, weights, "group:16", **asked)
    assert row.global_scale == klcal.calibrate(torch.ones(4, 32), per="group:16", **asked).global_scale
    assert row.global_scale < row_of(tensor, np.ones(32), "group:16", **asked).global_scale


# --- a GPU


@pytest.mark.parametrize(("per", "shape", "asked"), CASES, ids=str)
def test_a_gpu_gives_the_sketches_and_rows_of_the_cpu(per, shape, asked):
    device = real_device()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensor = torch.from_numpy(hostile(*shape)).to(dtype)
        for of in (shape[1:], shape):
            more = {"per": per, "importance": importance_of(of)}
            assert klcal.sketch(tensor.to(device), **more) == klcal.sketch(tensor, **more)
            assert not differing(
                klcal.calibrate(tensor.to(device), **more, **asked), klcal.calibrate(tensor, **more, **asked)
            )


def test_a_gpu_is_not_waited_for_while_it_weighs():
    device = torch.device(real_device(), torch.cuda.current_device())
    launcher, kept = kernels(device.index), (UNITS.few, UNITS.mantissa_bits, UNITS.least_bits)
    values, weights = torch.randn(1 << 20, device=device), torch.arange(1 << 20, device=device)
    found = count_units(values, "float32", 128, kept, launcher)
    expected = unit_weights(values, "float32", 128, found, weights, launcher)  # what is compiled is compiled
    with never_waiting():
        sums = unit_weights(values, "float32", 128, found, weights, launcher)
    assert torch.equal(sums, expected)


def test_an_importance_has_the_tensor_s_own_axes_on_a_device():
    place = layout(parse_per("channel"), (2, 3), (1, 0))
    weights = np.arange(1.0, 7.0).reshape(2, 3)
    own = Importance.of(weights, (2, 3), (1, 0), place).in_own_order(place)
    assert own.heaviest.tolist() == [3, 6]
    assert (own.weights[1] == np.rint(np.array([4, 5, 6]) / 6 * HEAVIEST)).all()
    assert own.along(1, slice(1, 3)).weights.tolist() == own.weights[:, 1:].tolist()
