"""How a model's graph uses its tensors: what nodes take and give, as far as who quantizes them goes by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.onnx_file import GRAPH
from klcal.readers.onnx_tensors import (
    ATTRIBUTE,
    DAMAGED,
    MAX_GRAPHS,
    MAX_NAME_BYTES,
    NODE,
    OP_TYPE,
    OUTPUT,
    SUBGRAPH,
    SUBGRAPHS,
)
from klcal.readers.protobuf import BYTES, INTEGER, Field, Messages
from klcal.readers.regular import RegularFile

__all__ = ["Node", "graph_inputs_and_nodes"]

GRAPH_INPUT, VALUE_NAME = 11 << 3 | BYTES, 1 << 3 | BYTES  # of GraphProto, of ValueInfoProto
INPUT = 1 << 3 | BYTES  # of NodeProto
ATTRIBUTE_NAME, ATTRIBUTE_INTEGER = 1 << 3 | BYTES, 3 << 3 | INTEGER  # of AttributeProto


class Node(NamedTuple):
    """An operator, and the names of what it takes and gives; an input that is left out is ""."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, int]  # the attributes that hold one


def graph_inputs_and_nodes(file: RegularFile) -> tuple[list[str], list[Node]]:
    """The inputs of a model, and its nodes, those of graphs within nodes behind them.

    Raises:
        InputError: it is no ONNX model, or a message of it is damaged.
    """
    messages = Messages(file)
    inputs, nodes = list[str](), list[Node]()
    for each in messages.fields(messages.whole()):
        if each.key == GRAPH:
            _read_graph(messages, each, MAX_GRAPHS, inputs, nodes)
    return inputs, nodes


def _read_graph(messages: Messages, graph: Field, depth: int, inputs: list[str], nodes: list[Node]) -> None:
    if not depth:
        raise InputError(f"it has more than {MAX_GRAPHS} graphs within each other", DAMAGED)
    for each in messages.fields(graph):
        if each.key == GRAPH_INPUT:
            inputs += _texts(messages, each, VALUE_NAME)
        elif each.key == NODE:
            node, within = _node(messages, each)
            nodes.append(node)
            for inner in within:
                _read_graph(messages, inner, depth - 1, inputs, nodes)


def _texts(messages: Messages, message: Field, key: int) -> Iterator[str]:
    return (messages.text(each, MAX_NAME_BYTES) for each in messages.fields(message) if each.key == key)


def _node(messages: Messages, where: Field) -> tuple[Node, list[Field]]:
    """A node, and the graphs in its attributes."""
    names: dict[int, list[str]] = {INPUT: [], OUTPUT: [], OP_TYPE: []}
    integers, graphs = dict[str, int](), list[Field]()
    for each in messages.fields(where):
        if each.key in names:
            names[each.key].append(messages.text(each, MAX_NAME_BYTES))
        elif each.key == ATTRIBUTE:
            fields = list(messages.fields(each))
            graphs += [field for field in fields if field.key in (SUBGRAPH, SUBGRAPHS)]
            whole = [field.integer for field in fields if field.key == ATTRIBUTE_INTEGER]
            name = [messages.text(field, MAX_NAME_BYTES) for field in fields if field.key == ATTRIBUTE_NAME]
            integers.update(zip(name, whole, strict=False))
    return Node("".join(names[OP_TYPE]), tuple(names[INPUT]), tuple(names[OUTPUT]), integers), graphs
