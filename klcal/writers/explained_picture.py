"""An explanation as a picture, PNG or SVG, by matplotlib, from the numbers that the JSON has."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from klcal.errors import UsageError
from klcal.tables.explanation import Alternative, Curve, Explanation, Histogram
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.floats import for_people
from klcal.writers.text import escape, shorten
from klcal.writers.words import sentences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check", "figure", "write"]

INCHES, DPI = (8.0, 9.0), 150
TITLE, LINE = 90, 110  # characters
WIDE = 5.0  # points: of a line
MOST_LINES = 64  # that mark levels: more are a surface
COLOURS = {"values": "#4878a8", "kept": "#d9822b", "divergence": "#8a3f8f", "distortion": "#b8cfe5", "loss": "#222222"}
STABLE = {"svg.hashsalt": "klcal", "svg.fonttype": "none"}  # the same table gives the same bytes


def check() -> None:
    """Raises UsageError where there is no matplotlib."""
    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib", "pip install 'klcal[plot]', or use --format text")


def write(table: Table, out: TextIO, *, format_: str) -> None:
    """The picture of the only row."""
    from matplotlib import rc_context

    (row,) = table.rows
    assert isinstance(row, Row)
    held = io.BytesIO()
    with rc_context(STABLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # in names: a box is drawn
        figure(row).savefig(
            held, format=format_, dpi=DPI, metadata={"Date": None} if format_ == "svg" else {"Software": None}
        )
    out.flush()
    out.buffer.write(held.getvalue())


def figure(row: Row) -> Figure:
    """The plots of one explanation, one above the other."""
    from matplotlib.figure import Figure

    known = row.explanation or Explanation()
    chosen = known.methods[0] if known.methods else None
    drawn: list[Any] = []
    if known.histogram is not None:
        drawn.append((_histogram, (known.histogram, chosen, known.levels)))
    if known.curve is not None:
        drawn.append((_curve, (known, known.curve)))
    if row.units is not None:
        drawn.append((_units, (row,)))
    found = Figure(figsize=INCHES, layout="constrained")
    unit = "" if row.unit is None else f", {(row.per or 'unit').partition(':')[0]} {row.unit}"
    # names are data: a dollar sign begins no formula
    found.suptitle(shorten(f"{escape(row.name)}{unit}", TITLE), parse_math=False)
    axes = found.subplots(max(1, len(drawn)), squeeze=False)[:, 0]
    for each, (draw, arguments) in zip(axes, drawn, strict=False):
        draw(each, *arguments)
    if not drawn:
        axes[0].set_axis_off()
    text = [line for said in sentences(row) for line in textwrap.wrap(escape(said), LINE, break_on_hyphens=False)]
    found.supxlabel("\n".join(text), x=0.02, ha="left", fontsize="small", parse_math=False)
    return found


def _histogram(axes: Axes, of: Histogram, chosen: Alternative | None, levels: tuple[float, ...] | None) -> None:
    width = (of.high - of.low) / len(of.counts)
    begins = [of.low + place * width for place in range(len(of.counts))]
    axes.bar(begins, of.counts, width or 1.0, align="edge", color=COLOURS["values"], label="values")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylabel("number of values")
    if chosen is None:
        return
    axes.axvspan(chosen.low, chosen.high, color=COLOURS["kept"], alpha=0.15, label="kept range")
    for level in levels if levels and len(levels) <= MOST_LINES else ():
        axes.axvline(level, color=COLOURS["kept"], linewidth=0.5)
    axes.legend(loc="upper right", fontsize="small")


def _curve(axes: Axes, known: Explanation, curve: Curve) -> None:
    from matplotlib.ticker import NullFormatter

    for name in ("divergence", "distortion", "loss"):
        values = [math.nan if each is None else each for each in getattr(curve, name)]
        width = WIDE if name == "distortion" else 1.5  # the loss is drawn over it
        axes.plot(curve.scale, values, color=COLOURS[name], label=name, linewidth=width, marker=".", markersize=2)
    for each in known.methods:
        if each.loss is not None:
            axes.plot([abs(each.scale)], [each.loss], marker="o", linestyle="none", label=f"{escape(each.method)}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda scale, _: for_people(scale))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([curve.scale[0], curve.scale[curve.chosen], curve.scale[-1]])
    axes.set_xlabel("scale")
    axes.set_ylabel("loss" if known.objective else "loss of kl, for comparison")
    axes.legend(fontsize="small")
    loss = curve.loss[curve.chosen]
    axes.set_title(f"chosen: {for_people(curve.scale[curve.chosen])}, loss {for_people(loss)}", fontsize="medium")


def _units(axes: Axes, row: Row) -> None:
    assert row.units is not None
    axes.plot(row.units.sqnr_db, color=COLOURS["values"], marker=".", markersize=2, linestyle="none")
    axes.set_xlabel(f"{row.units.per}")
    axes.set_ylabel("SQNR dB")
