"""The columns that people choose, and the small figures in them: in tables, in Markdown, in notebooks."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

import klcal
from klcal.errors import UsageError
from klcal.tables.table import Comparison, Config, Contents, Table
from klcal.writers import markdown
from klcal.writers.columns import check_columns
from klcal.writers.people import columns
from klcal.writers.plots import sparkline
from klcal.writers.rich_table import print_table
from tests.support import tables
from tests.support.tables import NASTY


@pytest.fixture(scope="module")
def table() -> Table:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    rows = [
        replace(klcal.calibrate(values * factor, dtype="int8", detail="histogram"), name=name, source="m.npz")
        for name, factor in (("a", 1), ("b", np.linspace(0, 9, 1000, dtype=np.float32)))
    ]
    return Table(Config("kl", "int8", "symmetric"), tuple(rows))


def titles(table: Table, *wanted: str) -> list[str]:
    return [column.title for column in columns(replace(table, columns=wanted))]


def test_columns_are_those_that_are_asked_for_in_their_order(table):
    assert titles(table, "sqnr_db", "hist", "scale", "target") == ["name", "SQNR dB", "hist", "scale", "target"]
    assert titles(table, "scale", "name") == ["name", "scale"], "the name is there in any case, and first"
    assert titles(table, "+hist", "+mse") == [*titles(table), "hist", "mse"]
    assert titles(table, "+scale") == titles(table)


@pytest.mark.parametrize("kind", [Config, Comparison, Contents])
def test_unknown_columns_are_refused(kind):
    with pytest.raises(UsageError, match=r"there is no column 'sacle'; use some of name, source, "):
        check_columns("name,sacle", kind)
    assert check_columns("source, name", kind) == ("source", "name")
    with pytest.raises(UsageError, match=r"with \+ and without"):
        check_columns("name,+source", kind)


def test_every_column_can_be_asked_for(table):
    with pytest.raises(UsageError) as told:
        check_columns("x", Config)
    known = str(told.value).partition("use some of ")[2].split(", ")
    assert len(columns(replace(table, columns=tuple(known)))) == len(known)


def test_sparklines_are_the_histograms(table):
    (column,) = [each for each in columns(replace(table, columns=("+hist",))) if each.title == "hist"]
    for cell, row in zip(column.cells, table.rows, strict=True):
        assert cell == sparkline(row.explanation.histogram.merged(16).counts)
    assert column.cells[0] != column.cells[1]


def test_a_table_that_was_read_has_no_sparklines():
    (column,) = [each for each in columns(replace(tables.TABLE, columns=("hist",))) if each.title == "hist"]
    assert set(column.cells) == {""}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_tables_and_markdown_show_them(table, encoding):
    shown = replace(table, columns=("hist", "scale"))
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_table(shown, Console(file=out, width=60, highlight=False))
    out.flush()
    text = out.buffer.getvalue().decode()
    assert ("█" in text) is (encoding == "utf-8")
    assert text.splitlines()[0].split() == ["name", "hist", "scale"]
    out = io.StringIO()
    markdown.write(shown, out)
    assert re.search(r"\| name \| hist \| scale \|", out.getvalue())


# --- notebooks


def figures(html: str) -> list[ET.Element]:
    return list(ET.fromstring(f"<body>{html}</body>").iter("svg"))


def test_notebooks_show_the_same_figures(table):
    found = figures(table._repr_html_())
    assert len(found) == 2
    for figure, row in zip(found, table.rows, strict=True):
        known = row.explanation.histogram
        (path,) = figure.iter("path")
        bars = re.findall(r"M[\d.]+ 20V([\d.]+)", path.get("d"))
        heights = [count for count in known.merged(32).counts if count]
        assert len(bars) == len(heights)
        assert bars.index(min(bars, key=float)) == heights.index(max(heights))
    assert not figures(tables.TABLE._repr_html_())


def test_a_row_shows_itself_and_its_units():
    values = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)
    row = klcal.calibrate(values, dtype="int4", per="channel", detail="histogram")
    assert len(figures(row._repr_html_())) == 2
    assert "SQNR of 60 units" in row._repr_html_()
    alone = klcal.calibrate(values, dtype="int4", detail="all")
    assert "is kept" in alone._repr_html_()
    assert figures(klcal.calibrate([0.0])._repr_html_()) == []


@pytest.mark.parametrize("name", NASTY)
def test_names_stay_text_in_notebooks(table, name):
    html = replace(table.rows[0], name=name, source=name, note=name)._repr_html_()
    found = ET.fromstring(f"<body>{html}</body>")
    assert {each.tag for each in found.iter()} <= {"body", "p", "table", "tr", "th", "td", "svg", "title", "path"}


def test_files_have_figures_where_they_are_asked_for(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(9, dtype=np.float32))
    assert klcal.calibrate_files(tmp_path / "x.npy").rows[0].explanation is None
    found = klcal.calibrate_files(tmp_path / "x.npy", detail="histogram")
    assert sum(found.rows[0].explanation.histogram.counts) == 9
    assert klcal.calibrate_files(tmp_path / "x.npy") == found, "it is no part of the answer"
