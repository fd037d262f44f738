"""``klcal export``: tables of scales in the form that a runtime loads."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from klcal.cli import options

__all__ = ["EXAMPLES", "export"]

EXAMPLES = """\
\b
Examples:
  Weights of an ONNX model and activations recorded from it, for ONNX Runtime:
    klcal calibrate model.onnx --dtype int8 --per channel -o weights.json
    klcal calibrate activations.npz -o activations.json
    klcal export activations.json weights.json --to ort --model model.onnx -o overrides.json
  Weights calibrated in another file, under other names:
    klcal export acts.json --weights w.json --to aimet-2.0.0 --rename 's/^module\\.//' -o model.encodings
  The names that the runtime needs, no more and no fewer:
    klcal export acts.json --to tensorrt-cache --names tensors.txt -o calibration.cache

\b
Formats:
  ort             overrides, for onnxruntime.quantization.static_quantize_runner
  ort-cache       ranges of activations, for quantize_static(calibration_cache_path=...)
  aimet-2.0.0     encodings of Qualcomm's AIMET; also aimet-1.0.0, aimet-0.6.1
  litert          calibration results, for ai-edge-quantizer
  tensorrt-cache  scales of activations, for TensorRT up to 10
  OpenVINO, QNN and others load what ONNX Runtime makes of the overrides.

\b
Exit codes:
  0  done
  2  wrong usage, or a file cannot be read
  3  a tensor cannot be exported, or names do not match: nothing was written
"""

To = Literal["ort", "ort-cache", "aimet-2.0.0", "aimet-1.0.0", "aimet-0.6.1", "litert", "tensorrt-cache"]

Tables = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TABLES...",
        show_default=False,
        help="Tables of klcal calibrate, .json or .safetensors: all go into one file.",
    ),
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="TABLE",
        rich_help_panel=options.INPUT,
        help="A table of weights; may be repeated. Tensors of TABLES are activations, but for those that are weights "
        "in --model, or were calibrated in a .onnx or .gguf.",
    ),
]
ToOption = Annotated[
    To, typer.Option("--to", show_default=False, rich_help_panel=options.OUTPUT, help="What the file is for.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE.onnx",
        rich_help_panel=options.INPUT,
        help="The model that the file is for: a tensor that it lacks is an error, one that the tables lack is a "
        "warning. Its initializers are weights, all other tensors activations.",
    ),
]
NamesOption = Annotated[
    str | None,
    typer.Option(
        "--names",
        metavar="FILE",
        rich_help_panel=options.INPUT,
        help="The names that the runtime needs, one on each line: one more or one fewer is an error.",
    ),
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="'s/OLD/NEW/'",
        rich_help_panel=options.INPUT,
        help="Change names of the tables: OLD is a regular expression of Python's, \\1 its first group; g at the end "
        "is for all places in a name. May be repeated, one is done after the other.",
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
        help="Write the file here, all of it or nothing; - for stdout.",
    ),
]


def export(
    tables: Tables = None,
    *,
    to: ToOption,
    weights: WeightsOption = None,
    model: ModelOption = None,
    names: NamesOption = None,
    rename: RenameOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    output: OutputOption = None,
) -> None:
    """Write scales in the form that a runtime loads.

    All tensors are written, or nothing. A tensor without a scale, or with
    a name, a type or units that the format cannot hold, is an error. Where
    the runtime will do otherwise than the table says, there is a warning.
    """
    from klcal.cli.messages import capped, line, remark, say
    from klcal.cli.output import destination
    from klcal.errors import ExitCode, UsageError

    if not tables and not weights:
        raise UsageError("there is no table", "klcal export TABLES... --to FORMAT -o FILE")

    from klcal.pipeline.export import export_tables
    from klcal.writers.file import write_text

    inputs = [*(tables or ()), *(weights or ()), *(each for each in (model, names) if each is not None)]
    with destination(output, inputs) as deliver:
        found = export_tables(
            tables or (),
            to,
            weights=weights or (),
            model=model,
            names=names,
            rename=rename or (),
            include=include or (),
            exclude=exclude or (),
        )
        text = found.text
        if text is not None:
            deliver(partial(write_text, text), True)
    for kind, remarks in (("warning", found.warnings), ("error", found.errors)):
        tell = say if kind == "error" else remark
        tell(capped([line(each.place, kind=kind, text=each.text) for each in remarks]))
    if found.advice:
        remark([line(text=found.advice)])
    raise typer.Exit(ExitCode.DONE if text is not None else ExitCode.NOTHING_USABLE)
