"""`klcal inspect`: the contents of tensor files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from klcal.cli import options

__all__ = ["EXAMPLES", "inspect"]

EXAMPLES = """\
\b
Examples:
  What a checkpoint holds, from its headers alone:
    klcal inspect model/
  The same, a row for what is alike in all layers:
    klcal inspect model/ --depth 4
  Ranges, zeros, NaN, outliers and the shape of the distribution:
    klcal inspect activations/ --stats
  The tensors with NaN:
    klcal inspect model.pt --stats --format jsonl | jq 'select(.nan > 0) | .name'

\b
Exit codes are those of klcal calibrate.
"""

StatsOption = Annotated[
    bool,
    typer.Option(
        "--stats",
        rich_help_panel=options.INPUT,
        help="Read the values, too: min and max, zeros, NaN and infinities, a histogram, and the largest magnitude "
        "over the 99.9th percentile of the magnitudes.",
    ),
]
DepthOption = Annotated[
    int | None,
    typer.Option(
        "--depth",
        min=1,
        metavar="N",
        show_default="a row for each tensor",
        rich_help_panel=options.OUTPUT,
        help="One row for tensors that share the first N parts of their names, whatever numbers these contain.",
    ),
]


def inspect(
    paths: options.Paths,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    stats: StatsOption = False,
    jobs: options.JobsOption = None,
    scheduler: options.SchedulerOption = None,
    format_: options.FormatOption = "auto",
    depth: DepthOption = None,
    columns: options.ColumnsOption = None,
    output: options.OutputOption = None,
) -> None:
    """Show what is in PATHS: names, number formats, shapes, sizes.

    Only headers are read, unless --stats is given. It also says what is
    already quantized, and how.
    """
    from klcal.cli.output import choose_outputs, destinations
    from klcal.cli.progress import progress
    from klcal.cli.verdict import told
    from klcal.tables.table import Contents
    from klcal.writers import WRITERS
    from klcal.writers.columns import check_columns

    chosen = () if columns is None else check_columns(columns, Contents)
    processes = options.processes(jobs, scheduler)
    outputs = choose_outputs(format_, output, texts_only="it is for scales, not for contents")

    from klcal.pipeline.inspect import inspect_files  # after what can be wrong with the command line

    with destinations(outputs, paths) as deliver:
        with progress() as shown:
            found = inspect_files(
                paths,
                include=include or (),
                exclude=exclude or (),
                stats=stats,
                depth=depth,
                jobs=processes,
                scheduler=scheduler,
                progress=shown,
            )
        shown_as = replace(found, columns=chosen)
        deliver(lambda name: partial(WRITERS[name], shown_as), found.usable)
    raise typer.Exit(told(found, ()))
