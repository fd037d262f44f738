"""Files for runtimes: what they say is what the table says, by hand, by golden files, and read back."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import klcal
from klcal.errors import InputError
from klcal.quantizers.scheme import Scheme
from klcal.readers.runtimes import PARSERS, parse_runtime
from klcal.tables.rows import Row
from klcal.tables.units import Units
from klcal.writers.runtimes import FORMATS, runtime_of
from klcal.writers.runtimes.runtime import Tensors, changes, problem
from tests.support.files import damaged
from tests.support.tables import ok

GOLDEN = Path(__file__).parent / "golden" / "runtimes"


def single(value: float) -> float:
    return float(np.float32(value))


def tensor(name: str, target: str, scale: float, point: int, scheme: str, **more) -> Row:
    integers = Scheme(target, scheme).integers
    ends = {"low": (integers[0] - point) * single(scale), "high": (integers[-1] - point) * single(scale)}
    known = {"target": target, "scheme": scheme, "qmin": integers[0], "qmax": integers[-1], **ends}
    return ok(name, **known, scale=single(scale), zero_point=point, **more)


def channels(
    name: str, target: str, scales: list[float], axis: int = 0, points=None, scheme="symmetric", **more
) -> Row:
    integers = Scheme(target, scheme).integers
    scale, point = np.float32(scales).astype(float), np.array(points or [0] * len(scales), float)
    columns = {
        "scale": scale,
        "zero_point": point,
        "low": (integers[0] - point) * scale,
        "high": (integers[-1] - point) * scale,
        **dict.fromkeys(("mse", "sqnr_db", "clipped"), np.full(len(scale), 0.5)),
    }
    units = more.pop("units", None) or Units(per="channel", axis=0, size=None, shape=scale.shape, **columns)
    whole = dict.fromkeys(("scale", "zero_point", "low", "high"))
    known = {"target": target, "scheme": scheme, "qmin": integers[0], "qmax": integers[-1], "shape": (4, 3, 3, 3)}
    return ok(name, **{**known, **whole, **more}, units=units)


ACTIVATIONS = (tensor("x", "uint8", 0.02, 100, "affine"), tensor("relu_out", "uint8", 0.012, 0, "affine"))
WEIGHTS = (
    channels("conv.weight", "int8", [0.004, 0.005, 0.006, 0.007]),
    tensor("fc.weight", "int8", 0.003, 0, "symmetric", shape=(144, 5)),
)
SIGNED = (
    tensor("images", "int8", 0.03125, 0, "symmetric"),
    tensor("/model.0/conv/Conv_output_0", "int8", 0.05, 0, "symmetric-full"),
)
HELD = {
    "ort-cache": Tensors(ACTIVATIONS, ()),
    "tensorrt-cache": Tensors(SIGNED, ()),
}


def of(to: str) -> Tensors:
    return HELD.get(to, Tensors(ACTIVATIONS, WEIGHTS))


# --- by hand: the documents that the runtimes were seen to load


def test_overrides_as_onnx_runtime_loads_them():
    assert json.loads(runtime_of("ort").write(of("ort"))) == {
        "x": [{"scale": 0.02, "zero_point": 100}],
        "relu_out": [{"scale": 0.012, "zero_point": 0}],
        "conv.weight": [
            {"axis": 0, "scale": 0.004, "zero_point": 0},
            *({"scale": scale, "zero_point": 0} for scale in (0.005, 0.006, 0.007)),
        ],
        "fc.weight": [{"scale": 0.003, "zero_point": 0}],
    }


def test_a_cache_as_onnx_runtime_loads_it():
    document = json.loads(runtime_of("ort-cache").write(of("ort-cache")))
    assert document == {
        "CLS": "TensorsData",
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"},
        "data": {
            "x": {"CLS": "TensorData", "lowest": -2.0, "highest": 3.1},
            "relu_out": {"CLS": "TensorData", "lowest": 0.0, "highest": 3.06},
        },
    }


def test_encodings_as_aimet_loads_them():
    two, one, zero = (json.loads(runtime_of(f"aimet-{v}").write(of("ort"))) for v in ("2.0.0", "1.0.0", "0.6.1"))
    assert two["encodings"][:3] == [
        {"name": "x", "output_dtype": "uint8", "y_scale": 0.02, "y_zero_point": 100},
        {"name": "relu_out", "output_dtype": "uint8", "y_scale": 0.012},
        {"name": "conv.weight", "output_dtype": "int8", "axis": 0, "y_scale": [0.004, 0.005, 0.006, 0.007]},
    ]
    per_tensor = {"name": "x", "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": False}
    per_channel = {"name": "conv.weight", "enc_type": "PER_CHANNEL", "dtype": "INT", "bw": 8, "is_sym": True}
    assert one["activation_encodings"][0] == {**per_tensor, "scale": [0.02], "offset": [-100]}
    assert one["param_encodings"][0] == {**per_channel, "scale": [0.004, 0.005, 0.006, 0.007], "offset": [-128] * 4}
    (x,), (first, *rest) = zero["activation_encodings"]["x"], zero["param_encodings"]["conv.weight"]
    assert x == {
        "bitwidth": 8,
        "dtype": "int",
        "is_symmetric": "False",
        "scale": 0.02,
        "offset": -100,
        "min": pytest.approx(-2.0, rel=1e-7),
        "max": pytest.approx(3.1, rel=1e-7),
    }
    assert (first["is_symmetric"], first["offset"], len(rest)) == ("True", -128, 3)
    assert (first["min"], first["max"]) == pytest.approx((-0.512, 0.508), rel=1e-7)


def test_results_as_ai_edge_quantizer_loads_them():
    ranges = json.loads(runtime_of("litert").write(of("litert")))["model_qsvs"]
    assert ranges["x"] == {"min": [[pytest.approx(-2.0)]], "max": [[pytest.approx(3.1)]]}
    assert np.array(ranges["conv.weight"]["max"]).shape == (4, 1, 1, 1)
    assert np.array(ranges["conv.weight"]["min"]).ravel() == pytest.approx(
        -127 * np.array([0.004, 0.005, 0.006, 0.007])
    )
    assert np.array(ranges["fc.weight"]["max"]).shape == (1, 1)


def test_a_cache_as_tensorrt_loads_it():
    text = runtime_of("tensorrt-cache").write(of("tensorrt-cache"))
    assert text == "TRT-8601-EntropyCalibration2\nimages: 3d000000\n/model.0/conv/Conv_output_0: 3d4ccccd\n"


def test_groups_as_onnx_has_blocks():
    four = {
        "scale": [0.5, 0.25, 2, 1],
        "zero_point": [8, 8, 7, 8],
        "low": [-4, -2, -14, -8],
        "high": [3.5, 1.75, 16, 7],
    }
    figures = dict.fromkeys(("mse", "sqnr_db", "clipped"), [0.0] * 4)
    units = Units(per="group", axis=1, size=16, shape=(2, 2), **four, **figures)
    row = channels("w", "uint4", [1.0], scheme="affine", units=units, shape=(2, 32))
    assert json.loads(runtime_of("aimet-2.0.0").write(Tensors((), (row,))))["encodings"] == [
        {
            "name": "w",
            "output_dtype": "uint4",
            "axis": 1,
            "block_size": 16,
            "y_scale": [[0.5, 0.25], [2.0, 1.0]],
            "y_zero_point": [[8, 8], [7, 8]],
        }
    ]
    assert problem(runtime_of("aimet-2.0.0"), row, True) is None
    assert "groups of 16 do not divide 33" in (
        problem(runtime_of("aimet-2.0.0"), replace(row, shape=(2, 33)), True) or ""
    )
    for to in set(FORMATS) - {"aimet-2.0.0"}:
        assert problem(runtime_of(to), row, True) is not None


@pytest.mark.parametrize("to", FORMATS)
def test_golden(to):
    text, path = runtime_of(to).write(of(to)), GOLDEN / to
    if os.environ.get("KLCAL_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text(), "run `make golden` and review the diff"


# --- read back


@st.composite
def rows(draw, signed: bool):
    """A row of one scale, of a type that all formats hold, and any scheme."""
    target = "int8" if signed else draw(st.sampled_from(["int8", "uint8", "int16"]))
    scheme = draw(st.sampled_from(["symmetric", "symmetric-full", *(["affine"] if not signed else [])]))
    integers = Scheme(target, "affine").integers
    middle = integers[len(integers) // 2]
    point = draw(st.integers(integers[0], integers[-1])) if scheme == "affine" and target != "int16" else middle
    scale = draw(st.floats(2**-20, 2**20, width=32))
    return tensor(
        draw(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1)), target, scale, point, scheme
    )


def whole(row: Row) -> tuple[float, float]:
    """What the least and greatest integer of its type stand for."""
    integers = Scheme(row.target or "", "affine").integers
    return tuple((end - row.zero_point) * row.scale for end in (integers[0], integers[-1]))


@pytest.mark.parametrize("to", FORMATS)
@given(st.data())
def test_written_scales_are_read_back(to, data):
    row = data.draw(rows(signed=to == "tensorrt-cache"))
    assert problem(runtime_of(to), row, False) is None
    (back,) = parse_runtime(runtime_of(to).write(Tensors((row,), ())).encode(), to)
    assert back.name == row.name
    if to in ("ort-cache", "litert"):
        low, high = whole(row)
        if to == "litert" and row.target == "int16":
            low = -high
        assert np.float32([back.low, back.high]).tolist() == np.float32([low, high]).tolist()
        return
    assert back.scale == row.scale
    if to in ("aimet-1.0.0", "aimet-0.6.1"):  # where a grid has no sign
        assert whole(back) == whole(row)
    else:
        assert back.zero_point == row.zero_point
        assert back.target in (None, row.target)


@pytest.mark.parametrize("to", [to for to in FORMATS if not runtime_of(to).no_weights])
def test_channels_are_read_back(to):
    row = channels("w", "int8", [0.004, 0.005, 0.006, 0.007])
    (back,) = parse_runtime(runtime_of(to).write(Tensors((), (row,))).encode(), to)
    assert (back.units.per, back.units.axis, back.units.shape) == ("channel", 0, (4,))
    if to == "litert":
        assert np.array_equal(back.units.high, 127 * row.units.scale)
    else:
        assert np.array_equal(back.units.scale, row.units.scale)
        assert np.array_equal(back.units.zero_point, row.units.zero_point)


def test_there_is_a_reader_for_each_format():
    assert list(PARSERS) == list(FORMATS)


@pytest.mark.parametrize("to", FORMATS)
@given(st.data())
def test_a_damaged_file_is_an_error_or_rows(to, data):
    text = runtime_of(to).write(of(to)).encode()
    try:
        found = parse_runtime(data.draw(damaged(text, b'"{}[]:,-0.e\n')), to)
    except InputError:
        return
    assert all(row.status == "ok" for row in found)


# --- a wrong zero point is found: each convention recomputed from the file alone


def restored(to: str, text: str, integers: np.ndarray) -> np.ndarray:
    """x̂ of the first activation by what a file says, as its runtime computes it: not by klcal's reader."""
    document = json.loads(text)
    match to:
        case "aimet-2.0.0":
            entry = document["encodings"][0]
            return (integers - entry.get("y_zero_point", 0)) * entry["y_scale"]
        case "aimet-1.0.0":
            entry = document["activation_encodings"][0]
            return (integers - min(integers) + entry["offset"][0]) * entry["scale"][0]
        case "aimet-0.6.1":
            ((entry,),) = document["activation_encodings"].values()
            step = (entry["max"] - entry["min"]) / (2 ** entry["bitwidth"] - 1)
            return entry["min"] + (integers - min(integers)) * step
        case "ort":
            ((entry,),) = document.values()
            return (integers - entry["zero_point"]) * entry["scale"]
        case "ort-cache":
            (entry,) = document["data"].values()
            low, high = entry["lowest"], entry["highest"]
    if to == "litert":
        ((((low,),), ((high,),)),) = (each.values() for each in document["model_qsvs"].values())
    scale = (high - low) / 255
    return (integers - round(min(integers) - low / scale)) * scale


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "tensorrt-cache"])
@pytest.mark.parametrize(("target", "point"), [("uint8", 100), ("uint8", 0), ("int8", -28), ("int8", 127)])
def test_what_the_integers_stand_for_is_in_the_file(to, target, point):
    row = tensor("x", target, 0.02, point, "affine")
    integers = np.array(Scheme(target, "affine").integers)
    promised = klcal.dequantize(integers, row)
    written = runtime_of(to).write(Tensors((row,), ()))
    np.testing.assert_allclose(restored(to, written, integers), promised, rtol=1e-6, atol=1e-7)
    other = runtime_of(to).write(Tensors((replace(row, zero_point=point - 1),), ()))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(restored(to, other, integers), promised, rtol=1e-6, atol=1e-7)


# --- what a format cannot hold, and what a runtime changes

W, X = WEIGHTS[0], ACTIVATIONS[0]
ZERO = replace(W.units, scale=[0.1, np.nan, 0.1, 0.1], zero_point=[0, np.nan, 0, 0], status=["ok", "zero", "ok", "ok"])
REFUSED = [
    ("ort", replace(X, status="zero", reason="every value is 0", scale=None), False, "no scale: every value is 0"),
    ("ort", replace(X, scale=0.0), False, "the scale is 0"),
    ("ort", replace(X, scale=float("nan")), False, "there is no scale"),
    ("ort", replace(X, scale=float("inf")), False, "the scale is inf"),
    ("ort", replace(X, scale=1e-60), False, "the scale is 1e-60"),
    ("ort", replace(X, scale=1e60), False, "the scale is 1e[+]60"),
    ("ort", replace(X, scale=-0.5), False, "symmetric-full"),
    ("ort", replace(X, zero_point=256), False, "zero point is 256, which uint8 cannot hold"),
    ("ort", replace(X, name=""), False, "its name"),
    ("ort", replace(X, name="lone\udcff"), False, "its name"),
    (
        "ort",
        replace(X, target="float8_e4m3fn"),
        False,
        "not a type of activations here; calibrate it to int8, int16",
    ),
    ("ort", replace(X, target="uint4"), False, "not a type of activations"),
    ("ort", W, False, "a scale for each channel, which only weights may have"),
    ("ort", replace(W, units=ZERO), True, "no scale of channel 1 .zero."),
    ("ort-cache", W, True, "has activations alone"),
    ("tensorrt-cache", W, True, "TensorRT chooses"),
    ("tensorrt-cache", X, False, "uint8 is not a type"),
    ("tensorrt-cache", replace(X, target="int8", zero_point=3), False, "no zero points"),
    ("tensorrt-cache", replace(SIGNED[0], name="a: b"), False, "no ': '"),
    ("tensorrt-cache", replace(SIGNED[0], name="a\nb"), False, "line break"),
    ("tensorrt-cache", replace(SIGNED[0], name="a "), False, "at its ends"),
    ("litert", channels("w", "int8", [0.1, 0.2], points=[3, 4], scheme="affine"), True, "no zero point here"),
    ("litert", tensor("x", "int16", 0.1, 3, "affine"), False, "activations of 16 bits have no zero point"),
    ("aimet-1.0.0", replace(X, scheme="symmetric"), False, "another zero point than 128"),
]


@pytest.mark.parametrize(("to", "row", "is_weight", "why"), REFUSED)
def test_a_row_that_the_format_cannot_hold_is_refused(to, row, is_weight, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(problem(runtime_of(to), row, is_weight))


@pytest.mark.parametrize("to", FORMATS)
def test_a_row_that_the_format_can_hold_is_accepted(to):
    for is_weight, given_rows in enumerate(of(to)):
        assert not any(problem(runtime_of(to), row, bool(is_weight)) for row in given_rows)


def said(to: str, row: Row, is_weight: bool) -> str:
    return "; ".join(changes(runtime_of(to), row, is_weight))


def test_a_wider_clip_is_said_where_something_is_clipped():
    assert "ONNX Runtime clips at -128, the table at -127" in said("ort", W, True)
    assert said("ort", replace(W, clipped=0.0), True) == ""
    assert said("ort", tensor("w", "int8", 0.1, 0, "symmetric-full"), True) == ""
    assert said("litert", W, True) == ""
    assert "LiteRT clips at -127, the table at -128" in said(
        "litert", tensor("w", "int8", 1, 0, "symmetric-full"), True
    )
    assert "clips at 0, the table at 1" in said("aimet-1.0.0", tensor("x", "uint8", 0.1, 128, "symmetric"), False)


def test_a_scale_that_is_computed_again_is_said_to_be_off():
    off = [said("ort-cache", tensor("x", "uint8", 0.01 + k / 1e5, k, "affine"), False) for k in range(256)]
    assert 0 < len([text for text in off if "off in the last place" in text]) < 32
    assert not [text for text in off if "zero point" in text]
    assert "widens its range to 1e-09" in said("litert", tensor("x", "uint8", 1e-12, 3, "affine"), False)
