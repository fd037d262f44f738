"""`klcal explain`: why a tensor has its scale, and what other scales would cost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from klcal.cli import options
from klcal.errors import UsageError

__all__ = ["EXAMPLES", "explain"]

EXAMPLES = """\
\b
Examples:
  Why a weight has the scale it has:
    klcal explain model.safetensors layers.0.mlp.up_proj.weight --dtype int8
  One of its channels, by number; klcal calibrate --units --sort sqnr_db finds the worst:
    klcal explain model.safetensors layers.0.mlp.up_proj.weight --dtype int8 --per channel --unit 17
  An activation that was counted before, or that is alone in its file:
    klcal explain acts.safetensors conv1.input
    klcal explain conv1.npy
  As a picture, and every number that it shows:
    klcal explain conv1.npy --output conv1.png
    klcal explain conv1.npy --format json | jq .curve.loss

\b
Exit codes are those of klcal calibrate.
"""

Format = Literal["auto", "text", "json", "png", "svg"]
SUFFIXES = {".txt": "text", ".json": "json", ".png": "png", ".svg": "svg"}
MODULES = {"text": "explained_text", "json": "explained_json", "png": "explained_picture", "svg": "explained_picture"}

FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        show_default=False,
        help="A tensor file, a sketch file, or the index of a sharded checkpoint; - for standard input.",
    ),
]
TensorArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TENSOR]", show_default="the only one in FILE", help="The name of a tensor, as klcal inspect shows it."
    ),
]
UnitOption = Annotated[
    int | None,
    typer.Option(
        "--unit",
        min=0,
        metavar="N",
        show_default="the tensor as a whole",
        rich_help_panel=options.METHOD,
        help="The channel, group or block of this number, where --per asks for such; 0 is the first.",
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        rich_help_panel=options.OUTPUT,
        help="auto is by the suffix of --output, and text elsewhere. text has plots of characters as wide as the "
        "terminal, or 80 columns; json has every number that plots show; png and svg need matplotlib: klcal[plot].",
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
        help="Write the answer here, all of it or nothing: .txt, .json, .png or .svg.",
    ),
]


def explain(
    file: FileArgument,
    tensor: TensorArgument = None,
    dequantize: options.DequantizeOption = False,
    nonfinite: options.NonfiniteOption = "fail",
    device: options.DeviceOption = "auto",
    jobs: options.JobsOption = None,
    method: options.MethodOption = None,
    dtype: options.DtypeOption = None,
    scheme: options.SchemeOption = None,
    scale_format: options.ScaleFormatOption = None,
    per: options.PerOption = None,
    unit: UnitOption = None,
    importance: options.ImportanceOption = None,
    bins: options.BinsOption = None,
    range_: options.RangeOption = None,
    format_: FormatOption = "auto",
    output: OutputOption = None,
) -> None:
    """Show why a tensor has the scale it has.

    How its values are distributed, and what of them is kept; what candidates
    lose, and the choice among them; what other methods would choose, and
    cost; how flat the choice is; what the outermost values cost.
    """
    from klcal.cli.output import destination
    from klcal.cli.progress import progress
    from klcal.cli.verdict import told
    from klcal.kernels.threads import cores
    from klcal.pipeline.request import Request
    from klcal.quantizers.scheme import parse_range
    from klcal.sketches.device_counting import usable_devices

    name = _format(format_, output)
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
        detail="all",
        unit=unit,
    )
    write = _writer(name)

    from klcal.pipeline.explain import explain_file  # after what can be wrong with the command line

    usable_devices(device)
    with destination(output, [file, *([] if importance is None else [importance])]) as deliver:
        with progress() as shown:
            table = explain_file(file, tensor, request, dequantize=dequantize, jobs=jobs or cores(), progress=shown)
        if table.rows:
            deliver(partial(write, table), table.usable)
    raise typer.Exit(told(table, ()))


def _format(asked: str, output: str | None) -> str:
    """The name of the format: as asked, or by the file's suffix."""
    import sys

    suffix = Path(output or "").suffix.lower()
    if asked == "auto" and output not in (None, "-") and suffix not in SUFFIXES:
        raise UsageError(f"the suffix of '{output}' names no format", f"end it in one of {', '.join(SUFFIXES)}")
    name = SUFFIXES.get(suffix, "text") if asked == "auto" else asked
    if name == "png" and output in (None, "-") and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("the format png is binary, and stdout is a terminal", "name a file with --output")
    return name


def _writer(name: str) -> Any:
    """The writer of a format. It is imported now, so that a missing package is an error before anything is read."""
    from importlib import import_module

    module = import_module(f"klcal.writers.{MODULES[name]}")
    if name not in ("png", "svg"):
        return module.write
    module.check()
    return partial(module.write, format_=name)
