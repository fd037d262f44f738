"""A copy of an .onnx file in which nodes make some of the tensors. Everything else stays, byte for byte.

Data in files beside the model are copied into the new file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.onnx_data import Beside
from klcal.readers.onnx_fields import (
    ATTRIBUTE,
    ATTRIBUTE_INTEGER,
    ATTRIBUTE_NAME,
    ATTRIBUTE_TYPE,
    DATA_TYPE,
    DIMS,
    EXTERNAL,
    FUNCTION,
    GRAPH,
    GRAPH_INPUT,
    INITIALIZER,
    INPUT,
    IR_VERSION,
    LOCATION,
    MAX_NAME_BYTES,
    NAME,
    NODE,
    NODE_NAME,
    OP_TYPE,
    OPSET,
    OPSET_DOMAIN,
    OPSET_VERSION,
    OUTPUT,
    RAW,
)
from klcal.readers.onnx_file import entries_in
from klcal.readers.onnx_graph import node_at, value_name
from klcal.readers.protobuf import Field, Messages
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile
from klcal.writers.protobuf import Edit, Piece, edited, field, header, number, placed, size
from klcal.writers.safetensors_file import Stored

__all__ = ["ONNX", "Made", "Parts", "parts_of", "rewritten"]

ONNX = ("", "ai.onnx")  # the domain of ONNX's own operators, which has two names
ELSEWHERE = 1  # TensorProto.EXTERNAL
INTEGER_ATTRIBUTE = 2  # AttributeProto.INT


class Made(NamedTuple):
    """A tensor, made by a node of others that are stored instead."""

    name: str  # the tensor's
    op: str
    node: str  # its name
    inputs: tuple[str, ...]
    integers: Mapping[str, int]  # the node's attributes


@dataclass(frozen=True)
class Parts:
    """The positions of the fields of a file that may be replaced."""

    graph: tuple[int, Field]
    ir_version: tuple[int, Field] | None
    opset: tuple[int, Field] | None
    version: int  # of ONNX's own operators; 1 where the model does not say
    tensors: Mapping[str, tuple[int, Field]]  # of the model's graph: initializers and Constant nodes
    inputs: Mapping[str, tuple[int, Field]]
    beside: frozenset[str]  # initializers whose data are in another file: they are brought in
    has_functions: bool

    @property
    def ir(self) -> int:
        """The version of the format."""
        return self.ir_version[1].integer if self.ir_version else 1


def parts_of(file: RegularFile) -> Parts:
    """The replaceable fields of a model.

    Raises:
        InputError: it is damaged.
    """
    messages = Messages(file)
    last: dict[int, tuple[int, Field]] = {}
    opset, version = None, 1
    for begin, each in placed(messages, messages.whole()):
        last[each.key] = begin, each
        if each.key == OPSET:
            domain, found = _opset(messages, each)
            opset, version = ((begin, each), found) if domain in ONNX else (opset, version)
    tensors, inputs, beside = dict[str, tuple[int, Field]](), dict[str, tuple[int, Field]](), set[str]()
    for begin, each in placed(messages, last[GRAPH][1]):
        if each.key == GRAPH_INPUT:
            inputs[value_name(messages, each)] = begin, each
        elif each.key == INITIALIZER:
            name, is_beside = _initializer(messages, each)
            tensors[name] = begin, each
            beside |= {name} if is_beside else set()
        elif each.key == NODE:
            node, _ = node_at(messages, each)
            tensors |= {node.outputs[0]: (begin, each)} if node.op == "Constant" and node.outputs else {}
    known = last[GRAPH], last.get(IR_VERSION), opset, version
    return Parts(*known, tensors, inputs, frozenset(beside), FUNCTION in last)


def _opset(messages: Messages, message: Field) -> tuple[str, int]:
    fields = {each.key: each for each in messages.fields(message)}
    domain = messages.text(fields[OPSET_DOMAIN], MAX_NAME_BYTES) if OPSET_DOMAIN in fields else ""
    return domain, fields[OPSET_VERSION].integer if OPSET_VERSION in fields else 1


def _initializer(messages: Messages, message: Field) -> tuple[str, bool]:
    fields = {each.key: each for each in messages.fields(message)}
    is_beside = LOCATION in fields and fields[LOCATION].integer == ELSEWHERE
    return messages.text(fields[NAME], MAX_NAME_BYTES) if NAME in fields else "", is_beside


def rewritten(
    file: RegularFile,
    parts: Parts,
    made: Iterable[Made],
    stored: Iterable[tuple[Stored, int]],
    versions: tuple[int, int],
) -> list[Piece]:
    """All bytes of a model in which nodes make some tensors.

    Args:
        file: the model.
        parts: of it.
        made: the tensors, with the nodes that make them; these come before all other nodes.
        stored: the tensors that are stored for them, and their types by the numbers of TensorProto.DataType.
        versions: of the format, and of ONNX's own operators.

    Raises:
        InputError: data in a file beside the model are missing.
    """
    ir, opset = versions
    replaced = [each.name for each in made]
    nodes = b"".join(field(NODE, _node(each)) for each in made)
    new = (Piece.of(nodes), *(piece for each in stored for piece in _tensor(*each)))
    begin, graph = parts.graph
    gone = [where[name] for where in (parts.tensors, parts.inputs) for name in replaced if name in where]
    messages, beside = Messages(file), Beside(file.path)
    edits = [Edit(begin, each.end) for begin, each in gone]
    edits += [
        _inside(messages, file, beside, name, *parts.tensors[name]) for name in sorted(parts.beside - {*replaced})
    ]
    inside = [*edited(file, graph, [Edit(graph.start, graph.start, new), *edits])]
    whole = messages.whole()
    return [
        *edited(
            file,
            whole,
            [
                Edit(begin, graph.end, (Piece.of(header(GRAPH, size(inside))), *inside)),
                *_version(whole, parts.ir_version, parts.ir, ir, number(IR_VERSION, ir)),
                *_version(whole, parts.opset, parts.version, opset, field(OPSET, number(OPSET_VERSION, opset))),
            ],
        )
    ]


def _inside(messages: Messages, file: RegularFile, beside: Beside, name: str, begin: int, tensor: Field) -> Edit:
    """An initializer whose data are in another file, with them.

    Raises:
        InputError: they are not where it says.
    """
    fields = [(at, each) for at, each in placed(messages, tensor) if each.key in (EXTERNAL, LOCATION)]
    entries = entries_in(messages, [each for _, each in fields if each.key == EXTERNAL])
    try:
        other, offset, length = beside.whole(entries)
    except InputError as error:
        raise InputError(f"{quoted(name)}: {error.what}", error.hint) from None
    raw = Piece.of(header(RAW, length)), Piece(length, lambda: other.blocks(offset, length))
    gone = [Edit(at, each.end) for at, each in fields]
    pieces = [*edited(file, tensor, [*gone, Edit(tensor.end, tensor.end, raw)])]
    return Edit(begin, tensor.end, (Piece.of(header(INITIALIZER, size(pieces))), *pieces))


def _version(whole: Field, there: tuple[int, Field] | None, old: int, new: int, data: bytes) -> Iterator[Edit]:
    """The edit that sets a version: in place of the old one, or at the end of the model if it has none."""
    if old != new:
        begin, end = (there[0], there[1].end) if there else (whole.end, whole.end)
        yield Edit(begin, end, (Piece.of(data),))


def _node(made: Made) -> bytes:
    attributes = (
        field(ATTRIBUTE_NAME, name) + number(ATTRIBUTE_INTEGER, value) + number(ATTRIBUTE_TYPE, INTEGER_ATTRIBUTE)
        for name, value in made.integers.items()
    )
    return b"".join(
        (
            *(field(INPUT, name) for name in made.inputs),
            field(OUTPUT, made.name),
            field(NODE_NAME, made.node),
            field(OP_TYPE, made.op),
            *(field(ATTRIBUTE, attribute) for attribute in attributes),
        )
    )


def _tensor(stored: Stored, kind: int) -> Iterator[Piece]:
    """An initializer, its values as they come."""
    dims = b"".join(number(DIMS, extent) for extent in stored.shape)
    head = dims + number(DATA_TYPE, kind) + field(NAME, stored.name) + header(RAW, stored.nbytes)
    yield Piece.of(header(INITIALIZER, len(head) + stored.nbytes) + head)
    yield Piece(stored.nbytes, stored.data)
