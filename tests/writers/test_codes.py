"""Codes: those of the reference rounding, in any order of axes; patterns are those of the formats' own library."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

import klcal
from klcal.errors import InputError, OutputError, UsageError
from klcal.quantizers.code_points import FLOATS, PATTERNS, nearest, nearest_places
from klcal.readers.description import Description
from klcal.writers.codes import Codes, in_c_order
from klcal.writers.safetensors_file import Stored, write

VALUES = np.random.default_rng(3).normal(size=(6, 4, 40)).astype(np.float32)
ORDERS = [(), (0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)]


@dataclass(frozen=True)
class Held:
    """A ``Part`` of values in memory."""

    values: np.ndarray
    repeats: int = 1

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def chunks(self):
        yield from np.array_split(self.values, 3)


def stored(values: np.ndarray, order: tuple[int, ...] | None) -> Description:
    """A tensor whose axes lie in some order, in two parts."""
    flat = values.transpose(order or tuple(range(values.ndim))).ravel()
    parts = tuple(Held(piece) for piece in (flat[:100], flat[100:]))
    return Description("w", "float32", values.shape, parts, order=order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("per", ["tensor", "channel:1", "group:16", "group:3,0", "block:3,16"])
@pytest.mark.parametrize("dtype", ["int5", "uint8", "float8_e5m2", "nf4"])
def test_codes_are_those_of_the_reference_rounding_in_any_order(dtype, per, order):
    row = klcal.calibrate(VALUES, dtype=dtype, per=per)
    codes = Codes.of(stored(VALUES, order), row)
    found = np.concatenate([*codes.pieces()]).reshape(VALUES.shape)
    quantized = klcal.quantize(VALUES, row)
    if dtype in FLOATS:
        values = np.full(256, np.nan, np.float32)
        values[PATTERNS[dtype]] = FLOATS[dtype]
        np.testing.assert_array_equal(values[found], quantized)
    else:
        np.testing.assert_array_equal(found, quantized)
    restored = np.concatenate([*codes.restored()])
    axes = order or (0, 1, 2)
    np.testing.assert_array_equal(restored, klcal.dequantize(quantized, row).transpose(axes).ravel())


def test_another_order_than_the_tensor_s_is_noticed():
    """The twin: values taken for C order that are not."""
    wrong = replace(stored(VALUES, (2, 1, 0)), order=())
    assert not np.array_equal(np.concatenate([*in_c_order(wrong)]), VALUES.ravel())


def test_a_repeated_weight_has_one_scale_or_none():
    repeated = stored(VALUES, None)
    with pytest.raises(InputError, match="several elements"):
        list(in_c_order(repeated))
    with pytest.raises(UsageError, match="several elements"):
        Codes.of(repeated, klcal.calibrate(VALUES, per="channel"))
    assert Codes.of(repeated, klcal.calibrate(VALUES))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn),
        ("float8_e5m2", ml_dtypes.float8_e5m2),
        ("float4_e2m1fn", ml_dtypes.float4_e2m1fn),
    ],
)
def test_patterns_are_those_of_the_format(dtype, kind):
    values = FLOATS[dtype].astype(np.float32)
    assert PATTERNS[dtype].tolist() == values.astype(kind).view(np.uint8).tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_places_are_those_of_the_nearest_values(dtype):
    steps = np.random.default_rng(0).normal(size=1000) * 3
    assert (FLOATS[dtype][nearest_places(steps, dtype)] == nearest(steps, dtype)).all()


def test_the_row_of_another_tensor_is_refused():
    row = klcal.calibrate(VALUES, per="group:16")
    with pytest.raises(UsageError, match="shape"):
        Codes.of(stored(VALUES[:3], ()), replace(row, shape=VALUES.shape))
    with pytest.raises(UsageError, match="do not fit"):
        Codes.of(stored(VALUES[:3], ()), replace(row, shape=None))
    with pytest.raises(UsageError, match="float16"):
        Codes.of(stored(VALUES, ()), replace(row, dtype="float16"))
    with pytest.raises(UsageError, match="no scale"):
        Codes.of(stored(VALUES, ()), klcal.calibrate(np.array([np.nan], np.float32)))


def test_nan_and_values_of_a_row_of_zeros_have_no_code():
    row = klcal.calibrate(VALUES)
    with pytest.raises(InputError, match="NaN"):
        list(Codes.of(stored(np.where(VALUES > 2, np.nan, VALUES), ()), row).pieces())
    zero = klcal.calibrate(np.zeros_like(VALUES))
    with pytest.raises(InputError, match="every value is 0"):
        list(Codes.of(stored(VALUES, ()), zero).pieces())


# --- the file


def of(name: str, dtype: str, values: np.ndarray, nbytes: int | None = None) -> Stored:
    return Stored(name, dtype, values.shape, values.nbytes if nbytes is None else nbytes, lambda: [values.data])


def test_a_file_is_what_the_library_reads_each_item_where_it_may_be(tmp_path):
    import safetensors.numpy

    arrays = {"b": np.arange(3, dtype=np.uint8), "a": np.arange(4.0), "c": np.arange(5, dtype=np.int16)}
    tensors = [of(name, {1: "U8", 8: "F64", 2: "I16"}[values.itemsize], values) for name, values in arrays.items()]
    with (tmp_path / "x.safetensors").open("wb") as out:
        assert write(tensors, out, {"format": "pt"}) == {name: values.nbytes for name, values in arrays.items()}
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    data = (tmp_path / "x.safetensors").read_bytes()
    assert data.endswith(b"".join(arrays[name].tobytes() for name in "acb"))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([of("x", "U8", np.zeros(3, np.uint8), 4)], "3 bytes, and 4 were announced"),
        ([of("x", "U8", np.zeros(3, np.uint8)), of("x", "U8", np.zeros(3, np.uint8))], "two tensors"),
    ],
)
def test_bytes_that_were_not_announced_and_equal_names_are_refused(tensors, words, tmp_path):
    with (tmp_path / "x").open("wb") as out, pytest.raises(OutputError, match=words):
        write(tensors, out, {})


def test_memory_is_that_of_a_piece_not_of_the_tensor(tmp_path):
    path, rows = tmp_path / "w.npy", 1 << 14  # a sparse file of 64 MiB
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, 1 << 10)})
        file.write(VALUES.tobytes())
        file.truncate(file.tell() - VALUES.nbytes + rows * 4096)
    row = klcal.calibrate_files(path, dtype="int4", per="group:128").rows[0]
    (description,) = klcal.read(path).values()
    codes = Codes.of(description, row)
    tracemalloc.start()
    try:
        assert sum(piece.size for piece in codes.pieces()) == rows << 10
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20
