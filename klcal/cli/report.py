"""`klcal report`: a page that shows where quantization loses most, and why."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Any

import typer

from klcal.cli import options
from klcal.errors import UsageError

__all__ = ["EXAMPLES", "report"]

EXAMPLES = """\
\b
Examples:
  Where a checkpoint loses most in int8:
    klcal report model.safetensors --dtype int8 -o report.html
  Of scales that are there already; no tensor is read, so that values and losses have no figures:
    klcal report scales.json -o report.html
  What a new release changed, two tables side by side:
    klcal report model-2/ --dtype int8 --baseline scales-1.json -o report.html

\b
The page is one file. It fetches nothing, and runs in any browser of the last years.
Exit codes are those of klcal calibrate.
"""

ReportPaths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATHS...|TABLE",
        show_default=False,
        help="Tensor files, directories and patterns, as klcal calibrate takes them; or one table of scales, .json or "
        ".safetensors, or what klcal export wrote as .json.",
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="TABLE",
        rich_help_panel=options.INPUT,
        help="A table of scales that this one is shown beside: what was, what is, and how far it moved.",
    ),
]
PlotsOption = Annotated[
    int,
    typer.Option(
        "--plots",
        min=0,
        metavar="N",
        rich_help_panel=options.OUTPUT,
        help="How many tensors have figures of what candidates lose: those of least SQNR, "
        "which are read twice. All have a histogram of their values.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default="stdout",
        rich_help_panel=options.OUTPUT,
        help="Write the page here, all of it or nothing: .html.",
    ),
]


def report(
    ctx: typer.Context,
    paths: ReportPaths,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    dequantize: options.DequantizeOption = False,
    pool: options.PoolOption = None,
    nonfinite: options.NonfiniteOption = "fail",
    device: options.DeviceOption = "auto",
    jobs: options.JobsOption = None,
    baseline: BaselineOption = None,
    method: options.MethodOption = None,
    dtype: options.DtypeOption = None,
    scheme: options.SchemeOption = None,
    scale_format: options.ScaleFormatOption = None,
    per: options.PerOption = None,
    importance: options.ImportanceOption = None,
    bins: options.BinsOption = None,
    range_: options.RangeOption = None,
    plots: PlotsOption = 50,
    output: OutputOption = None,
) -> None:
    """Write a page on the tensors in PATHS, or on a TABLE of scales.

    First a summary; then a table, those that lose most first, to be sorted
    and filtered. Behind each tensor stand its figures: how its values are
    distributed, what candidates lose, what other methods would choose.
    """
    from klcal.cli.output import destination
    from klcal.cli.progress import progress
    from klcal.cli.verdict import told
    from klcal.kernels.threads import cores
    from klcal.pipeline.pooling import Pool
    from klcal.pipeline.request import Request
    from klcal.quantizers.scheme import parse_range
    from klcal.sketches.device_counting import usable_devices

    _check_output(output)
    asked: dict[str, Any] = {
        "method": method,
        "dtype": dtype,
        "scheme": scheme,
        "scale_format": scale_format,
        "per": per,
        "bins": bins,
        "bounds": None if range_ is None else parse_range(range_),
        "importance": importance,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    request = Request.parse(**given, nonfinite=nonfinite, device=device)
    batches = None if pool is None else Pool.parse(pool)
    usable_devices(device)

    from klcal.pipeline.report import calibrated_and_explained, is_table, report_of  # after the command line
    from klcal.pipeline.scales import read_any
    from klcal.writers.report_page import write

    of_table = len(paths) == 1 and is_table(paths[0])
    if of_table and any(_is_typed(ctx, name) for name in CHOOSING):
        raise UsageError(f"'{paths[0]}' is a table of scales, which are chosen already", "leave out what chooses them")
    with destination(output, [*paths, *filter(None, (baseline, importance))]) as deliver:
        if of_table:
            table = read_any(paths[0])
        else:
            with progress() as shown:
                table = calibrated_and_explained(
                    paths,
                    request,
                    most=plots,
                    include=include or (),
                    exclude=exclude or (),
                    dequantize=dequantize,
                    pool=batches,
                    jobs=jobs or cores(),
                    progress=shown,
                )
        found = report_of(table, paths[0], baseline)
        deliver(partial(write, found), table.usable)
    raise typer.Exit(told(table, ()))


CHOOSING = (
    *("include", "exclude", "dequantize", "pool", "nonfinite", "method", "dtype", "scheme", "scale_format", "per"),
    *("importance", "bins", "range_"),
)
"""Options that say how scales are chosen, and for which tensors. Configured ones are for tensors alone."""


def _is_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_output(output: str | None) -> None:
    """Refuses outputs that cannot be a page, before anything is read."""
    if output in (None, "-"):
        if sys.stdout is not None and sys.stdout.isatty():
            raise UsageError("a page is no text for a terminal", "name a file: --output report.html")
    elif not str(output).lower().endswith((".html", ".htm")):
        raise UsageError(f"the suffix of '{output}' is not that of a page", "name it report.html")
