"""What gets a scale of its own: a tensor, a channel, a group of values; and where a tensor's rows lie.

A row is one calibrated unit. A reader gives values in the order in which they lie in the file; a ``Layout`` says
which row each of them belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError

__all__ = [
    "ONE_AXIS",
    "Grid",
    "Layout",
    "Per",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Rules",
    "layout",
    "parse_per",
    "parse_rules",
    "per_of",
]

Integers = npt.NDArray[np.int64]

ONE_AXIS = "one scale for all: the tensor has a single axis"
"""Said where channels or groups were asked for."""
STACK = "three axes taken for a stack of experts: a scale for each pair of indices of the first two (else: channel:0)"
LEAST_INPUTS = 64  # of an expert's matrix; the kernel of a one-dimensional convolution is shorter
FORMS = "use tensor, channel, channel:AXIS, group:SIZE or group:SIZE,AXIS"


@dataclass(frozen=True)
class PerTensor:
    """One scale for all values."""

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerChannel:
    """A scale for each index along an axis.

    Without an axis it is the first; in a stack of experts [experts, out, in], each pair of indices of the first two
    has one. What has three axes is such a stack where the last has at least ``LEAST_INPUTS``.
    """

    axis: int | None = None

    def __post_init__(self) -> None:
        _check_axis(self.axis, self.axis is None)

    def __str__(self) -> str:
        return "channel" if self.axis is None else f"channel:{self.axis}"


@dataclass(frozen=True)
class PerGroup:
    """A scale for each ``size`` neighbours along an axis, the last one by default; the last group may be shorter."""

    size: int
    axis: int = -1

    def __post_init__(self) -> None:
        _check_axis(self.axis, False)
        if type(self.size) is not int or self.size < 1:
            raise UsageError(f"a group of {self.size!r} values", "a size is an int, at least 1: group:128")

    def __str__(self) -> str:
        return f"group:{self.size}" if self.axis == -1 else f"group:{self.size},{self.axis}"


def _check_axis(axis: object, is_default: bool) -> None:
    if type(axis) is not int and not is_default:
        raise UsageError(f"the axis is {axis!r}", "it is an int; -1 is the last one")


Per: TypeAlias = PerTensor | PerChannel | PerGroup
Rules: TypeAlias = tuple[tuple[str, Per], ...]
"""Globs of names, and what the tensors that match have scales for; the first that matches holds."""


def parse_per(text: str) -> Per:
    """The unit of "tensor", "channel", "channel:AXIS", "group:SIZE" or "group:SIZE,AXIS".

    Raises:
        UsageError: the text is none of these.

    >>> parse_per("group:128"), parse_per("channel:-1")
    (PerGroup(size=128, axis=-1), PerChannel(axis=-1))
    """
    if text == "tensor":
        return PerTensor()
    if match := re.fullmatch(r"channel(?::(-?\d{1,3}))?", text):
        return PerChannel(None if match[1] is None else int(match[1]))
    if match := re.fullmatch(r"group:(\d{1,18})(?:,(-?\d{1,3}))?", text):
        return PerGroup(int(match[1]), -1 if match[2] is None else int(match[2]))
    raise UsageError(f"--per '{text}' is not known", FORMS)


def parse_rules(texts: Sequence[str]) -> Rules:
    """The rules of some ``UNIT`` and ``GLOB=UNIT``: the unit without a glob is for what no glob matches.

    Raises:
        UsageError: a text is neither, or two have no glob.

    >>> parse_rules(["tensor", "*.weight=channel:0"])
    (('*.weight', PerChannel(axis=0)), ('*', PerTensor()))
    """
    split = [text.rpartition("=") for text in texts]
    everywhere = [unit for _, equals, unit in split if not equals]
    if len(everywhere) > 1:
        raise UsageError(
            f"--per is given twice for all tensors, as {everywhere[0]} and {everywhere[1]}", "give it once"
        )
    rules = [(glob, parse_per(unit)) for glob, equals, unit in split if equals]
    return (*rules, *(("*", parse_per(unit)) for unit in everywhere))


def per_of(names: Iterable[str], rules: Rules) -> Per:
    """What the first rule that matches one of a tensor's names asks for; a tensor where none does."""
    known = list(names)
    return next((per for glob, per in rules if any(fnmatchcase(name, glob) for name in known)), PerTensor())


@dataclass(frozen=True)
class Grid:
    """Which units a tensor has, whatever the order of its values: what has equal grids adds up unit by unit."""

    per: Per  # with its axis as counted from the first
    axis: int
    size: int | None  # of a group; None for channels
    shape: tuple[int, ...]  # of the units, in the tensor's own axes
    note: str | None = None  # what people should know of it


@dataclass(frozen=True)
class Layout:
    """Rows of a tensor whose values come one after the other, in the order of ``order``.

    The position of a value is (outer, index along the axis, inner). A channel is an index along the axis, whatever the
    other two are; a group is ``size`` neighbours along it, apart for each of the other two.
    """

    outer: int
    extent: int  # of the axis
    inner: int
    size: int | None  # None for channels
    axis: int
    shape: tuple[int, ...]  # of the rows, in the tensor's own axes
    order: tuple[int, ...]  # of the axes, the slowest first
    note: str | None = None  # what people should know of it

    @property
    def rows(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def grid(self) -> Grid:
        """Its units."""
        per = PerChannel(self.axis) if self.size is None else PerGroup(self.size, self.axis)
        return Grid(per, self.axis, self.size, self.shape, self.note)

    @property
    def ordered(self) -> bool:
        """Whether the values of each row lie together, and the rows in their order."""
        return self.outer == 1 if self.size is None else self.inner == 1

    def runs(self, start: int, count: int) -> tuple[Integers, Integers]:
        """Where, among ``count`` values from position ``start`` on, a row begins or goes on, and which row it is."""
        end = start + count - 1
        if self.size is None:
            run = np.arange(start // self.inner, end // self.inner + 1)
            return np.maximum(run * self.inner - start, 0), run % self.extent
        per_line = -(-self.extent // self.size)
        if self.inner == 1:
            first, last = (p // self.extent * per_line + p % self.extent // self.size for p in (start, end))
            run = np.arange(first, last + 1)
            begin = run // per_line * self.extent + run % per_line * self.size
            return np.maximum(begin - start, 0), run
        position = np.arange(start, end + 1)
        line = position // self.inner
        group = line // self.extent * per_line + line % self.extent // self.size
        return position - start, group * self.inner + (position - line * self.inner)

    def ends(self, row: int, position: int) -> bool:
        """Whether a row that lies together ends before a position."""
        if self.size is None:
            return position >= (row + 1) * self.inner
        per_line = -(-self.extent // self.size)
        return position >= row // per_line * self.extent + min((row % per_line + 1) * self.size, self.extent)

    def in_own_order(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Something for each row, from the order of the values to that of the tensor's own axes (C order)."""
        if self.size is None:
            return rows
        there = rows.reshape([self.shape[axis] for axis in self.order])
        return there.transpose(np.argsort(self.order)).ravel()

    def in_value_order(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The other way round."""
        return rows if self.size is None else rows.reshape(self.shape).transpose(self.order).ravel()


def layout(per: Per, shape: tuple[int, ...], order: tuple[int, ...] = ()) -> Layout | None:
    """Where the rows of a tensor lie; None where it has one scale: asked for, or because it has a single axis.

    Args:
        per: what gets a scale.
        shape: of the tensor, none of it 0.
        order: of its axes, the slowest first; those of extent 1 may be missing, and nothing means C's.

    Raises:
        UsageError: there is no such axis, or a group is longer than it.

    >>> layout(PerGroup(3), (2, 7)).shape, layout(PerChannel(), (8, 16, 64)).shape
    ((2, 3), (8, 16, 1))
    """
    if isinstance(per, PerTensor) or len(shape) < 2:
        return None
    stack = per == PerChannel() and len(shape) == 3 and shape[2] >= LEAST_INPUTS
    axis = 2 if stack else _axis(per, shape)
    size = shape[2] if stack else per.size if isinstance(per, PerGroup) else None
    if size is not None and size > shape[axis]:
        raise UsageError(
            f"--per {per}: axis {axis} of the shape {list(shape)} has {shape[axis]} values, fewer than a group",
            "write --per 'GLOB=group:SIZE' for those that have so many, or a smaller size",
        )
    listed = order or tuple(range(len(shape)))
    full = (*listed, *(i for i in range(len(shape)) if i not in listed))
    place = full.index(axis)
    before, after = (prod(shape[i] for i in some) for some in (full[:place], full[place + 1 :]))
    rows = (shape[axis],) if size is None else (*shape[:axis], -(-shape[axis] // size), *shape[axis + 1 :])
    return Layout(before, shape[axis], after, size, axis, rows, full, STACK if stack else None)


def _axis(per: PerChannel | PerGroup, shape: tuple[int, ...]) -> int:
    axis = per.axis or 0
    if not -len(shape) <= axis < len(shape):
        raise UsageError(
            f"--per {per}: the shape {list(shape)} has the axes 0 to {len(shape) - 1}",
            "write --per 'GLOB=UNIT' for the tensors that have this axis",
        )
    return axis % len(shape)
