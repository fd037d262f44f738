"""Files for runtimes, as `klcal.writers.runtimes` writes them, read back as rows, as far as the format allows.

Files of ranges (``ort-cache``, ``litert``) have no types: their rows have only ``low`` and ``high``. Those of ``ort``
have no ``target``, and so no range. The files may come from strangers: they are read strictly, and nothing in them is
run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.quantizers.scheme import DTYPES, LEAST_BITS, MOST_BITS, Scheme
from klcal.readers import strict_json
from klcal.tables.rows import Row
from klcal.tables.units import Units

__all__ = ["PARSERS", "format_in", "parse_runtime"]

Json = dict[str, Any]
Floats = npt.NDArray[np.float64]

MAX_VALUES = 100_000_000  # of a JSON: scales of 300,000 tensors, 150 channels each
DAMAGED = "write it again"


def parse_runtime(text: bytes, to: str) -> list[Row]:
    """The rows of a file.

    Args:
        text: the contents of the file.
        to: its format, one of ``PARSERS``.

    Raises:
        InputError: it is not such a file, or is damaged.
    """
    try:
        return list(PARSERS[to](text))
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UsageError, struct.error):
        raise InputError(f"it is not a file for {to}, or it is damaged", DAMAGED) from None


def format_in(text: bytes) -> str | None:
    """The format of a file, one of ``PARSERS``; None for any other file.

    >>> format_in(b'{"x": [{"scale": 0.5, "zero_point": 0}]}'), format_in(b"TRT-101-"), format_in(b"1")
    ('ort', 'tensorrt-cache', None)
    """
    if text.startswith(b"TRT-"):
        return "tensorrt-cache"
    try:
        document = _json(text)
    except InputError:
        return None
    version = document.get("version")
    if isinstance(version, str) and f"aimet-{version}" in PARSERS:
        return f"aimet-{version}"
    if "model_qsvs" in document:
        return "litert"
    if "calibration_method" in document:
        return "ort-cache"
    entries = [each[0] for each in document.values() if isinstance(each, list) and each]
    is_ort = entries and all(isinstance(each, dict) and "scale" in each for each in entries)
    return "ort" if is_ort and len(entries) == len(document) else None


def _json(text: bytes) -> Json:
    return strict_json.parse(text, max(len(text), 1), MAX_VALUES)


def _ort(text: bytes) -> Iterator[Row]:
    for name, entries in _json(text).items():
        scales, points = ([each[key] for each in entries] for key in ("scale", "zero_point"))
        yield _row(name, None, scales, points, entries[0].get("axis"))


def _ort_cache(text: bytes) -> Iterator[Row]:
    for name, each in _json(text)["data"].items():
        low, high = (np.array([each[end]], np.float32) for end in ("lowest", "highest"))  # as ONNX Runtime holds them
        yield _row_of_range(name, low.astype(np.float64), high.astype(np.float64))


def _aimet_2(text: bytes) -> Iterator[Row]:
    for each in _checked(_json(text), "2.0.0")["encodings"]:
        scales = np.array(each["y_scale"], np.float64)
        points = np.array(each.get("y_zero_point", np.zeros(scales.shape)), np.float64)
        target, axis, size = each["output_dtype"], each.get("axis"), each.get("block_size")
        yield _row(each["name"], target, scales, points, axis, size)


def _aimet_1(text: bytes) -> Iterator[Row]:
    document = _checked(_json(text), "1.0.0")
    for each in chain(document["activation_encodings"], document["param_encodings"]):
        target, points = _from_offsets(each["bw"], each["is_sym"], each["offset"])
        axis = 0 if each["enc_type"] == "PER_CHANNEL" else None
        yield _row(each["name"], target, each["scale"], points, axis)


def _aimet_0(text: bytes) -> Iterator[Row]:
    document = _checked(_json(text), "0.6.1")
    for name, entries in chain(document["activation_encodings"].items(), document["param_encodings"].items()):
        first = entries[0]
        steps = 2.0 ** min(first["bitwidth"], MOST_BITS) - 1
        scales = [(each["max"] - each["min"]) / steps for each in entries]  # as its other readers compute it
        offsets = [each["offset"] for each in entries]
        target, points = _from_offsets(
            first["bitwidth"], {"True": True, "False": False}[first["is_symmetric"]], offsets
        )
        yield _row(name, target, scales, points, 0 if len(entries) > 1 else None)


def _from_offsets(bits: int, symmetric: bool, offsets: Sequence[float]) -> tuple[str, Floats]:
    """The type and the zero points: a symmetric grid is signed, any other one counts from 0."""
    if bits not in range(LEAST_BITS, MOST_BITS + 1):
        raise ValueError
    least = -(2 ** (bits - 1)) if symmetric else 0
    return f"{'' if symmetric else 'u'}int{bits}", least - np.array(offsets, np.float64)


def _checked(document: Json, version: str) -> Json:
    if document["version"] != version:
        raise ValueError
    return document


def _litert(text: bytes) -> Iterator[Row]:
    for name, each in _json(text)["model_qsvs"].items():
        yield _row_of_range(name, np.array(each["min"], np.float64), np.array(each["max"], np.float64))


def _tensorrt(text: bytes) -> Iterator[Row]:
    first, *lines = text.decode().removesuffix("\n").split("\n")
    if not first.startswith("TRT-"):
        raise ValueError
    for line in lines:
        name, digits = line.rsplit(": ", 1)
        (scale,) = struct.unpack(">f", bytes.fromhex(digits))
        yield _row(name, "int8", [scale], [0])


PARSERS: dict[str, Callable[[bytes], Iterator[Row]]] = {
    "ort": _ort,
    "ort-cache": _ort_cache,
    "aimet-2.0.0": _aimet_2,
    "aimet-1.0.0": _aimet_1,
    "aimet-0.6.1": _aimet_0,
    "litert": _litert,
    "tensorrt-cache": _tensorrt,
}


# --- rows


def _row(name: str, target: str | None, scales: Any, points: Any, axis: int | None = None, size: Any = None) -> Row:
    """A row of float32 scales; with its range if the type is known, since a runtime uses all integers of a type."""
    scale = np.array(scales, np.float32).astype(np.float64)
    point = np.array(points, np.float64)
    if not (scale > 0).all() or not np.isfinite(scale).all() or scale.shape != point.shape or not scale.size:
        raise ValueError
    if target is not None and (target not in DTYPES or "int" not in target):
        raise ValueError
    whole = None if target is None else Scheme(target, "affine").integers
    known: Json = {} if whole is None else {"target": target, "qmin": whole[0], "qmax": whole[-1]}
    columns = {"scale": scale, "zero_point": point}
    for key, end in () if whole is None else (("low", whole[0]), ("high", whole[-1])):
        columns[key] = (end - point) * scale
    if axis is not None:
        return Row(name=name, status="ok", **known, units=_units(columns, axis, size))
    plain: Json = {key: column.reshape(()).item() for key, column in columns.items()}
    if not plain["zero_point"].is_integer():
        raise ValueError
    return Row(name=name, status="ok", **known, **{**plain, "zero_point": int(plain["zero_point"])})


def _row_of_range(name: str, low: Floats, high: Floats) -> Row:
    """A row that has a range alone; of a tensor, or of the channels along the only axis with an extent."""
    low, high = (np.array(each, np.float64) for each in (low, high))
    if low.shape != high.shape or not (low <= high).all():
        raise ValueError
    axes = [axis for axis, extent in enumerate(low.shape) if extent != 1]
    if not axes:
        return Row(name=name, status="ok", low=float(low.reshape(())), high=float(high.reshape(())))
    (axis,) = axes
    return Row(name=name, status="ok", units=_units({"low": low.reshape(-1), "high": high.reshape(-1)}, axis, None))


def _units(columns: dict[str, Floats], axis: int, size: int | None) -> Units:
    shape = next(iter(columns.values())).shape
    flat: Json = {key: column.reshape(-1) for key, column in columns.items()}
    unknown = np.full(math.prod(shape), np.nan)
    lacking: Json = dict.fromkeys(("scale", "low", "high", "mse", "sqnr_db", "clipped"), unknown)
    where: Json = {"per": "channel" if size is None else "group", "axis": int(axis), "size": size, "shape": shape}
    return Units(**where, **{**lacking, **flat})
