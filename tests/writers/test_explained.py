"""What an explanation shows: nothing that its JSON has not, however wide the terminal, whatever names are called."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from klcal.calibration.values import calibrate
from klcal.tables.explanation import Alternative, Curve, Explanation, Histogram, Nearby, Octaves, Without
from klcal.tables.rows import Row
from klcal.tables.table import Config, Table
from klcal.writers import explained_json, explained_text
from klcal.writers.plots import ASCII, EIGHTHS, as_ascii, bars, logarithms, sparkline, stacked
from klcal.writers.words import sentences
from tests.support.tables import NASTY

CONFIG = Config("kl", "int8", "symmetric")
KINDS = {
    "normal": {"dtype": "int8"},
    "affine": {},
    "four bits": {"dtype": "int4", "method": "mse"},
    "float": {"dtype": "nf4"},
    "classic": {"dtype": "int8", "method": "kl-classic"},
    "rule": {"dtype": "int8", "method": "minmax"},
    "channels": {"dtype": "int8", "per": "channel"},
}


@cache
def explained(kind: str) -> Row:
    values = np.random.default_rng(0).standard_normal((40, 500)).astype(np.float32)
    values[0, :2] = 9, -20
    return replace(calibrate(values, detail="all", **KINDS[kind]), name="fc", source="m.npz", dtype="float32")


def table(row: Row) -> Table:
    return Table(CONFIG, (row,))


def document(row: Row) -> dict:
    out = io.StringIO()
    explained_json.write(table(row), out)
    assert out.getvalue().isascii()
    return json.loads(out.getvalue())


def from_document(found: dict) -> Row:
    """The row and its explanation, of what the JSON says alone."""
    several = {"methods": Alternative, "nearby": Nearby, "without": Without}
    one = {"histogram": Histogram, "octaves": Octaves, "curve": Curve}
    parts = {name: tuple(kind(**each) for each in found[name]) for name, kind in several.items()}
    parts |= {name: None if found[name] is None else kind(**found[name]) for name, kind in one.items()}
    parts |= {name: found[name] for name in ("levels", "objective", "weight")}
    return Row(**found["tensor"], explanation=Explanation(**parts))


@pytest.mark.parametrize("kind", KINDS)
def test_plots_and_sentences_show_the_numbers_of_the_json_and_no_others(kind):
    row = explained(kind)
    found = document(row)
    assert found["schema"] == "klcal.explanation/1"
    again = from_document(found)
    assert list(explained_text.lines(again, 100)) == list(explained_text.lines(row, 100))
    assert found["words"] == sentences(row) == sentences(again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [24, 40, 79, 80, 200, 400])
def test_lines_fit_the_width_and_are_as_wide_in_ascii(kind, width):
    for line in explained_text.lines(explained(kind), width):
        assert len(line) <= width
        plain = as_ascii(line)
        assert len(plain) == len(line)
        assert plain.isascii() or "×" not in plain


def test_heights_are_those_of_the_counts():
    found = explained("normal").explanation.histogram
    drawn = explained_text.lines(explained("normal"), 200)
    rows = [line[2:].ljust(128) for line in drawn][5 : 5 + explained_text.ROWS]
    eighths = [sum(EIGHTHS.index(row[column]) for row in rows) for column in range(128)]
    assert eighths == [int(np.ceil(height * 8 * explained_text.ROWS)) for height in logarithms(found.counts)]
    assert [bool(each) for each in eighths] == [bool(count) for count in found.counts]


def test_the_choice_is_marked_where_its_loss_is_drawn():
    row = explained("normal")
    lines = list(explained_text.lines(row, 80))
    marked = next(line for line in lines if "▲" in line and "kl" not in line)
    place = marked.index("▲") - 2
    curve = row.explanation.curve
    low, high = np.log(curve.scale[0]), np.log(curve.scale[-1])
    wanted = (np.log(curve.scale[curve.chosen]) - low) / (high - low) * (explained_text.MOST_COLUMNS - 1)
    assert abs(place - wanted) <= 0.5
    plot = lines[lines.index(marked) - explained_text.CURVE_ROWS : lines.index(marked)]
    heights = [sum(len(line) > column + 2 and line[column + 2] != " " for line in plot) for column in range(64)]
    assert heights[place] == min(each for each in heights if each)


@pytest.mark.parametrize("name", NASTY)
def test_names_do_not_act(name):
    text = "\n".join(explained_text.lines(replace(explained("normal"), name=name, source=name), 80))
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_failed_explanation_shows_the_reason():
    row = Row(name="w", status="nonfinite", reason="1 NaN among 9 values", dtype="float32", shape=(9,))
    assert sentences(row) == ["It has no scale, status nonfinite: 1 NaN among 9 values."]
    assert document(row)["words"] == sentences(row)


def test_sentences_follow_the_numbers():
    row = explained("normal")
    words = " ".join(sentences(row))
    (share,) = re.findall(r"([\d.]+) % of them are clipped", words)
    assert float(share) == pytest.approx(100 * row.clipped, rel=0.01)
    assert "Outliers take the levels" in words
    calm = calibrate(np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32), dtype="int8", detail="all")
    words = " ".join(sentences(calm))
    assert "Outliers do not matter much" in words
    chosen, known = calm.explanation.methods[0], calm.explanation
    worst = max(chosen.sqnr_db - each.sqnr_db for each in known.nearby)
    assert f"{worst:.2g} dB" in words


# --- plots of characters


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_bars_are_as_high_as_they_should_be(rows):
    heights = [0, 1e-9, 0.25, 0.5, 0.999, 1, 7]
    lines = bars(heights, rows)
    assert len(lines) == rows
    eighths = [sum(EIGHTHS.index(line[column]) for line in lines) for column in range(len(heights))]
    assert eighths == [0, 1, *(int(np.ceil(each * 8 * rows)) for each in (0.25, 0.5, 0.999)), 8 * rows, 8 * rows]


def test_stacked_parts_end_where_they_should():
    drawn = stacked([0.25, 0.0], [0.5, 0.01], 4)
    assert ["".join(line[column] for line in drawn) for column in (0, 1)] == [" ░░█", "   ░"]


def test_sparklines_show_the_counts():
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
    assert sparkline([1, 10**9]) == "▁█"
    assert sparkline([3, 3, 3]) == "███"


def test_each_sign_has_one_of_ascii():
    assert all(len(chr(sign) if isinstance(sign, int) else sign) == 1 for sign in ASCII.values())
    assert len({ASCII[ord(sign)] for sign in EIGHTHS}) == len(EIGHTHS), "heights stay different"


# --- pictures


@pytest.fixture
def picture():
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from klcal.writers import explained_picture

    return explained_picture


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_show_the_numbers_of_the_json(picture, kind):
    row = explained(kind)
    found = document(row)
    axes = picture.figure(row).axes
    assert [patch.get_height() for patch in axes[0].patches[:128]] == found["histogram"]["counts"]
    if found["curve"] is None:
        return
    for name in ("divergence", "distortion", "loss"):
        (line,) = [each for each in axes[1].lines if each.get_label() == name]
        assert np.float32(line.get_xdata()).tolist() == np.float32(found["curve"]["scale"]).tolist()
        shown = [None if each != each else np.float32(each) for each in line.get_ydata()]
        assert shown == [None if each is None else np.float32(each) for each in found["curve"][name]]


@pytest.mark.parametrize("format_", ["svg", "png"])
def test_pictures_are_the_same_bytes_each_time(picture, format_):
    written = []
    for _ in range(2):
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        picture.write(table(explained("normal")), out, format_=format_)
        written.append(out.buffer.getvalue())
    assert written[0] == written[1]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_text_in_pictures(picture, name):
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    picture.write(table(replace(explained("four bits"), name=f"{name} $\\frac$ <b>")), out, format_="svg")
    found = ET.fromstring(out.buffer.getvalue().decode())
    assert not [each for each in found.iter() if each.tag.endswith("}script") or each.tag.endswith("}b")]
