"""Writers: same table, same bytes; a name is data, whatever is in it; a number reads back."""

import csv
import importlib.metadata
import io
import json
import math
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from klcal.cli.options import Format
from klcal.tables.table import Table, in_order
from klcal.writers import BINARY, SUFFIXES, WRITERS
from klcal.writers.floats import GREATEST, LEAST, for_people, printed, shortest
from klcal.writers.people import columns
from klcal.writers.records import record
from klcal.writers.rich_table import layout, print_table
from klcal.writers.text import escape, shorten, told_apart, width_to_tell
from tests.support import tables

GOLDEN = Path(__file__).parent / "golden"
NAMES = st.text(st.characters(), max_size=30) | st.sampled_from(tables.NASTY)
COUNTLESS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


TEXTS = sorted(set(WRITERS) - BINARY)
ALL_UNITS = Table.of(tables.CONFIG, [*tables.units("fc.weight").rows, *tables.of_each_kind()])


def written_bytes(name: str, table: Table) -> bytes:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, "utf-8", newline="\n", write_through=True) as out:
        WRITERS[name](table, out)
        return raw.getvalue()


def written(name: str, table: Table) -> str:
    return written_bytes(name, table).decode()


def rows(name: str, table: Table) -> list[dict[str, str]]:
    dialect = {"plain": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}, "csv": {"strict": True}}[name]
    return list(csv.DictReader(io.StringIO(written(name, table), newline=""), **dialect))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_version(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.0.0")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("golden", "table"), [("table", tables.TABLE), ("units", ALL_UNITS), ("lines", ALL_UNITS.expanded())]
)
def test_bytes_are_those_of_the_golden_file(name, golden, table):
    if golden == "lines" and name in BINARY:
        return  # which the command refuses
    path = GOLDEN / f"{golden}.{name}"
    found = written_bytes(name, table)
    if os.environ.get("KLCAL_GOLDEN") == "write":
        path.write_bytes(found)
    assert path.read_bytes() == found
    assert found == written_bytes(name, table)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("table", [Table(tables.CONFIG), Table.of(tables.CONFIG, [tables.lost("x", "failed")])])
def test_a_table_without_answers_is_written_too(name, table):
    assert written(name, table).endswith("\n")


def test_every_suffix_and_every_option_names_a_writer():
    assert set(SUFFIXES.values()) <= set(WRITERS)
    assert set(Format.__args__) == {"auto", *WRITERS}


# --- numbers


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_reads_back_from_its_text(value):
    assert np.float32(repr(shortest(value))) == np.float32(value)


@given(st.floats(min_value=LEAST, max_value=GREATEST))
def test_no_shorter_text_reads_back_to_the_float32(value):
    text = repr(shortest(value))
    digits = len(f"{float(text):.17g}".split("e")[0].replace(".", "").strip("0"))
    assert np.float32(text) == np.float32(value)
    assert digits <= 17
    mantissa = np.format_float_scientific(np.float32(value), unique=True, trim="-").split("e")[0].replace(".", "")
    shown = text.lower().split("e")[0].replace(".", "").strip("0")
    assert len(shown) <= len(mantissa.strip("0"))


@given(st.floats(max_value=LEAST, exclude_max=True, min_value=0) | st.floats(min_value=GREATEST, exclude_min=True))
def test_beyond_float32_the_float64_reads_back(value):
    if math.isfinite(value):
        assert float(repr(shortest(value))) == value


@given(st.floats())
def test_every_number_is_one_of_json(value):
    number = shortest(value)
    assert (number is None) == (not math.isfinite(value))
    assert json.loads(json.dumps(number, allow_nan=False)) == number


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "0.01"), (1e-6, "1e-06"), (0.0, "0.0"), (1e-60, "1e-60"), (128, "128.0")]
)
def test_texts_of_numbers(value, text):
    assert repr(shortest(float(value))) == text


def test_people_get_few_digits():
    assert [for_people(x) for x in (0.0123456, 1e-7, math.inf, None)] == ["0.01235", "1e-07", "", ""]


# --- text


@given(NAMES)
@example("\\n")
@example("\n")
def test_escaped_text_is_inert_and_tells_texts_apart(text):
    shown = escape(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(char) in COUNTLESS for char in shown)
    assert shown.encode("ascii", "backslashreplace").decode("unicode_escape") == text


@given(NAMES, st.integers(0, 40))
def test_a_shortened_text_fits_and_keeps_its_ends(text, width):
    for measure in (len, cell_len):
        short = shorten(text, width, measure)
        assert measure(short) <= width or measure(text) <= width
    assert shorten(text, len(text)) == text
    if 5 < width < len(text):
        assert shorten(text, width)[0] == text[0]
        assert shorten(text, width)[-1] == text[-1]


LAYERS = [
    f"model.layers.{layer}.{name}.weight"
    for layer in (0, 1, 10, 31)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.experts.7.up_proj")
]
CHECKPOINT = [*LAYERS, "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
DOTTED = st.lists(st.text("ab.重/", min_size=1, max_size=12), min_size=1, max_size=12)


@pytest.mark.parametrize("names", [LAYERS, CHECKPOINT], ids=["layers", "checkpoint"])
def test_names_of_a_checkpoint_stay_different_in_a_column_of_thirty(names):
    for width in (30, 40):
        short = told_apart(names, width)
        assert len(set(short)) == len(names)
        assert max(map(len, short)) <= width
    assert width_to_tell(names, 10) <= 30
    assert len({shorten(name, 30) for name in names}) < len(names), "their ends alone do not tell them apart"


def test_no_more_is_left_out_than_has_to_be():
    names = ["model.a.q_proj.weight", "model.bb.q_proj.weight"]
    assert told_apart(names, 22) == names
    assert told_apart(names, 18) == ["…a.q_proj.weight", "…bb.q_proj.weight"]
    assert told_apart(names, 13) == ["…a.q_proj.…", "…bb.q_proj.…"]
    assert told_apart(["model.weight"] * 3, 8) == ["mod…ight"] * 3, "a name that is alone has nothing in common"


@given(DOTTED, st.integers(0, 14))
def test_shortened_names_fit_and_different_ones_stay_different_where_there_is_room(names, width):
    for measure in (len, cell_len):
        found = told_apart(names, width, measure)
        assert all(measure(each) <= width for each in found)
        assert len(set(zip(names, found, strict=True))) == len(set(names))
        needed = width_to_tell(names, 3, measure)
        assert len(set(told_apart(names, needed, measure))) == len(set(names))


# --- formats


@given(st.lists(NAMES, max_size=4))
def test_json_gives_every_name_back(names):
    text = written("json", tables.named(*names))
    document = json.loads(text)
    assert text.isascii()
    assert [tensor["name"] for tensor in document["tensors"]] == sorted(names, key=in_order)
    lines = written("jsonl", tables.named(*names)).splitlines()
    assert [json.loads(line) for line in lines[:-1]] == document["tensors"]


def test_the_document_is_that_of_the_schema():
    document = json.loads(written("json", tables.TABLE))
    assert list(document) == ["schema", "tool", "config", "tensors", "errors", "warnings"]
    assert document["schema"] == "klcal.table/2"
    assert document["tool"] == {"name": "klcal", "version": "0.0.0"}
    assert list(document["config"]) == ["method", "dtype", "scheme", "per", "scale_format"]
    order = (
        "name source dtype shape status reason cause note target scheme method per scale_format importance scale "
        "global_scale zero_point qmin qmax low high min max numel zeros nan neg_inf pos_inf kl mse sqnr_db clipped "
        "rounded_to_zero aliases units"
    )
    assert all(list(tensor) == order.split() for tensor in document["tensors"])
    assert list(document["errors"][0]) == ["source", "reason", "cause"]
    summary = json.loads(written("jsonl", tables.TABLE).splitlines()[-1])
    assert summary == {key: value for key, value in document.items() if key != "tensors"}


def test_no_number_of_json_is_infinite_or_missing():
    def refuse(token):
        raise AssertionError(token)

    document = json.loads(written("json", tables.TABLE), parse_constant=refuse)
    tied = next(tensor for tensor in document["tensors"] if tensor["name"] == "tied")
    assert tied["sqnr_db"] is None
    assert tied["scale"] == 0.01
    assert tied["aliases"] == ["head\n.weight"]


@pytest.mark.parametrize("name", ["plain", "csv"])
@given(names=st.lists(NAMES, max_size=4))
def test_one_name_is_one_line(name, names):
    table = tables.named(*names)
    text = written(name, table)
    assert len(text.splitlines()) == 1 + len(names)
    assert all(char.isprintable() or char in "\t\n" for char in text)
    found = [row["name"].removeprefix("'") if name == "csv" else row["name"] for row in rows(name, table)]
    assert found == [escape(name) for name in sorted(names, key=in_order)]


@pytest.mark.parametrize("name", ["plain", "csv"])
def test_cells_are_the_fields_of_the_json(name):
    for row, cells in zip(tables.TABLE.rows, rows(name, tables.TABLE), strict=True):
        assert tuple(cells) == tables.TABLE.fields
        for field in ("scale", "zero_point", "mse", "sqnr_db", "shape", "rounded_to_zero"):
            value = record(row, tables.TABLE.fields)[field]
            assert cells[field] == "" if value is None else json.loads(cells[field]) == value


UNITS = tables.units("fc.weight")


def test_numbers_of_channels_are_lists_and_their_status_only_where_they_differ():
    weight, same = json.loads(written("json", UNITS))["tensors"]
    order = "per axis size shape scale zero_point low high status kl mse sqnr_db clipped"
    assert list(weight["units"]) == order.split()
    assert weight["units"]["scale"] == [0.01, None, 0.03, 0.02]
    assert weight["units"]["zero_point"] == [0, None, 1, 0]
    assert weight["units"]["status"] == ["ok", "nonfinite", "ok", "ok"]
    assert [weight["units"][name] for name in ("per", "axis", "size", "shape")] == ["channel", 0, None, [4]]
    assert (weight["scale"], weight["zero_point"], weight["status"], weight["sqnr_db"]) == (None, None, "ok", 33.0)
    assert (same["status"], same["units"]["status"], same["units"]["kl"]) == ("ok", None, None)


@pytest.mark.parametrize("name", ["plain", "csv"])
def test_a_line_for_each_channel_has_its_number_and_its_own_values(name):
    found = rows(name, UNITS.expanded())
    assert [(row["name"], row["unit"]) for row in found] == [
        *(("fc.weight", str(unit)) for unit in range(4)),
        *(("same", str(unit)) for unit in range(4)),
    ]
    assert [row["scale"] for row in found[:4]] == ["0.01", "", "0.03", "0.02"]
    assert [row["status"] for row in found[:4]] == ["ok", "nonfinite", "ok", "ok"]
    assert [bool(row["reason"]) for row in found[:4]] == [False, True, False, False]
    assert {row["numel"] for row in found} == {""}, "how many values each has is not known"


def test_people_see_the_range_of_the_scales_and_the_worst_channel():
    by_title = {column.title: column.cells[0] for column in columns(UNITS)}
    assert [by_title[title] for title in ("min scale", "scale", "max scale")] == ["0.01", "0.02", "0.03"]
    assert (by_title["units"], by_title["worst unit"], by_title["worst dB"]) == ("4", "2", "29")
    assert by_title["SQNR dB"] == "33", "the layer's own"
    assert by_title["zero point"] == "0…1"
    assert "of 4 units: 3 ok, 1 nonfinite" in written("table", UNITS)
    assert "2 tensors: too few values" in written("md", UNITS)
    assert "min scale" not in {column.title for column in columns(tables.TABLE)}


@given(st.lists(st.floats(width=32) | st.just(1e-60) | st.just(1e300), max_size=9))
def test_many_numbers_are_written_as_each_of_them_is(values):
    found = printed(np.array(values, float)).tolist()
    assert [None if math.isnan(value) else value for value in found] == [shortest(value) for value in values]


@given(NAMES)
def test_no_text_in_csv_is_a_formula(name):
    for cell in rows("csv", Table.of(tables.CONFIG, [tables.ok(name, source=name)]))[0].values():
        assert not cell.startswith(("=", "+", "@", "\t", "\r"))
        assert not (cell.startswith("-") and cell == escape(name))


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_markdown_has_a_row_per_name_and_no_markup_outside_code(names):
    text = written("md", tables.named(*names))
    assert all(char.isprintable() or char == "\n" for char in text)
    grid = [line for line in text.splitlines() if line.startswith("|")]
    assert len(grid) == 2 + len(names)
    assert {len(cells(line)) for line in grid} == {11}


def cells(line: str) -> list[str]:
    """The cells of a row, split as GitHub does: at pipes without a backslash in front."""
    return line.replace("\\\\", "").replace("\\|", "").strip("|").split("|")


# --- the table for people


@pytest.mark.parametrize("width", [1, 2, 5, 20, 40, 80, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_table_fits_any_terminal(width, terminal):
    out = io.StringIO()
    print_table(tables.TABLE, Console(file=out, width=width, force_terminal=terminal, color_system=None, markup=False))
    lines = out.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)


@given(NAMES)
def test_names_are_no_markup(name):
    lines = written("table", tables.named(name)).splitlines()
    assert lines[2].startswith(escape(name))
    assert len(lines) == 5


def test_names_are_whole_where_nobody_looks():
    text = written("table", tables.TABLE)
    assert all(escape(name) in text for name in tables.NASTY)


def test_rich_is_given_few_lines_at_a_time_and_short_cells():
    """A name of a megabyte among 100,000 rows took gigabytes, and did not end."""

    class Watched(Console):
        def print(self, *objects, **options):
            given.extend(str(each).splitlines() for each in objects)
            super().print(*objects, **options)

    given: list[list[str]] = []
    rows = [*map(tables.ok, map(str, range(2000))), tables.ok("y" * 1_000_000), tables.lost("x" * 1_000_000, "skipped")]
    out = io.StringIO()
    print_table(Table.of(tables.CONFIG, rows), Watched(file=out, width=1 << 12, markup=False))
    assert max(map(len, given)) <= 256
    assert max(len(line) for lines in given for line in lines) < 2000
    assert out.getvalue().count("\n") > 2000


def test_columns_go_before_names_do():
    wanted = columns(tables.named("conv1.weight"))
    assert layout(wanted, 200)[1] == []
    assert layout(wanted, 80)[1][0] == "dtype"
    shown, hidden = layout(wanted, 30)
    assert [column.title for column in shown] == ["name", "scale", "SQNR dB"]
    assert "low" in hidden
    assert shown[0].cells == ("conv1.weight",)


@pytest.mark.parametrize("width", [60, 80])
def test_columns_go_until_names_are_told_apart(width):
    shown, hidden = layout(columns(tables.named(*CHECKPOINT)), width)
    assert len(set(shown[0].cells)) == len(CHECKPOINT)
    assert {"name", "scale", "SQNR dB"} <= {column.title for column in shown}
    assert hidden


def test_of_equal_names_the_file_is_reported_at_any_width():
    names = [(name, f"checkpoints/run-{run}/model.safetensors") for run in range(3) for name in LAYERS]
    table = Table.of(tables.CONFIG, [tables.ok(name, source) for name, source in names])
    shown, _ = layout(columns(table), 60)
    assert [column.title for column in shown][:2] == ["name", "source"]
    assert len(set(zip(shown[0].cells, shown[1].cells, strict=True))) == len(names)


def test_the_source_is_shown_only_where_there_are_several():
    assert "source" not in {column.title for column in columns(tables.named("a", "b"))}
    assert "source" in {column.title for column in columns(tables.TABLE)}


def test_a_terminal_that_knows_only_ascii_gets_only_ascii():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    print_table(tables.named("conv1.weight"), Console(file=out, width=120, markup=False, color_system=None))
    out.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert "64x3x7x7" in lines[2]
    assert set(lines[1]) == {"-"}
    assert "\\u" not in "".join(lines)
