"""``klcal sketch``: what calibration has to know of tensors, in a small file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from klcal.cli import options
from klcal.errors import ExitCode, UsageError

__all__ = ["EXAMPLES", "SketchOutput", "checked_output", "sketch", "written"]

EXAMPLES = """\
\b
Examples:
  Count once, calibrate often:
    klcal sketch activations/ --output acts.safetensors
    klcal calibrate acts.safetensors --dtype int8
  A part on each machine, then all of them:
    klcal sketch batches-7/ --pool stem --output part-7.safetensors
    klcal merge part-*.safetensors --output all.safetensors
  On a Dask cluster:
    klcal sketch /shared/activations/ --pool dir --scheduler tcp://head:8786 --output acts.safetensors
  A long run, which goes on when it is typed again:
    klcal sketch activations/ --per channel:1 --resume --output acts.safetensors

\b
What cannot be counted is told on stderr and is not in the file (exit code 4). Other exit codes are those
of klcal calibrate.
"""

SketchOutput = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        rich_help_panel=options.OUTPUT,
        help="The sketch file, .safetensors; written as a whole or not at all.",
    ),
]

ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=options.OUTPUT,
        help="Keep what is done in the folder FILE.part until all is, and go on from there where it is there already; "
        "refused where files or options have changed.",
    ),
]


def sketch(
    paths: options.Paths,
    output: SketchOutput,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    dequantize: options.DequantizeOption = False,
    pool: options.PoolOption = None,
    jobs: options.JobsOption = None,
    scheduler: options.SchedulerOption = None,
    per: options.PerOption = None,
    importance: options.ImportanceOption = None,
    resume: ResumeOption = False,
) -> None:
    """Count the values of every tensor in PATHS, and keep the counts alone.

    A sketch file is taken wherever tensor files are, and gives the same
    scales to the bit. Its size does not depend on the number of values.
    """
    from klcal.cli.messages import capped, line, remark, say
    from klcal.cli.progress import progress
    from klcal.pipeline.pooling import Pool
    from klcal.quantizers.rules import units_by_name

    checked_output(output)
    processes = options.processes(jobs, scheduler)
    rules = units_by_name(per or ())
    batches = None if pool is None else Pool.parse(pool)

    from klcal.pipeline.gathered import Asked
    from klcal.pipeline.sketch import sketch_files  # after what can be wrong with the command line

    asked = Asked(include or (), exclude or (), dequantize, batches)
    with progress() as shown:
        found = sketch_files(
            paths,
            output,
            asked,
            per=rules,
            importance=importance,
            jobs=processes,
            scheduler=scheduler,
            resume=resume,
            progress=shown,
        )
    remark(capped([line(kind="warning", text=warning) for warning in found.warnings]))
    say(capped([line(*filter(None, each[:2]), kind="error", text=each.reason) for each in found.failures]))
    if not found.tensors:
        if not found.failures:
            say([line(kind="error", text="no tensor was counted: name files with float tensors, or check --include")])
        raise typer.Exit(ExitCode.NOTHING_USABLE)
    remark([written(output, found.tensors)])
    if any(each.cause == "bug" for each in found.failures):
        raise typer.Exit(ExitCode.BUG)
    raise typer.Exit(ExitCode.PARTIAL if found.failures else ExitCode.DONE)


def written(output: str, tensors: int) -> str:
    """What is told of a sketch file that was written."""
    from klcal.cli.messages import line

    many = "1 tensor" if tensors == 1 else f"{tensors:,} tensors"
    return line(text=f"{output}: {many}, {Path(output).stat().st_size:,} bytes")


def checked_output(output: str) -> None:
    """Raises UsageError unless a sketch file may be called so."""
    if not output.lower().endswith(".safetensors"):
        raise UsageError(f"a sketch file is a .safetensors file, '{output}' is none", "use --output NAME.safetensors")
