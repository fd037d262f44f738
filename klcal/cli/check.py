"""``klcal check``: whether tensors in files still have the scales that were committed for them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from klcal.cli import options
from klcal.cli.diff import RULES

__all__ = ["EXAMPLES", "check"]

EXAMPLES = f"""\
\b
Examples:
  The baseline, once; it is committed:
    klcal calibrate model.safetensors --dtype int8 --per channel -o scales.json
  A CI job that fails where scales drift:
    klcal check model.safetensors --baseline scales.json
  Only what is worse than half a decibel, or gone:
    klcal check model.safetensors --baseline scales.json --fail-on 'd.sqnr_db < -0.5' --fail-on missing
  What changed is wanted: the baseline is written anew, and the difference is what git shows:
    klcal check model.safetensors --baseline scales.json --update

{RULES}

\b
The baseline says how tensors were calibrated, and so they are again: --dtype and its like need not be given, and are an
error where they say something else. What a table does not say has to be given again: --include, --exclude, --pool,
--dequantize, --nonfinite, --range, --importance.

\b
Exit codes:
  0  nothing met a rule; with --update, the baseline was written
  1  something did
  2  wrong usage, or the baseline is no table of this version, or of another configuration; with
     --update, it has tensors of a file that was not named
  3  nothing usable in the input, or no tensor of it is in the baseline: nothing could be judged
  4  some tensors or files failed; with --update, the baseline is as it was where it has a scale for one
  5  a bug in klcal (KLCAL_DEBUG=1 shows where)
  130 interrupted, 143 terminated, 129 hung up, 141 the reader of stdout went away
"""

BaselineOption = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="TABLE",
        show_default=False,
        rich_help_panel=options.CI,
        help="What klcal calibrate wrote for these tensors: .json or .safetensors.",
    ),
]
UpdateOption = Annotated[
    bool,
    typer.Option(
        "--update",
        rich_help_panel=options.CI,
        help="Write the baseline anew, all of it or nothing; also with other options than it was made by. Lines of "
        "tensors that did not change, or that --include and --exclude leave out, stay as they are.",
    ),
]


def check(
    paths: options.Paths,
    baseline: BaselineOption,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    dequantize: options.DequantizeOption = False,
    pool: options.PoolOption = None,
    nonfinite: options.NonfiniteOption = "fail",
    device: options.DeviceOption = "auto",
    jobs: options.JobsOption = None,
    scheduler: options.SchedulerOption = None,
    method: options.MethodAgainOption = None,
    dtype: options.DtypeAgainOption = None,
    scheme: options.SchemeAgainOption = None,
    scale_format: options.ScaleFormatAgainOption = None,
    per: options.PerAgainOption = None,
    importance: options.ImportanceOption = None,
    range_: options.RangeOption = None,
    format_: options.FormatOption = "auto",
    top: options.TopOption = None,
    output: options.OutputOption = None,
    verbose: options.VerboseOption = False,
    fail_on: options.RulesOption = None,
    update: UpdateOption = False,
) -> None:
    """Calibrate PATHS again, and compare with the table that was committed.

    A row for each tensor that is not the same, and exit code 1 where one met
    a rule. A check that cannot judge is an error.
    """
    from klcal.cli.drift import TEXTS_ONLY, shown_as, told_of_drift, updating
    from klcal.cli.messages import of_plan, remark
    from klcal.cli.output import choose_outputs, destinations
    from klcal.cli.progress import progress
    from klcal.pipeline.pooling import Pool
    from klcal.pipeline.rules import asked_rules, drifted
    from klcal.pipeline.scales import read_baseline
    from klcal.quantizers.scheme import parse_range
    from klcal.sketches.device_counting import usable_devices

    rules = asked_rules(fail_on)
    outputs = choose_outputs(format_, output, texts_only=TEXTS_ONLY)
    asked = {"method": method, "dtype": dtype, "scheme": scheme, "scale_format": scale_format, "per": per}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    bounds = None if range_ is None else parse_range(range_)
    given |= {"nonfinite": nonfinite, "device": device, "importance": importance, "bounds": bounds}
    batches = None if pool is None else Pool.parse(pool)
    processes = options.processes(jobs, scheduler)

    from klcal.pipeline.check import asked_again, check_files

    was = read_baseline(baseline)
    request = asked_again(was, given, any_config=update)
    usable_devices(device)
    inputs = [*paths, *([] if importance is None else [importance])]
    with destinations(outputs, [*inputs, baseline]) as deliver, updating(baseline, inputs, wanted=update) as renew:
        with progress() as shown:
            done = check_files(
                paths,
                was,
                request,
                called=baseline,
                include=include or (),
                exclude=exclude or (),
                dequantize=dequantize,
                pool=batches,
                jobs=processes,
                scheduler=scheduler,
                progress=shown,
                told=lambda plan: remark(of_plan(plan, verbose=verbose)),
            )
        found = drifted(done.changes, rules)
        deliver(shown_as(found, top), found.usable or update)
        code = told_of_drift(found, done.table) if renew is None else renew(done)
    raise typer.Exit(code)
