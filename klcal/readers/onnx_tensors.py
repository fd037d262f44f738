"""The graph of an ONNX model, and the graphs within its nodes: their tensors, and the nodes that quantize."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.onnx_fields import (
    ATTRIBUTE,
    ATTRIBUTE_INTEGER,
    ATTRIBUTE_NAME,
    DAMAGED,
    INITIALIZER,
    INPUT,
    MAX_GRAPHS,
    MAX_NAME_BYTES,
    NODE,
    OP_TYPE,
    OUTPUT,
    SPARSE_INITIALIZER,
    SPARSE_TENSOR,
    SUBGRAPH,
    SUBGRAPHS,
    TENSOR,
)
from klcal.readers.onnx_graph import CHANNEL_AXES, node_at
from klcal.readers.onnx_graph import Node as Taker
from klcal.readers.onnx_quantized import DEQUANTIZE, OPERATORS, Node
from klcal.readers.protobuf import Field, Messages, signed

__all__ = ["Found", "in_graph"]

CONSTANT = "Constant"
MAX_OPERATOR_BYTES = max(map(len, (CONSTANT, *OPERATORS, *CHANNEL_AXES)))
KEYS = {"axis": "axis", "block_size": "block"}  # attributes by their names in ONNX: fields of a Node


class Found(NamedTuple):
    """A tensor in a graph."""

    message: Field
    name: str | None  # that of a Constant's output; None for its own
    sparse: bool = False
    depth: int = MAX_GRAPHS  # graphs that may be within its own; of the model's graph all


def in_graph(messages: Messages, graph: Field, depth: int = MAX_GRAPHS) -> Iterator[Found | Node | Taker]:
    """The tensors of a graph, the nodes that quantize and those that have weights, in the order of the file.

    Args:
        messages: of the model.
        graph: A GraphProto.
        depth: How deep graphs may still be nested.

    Raises:
        InputError: If a message is damaged, or more graphs are within each other.
    """
    if not depth:
        raise InputError(f"its graphs are nested more than {MAX_GRAPHS} deep", DAMAGED)
    for each in messages.fields(graph):
        if each.key == INITIALIZER:
            yield Found(each, None, depth=depth)
        elif each.key == SPARSE_INITIALIZER:
            yield Found(each, None, True, depth)
        elif each.key == NODE:
            yield from _in_node(messages, each, depth)


def _in_node(messages: Messages, node: Field, depth: int) -> Iterator[Found | Node | Taker]:
    """The node itself if it quantizes, the tensor of a Constant, and the contents of the graphs in its attributes."""
    inputs, outputs, attributes, operator = list[Field](), list[Field](), list[Field](), ""
    for each in messages.fields(node):
        if each.key == INPUT:
            inputs.append(each)
        elif each.key == OUTPUT:
            outputs.append(each)
        elif each.key == ATTRIBUTE:
            attributes.append(each)
        elif each.key == OP_TYPE and each.end - each.start <= MAX_OPERATOR_BYTES:
            operator = messages.bytes(each, MAX_OPERATOR_BYTES).decode("latin-1")
    if operator in CHANNEL_AXES:
        yield node_at(messages, node)[0]
    if operator in OPERATORS:
        names = tuple(messages.text(each, MAX_NAME_BYTES) for each in inputs)
        numbers = _numbers(messages, attributes) if operator == DEQUANTIZE else {}
        yield Node(operator, names, **numbers)
    for each in (each for attribute in attributes for each in messages.fields(attribute)):
        if each.key in (SUBGRAPH, SUBGRAPHS):
            yield from in_graph(messages, each, depth - 1)
        elif operator == CONSTANT and outputs and each.key in (TENSOR, SPARSE_TENSOR):
            yield Found(each, messages.text(outputs[0], MAX_NAME_BYTES), each.key == SPARSE_TENSOR, depth)


def _numbers(messages: Messages, attributes: list[Field]) -> dict[str, int]:
    """The attributes of a DequantizeLinear that say which values share a scale."""
    found = dict[str, int]()
    for attribute in attributes:
        fields = {each.key: each for each in messages.fields(attribute)}
        if ATTRIBUTE_NAME in fields and ATTRIBUTE_INTEGER in fields:
            name = messages.text(fields[ATTRIBUTE_NAME], MAX_NAME_BYTES)
            if name in KEYS:
                found[KEYS[name]] = signed(fields[ATTRIBUTE_INTEGER].integer)
    return found
