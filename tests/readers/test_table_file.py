"""A table that was written is read back; what is no table, or a damaged one, is refused in one sentence."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import InputError, UsageError
from klcal.readers import read
from klcal.readers.table_file import is_binary_table, parse_table, read_table
from klcal.tables.rows import Row
from klcal.tables.schema import UNIT_FIELDS, unit_key
from klcal.tables.status import UNIT_STATUSES
from klcal.tables.table import Config, FileError, Table
from klcal.tables.units import Units
from klcal.writers import WRITERS
from tests.support import tables
from tests.support.command import klcal as command

WRITTEN = Path(__file__).parent / "tables"
FORMATS = ("json", "safetensors")
ALL_UNITS = Table.of(tables.CONFIG, [*tables.units("fc.weight").rows, *tables.of_each_kind()])
NAMES = st.text(st.characters(), max_size=12) | st.sampled_from(tables.NASTY)


def write(table: Table, path: Path, format_: str = "json") -> Path:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        WRITERS[format_](table, out)
    return path


def text_of(table: Table) -> bytes:
    out = io.StringIO()
    WRITERS["json"](table, out)
    return out.getvalue().encode()


# --- what is written is read back

SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
TINY = st.floats(0, 2.0**-127)
FIGURES = st.none() | SINGLES | TINY
SCALES = st.floats(2.0**-126, 2.0**100, width=32) | st.floats(-(2.0**100), -(2.0**-126), width=32)


def columns(units: int, elements: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(elements, min_size=units, max_size=units)


@st.composite
def some_units(draw) -> Units:
    shape = draw(st.sampled_from([(1,), (5,), (2, 3), (1, 2, 2)]))
    count = math.prod(shape)
    kind = "channel" if len(shape) == 1 else draw(st.sampled_from(["group", "block"]))
    axis, size = {"channel": (0, None), "group": (1, 4), "block": ((0, 1), (2, 3))}[kind]
    scale = draw(columns(count, st.none() | SCALES))
    point = draw(columns(count, st.integers(-128, 255)))
    status = draw(st.none() | columns(count, st.sampled_from(UNIT_STATUSES)))
    figures = {name: draw(columns(count, FIGURES)) for name in ("low", "high", "mse", "sqnr_db", "clipped")}
    return Units(
        per=kind,
        axis=axis,
        size=size,
        shape=shape,
        scale=scale,
        zero_point=draw(st.none() | st.just([None if s is None else p for s, p in zip(scale, point, strict=True)])),
        kl=draw(st.none() | columns(count, FIGURES)),
        status=status,
        **figures,
    )


@st.composite
def some_rows(draw) -> Row:
    units = draw(st.none() | some_units())
    whole = {"scale": draw(SCALES), "zero_point": draw(st.none() | st.integers(-9, 9))} if units is None else {}
    lost = draw(st.sampled_from([None, "zero", "nonfinite", "failed"]))
    row = Row(
        name=draw(NAMES),
        source=draw(NAMES),
        status="ok" if lost is None else lost,
        reason=draw(st.none() | NAMES),
        cause=draw(st.sampled_from(["data", "bug"])),
        note=draw(st.none() | NAMES),
        dtype=draw(st.none() | NAMES),
        shape=draw(st.none() | st.lists(st.integers(0, 2**40), max_size=3).map(tuple)),
        target=draw(st.sampled_from([None, "int8", "nf4"])),
        scheme=draw(st.none() | NAMES),
        method=draw(st.none() | NAMES),
        numel=draw(st.none() | st.integers(0, 2**62)),
        qmin=draw(st.none() | st.integers(-9, 9)),
        aliases=tuple(draw(st.lists(NAMES | st.sampled_from(["ok", "zero", "[1, 2]"]), max_size=3))),
        units=units if lost is None else None,
        **({name: draw(FIGURES) for name in ("low", "high", "min", "max", "kl", "mse", "sqnr_db", "clipped")}),
    )
    return replace(row, **whole) if lost is None else row


TABLES = st.builds(
    Table.of,
    st.builds(Config, NAMES, NAMES, NAMES),
    st.lists(some_rows(), max_size=4, unique_by=lambda row: (row.source, row.name)),
    st.lists(st.builds(FileError, NAMES, NAMES, st.sampled_from(["data", "bug"])), max_size=2),
    st.lists(NAMES, max_size=2),
)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=150)
@given(table=TABLES)
def test_a_table_that_was_written_is_read_back(tmp_path_factory, format_, table):
    path = tmp_path_factory.mktemp("table") / "t"
    assert read_table(write(table, path, format_)) == table


def test_a_writer_that_loses_a_bit_is_noticed(tmp_path):
    """The broken twin: one unit's error is another one."""
    fc = ALL_UNITS.rows[1]
    other = replace(fc.units, mse=np.nextafter(np.float32(fc.units.mse), np.float32(1)).astype(float))
    for format_ in FORMATS:
        table = replace(ALL_UNITS, rows=(ALL_UNITS.rows[0], replace(fc, units=other), *ALL_UNITS.rows[2:]))
        assert read_table(write(table, tmp_path / "t", format_)) != ALL_UNITS


@pytest.mark.parametrize("format_", FORMATS)
def test_numbers_are_read_as_they_were_printed(tmp_path, format_):
    """What is no float32 is written as one, and then stays."""
    table = Table.of(tables.CONFIG, [tables.ok("x", mse=0.1, sqnr_db=1 / 3)])
    once = read_table(write(table, tmp_path / "t", format_))
    assert once.rows[0].mse == float(np.float32(0.1))
    assert read_table(write(once, tmp_path / "t", format_)) == once


@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(UNIT_FIELDS)), min_size=2, unique=True))
def test_no_two_arrays_of_a_binary_table_have_one_key(parts):
    keys = [unit_key(*each) for each in parts]
    assert len(set(keys)) == len(parts)
    assert all(json.loads(json.dumps(key)).encode() for key in keys), "nothing in them is half a surrogate pair"
    assert "__metadata__" not in keys


def test_arrays_have_the_shape_of_the_units_for_every_reader_of_the_format(tmp_path):
    found = safetensors.numpy.load_file(write(ALL_UNITS, tmp_path / "t.safetensors", "safetensors"))
    assert found["model.pt:groups:scale"].tolist() == [[0.5, 0.25], [2.0, 1.5]]
    assert found["model.pt:fc.weight:zero_point"].tolist() == [0, 0, 1, 0]
    assert [UNIT_STATUSES[code] for code in found["model.pt:fc.weight:status"]] == ["ok", "nonfinite", "ok", "ok"]
    assert {array.dtype.name for array in found.values()} == {"float32", "float64", "int32", "uint8"}


@pytest.mark.parametrize("format_", FORMATS)
def test_writing_very_many_units_takes_no_memory_but_theirs(tmp_path, format_):
    count = 100_000
    numbers = np.random.default_rng(0).random(count).astype(np.float32).astype(float)
    fields = {**dict.fromkeys(UNIT_FIELDS, numbers), "zero_point": np.full(count, 3.0)}
    units = tables.channels(count, fields, status=["ok", "zero"] * (count // 2))
    table = Table.of(tables.CONFIG, [tables.ok("x", units=units)])
    tracemalloc.start()
    write(table, tmp_path / "t", format_)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6, "lists of the columns would take 25 MB"
    assert read_table(tmp_path / "t").rows[0].units == units


def test_json_beyond_what_other_files_may_have_is_read(tmp_path):
    """A language model in groups: more numbers than a header of .safetensors may hold."""
    count = 150_000
    units = tables.channels(count, {**dict.fromkeys(UNIT_FIELDS, np.full(count, 0.5)), "zero_point": np.ones(count)})
    path = write(Table.of(tables.CONFIG, [tables.ok(str(i), units=units) for i in range(2)]), tmp_path / "t.json")
    tracemalloc.start()
    (first, _) = read_table(path).rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first.units == units
    assert peak < 4 * path.stat().st_size + 2 * 8 * 8 * count


# --- quantize needs the row alone, wherever it comes from


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("dtype", ["int8", "uint4", "float4_e2m1fn"])
@pytest.mark.parametrize("per", ["tensor", "channel", "channel:1", "group:3", "group:3,0", "block:2,3"])
def test_a_row_that_was_read_quantizes_as_the_one_that_was_written(tmp_path, format_, dtype, per):
    values = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)  # a square: nothing else tells axes
    row = klcal.calibrate(values, dtype=dtype, per=per)
    expected = klcal.quantize(values, row)
    (back,) = read_table(write(Table.of(tables.CONFIG, [row]), tmp_path / "t", format_)).rows
    (fields,) = json.loads(text_of(Table.of(tables.CONFIG, [row])))["tensors"]
    for other in (back, klcal.Row(**fields)):
        assert np.array_equal(klcal.quantize(values, other), expected)
        assert np.array_equal(klcal.dequantize(expected, other), klcal.dequantize(expected, row))


def test_a_row_of_version_1_and_that_of_a_unit_quantize_nothing():
    values = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    fields = json.loads((WRITTEN / "version_1.json").read_text())["tensors"][2]
    with pytest.raises(TypeError, match="axis"):
        klcal.Row(**fields)
    one = list(klcal.calibrate(values, dtype="int8", per="channel").each_unit())[1]
    with pytest.raises(UsageError, match="the row is that of unit 1 alone"):
        klcal.quantize(values, one)


# --- version 1


def test_a_table_of_version_1_is_read_as_far_as_it_knew(tmp_path):
    rows = {row.name: row for row in read_table(WRITTEN / "version_1.json").rows}
    assert (rows["bias"].target, rows["bias"].scheme, rows["bias"].method) == ("int8", "symmetric", str(klcal.KL()))
    assert rows["bias"].scale == float(np.float32(0.0069611156))
    grouped = rows["grouped"]
    assert (grouped.scale, grouped.mse, grouped.rounded_to_zero) == (None, None, None)
    assert (grouped.units.per, grouped.units.axis, grouped.units.size, grouped.units.shape) == ("group", 1, 4, (4, 2))
    assert grouped.units.mse[1] == float(np.float32(5.916421e-10))
    assert rows["nan"].units.status.tolist() == ["ok", "ok", "nonfinite", "ok"]
    assert (rows["zeros"].status, rows["zeros"].units, rows["count"].target) == ("zero", None, None)
    weights = safetensors.numpy.load_file(WRITTEN / "m.safetensors")
    for name in ("bias", "grouped", "layers.10.w", "layers.2.pruned"):
        restored = klcal.dequantize(klcal.quantize(weights[name], rows[name]), rows[name])
        assert np.abs(restored - weights[name]).max() < 0.02


@pytest.mark.parametrize("table", ["version_1.json", "2.json", "2.safetensors"])
def test_compare_takes_every_form(tmp_path, monkeypatch, table):
    model = str(WRITTEN / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    if table != "version_1.json":
        made = command(
            "calibrate", model, "--dtype", "int8", "--per", "grouped=group:4", "--per", "channel", "-o", table
        )
        assert made.code == 4, "one channel has a NaN"
    path = WRITTEN / table if table == "version_1.json" else Path(table)
    found = command("compare", model, "--table", str(path), "--format", "json").tensors
    ok = {name for name, tensor in found.items() if tensor["status"] == "ok"}
    assert ok == {"bias", "grouped", "layers.10.w", "layers.2.pruned"}
    assert min(found[name]["sqnr_db"] for name in ok) > 40


# --- what is no table


def edited(**changes: object) -> bytes:
    """A table of one row, some of whose fields are others; None for a field that is missing."""
    document = json.loads(text_of(Table.of(tables.CONFIG, [tables.units("w").rows[1]])))
    document["tensors"][0].update(changes)
    return json.dumps(document).encode()


def units_with(**changes: object) -> dict:
    units = json.loads(edited())["tensors"][0]["units"] | changes
    return {name: value for name, value in units.items() if value != "absent"}


WRONG = {
    "nothing": b"",
    "no JSON": b"scale",
    "a list": b"[]",
    "an array of numbers": b"[1, 2]",
    "no schema": b"{}",
    "another schema": b'{"schema": "other", "tensors": []}',
    "a comparison": b'{"schema": "klcal.comparison/1", "tensors": []}',
    "no rows": b'{"schema": "klcal.table/2"}',
    "a key twice": edited().replace(b'"name"', b'"name": "x", "name"'),
    "NaN": edited().replace(b'"qmin": 0', b'"qmin": NaN'),
    "Infinity": edited(mse=1.5).replace(b"1.5", b"-Infinity"),
    "infinity": edited(mse=1.5).replace(b"1.5", b"1e999"),
    "infinity in an array": edited(units=units_with(mse=[1.5] * 4)).replace(b"1.5", b"1e999"),
    "cut short": edited()[:-40],
    "cut in a text": edited()[: edited().index(b'"fc') + 2] if b'"fc' in edited() else edited()[:50],
    "a text that never ends": edited() + b'"' + b'\\"' * 1000,
    "deep": b"[" * 100_000,
    "a status of no kind": edited(status="fine"),
    "a status that is a list": edited(status=["ok"]),
    "an unknown format": edited(target="int99"),
    "a scale that is a text": edited(units=None, scale="0.5"),
    "a scale that is true": edited(units=None, scale=True),
    "a scale of zero": edited(units=None, scale=0.0),
    "no scale though ok": edited(units=None, scale=None),
    "a scale though not ok": edited(units=None, scale=1.0, status="zero"),
    "half a zero point": edited(zero_point=0.5),
    "a shape with a fraction": edited(shape=[1.5]),
    "a negative shape": edited(shape=[-1]),
    "a shape that is a text": edited(shape="12"),
    "a boundless shape": edited(shape=[1e999]).replace(b"Infinity", b"1e999"),
    "aliases that are a text": edited(aliases="ab"),
    "units that are a list": edited(units=[1]),
    "too few units": edited(units=units_with(scale=[1.0, 2.0])),
    "units without scales": edited(units=units_with(scale="absent")),
    "units without shape": edited(units=units_with(shape="absent")),
    "units of another kind": edited(units=units_with(per="group")),
    "units of a huge shape": edited(units=units_with(shape=[10**12])),
    "half a zero point of a unit": edited(units=units_with(zero_point=[0, 0, 0, None])),
    "a unit's scale of zero": edited(units=units_with(scale=[1.0, 0.0, 1.0, 1.0])),
    "a unit's unknown status": edited(units=units_with(status=["ok", "ok", "ok", "fine"])),
    "nested lists of units": edited(units=units_with(scale=[[1.0, 1.0], [1.0, 1.0]])),
    "a line of a unit": edited(unit=3),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_is_no_table_is_refused_and_nothing_else_happens(text):
    with pytest.raises(InputError, match=r"table|JSON|unit"):
        parse_table(text)


def test_the_edited_table_without_an_edit_is_one():
    assert len(parse_table(edited()).rows) == 1
    assert parse_table(edited(unknown_field=1)) == parse_table(edited()), "a field is only ever added"


EDITS = st.sampled_from([b"[", b'"', b"1", b"e", b",", b"", b"\\"])


@settings(max_examples=300)
@given(st.data())
def test_no_byte_of_a_table_makes_anything_else_than_a_table_or_an_error(data):
    text = bytearray(text_of(ALL_UNITS))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"[", b'"', b"1", b"e", b",", b"", b"\\"])
        )
    with suppress(InputError):
        parse_table(bytes(text))


def test_a_hostile_text_takes_no_time():
    """Each would take hours where what was looked at is looked at again."""
    for text in (b'"' + b'\\"' * 10**6, b"[1," * 10**6, b"[" + b"1," * 10**6, b"[null " * 10**6, b'["ok",' * 10**6):
        with pytest.raises(InputError):
            parse_table(text)


def test_damaged_binary_tables_are_refused(tmp_path):
    whole = write(ALL_UNITS, tmp_path / "t", "safetensors").read_bytes()
    for damaged in (
        whole[:-1],
        whole + b"\0",
        whole[:40],
        whole.replace(b":groups:scale", b":groups:scaly"),
        whole.replace(b'"I32"', b'"U32"'),
        whole.replace(b'\\"status\\": \\"ok\\"', b'\\"status\\": \\"oh\\"'),
        whole.replace(b'"klcal.table/2"', b'"klcal.table/9"', 1),
    ):
        (tmp_path / "d").write_bytes(damaged)
        with pytest.raises(InputError):
            read_table(tmp_path / "d")


def test_a_binary_table_is_no_model_and_a_model_no_table(tmp_path):
    path = write(ALL_UNITS, tmp_path / "t.safetensors", "safetensors")
    with pytest.raises(InputError, match="it is a table of klcal calibrate, not a model"):
        read(path)
    assert is_binary_table(str(path))
    assert not is_binary_table(str(WRITTEN / "m.safetensors"))
    assert not is_binary_table(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="not a table of klcal calibrate"):
        read_table(WRITTEN / "m.safetensors")
