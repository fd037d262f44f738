"""A small table with the names that go wrong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from klcal.tables.rows import Row
from klcal.tables.status import Status
from klcal.tables.table import Config, FileError, Table
from klcal.tables.units import Units

CONFIG = Config("kl:bins=2048,weight=4", "uint8", "affine")

NASTY = (
    "conv1.weight",
    "[red]layer[/red].weight",
    "[/closing]",
    "esc\x1b[31m\r\n\tx",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "'quoted",
    "\t=1",
    "a|b`c``d|",
    "<script>alert(1)</script>",
    "@someone #1 https://example.org",
    "back\\slash",
    "bidi\u202egnp.exe",
    "c1\x9b31m",
    "lone\udcff",
    "名前.重み",
    "",
    "model.language_model.layers.31.self_attn.q_proj.a_very_long_name_that_does_not_end.weight",
)


def ok(name: str, source: str = "model.pt", **changes: object) -> Row:
    values: dict[str, object] = {
        "dtype": "float32",
        "shape": (64, 3, 7, 7),
        "scale": 0.009999999776482582,  # float32(0.01)
        "zero_point": 128,
        "qmin": 0,
        "qmax": 255,
        "low": -1.2799999713897705,
        "high": 1.2699999809265137,
        "min": -1.2999999523162842,
        "max": 1.2699999809265137,
        "numel": 9408,
        "zeros": 0,
        "nan": 0,
        "neg_inf": 0,
        "pos_inf": 0,
        "kl": 0.00041234567,
        "mse": 1e-60,
        "sqnr_db": 41.234567,
        "clipped": 0.0002,
        "rounded_to_zero": 0.001,
        "target": "uint8",
        "scheme": "affine",
        "method": "kl:bins=2048,weight=4",
        "per": "tensor",
        "scale_format": "float32",
    }
    return Row(name=name, source=source, status="ok", **{**values, **changes})  # type: ignore[arg-type]  # of any type


def lost(name: str, status: Status, reason: str = "why; what to do", source: str = "model.pt") -> Row:
    return Row(name=name, source=source, dtype="float32", shape=(), status=status, reason=reason, numel=1)


def named(*names: str) -> Table:
    return Table.of(CONFIG, [ok(name) for name in names])


TABLE = Table.of(
    CONFIG,
    [
        *map(ok, NASTY),
        ok("tied", aliases=("head\n.weight",), shape=(), kl=None, sqnr_db=float("inf")),
        ok("other", source="[b]\x1b.pt", importance=True),
        lost("counter", "skipped", "integers are not calibrated"),
        lost("bias[/x]", "nonfinite", "3 NaN\x1b[31m of 4096 | values\n`x`"),
    ],
    [FileError("bro\nken.npy", "cut short: needs 8,192 bytes, has 4,096; download it again")],
    ["fc\x1b.weight: 3 NaN were left out"],
)


def units(name: str) -> Table:
    """Two tensors of four channels, of which one has a NaN."""
    nan = math.nan
    columns: dict[str, list[float]] = {
        "mse": [1e-6, nan, 1e-5, 1e-6],
        "sqnr_db": [41.0, nan, 29.0, nan],
        "scale": [0.009999999776482582, nan, 0.029999999329447746, 0.019999999552965164],
        "zero_point": [0, nan, 1, 0],
        "low": [-1.0, nan, -3.0, -2.0],
        "high": [1.0, nan, 3.0, 2.0],
        "clipped": [0.0, nan, 0.1, 0.0],
    }
    mixed = channels(4, columns, status=["ok", "nonfinite", "ok", "ok"])
    same = channels(4, {name: [column[0]] * 4 for name, column in columns.items()})
    whole: dict[str, object] = {"shape": (4, 8), "kl": None, "note": "too few values"}
    whole |= dict.fromkeys(("scale", "zero_point", "low", "high"))
    return Table.of(
        CONFIG,
        [
            ok(name, **whole, units=mixed, sqnr_db=33.0, reason="of 4 units: 3 ok, 1 nonfinite"),
            ok("same", **whole, units=same),
        ],
    )


def channels(units: int, columns: Mapping[str, object], status: Sequence[str] | None = None) -> Units:
    """Those along the first axis."""
    known: dict[str, Any] = dict(columns)
    return Units(per="channel", axis=0, size=None, shape=(units,), status=cast(Any, status), **known)


def of_each_kind() -> list[Row]:
    """Groups to a float format with a global scale, blocks with scales of either sign, and a tensor of zeros."""
    four: dict[str, Any] = {
        "scale": [0.5, 0.25, 2.0, 1.5],
        "low": [-3.0, -1.5, -12.0, -9.0],
        "high": [3.0, 1.5, 12.0, 9.0],
        "kl": [0.5, 0.25, 0.125, 0.0625],
        "mse": [1e-60, 0.5, 0.25, 0.0],
        "sqnr_db": [20.5, 21.5, 22.5, math.nan],
        "clipped": [0.0, 0.5, 0.25, 0.125],
    }
    signed = {**four, "scale": [0.5, -0.25, 2.0, -1.5], "zero_point": [0, 0, 0, 0]}
    none: dict[str, Any] = {**dict.fromkeys(four, [math.nan] * 2), "kl": None}
    whole: dict[str, Any] = dict.fromkeys(("scale", "zero_point", "low", "high", "qmin", "qmax"))
    groups = Units(per="group", axis=1, size=2, shape=(2, 2), **four)
    blocks = Units(per="block", axis=(1, 2), size=(2, 3), shape=(1, 2, 2), **signed)
    zeros = Units(per="channel", axis=1, size=None, shape=(2,), **none)
    floats = {"target": "float4_e2m1fn", "scheme": "symmetric", "global_scale": 0.015625}
    lacking = dict.fromkeys(("kl", "mse", "sqnr_db", "clipped", "rounded_to_zero"))
    return [
        ok("groups", **{**whole, **floats}, shape=(2, 4), units=groups),
        ok("blocks:%", **{**whole, "qmin": -8, "qmax": 7}, scheme="symmetric-signed", shape=(1, 3, 6), units=blocks),
        replace(
            ok("zeros", **{**whole, **lacking}, shape=(3, 2), units=zeros), status="zero", reason="every value is 0"
        ),
    ]
