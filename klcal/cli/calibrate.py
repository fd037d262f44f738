"""``klcal calibrate``: a scale and zero point for every tensor in files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import typer

from klcal.cli import options
from klcal.tables.schema import NUMERIC_FIELDS, check_field
from klcal.tables.table import Config, Table

__all__ = ["EXAMPLES", "calibrate"]

EXAMPLES = """\
\b
Examples:
  A look at a checkpoint:
    klcal calibrate model.safetensors
  Scales for a build script:
    klcal calibrate activations/ --dtype int8 --output scales.json
  A CI job that fails where quantization loses too much:
    klcal calibrate model.pt --include '*.weight' --fail-on 'sqnr_db < 30'
  The ten channels that lose most:
    klcal calibrate model/ --dtype int8 --per channel --units --sort sqnr_db --top 10
  A scale for each output channel of the weights, one for all else:
    klcal calibrate model/ --dtype int8 --per '*.weight=channel'
  Groups of 128 for a language model in 4 bits, its embedding in 8:
    klcal calibrate model/ --dtype int4 --dtype '*embed*=int8' --per '*.weight=group:128'
  The same, where columns count by the mean square of their inputs:
    klcal calibrate model/ --dtype int4 --per group:128 --importance energy.npz
  A scale for each activation that was dumped batch by batch, activations/conv1/batch_000.npy and so on:
    klcal calibrate activations/ --pool dir
  The same from conv1_000.npy, conv1_001.npy, ..., a scale for each channel of [N, C, H, W]:
    klcal calibrate activations/ --pool stem --per channel:1
  On a Dask cluster:
    klcal calibrate /shared/model/ --dtype int4 --per group:128 --scheduler tcp://head:8786 -o scales.safetensors
  From stdin to another program:
    klcal calibrate --format json - < dump.npy | jq '.tensors[].scale'

\b
Exit codes:
  0  done
  1  a tensor met --fail-on
  2  wrong usage, nothing was read
  3  nothing usable in the input
  4  some tensors or files failed, the rest was written
  5  a bug in klcal (KLCAL_DEBUG=1 shows where)
  130 interrupted, 143 terminated, 129 hung up, 141 the reader of stdout went away

\b
Environment and configuration: klcal --help, klcal config --help.
"""


def calibrate(
    paths: options.Paths,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    dequantize: options.DequantizeOption = False,
    pool: options.PoolOption = None,
    nonfinite: options.NonfiniteOption = "fail",
    device: options.DeviceOption = "auto",
    jobs: options.JobsOption = None,
    scheduler: options.SchedulerOption = None,
    method: options.MethodOption = None,
    dtype: options.DtypeOption = None,
    scheme: options.SchemeOption = None,
    scale_format: options.ScaleFormatOption = None,
    per: options.PerOption = None,
    importance: options.ImportanceOption = None,
    bins: options.BinsOption = None,
    range_: options.RangeOption = None,
    format_: options.FormatOption = "auto",
    units: options.UnitsOption = False,
    columns: options.ColumnsOption = None,
    sort: options.SortOption = None,
    top: options.TopOption = None,
    output: options.OutputOption = None,
    verbose: options.VerboseOption = False,
    fail_on: options.FailOnOption = None,
) -> None:
    """Choose a scale and a zero point for every tensor in PATHS.

    The range that is kept minimises a KL divergence between the values
    and their quantized copy. The answer goes to stdout or to --output,
    errors and progress go to stderr.
    """
    from klcal.cli.messages import of_plan, remark
    from klcal.cli.output import choose_outputs, destinations
    from klcal.cli.progress import progress
    from klcal.cli.verdict import findings, told
    from klcal.pipeline.conditions import parse_condition
    from klcal.pipeline.pooling import Pool
    from klcal.pipeline.request import Request
    from klcal.quantizers.scheme import parse_range
    from klcal.sketches.device_counting import usable_devices
    from klcal.writers import REPORTS, WRITERS
    from klcal.writers.columns import HISTOGRAM, check_columns

    processes = options.processes(jobs, scheduler)
    if sort is not None:
        check_field(sort, NUMERIC_FIELDS)
    conditions = [parse_condition(text) for text in fail_on or ()]
    chosen = () if columns is None else check_columns(columns, Config)
    request = Request.parse(
        dtype=dtype or (),
        method=method or (),
        scheme=scheme or (),
        scale_format=scale_format or (),
        per=per or (),
        bins=bins,
        bounds=None if range_ is None else parse_range(range_),
        nonfinite=nonfinite,
        device=device,
        importance=importance,
        detail="histogram" if HISTOGRAM in {name.removeprefix("+") for name in chosen} else "none",
    )
    batches = None if pool is None else Pool.parse(pool)
    texts_only = "it has the units of a tensor together, not on lines as --units asks for" if units else ""
    outputs = choose_outputs(format_, output, texts_only=texts_only)

    from klcal.pipeline.calibrate import calibrate_files  # only now: mistakes in the command line are reported at once

    usable_devices(device)
    with destinations(outputs, [*paths, *([] if importance is None else [importance])]) as deliver:
        with progress() as shown:
            table = calibrate_files(
                paths,
                request,
                include=include or (),
                exclude=exclude or (),
                dequantize=dequantize,
                pool=batches,
                jobs=processes,
                scheduler=scheduler,
                progress=shown,
                told=lambda plan: remark(of_plan(plan, verbose=verbose)),
            )
        found = list(findings(table, conditions))
        whole = replace(table, findings=tuple(found), columns=chosen)
        shown_rows = _shown(whole, units, sort, top)
        deliver(lambda name: partial(WRITERS[name], whole if name in REPORTS else shown_rows), table.usable)
    raise typer.Exit(told(table, found))


def _shown(table: Table, units: bool, sort: str | None, top: int | None) -> Table:
    """The rows to show. ``--fail-on`` judges the whole table."""
    table = table.expanded() if units else table
    table = table if sort is None else table.worst_first(sort)
    return table if top is None else table.top(top)
