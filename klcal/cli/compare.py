"""``klcal compare``: how far the tensors of one file are from those of another, or from their quantized copy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import typer

from klcal.cli import options
from klcal.errors import UsageError
from klcal.tables.schema import DIFFERENCE_FIELDS

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = """\
\b
Examples:
  A checkpoint against its bfloat16 copy, the worst tensor first:
    klcal compare model.safetensors model-bf16.safetensors
  What a table of scales does to the tensors that it was made from:
    klcal calibrate model.pt --output scales.json
    klcal compare model.pt --table scales.json --sort sqnr_db
  A float8 checkpoint, its scales applied, against what it was made from:
    klcal compare bf16/ fp8/ --dequantize
  Checkpoints whose names differ by what a wrapper puts in front:
    klcal compare model.pt ddp.pt --strip-prefix module.
  Activations that were dumped batch by batch, a folder for each tensor:
    klcal compare yesterday/ today/ --pool dir
  A CI job that fails where activations drift:
    klcal compare yesterday/ today/ --fail-on 'kl > 0.01' --fail-on 'js > 0.005'

\b
Exit codes and environment are those of klcal calibrate. With --fail-on, a tensor that only one side
has is a finding too.
"""

P = Annotated[str, typer.Argument(metavar="P", show_default=False, help="The reference: a file or a directory.")]
Q = Annotated[
    str | None, typer.Argument(metavar="[Q]", show_default=False, help="What approximates it; not with --table.")
]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="TABLE",
        rich_help_panel=options.INPUT,
        help="Compare P with P itself, quantized by this table of klcal calibrate: .json or .safetensors.",
    ),
]
StripPrefixOption = Annotated[
    str,
    typer.Option(
        "--strip-prefix",
        metavar="PREFIX",
        show_default=False,
        rich_help_panel=options.INPUT,
        help="Take this off all names that begin with it, on either side: 'module.', '_orig_mod.'.",
    ),
]
BaseOption = Annotated[
    Literal["e", "2", "10"],
    typer.Option("--base", rich_help_panel=options.METHOD, help="Of the logarithms: e (nats), 2 (bits), 10 (bans)."),
]
BinsOption = Annotated[
    int | None,
    typer.Option(
        "--bins",
        min=1,
        metavar="N",
        show_default="64",
        rich_help_panel=options.METHOD,
        help="Common bins of equal mass, at most; those of one side alone are merged, so that divergences are lower "
        "bounds, and infinite where the sides lie apart.",
    ),
]


def compare(
    p: P,
    q: Q = None,
    table: TableOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    dequantize: options.DequantizeOption = False,
    pool: options.PoolOption = None,
    jobs: options.JobsOption = None,
    scheduler: options.SchedulerOption = None,
    base: BaseOption = "e",
    bins: BinsOption = None,
    sort: options.DifferenceSortOption = "js",
    top: options.TopOption = None,
    columns: options.ColumnsOption = None,
    strip_prefix: StripPrefixOption = "",
    format_: options.FormatOption = "auto",
    output: options.OutputOption = None,
    fail_on: options.DifferenceFailOnOption = None,
) -> None:
    """Compare the tensors of P with those of Q, by name.

    For each: KL both ways, Jensen-Shannon, cross-entropy, entropies and
    Wasserstein distance on common bins; cosine, greatest difference, MSE and
    SQNR element by element where shapes match. With --table, kl is what
    calibrate calls kl, measured again, and kl_common that on common bins.
    """
    from klcal.cli.output import choose_outputs, destinations
    from klcal.cli.progress import progress
    from klcal.cli.verdict import findings, told
    from klcal.pipeline.conditions import parse_condition
    from klcal.pipeline.pooling import Pool
    from klcal.tables.table import Comparison
    from klcal.writers import REPORTS, WRITERS
    from klcal.writers.columns import check_columns

    if (q is None) == (table is None):
        raise UsageError("name either Q or --table, to say what P is compared with", "klcal compare P Q")
    processes = options.processes(jobs, scheduler)
    conditions = [parse_condition(text, DIFFERENCE_FIELDS, base) for text in fail_on or ()]
    chosen = () if columns is None else check_columns(columns, Comparison)
    batches = None if pool is None else Pool.parse(pool)
    texts_only = "it is for scales, not for comparisons"
    outputs = choose_outputs(format_, output, texts_only=texts_only)

    from klcal.pipeline.compare import compare_files  # only now: mistakes in the command line are reported at once

    with destinations(outputs, [path for path in (p, q, table) if path is not None]) as deliver:
        with progress() as shown:
            found = compare_files(
                p,
                q,
                table=table,
                base=base,
                bins=bins,
                sort=sort,
                strip_prefix=strip_prefix,
                include=include or (),
                exclude=exclude or (),
                dequantize=dequantize,
                pool=batches,
                jobs=processes,
                scheduler=scheduler,
                progress=shown,
            )
        met = list(findings(found, conditions))
        whole = replace(found, findings=tuple(met), columns=chosen)
        shown_rows = whole if top is None else whole.top(top)
        deliver(lambda name: partial(WRITERS[name], whole if name in REPORTS else shown_rows), found.usable)
    raise typer.Exit(told(found, met))
