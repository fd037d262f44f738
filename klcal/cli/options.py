"""The options that commands share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from klcal.errors import UsageError
from klcal.tables.schema import DEFAULT_RULES, DIFFERENCE_FIELDS, NUMERIC_FIELDS

INPUT, METHOD, OUTPUT, CI = "Input", "Method", "Output", "CI"  # the panels of --help

Format = Literal["auto", "table", "plain", "json", "jsonl", "csv", "md", "safetensors", "github", "junit", "sarif"]
Nonfinite = Literal["fail", "ignore"]


Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATHS...",
        show_default=False,
        help=".safetensors, .onnx, .gguf, .pt, .pth, .bin, .ckpt, .npy and .npz files, the index of a sharded "
        "checkpoint, directories of them to any depth, patterns in quotes; - for a .npy or .safetensors file on stdin.",
    ),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="GLOB",
        rich_help_panel=INPUT,
        help="Only tensors with a matching name (* ? [...]); may be repeated.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="GLOB", rich_help_panel=INPUT, help="No tensors whose name matches; may be repeated."
    ),
]
DequantizeOption = Annotated[
    bool,
    typer.Option(
        "--dequantize",
        rich_help_panel=INPUT,
        help="Float8 and int8 codes with a weight_scale or weight_scale_inv beside them (of the tensor, channels or "
        "blocks), Q8_0, Q4_0, Q4_1 and MXFP4 of a .gguf, and what klcal apply wrote, are read as the values that they "
        "encode. Without it they are skipped.",
    ),
]
PoolOption = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="dir|stem|name|REGEX",
        show_default="a row for every tensor of every file",
        rich_help_panel=INPUT,
        help="One tensor of many files, whose arrays are its batches, joined along axis 0. dir: the files of a "
        "directory are one; stem: conv1_000.npy, conv1_001.npy, ... are conv1; name: tensors of the same name; REGEX, "
        "searched in SOURCE/NAME (a .npy: in SOURCE): its groups are what a tensor becomes, '(.*)/step[0-9]+'. Named "
        "tensors, as in a .npz, are pooled name by name; arrays one behind the other in a .npy, or on stdin, are "
        "batches too. A batch that is damaged or of another dtype is named and left out; by calibrate one with NaN, "
        "too. --include and --exclude choose batches, rules such as those of --dtype are by the pooled names.",
    ),
]
NonfiniteOption = Annotated[
    Nonfinite,
    typer.Option(
        "--nonfinite",
        rich_help_panel=INPUT,
        help="A tensor with NaN or infinity is not calibrated (fail), or its finite values are (ignore).",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        rich_help_panel=INPUT,
        help="Where the values of tensors with a single scale are counted: cpu, cuda, cuda:N, cuda:all (several "
        "devices share the tensors), or auto: the CPU, unless much is to be read and few cores are there. Channels, "
        "groups and weighted values are counted on the CPU. The result is the same.",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        show_default="the cores this process may use",
        rich_help_panel=INPUT,
        help="How many cores are used. The result is the same.",
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        show_default=False,
        rich_help_panel=INPUT,
        help="Work on a Dask cluster: tcp://HOST:PORT of its scheduler, whose workers see the files under the same "
        "absolute paths, or local for --jobs processes on this machine. The result is the same. Needs klcal[dask].",
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        rich_help_panel=OUTPUT,
        help="Say on stderr what works, and why: devices, processes, threads, the kernel.",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        show_default="kl",
        rich_help_panel=METHOD,
        help="How the range is chosen: kl, kl-classic, mse, percentile, minmax; with parameters after a colon: "
        "kl:weight=1, percentile:99.99. For this option and the next four, 'GLOB=VALUE' is for the tensors of which a "
        "name matches; may be repeated, the first that matches holds.",
    ),
]
DtypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        show_default="uint8",
        rich_help_panel=METHOD,
        help="What to quantize to: int2 to int16, uint2 to uint16, float8_e4m3fn, float8_e5m2, float4_e2m1fn, nf4.",
    ),
]
SchemeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme",
        metavar="SCHEME",
        show_default="auto",
        rich_help_panel=METHOD,
        help="symmetric (fixed zero point; int4: -7..7), symmetric-full (-8..7, which four-bit consumers have: half a "
        "dB better), symmetric-signed (-8..7 and a scale that may be negative, for consumers that multiply by any "
        "scale, as GGUF's Q4_0 and ONNX Runtime: another half), affine (searched zero point), or auto: affine for "
        "unsigned types, symmetric for all others.",
    ),
]
ScaleFormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scale-format",
        metavar="FORMAT",
        show_default="float32",
        rich_help_panel=METHOD,
        help="The number format of the scales: float32, float16, bfloat16, e8m0 (a power of two: MXFP4), or "
        "float8_e4m3fn (units' scales, relative to one float32 of the tensor: NVFP4, with --per group:16). What is "
        "printed is what will run; a scale that the format cannot hold is an underflow or overflow.",
    ),
]
PerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--per",
        metavar="UNIT",
        show_default="tensor",
        rich_help_panel=METHOD,
        help="What gets a scale of its own: tensor, channel (along the first axis), channel:AXIS, group:SIZE (along "
        "the last axis), group:SIZE,AXIS, block:ROWS,COLUMNS (of the last two axes; float8 checkpoints have "
        "block:128,128).",
    ),
]
ImportanceOption = Annotated[
    str | None,
    typer.Option(
        "--importance",
        metavar="FILE",
        rich_help_panel=METHOD,
        help="How much the error of each value counts in the choice, by tensor name: a weight for each column (an "
        "index of the last axis), best the mean square of its inputs, or for each value. .safetensors, .npz, a .npy "
        "for a single tensor, or what llama-imatrix writes, for tensors with GGUF's names. Only ratios count. For "
        "methods with a cost: kl, kl-classic, mse. The figures stay unweighted.",
    ),
]
BinsOption = Annotated[
    int | None,
    typer.Option(
        "--bins",
        min=1,
        metavar="N",
        show_default="the method's, 2048",
        rich_help_panel=METHOD,
        help="Histogram bins over the range that is kept, up to 65536: short for --method METHOD:bins=N, for each "
        "METHOD. With fewer than 1.5 per level no cell is cut, and kl is mse.",
    ),
]
RangeOption = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="LO,HI",
        rich_help_panel=METHOD,
        help="Bounds of the range, LO ≤ 0 ≤ HI, such as --range=-1,2.5; values beyond are clipped and counted. "
        "A symmetric scheme takes the larger of -LO and HI for both sides.",
    ),
]


def processes(jobs: int | None, scheduler: str | None) -> int:
    """How many processes of this machine may work.

    Raises:
        UsageError: they are asked for, and so is a scheduler that has workers of its own.
    """
    from klcal.kernels.threads import cores

    if jobs is not None and scheduler not in (None, "local"):
        raise UsageError("--jobs counts processes of this machine, the scheduler has its own", "leave one of them out")
    return jobs or cores()


def _again(option: str, metavar: str) -> Any:
    return typer.Option(
        option,
        metavar=metavar,
        show_default="the baseline's",
        rich_help_panel=METHOD,
        help="As in klcal calibrate; may be repeated.",
    )


MethodAgainOption = Annotated[list[str] | None, _again("--method", "METHOD")]
DtypeAgainOption = Annotated[list[str] | None, _again("--dtype", "DTYPE")]
SchemeAgainOption = Annotated[list[str] | None, _again("--scheme", "SCHEME")]
ScaleFormatAgainOption = Annotated[list[str] | None, _again("--scale-format", "FORMAT")]
PerAgainOption = Annotated[list[str] | None, _again("--per", "UNIT")]


def _sort(usual: str | None, fields: tuple[str, ...]) -> Any:
    return typer.Option(
        "--sort",
        metavar="FIELD",
        show_default=usual or "by file and name",
        rich_help_panel=OUTPUT,
        help=f"The worst rows come first, rows without the number last: {', '.join(fields)}.",
    )


SortOption = Annotated[str | None, _sort(None, NUMERIC_FIELDS)]
DifferenceSortOption = Annotated[str, _sort("js", DIFFERENCE_FIELDS)]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        rich_help_panel=OUTPUT,
        help="auto is by the suffix of --output; else a table on a terminal and plain (tab-separated) elsewhere. "
        "safetensors is binary, for very many units: to a file or a pipe, never to a terminal. github, junit and sarif "
        "have what met --fail-on and what failed: annotations of a workflow, a test for each tensor, code scanning.",
    ),
]
TopOption = Annotated[
    int | None,
    typer.Option("--top", min=1, metavar="N", rich_help_panel=OUTPUT, help="Only the first N rows are written."),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME,NAME,...",
        show_default="those that say something",
        rich_help_panel=OUTPUT,
        help="The columns of a table and of Markdown, in this order, behind the name: scale,sqnr_db,hist. With a plus "
        "before each, +hist, behind the usual ones. hist is how the values are distributed. Other formats have all.",
    ),
]
UnitsOption = Annotated[
    bool,
    typer.Option(
        "--units",
        rich_help_panel=OUTPUT,
        help="A line for each channel or group, with its number, in place of a line for each tensor.",
    ),
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default="stdout",
        rich_help_panel=OUTPUT,
        help="Write the answer here, all of it or nothing, and over no file where no tensor is usable: .json, .jsonl, "
        ".csv, .md, .tsv, .txt, .safetensors, .xml (junit), .sarif; - for stdout. May be repeated: then each is by its "
        "suffix, and --format is for what has none, as -.",
    ),
]


def _fail_on(example: str, fields: tuple[str, ...], more: str = "") -> Any:
    return typer.Option(
        "--fail-on",
        metavar="'FIELD OP NUMBER'",
        rich_help_panel=CI,
        help=f"Exit with 1 if a tensor meets this, such as {example}; may be repeated. "
        f"OP is <, <=, > or >=; FIELD is {', '.join(fields)}{more}. An unknown value counts as a failure.",
    )


OF_WORST = " (shares also in percent); unit.FIELD, such as unit.sqnr_db, is about the worst channel, group or block"
FailOnOption = Annotated[list[str] | None, _fail_on("'sqnr_db < 20' or 'clipped > 1%'", NUMERIC_FIELDS, OF_WORST)]
RulesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="RULE",
        show_default="; ".join(DEFAULT_RULES),
        rich_help_panel=CI,
        help="Exit with 1 if a tensor meets this, such as 'd.scale > 2%', 'd.sqnr_db < -0.5' or missing; may be "
        "repeated. All rules are below. An unknown value counts as a failure.",
    ),
]
DifferenceFailOnOption = Annotated[list[str] | None, _fail_on("'kl > 0.01' or 'cosine < 0.99'", DIFFERENCE_FIELDS)]
