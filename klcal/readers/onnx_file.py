"""A .onnx file: a protobuf message ModelProto, in which a graph holds tensors.

Read are the initializers and the tensors of Constant nodes, which ONNX Runtime treats alike and some exporters write
instead, of the graph and of the graphs within its nodes. The name is the one by which nodes take the values, so that
of a Constant is its output's. A Constant of one value is a parameter, often -inf, and "skipped": it is no weight. What
functions of the model hold is not read: it has no name in the graph.

Nothing is read but fields and names; values stay where they are, in the file or in files beside it. One damaged tensor
costs the others nothing; a damaged message, which could be taken for anything, costs the file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, field, replace

from klcal.errors import InputError
from klcal.readers.description import Description, Part
from klcal.readers.onnx_data import Beside, IntegersSpan, tied
from klcal.readers.onnx_fields import (
    DAMAGED,
    DATA_TYPE,
    DIMS,
    DOUBLES,
    EXTERNAL,
    FLOATS,
    GRAPH,
    INT32S,
    KEY,
    KINDS,
    LOCATION,
    MAX_GRAPHS,
    MAX_NAME_BYTES,
    NAME,
    PACKED_DIMS,
    PACKED_SPARSE_DIMS,
    RAW,
    SEGMENT,
    SPARSE_DIMS,
    SPARSE_VALUES,
    VALUE,
    Kind,
)
from klcal.readers.onnx_graph import Node as Taker
from klcal.readers.onnx_graph import output_axes
from klcal.readers.onnx_quantized import Node, recognised_by, values_needed
from klcal.readers.onnx_tensors import Found, in_graph
from klcal.readers.pairs import paired
from klcal.readers.protobuf import Field, Messages, signed
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, spans
from klcal.tables.status import Status

__all__ = ["describe", "entries_in"]

ONCE = (DATA_TYPE, NAME, RAW, LOCATION)  # a TensorProto has these at most once

MAX_TENSORS = 1 << 17  # the limit of tensors in an archive, too
MAX_RANK = 64  # dimensions, as in NumPy
MAX_BYTES = (1 << 63) - 1
MAX_ENTRIES = 64  # of external data: a location, an offset, a length, a checksum, more of ONNX Runtime
SAVE = "save the model again with onnx.save"


WHOLES = {2: "|u1", 3: "|i1", 4: "<u2", 5: "<i2", 21: "|u1", 22: "|u1"}
"""By type, how those integers lie that codes and zero points may be; of 4 bits two in a byte."""
WHOLE = ("bool", "int", "uint")  # the beginnings of the names of types without fractions


@dataclass
class Tensor:
    """A message TensorProto, as far as it is read."""

    dims: list[int] = field(default_factory=list)
    once: dict[int, Field] = field(default_factory=dict)  # fields that it has once
    values: list[Field] = field(default_factory=list)  # RAW, FLOATS, INT32S, DOUBLES
    external: list[Field] = field(default_factory=list)
    segmented: bool = False


def describe(file: RegularFile, name: str = "") -> list[Description]:  # noqa: ARG001
    """The tensors of a model, in the order of the file.

    Args:
        file: The file; its name says where data beside it are.
        name: The tensor's name in formats without names; not used here.

    Raises:
        InputError: If it is not an ONNX model, or one of its messages is damaged.
    """
    messages = Messages(file)
    graphs = [each for each in messages.fields(messages.whole()) if each.key == GRAPH]
    if len(graphs) != 1:
        what = f"has {len(graphs)} graphs" if graphs else "has no graph"
        raise InputError(f"it is not an ONNX model, or damaged: it {what}", DAMAGED)
    found, nodes, takers = list[Found](), list[Node](), list[Taker]()
    for each in in_graph(messages, graphs[0]):
        if isinstance(each, Node):
            nodes.append(each)
        elif isinstance(each, Taker):
            takers.append(each)
        else:
            found.append(each)
        if len(found) > MAX_TENSORS:
            raise InputError(f"it has more than {MAX_TENSORS:,} tensors", SAVE)
    beside, needed = Beside(file.path), values_needed(nodes)
    described = [_description(messages, file, beside, each, needed) for each in found]
    distinct = recognised_by(nodes, tied(_one_of_each_name(described)))
    weights = {each.name: len(each.shape) for each, at in zip(described, found, strict=True) if at.depth == MAX_GRAPHS}
    axes = output_axes(takers, weights)
    of_each = [next((axes[name] for name in (each.name, *each.aliases) if name in axes), None) for each in distinct]
    return [each if axis is None else replace(each, outputs=axis) for each, axis in zip(distinct, of_each, strict=True)]


def _one_of_each_name(found: list[Description]) -> list[Description]:
    """The tensors; of several with one name in different graphs only the first, which is not calibrated."""
    named: dict[str, list[Description]] = defaultdict(list)
    for each in found:
        named[each.name].append(each)
    reason = "several tensors of the model have this name; give each a name of its own"
    usable = {name: same[0] for name, same in named.items() if len(same) == 1}
    skipped = {name: same[0] for name, same in named.items() if all(each.status == "skipped" for each in same)}
    refused = {name: replace(same[0], parts=(), status="unsupported", reason=reason) for name, same in named.items()}
    return list((refused | skipped | usable).values())


def _description(
    messages: Messages, file: RegularFile, beside: Beside, found: Found, needed: Container[str]
) -> Description:
    """A tensor with the values that are calibrated, or needed though they are not."""
    tensor = (_sparse if found.sparse else _tensor)(messages, found.message)
    name = found.name
    if name is None:
        name = messages.text(tensor.once[NAME], MAX_NAME_BYTES) if NAME in tensor.once else ""
    number = tensor.once[DATA_TYPE].integer if DATA_TYPE in tensor.once else 0
    kind = KINDS.get(number, Kind(f"type {number}"))
    status, reason = _status(found, tensor, kind)
    parts: tuple[Part, ...] = ()
    if status == "ok" or (status == "skipped" and name in needed and not found.sparse):
        try:
            parts = _parts(
                messages, file, beside, tensor, replace(kind, storage=kind.storage or WHOLES.get(number, ""))
            )
        except InputError as error:
            if status == "ok":
                status, reason = "failed", str(error)
    raw, parts = (parts, ()) if status == "skipped" else ((), parts)
    return Description(name, kind.name, tuple(tensor.dims), parts, status, reason, raw=raw)


def _status(found: Found, tensor: Tensor, kind: Kind) -> tuple[Status, str | None]:
    """Whether values of this kind can be calibrated, and why not."""
    if kind.name.startswith(WHOLE):
        return "skipped", f"{kind.name} values are not calibrated"
    if found.sparse:
        return "unsupported", "sparse tensors cannot be calibrated; save it dense"
    if tensor.segmented:
        return "unsupported", f"tensors in segments cannot be calibrated; {SAVE}"
    if not kind.storage:
        return "unsupported", f"{kind.name} values cannot be calibrated; save it as float32"
    if found.name is not None and math.prod(tensor.dims) == 1:
        return "skipped", "a single value in a Constant node is not a weight"
    return "ok", None


def _sparse(messages: Messages, where: Field) -> Tensor:
    """The tensor of the values that are not 0, with the shape of all of them."""
    tensor, dims = Tensor(), list[int]()
    for each in messages.fields(where):
        if each.key == SPARSE_VALUES:
            tensor = _tensor(messages, each)
        elif each.key in (SPARSE_DIMS, PACKED_SPARSE_DIMS):
            dims = _more(messages, each, dims)
    tensor.dims = dims
    return tensor


def _more(messages: Messages, each: Field, dims: list[int]) -> list[int]:
    """The extents so far, and those of one more field."""
    dims = dims + [signed(integer) for integer in messages.integers(each, MAX_RANK)]
    if len(dims) > MAX_RANK:
        raise InputError(f"a tensor at position {each.start:,} has more than {MAX_RANK} axes", DAMAGED)
    return dims


def _tensor(messages: Messages, where: Field) -> Tensor:
    tensor = Tensor()
    for each in messages.fields(where):
        if each.key in ONCE:
            if each.key in tensor.once:
                raise InputError(f"a tensor has a field twice at position {each.start:,}", DAMAGED)
            tensor.once[each.key] = each
        if each.key in (DIMS, PACKED_DIMS):
            tensor.dims = _more(messages, each, tensor.dims)
        elif each.key in (RAW, FLOATS, INT32S, DOUBLES):
            tensor.values.append(each)
        elif each.key == EXTERNAL:
            tensor.external.append(each)
        tensor.segmented |= each.key == SEGMENT
    return tensor


def _parts(messages: Messages, file: RegularFile, beside: Beside, tensor: Tensor, kind: Kind) -> tuple[Part, ...]:
    """The parts of a tensor that can be calibrated.

    Raises:
        InputError: If its values are not in their place, or if their number does not fit the shape.
    """
    if not kind.storage:
        return ()
    if min(tensor.dims, default=0) < 0:
        raise InputError(f"its shape {quoted(repr(tensor.dims))} is not possible", DAMAGED)
    width, values = int(kind.storage[-1]), math.prod(tensor.dims)
    if math.prod(n for n in tensor.dims if n) * width > MAX_BYTES:
        raise InputError(f"its shape {quoted(repr(tensor.dims))} is larger than any memory", DAMAGED)
    if kind.bits:
        held = _stored(messages, file, beside, tensor, kind, -(-values * kind.bits // 8))
        return paired(held, values, is_signed=kind.name.startswith("int"))
    return _stored(messages, file, beside, tensor, kind, values * width)


def _stored(
    messages: Messages, file: RegularFile, beside: Beside, tensor: Tensor, kind: Kind, length: int
) -> tuple[Part, ...]:
    """The parts of ``length`` bytes, wherever they are."""
    place = tensor.once[LOCATION].integer if LOCATION in tensor.once else 0
    if place > 1:
        raise InputError(f"its values are in a place of the unknown kind {place:,}", SAVE)
    is_external = place == 1
    fields = {each.key for each in tensor.values if each.end > each.start}
    if is_external and not fields:
        return beside.parts(entries_in(messages, tensor.external), length, kind.storage)
    if is_external or not fields <= {RAW, kind.listed} or len(fields) > 1:
        raise InputError("its values are in the wrong field, or in two", SAVE)
    held = [each for each in tensor.values if each.key in fields]
    size = sum(each.end - each.start for each in held)
    if fields == {INT32S}:
        (only, *more), count = held, length // int(kind.storage[-1])
        if more or not count <= size:
            raise InputError(f"its shape needs {count:,} values, it has {size:,} at most", DAMAGED)
        return (IntegersSpan(file, only.start, size, count, kind.storage),)
    if size != length:
        raise InputError(f"its values have {size:,} bytes, its shape needs {length:,}", DAMAGED)
    return tuple(part for each in held for part in spans(file, each.start, each.end - each.start, kind.storage))


def entries_in(messages: Messages, external: list[Field]) -> dict[str, str]:
    """The entries by which a model locates data in another file."""
    if len(external) > MAX_ENTRIES:
        raise InputError(f"it has {len(external):,} entries about its data; {MAX_ENTRIES} are allowed", DAMAGED)
    found: dict[str, str] = {}
    for entry in external:
        pair = {each.key: messages.text(each, MAX_NAME_BYTES) for each in messages.fields(entry)}
        key = pair.get(KEY, "")
        if key in found:
            raise InputError(f"it gives the {quoted(key)} of its data twice", DAMAGED)
        found[key] = pair.get(VALUE, "")
    return found
