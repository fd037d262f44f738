"""The names that a model uses for its tensors, and whether the rows of a table have exactly these.

Most runtimes ignore names that they do not know, without a message, and choose scales for the missing names by a rule
of their own.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import COMPARED, COMPARED_CHARACTERS, NEAREST
from klcal.readers.onnx_file import describe
from klcal.readers.onnx_graph import CHANNEL_AXES, Node, graph_inputs_and_nodes
from klcal.readers.quoting import quoted
from klcal.readers.regular import open_regular
from klcal.tables.rows import Row

__all__ = ["Consumer", "model_of", "names_in", "renaming"]

MOVING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # their outputs have the input's scale
FUSED = ("Clip", "Relu")  # into the operator whose output they alone take: runtimes quantize after them
WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")  # operators whose third input is the bias
SUBSTITUTION = re.compile(r"s(.)(.*)", re.DOTALL)
MAX_NAMES_BYTES = 1 << 25  # of a file of names: 300,000 of a hundred bytes


@dataclass(frozen=True)
class Consumer:
    """The names of a model's tensors."""

    source: str  # where they are from, for people
    names: Collection[str]
    wanted: Sequence[str]  # those that are quantized
    is_exact: bool  # whether all wanted names are needed: for a list they are, in a graph some may be fused
    model: str = ""  # the name of its file
    shapes: Mapping[str, tuple[int, ...]] | None = None  # of weights; all others are activations; None: not known
    biases: Collection[str] = ()
    rectified: Mapping[str, str] = field(default_factory=dict)  # outputs of a Relu or Clip that can be fused, and which
    fused: Collection[str] = ()  # outputs that are quantized after the operator that takes them
    axes: Mapping[str, int] = field(default_factory=dict)  # of a weight's channels, by the operator that takes it

    def is_weight(self, name: str) -> bool | None:
        """Whether a tensor is a weight; None where it is not known."""
        return None if self.shapes is None or name not in self.names else name in self.shapes

    def unknown(self, name: str) -> str | None:
        """The message about a name that the model lacks."""
        if name in self.names:
            return None
        short = sorted(each for each in self.names if len(each) <= COMPARED_CHARACTERS)
        near = difflib.get_close_matches(name, short[:COMPARED], NEAREST, cutoff=0.0)
        nearest = f", the nearest names there are {', '.join(map(quoted, near))}" if near else ""
        return f"it is not in {self.source}{nearest}; rename it, or exclude it"

    def lacking(self, names: Collection[str], *, also_fused: bool) -> list[str]:
        """The wanted names that are not there."""
        return [name for name in self.wanted if name not in names and (also_fused or name not in self.fused)]

    def misplaced(self, row: Row) -> str | None:
        """The error if the shape of a weight differs, so that its scales are of another tensor; else None."""
        shape = (self.shapes or {}).get(row.name)
        if shape is None or row.shape is None or shape == row.shape:
            return None
        of = f"the shape {list(row.shape)} in the table and {list(shape)} in {self.model}"
        return f"it has {of}; calibrate {self.model} itself"

    def made_elsewhere(self, row: Row) -> str | None:
        """A warning about a weight that was calibrated in another file, and may have other values here; else None."""
        if self.shapes is None or row.source.rpartition("/")[2] == self.model:
            return None
        return f"calibrated in {row.source}: exporters fold BatchNorm into weights; calibrate {self.model} if yours did"

    def unrectified(self, row: Row) -> str | None:
        """A warning about the output of a Relu or Clip whose integers would reach beyond its limits; else None."""
        op = self.rectified.get(row.name)
        below = row.low is not None and row.low < 0
        above = op == "Clip" and row.high is not None and row.max is not None and row.high > row.max
        return op if below or above else None

    def wrong_axis(self, row: Row) -> str | None:
        """A warning if channels lie along another axis than that of the outputs; else None."""
        axis = self.axes.get(row.name)
        if row.units is None or row.units.per != "channel" or axis is None or axis == row.units.axis:
            return None
        where = f"its channels lie along axis {row.units.axis}, its outputs along {axis}"
        return f"{where}; calibrate it per channel:{axis}"


def model_of(path: str) -> Consumer:
    """The names of a ``.onnx``.

    Raises:
        UsageError: it is something else, or cannot be read.
    """
    source = Path(path).name
    if not path.lower().endswith(".onnx"):
        raise UsageError(f"the model '{path}' is no .onnx", "list the names of its tensors in a file, and give that")
    try:
        file = open_regular(path)
        weights = {each.name: each for each in describe(file)}
        inputs, nodes = graph_inputs_and_nodes(file)
    except InputError as error:
        raise UsageError(f"the model '{path}': {error.what}", error.hint) from None
    activations = {*inputs, *(name for node in nodes for name in node.outputs)} - weights.keys()
    quantized = [node for node in nodes if node.op in CHANNEL_AXES]
    after = _fused_with(nodes)
    shapes = {name: each.shape for name, each in weights.items()}
    return Consumer(
        source,
        activations | weights.keys() - {""},
        list(dict.fromkeys(name for name in _wanted(nodes, quantized, after) if name)),
        is_exact=False,
        model=source,
        shapes=shapes,
        biases={name for node in quantized if node.op in WITH_BIAS for name in node.inputs[2:3]} & weights.keys(),
        rectified=dict(after.values()),
        fused=after.keys(),
        axes={name: each.outputs for name, each in weights.items() if each.outputs is not None},
    )


def _fused_with(nodes: Sequence[Node]) -> dict[str, tuple[str, str]]:
    """The outputs that one operator alone takes, which can be fused with theirs; its output, and which it is."""
    takers = defaultdict[str, list[Node]](list)
    for node in nodes:
        for name in node.inputs:
            takers[name].append(node)
    made = (name for node in nodes for name in node.outputs[:1])
    alone = {name: takers[name][0] for name in made if len(takers[name]) == 1}
    return {name: (by.outputs[0], by.op) for name, by in alone.items() if by.op in FUSED and by.outputs}


def _wanted(nodes: Sequence[Node], quantized: Sequence[Node], after: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """The inputs of operators that other nodes make, and all outputs, also of fused ones; names may be "" or repeat."""
    made_by = {name: node for node in nodes for name in node.outputs}
    for node in quantized:
        for name in node.inputs[:2]:
            origin, steps = name, len(nodes)  # a damaged graph may go in circles
            while (by := made_by.get(origin)) and by.op in MOVING and by.inputs and steps:
                origin, steps = by.inputs[0], steps - 1
            yield origin
        for name in node.outputs[:1]:
            yield from (name, after.get(name, ("", ""))[0])


def names_in(path: str) -> Consumer:
    """The names in a text file, one on each line; blank lines are ignored.

    Raises:
        UsageError: it cannot be read, is no text, or has no names.
    """
    try:
        file = open_regular(path)
        text = file.read(0, min(file.size, MAX_NAMES_BYTES + 1)).decode()
    except InputError as error:
        raise UsageError(f"the list of names '{path}': {error.what}", error.hint) from None
    except UnicodeDecodeError:
        raise UsageError(f"the list of names '{path}' is no text", "write one name on each line, in UTF-8") from None
    if file.size > MAX_NAMES_BYTES:
        raise UsageError(f"the list of names '{path}' has {file.size:,} bytes", f"{MAX_NAMES_BYTES:,} are allowed")
    names = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not names:
        raise UsageError(f"the list of names '{path}' has no names", "write one name on each line")
    return Consumer(Path(path).name, frozenset(names), list(dict.fromkeys(names)), is_exact=True)


def renaming(texts: Sequence[str]) -> Callable[[str], str]:
    r"""A function that renames, by substitutions in the form of ``sed -E``, one after the other: ``s/old/new/``.

    The pattern is a regular expression of Python. ``\1`` in ``new`` is its first group, and ``g`` at the end replaces
    all places in a name. Another character may take the place of the slash; behind a backslash it stays as it is.

    Raises:
        UsageError: a text is not a substitution.

    >>> renaming([r"s/^layers\.(\d+)/blk.\1/", "s|_|.|g"])("layers.3.fc_1_w")
    'blk.3.fc.1.w'
    """
    each = [_substitution(text) for text in texts]

    def renamed(name: str) -> str:
        for pattern, new, count in each:
            name = pattern.sub(new, name, count)
        return name

    return renamed


def _substitution(text: str) -> tuple[re.Pattern[str], str, int]:
    hint = "write it as 's/old/new/', or 's/old/new/g' for all places in a name"
    begin = SUBSTITUTION.fullmatch(text)
    if begin is None or begin[1].isalnum() or begin[1] in "\\\n":
        raise UsageError(f"the substitution '{text}' is none", hint)
    mark = begin[1]
    parts = re.split(rf"(?<!\\){re.escape(mark)}", begin[2])
    if len(parts) != 3 or parts[2] not in ("", "g"):
        raise UsageError(f"the substitution '{text}' is none", hint)
    old, new = (part.replace(f"\\{mark}", mark) for part in parts[:2])
    try:
        pattern = re.compile(old)
    except (re.error, OverflowError, RecursionError):
        raise UsageError(f"the substitution '{text}': '{old}' is no regular expression of Python's", hint) from None
    names = {number: f"?P<{name}>" for name, number in pattern.groupindex.items()}
    groups = "".join(f"({names.get(number, '')})" for number in range(1, pattern.groups + 1))
    try:
        re.sub(groups, new, "")  # which matches, with the same groups
    except (re.error, IndexError):
        raise UsageError(
            f"the substitution '{text}': '{new}' has an escape or a group that '{old}' lacks", hint
        ) from None
    return pattern, new, 0 if parts[2] else 1
