"""An `.onnx` with quantized weights and activations, by a table of each: written as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TextIO

import numpy as np

from klcal.errors import InputError, UsageError
from klcal.pipeline.apply import Applied, request_for, table_of
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.consumers import FUSED, Consumer, model_of
from klcal.pipeline.export import Item, checked, items_of, of_lost
from klcal.pipeline.model import files_of, tensors_of
from klcal.pipeline.request import Request
from klcal.pipeline.scales import read_scales
from klcal.pipeline.selection import Remark, names_of
from klcal.pipeline.tasks import Progress
from klcal.pipeline.work import Taken, Work, check_output
from klcal.readers import Description
from klcal.readers.addresses import is_remote
from klcal.readers.onnx_graph import CHANNEL_AXES, Node, graph_inputs_and_nodes
from klcal.readers.quoting import quoted
from klcal.readers.regular import open_regular
from klcal.readers.table_file import is_binary_table
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.file import replacement
from klcal.writers.forms import form_of
from klcal.writers.forms.onnx_static import Numbers, check_runtime, quantized
from klcal.writers.forms.onnx_versions import check_version, opset_of
from klcal.writers.onnx_file import parts_of
from klcal.writers.runtimes.ort import OVERRIDES
from klcal.writers.runtimes.runtime import Tensors, points, problem, scales

__all__ = ["apply_static"]

RUNTIME = replace(OVERRIDES, one_dtype=False, rectifier="")
"""What its command line cannot be told, ``quantize_static`` can: a type for each tensor, and to keep a Relu."""

FOLLOWING = frozenset(
    "AveragePool Flatten MaxPool Pad Reshape Resize Slice Split Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)
"""Operators whose outputs ONNX Runtime gives the scale of their input, where that is quantized."""

DTYPES = ("float32", "float16")  # of the floats of a model
LACKING = "ONNX Runtime quantizes it, and it has no scale: record it, or exclude the weight that its operator takes"
OF_KEPT = "it has no scale, and the Relu or Clip behind it stays: record it, or calibrate activations to uint8"
NOT_PLACED = "ONNX Runtime does not quantize it where it is: exclude it"
CHANGED = "ONNX Runtime raised its scales, so that the bias fits into int32"
UNUSED = "its scale is not used: ONNX Runtime gives it that of what its operator takes, or none"


def apply_static(
    path: str,
    output: str,
    to: str,
    by: Mapping[str, Any] | str | Table,
    *,
    activations: str | Table,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Writes an ``.onnx`` whose weights and activations are quantized, as ONNX Runtime does it.

    An operator is quantized where all that it takes and gives has a scale. Conv, ConvTranspose, Gemm and MatMul with a
    quantized weight have to be.

    Args:
        path: of the model.
        output: the new file; it is not there before all of it is.
        to: the form, "onnx".
        by: how the weights are calibrated, or a table of them: as ``apply_files`` has it.
        activations: a table of activations, or its file; or a file or directory of values, which are calibrated to
            uint8.
        include: globs, one of which a weight's name has to match.
        exclude: globs, none of which it may match.
        jobs: how many processes calibrate.
        scheduler: of a Dask cluster that calibrates instead: see ``klcal.pipeline.mapping.workers_at``.
        progress: is told how far calibrating is.

    Raises:
        UsageError: the output cannot be written, the model is no ``.onnx``, or ONNX Runtime is not there.
        InputError: nothing of the model can be used.
        OutputError: ONNX Runtime cannot quantize it; nothing is written.
    """
    if to != "onnx":
        raise UsageError(f"activations are quantized in ONNX alone, not in {to}", "leave out --activations")
    if is_remote(path):
        raise UsageError("ONNX Runtime reads models of this machine alone", "download it, and give the file")
    check_runtime()
    files, taken = files_of(path), Taken(form_of(to), include, exclude)
    if files.directory is not None or not path.lower().endswith(".onnx"):
        raise UsageError(f"'{path}' is no .onnx, whose activations could be quantized", "leave out --activations")
    asked = request_for(files, taken, {"per": "channel", **by}) if isinstance(by, Mapping) else by
    work = Work(files, output, to, asked, tuple(include), tuple(exclude))
    check_output(work)
    calibrate = partial(calibrate_files, jobs=jobs, scheduler=scheduler, progress=progress)
    inputs = [activations, *work.inputs] if isinstance(activations, str) else work.inputs
    with replacement(output, inputs) as file:
        described, source = tensors_of(files.tensors[0]), files.tensors[0].source
        wanted = [each for each in described if taken.of(source, each) is not None]
        dtype = _dtype(wanted)
        recorded, weights = _recorded(activations, dtype, calibrate), table_of(work, calibrate)
        rows = _rows(path, wanted, dtype, recorded, weights)
        if rows.errors:
            return Applied(0, len(described), 0, (), rows.errors)
        made = quantized(
            path,
            rows.tensors,
            rows.operators,
            dtype=dtype,
            opset=rows.opset,
            keeps_rectifiers=rows.keeps_rectifiers,
        )
        if errors := _lacking(rows, made.placed):
            return Applied(0, len(described), 0, (), errors)
        file.replace(partial(_write, made.data))
    many = len(rows.tensors.weights)
    said = *of_lost((recorded, weights)), *recorded.warnings, *(weights.warnings if isinstance(asked, Request) else ())
    return Applied(
        many,
        len(described) - many,
        len(made.data),
        (*said, *map(str, (*rows.warnings, *_otherwise(rows, made.placed)))),
        activations=sum(row.name in made.placed for row in rows.tensors.activations),
    )


def _write(data: bytes, out: TextIO) -> None:
    out.buffer.write(data)


def _dtype(weights: Iterable[Description]) -> str:
    """The type of a model's floats, by its weights."""
    dtypes = sorted({each.dtype for each in weights})
    if not dtypes:
        raise InputError("no weight of the model can be quantized", "check --include and --exclude")
    if len(dtypes) > 1 or dtypes[0] not in DTYPES:
        what = f"its weights are {' and '.join(dtypes)}; ONNX Runtime quantizes models of {' or '.join(DTYPES)}"
        raise InputError(what, "export the model in float32")
    return dtypes[0]


def _recorded(path: str | Table, dtype: str, calibrate: Callable[..., Table]) -> Table:
    """The table of activations: that of the file, or of the values that are in it."""
    if isinstance(path, Table) or path.lower().endswith(".json") or is_binary_table(path):
        return replace(read_scales(path), warnings=())  # which were told when it was made
    return calibrate([path], Request.parse(dtype="uint8", scale_format=dtype))


# --- what is quantized


class _Rows(NamedTuple):
    """What of two tables is for a model."""

    tensors: Tensors
    operators: frozenset[str]  # that may be quantized, each by its first output
    opset: int  # that they need
    keeps_rectifiers: bool
    consumer: Consumer
    unusable: Mapping[str, str]  # activations that have no scale, and why
    errors: tuple[Remark, ...]
    warnings: tuple[Remark, ...]


def _rows(path: str, wanted: Sequence[Description], dtype: str, recorded: Table, weights: Table) -> _Rows:
    """What of the tables is for a model, and what is wrong with it."""
    consumer = model_of(path)
    names = {name for each in wanted for name in names_of(each)}
    items = [each for each in items_of(weights, True) if not names.isdisjoint(each.names)]
    taken = [each.row for each in items_of(recorded, False) if not consumer.is_weight(each.row.name)]
    strange = [row.name for row in taken if row.name not in consumer.names]
    unusable = {row.name: text for row in taken if (text := problem(RUNTIME, row, is_weight=False)) is not None}
    items += [Item(row, False) for row in taken if row.name in consumer.names and row.name not in unusable]
    found = checked(RUNTIME, items, replace(consumer, wanted=()), lambda _name: True)
    rows = [row for some in found.tensors for row in some]
    rounded = [row.name for row in rows if not np.array_equal(scales(row).astype(dtype), scales(row))]
    rowless = [each.name for each in wanted if {row.name for row in rows}.isdisjoint(names_of(each))]
    warnings = (
        *_remarks(strange, f"it is no tensor of {consumer.source}"),
        *_remarks(rowless, "the table has no row for it: it is kept as it is, and its operator with it"),
        *found.warnings,
    )
    file = open_regular(path)
    _, nodes = graph_inputs_and_nodes(file)
    asks = max(rows, key=lambda row: opset_of(row, dtype))
    opset = opset_of(asks, dtype)
    check_version(f"{consumer.source}: {quoted(asks.name)} as {asks.target}", parts_of(file), nodes, opset)
    return _Rows(
        found.tensors,
        frozenset(_operators(nodes, found.tensors, consumer.fused)),
        opset=opset,
        keeps_rectifiers=any(consumer.unrectified(row) for row in found.tensors.activations),
        consumer=consumer,
        unusable=unusable,
        errors=found.errors or _remarks(rounded, f"its scale is no {dtype}: calibrate it with --scale-format {dtype}"),
        warnings=warnings,
    )


def _remarks(names: Collection[str], text: str) -> tuple[Remark, ...]:
    return (Remark(tuple(names), text),) if names else ()


def _operators(nodes: Iterable[Node], tensors: Tensors, fused: Collection[str]) -> Iterator[str]:
    """Those that may be quantized, each by its first output; ``fused`` is what goes into a Relu or Clip alone."""
    activations, weights = ({row.name for row in some} for some in tensors)
    for node in nodes:
        takes_weight = node.op in CHANNEL_AXES and not weights.isdisjoint(node.inputs[1:2])
        is_fused = node.op in FUSED and (
            not activations.isdisjoint(node.outputs) or not set(fused).isdisjoint(node.inputs[:1])
        )
        names = {name for name in (*node.inputs, *node.outputs) if name}
        if takes_weight or is_fused or node.op in FOLLOWING or names <= activations | weights:
            yield from node.outputs[:1]


# --- what came of it


def _lacking(rows: _Rows, placed: Mapping[str, Numbers]) -> tuple[Remark, ...]:
    """What ONNX Runtime quantizes without a scale of ours, and weights that it does not."""
    known = {row.name for some in rows.tensors for row in some}
    missing = [name for name in placed if name not in known]
    kept = [name for name in missing if rows.keeps_rectifiers and name in rows.consumer.fused]
    other = [name for name in missing if name not in rows.unusable and name not in kept]
    return (
        *(Remark((name,), rows.unusable[name]) for name in missing if name in rows.unusable),
        *_remarks(other, LACKING),
        *_remarks([name for name in kept if name not in rows.unusable], OF_KEPT),
        *_remarks([row.name for row in rows.tensors.weights if row.name not in placed], NOT_PLACED),
    )


def _otherwise(rows: _Rows, placed: Mapping[str, Numbers]) -> tuple[Remark, ...]:
    """What ONNX Runtime made of the scales, where that is something else."""
    unused = [
        row.name
        for row in rows.tensors.activations
        if row.name not in placed and (rows.keeps_rectifiers or row.name not in rows.consumer.fused)
    ]
    changed = [row.name for some in rows.tensors for row in some if row.name in placed and _differs(row, placed)]
    return *_remarks(unused, UNUSED), *_remarks(changed, CHANGED)


def _differs(row: Row, placed: Mapping[str, Numbers]) -> bool:
    scale, point = placed[row.name]
    return not (np.array_equal(scale.ravel(), scales(row)) and np.array_equal(point.ravel(), points(row)))
