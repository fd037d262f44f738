"""How a model's graph uses its tensors: the inputs and outputs of nodes, as far as quantization depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.onnx_fields import (
    ATTRIBUTE,
    ATTRIBUTE_INTEGER,
    ATTRIBUTE_NAME,
    DAMAGED,
    DOMAIN,
    GRAPH,
    GRAPH_INPUT,
    INPUT,
    MAX_GRAPHS,
    MAX_NAME_BYTES,
    NODE,
    OP_TYPE,
    OUTPUT,
    SUBGRAPH,
    SUBGRAPHS,
    VALUE_NAME,
)
from klcal.readers.protobuf import Field, Messages
from klcal.readers.regular import RegularFile

__all__ = ["CHANNEL_AXES", "Node", "graph_inputs_and_nodes", "node_at", "output_axes", "value_name"]


class Node(NamedTuple):
    """An operator with the names of its inputs and outputs; an omitted input is ""."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, int]  # the attributes that hold one
    domain: str = ""  # of the operator; "" and ai.onnx are ONNX's own


CHANNEL_AXES: dict[str, Callable[[Node, int], int]] = {
    "Conv": lambda _node, _rank: 0,
    "ConvTranspose": lambda _node, _rank: 1,
    "Gemm": lambda node, _rank: 0 if node.integers.get("transB") else 1,
    "MatMul": lambda _node, rank: rank - 1,
}
"""Operators whose inputs and output are quantized, and along which axis of the weight an output has a scale."""


def output_axes(nodes: Iterable[Node], ranks: Mapping[str, int]) -> dict[str, int]:
    """Along which axis of each weight the outputs of an operator lie that takes it.

    Args:
        nodes: of a graph.
        ranks: how many axes each tensor has, by its name.

    >>> output_axes([Node("MatMul", ("x", "w"), ("y",), {})], {"w": 2})
    {'w': 1}
    """
    return {
        name: CHANNEL_AXES[node.op](node, ranks[name])
        for node in nodes
        if node.op in CHANNEL_AXES
        for name in node.inputs[1:2]
        if ranks.get(name, 0) > 1
    }


def graph_inputs_and_nodes(file: RegularFile) -> tuple[list[str], list[Node]]:
    """The inputs of a model, and its nodes, those of graphs within nodes behind them.

    Raises:
        InputError: it is not an ONNX model, or one of its messages is damaged.
    """
    messages = Messages(file)
    inputs, nodes = list[str](), list[Node]()
    for each in messages.fields(messages.whole()):
        if each.key == GRAPH:
            _read_graph(messages, each, MAX_GRAPHS, inputs, nodes)
    return inputs, nodes


def _read_graph(messages: Messages, graph: Field, depth: int, inputs: list[str], nodes: list[Node]) -> None:
    if not depth:
        raise InputError(f"its graphs are nested more than {MAX_GRAPHS} deep", DAMAGED)
    for each in messages.fields(graph):
        if each.key == GRAPH_INPUT:
            inputs.append(value_name(messages, each))
        elif each.key == NODE:
            node, within = node_at(messages, each)
            nodes.append(node)
            for inner in within:
                _read_graph(messages, inner, depth - 1, inputs, nodes)


def value_name(messages: Messages, value: Field) -> str:
    """The name of an input of a graph, as a ValueInfoProto has it."""
    return "".join(messages.text(each, MAX_NAME_BYTES) for each in messages.fields(value) if each.key == VALUE_NAME)


def node_at(messages: Messages, where: Field) -> tuple[Node, list[Field]]:
    """A node, and the graphs in its attributes."""
    names: dict[int, list[str]] = {INPUT: [], OUTPUT: [], OP_TYPE: [], DOMAIN: []}
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
    return Node(
        "".join(names[OP_TYPE]), tuple(names[INPUT]), tuple(names[OUTPUT]), integers, "".join(names[DOMAIN])
    ), graphs
