"""``klcal apply``: quantizes a model and writes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from klcal.cli import options
from klcal.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from klcal.pipeline.apply import Applied

__all__ = ["EXAMPLES", "apply"]

To = Literal["compressed-tensors", "gguf", "onnx", "fake", "safetensors", "npz"]

EXAMPLES = """\
\b
Examples:
  A language model in int4, as transformers loads it:
    klcal apply model/ --to compressed-tensors -o model-int4/
  Its attention in int8, all else in int4:
    klcal apply model/ --dtype '*self_attn*=int8' --dtype int4 --to compressed-tensors -o mixed/
  Plain integers and scales, in groups of 128, of all but the embedding:
    klcal apply model/ --dtype int4 --scheme symmetric-full --per group:128 --exclude '*embed*' --to safetensors -o q/
  The same by a table that was looked at before:
    klcal calibrate model/ --dtype int8 --per channel --include '*.weight' -o scales.safetensors
    klcal apply model/ --table scales.safetensors --to safetensors -o q/
  A .gguf in Q4_0, embedding and output in Q8_0:
    klcal apply model-f16.gguf --dtype int4 --to gguf -o model-q4_0.gguf
  The weights of an .onnx in int8, which ONNX Runtime makes float again:
    klcal apply model.onnx --to onnx -o model-int8.onnx
  The same with its activations, recorded under the names of its tensors; ONNX Runtime then runs integers:
    klcal apply model.onnx --activations activations.npz --to onnx -o quantized.onnx
  What it cost, measured on what was written:
    klcal compare model/ q/ --dequantize

\b
Exit codes:
  0  done
  2  wrong usage, nothing was read
  3  nothing usable in the input
  4  a tensor cannot be quantized, or the output not be written: there is no output
  5  a bug in klcal (KLCAL_DEBUG=1 shows where)
  130 interrupted, 143 terminated, 129 hung up
"""

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A file, a directory, or the index of a sharded checkpoint. Of a directory the other files are carried "
        "along.",
    ),
]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="TABLE",
        rich_help_panel=options.INPUT,
        help="What klcal calibrate wrote for this model: .json or .safetensors. Without one, the model is calibrated "
        "first, by the options below.",
    ),
]
ActivationsOption = Annotated[
    str | None,
    typer.Option(
        "--activations",
        metavar="TABLE|FILE",
        rich_help_panel=options.INPUT,
        help="With --to onnx, quantize activations too: a table of klcal calibrate, or values of the graph's tensors "
        "under their names, which are calibrated to uint8. ONNX Runtime places QuantizeLinear and DequantizeLinear: "
        "pip install 'klcal[onnxruntime]'.",
    ),
]
ToOption = Annotated[
    To | None,
    typer.Option(
        "--to",
        rich_help_panel=options.OUTPUT,
        show_default=False,
        help="compressed-tensors: what transformers, vLLM and others load, of a directory with a config.json. Of its "
        "weights with two axes all but embeddings, heads and routers, or those that --include names. By default int4 "
        "in groups of 128 (int8 and float8 in channels; float4_e2m1fn as MXFP4, with --per group:16 as NVFP4), "
        "symmetric-full, scales of the model's dtype. gguf: of a .gguf in F32, F16 or BF16, what llama.cpp runs: Q8_0 "
        "(--dtype int8, the default), Q4_0 (int4), Q4_1 (uint4) or MXFP4 (float4_e2m1fn). Of its tensors those that "
        "llama-quantize quantizes, or that --include names; all else is carried along. onnx: of an .onnx, weights as "
        "integers and DequantizeLinear: those of Conv, ConvTranspose, Gemm and MatMul, or that --include names. By "
        "default int8 in channels (4 bits in groups of 128 inputs), which lie along the outputs of the operator, "
        "groups along its inputs. Models of opset 13 (int8), 19 (float8) or 21 (4 bits, groups), or raised to it where "
        "that changes no operator. safetensors or npz: plain "
        "integers NAME, NAME_scale and NAME_zero_point beside them. fake: the input again, its values rounded to what "
        "their codes stand for.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        show_default=False,
        rich_help_panel=options.OUTPUT,
        help="A file for a file, a directory for a directory, that is not there yet: it appears when it is complete.",
    ),
]


def apply(
    model: ModelArgument,
    to: ToOption = None,
    output: OutputOption = None,
    table: TableOption = None,
    activations: ActivationsOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
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
) -> None:
    """Quantize MODEL: write the codes and scales that a table stands for.

    Tensors that --include and --exclude choose are quantized, all others are
    carried along as they are. One tensor at a time is read, and OUT is the
    whole of it or not there.
    """
    from klcal.cli.messages import capped, line, remark, say
    from klcal.cli.progress import progress
    from klcal.quantizers.scheme import parse_range

    if to is None or output is None:
        what = "where the quantized model is written has to be named" if to else "there are several forms"
        raise UsageError(what, "klcal apply MODEL --to FORM -o OUT")
    processes = options.processes(jobs, scheduler)
    asked: dict[str, Any] = {
        "dtype": dtype,
        "method": method,
        "scheme": scheme,
        "scale_format": scale_format,
        "per": per,
        "bins": bins,
        "range": None if range_ is None else parse_range(range_),
        "nonfinite": None if nonfinite == "fail" else nonfinite,
        "device": None if device == "auto" else device,
        "importance": importance,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if table is not None and (given or (scheduler and activations is None)):
        option = next(iter(given), "scheduler").replace("_", "-")
        raise UsageError(f"--{option} is for calibration, which --table has done", "leave one of them out")
    by = _options(given) if table is None else table

    from klcal.sketches.device_counting import usable_devices

    usable_devices(device)
    with progress() as shown:
        done = _function(activations)(
            model,
            output,
            to,
            by,
            include=include or (),
            exclude=exclude or (),
            jobs=processes,
            scheduler=scheduler,
            progress=shown,
        )
    remark(capped([line(kind="warning", text=text) for text in done.warnings]))
    if done.errors:
        say(capped([line(each.place, kind="error", text=each.text) for each in done.errors]))
        raise typer.Exit(ExitCode.PARTIAL)
    remark([line(text=f"{output}: {done.headline}")])
    raise typer.Exit(ExitCode.DONE)


def _function(activations: str | None) -> Callable[..., Applied]:
    """The function that quantizes: for weights, or with ``--activations`` for weights and activations."""
    if activations is None:
        from klcal.pipeline.apply import apply_files

        return apply_files
    from klcal.pipeline.static import apply_static

    return partial(apply_static, activations=activations)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """The options for the calibration that were given, as keywords of ``Request.parse``."""
    bounds = given.pop("range", None)
    return {"device": "auto", "bounds": bounds, **given}
