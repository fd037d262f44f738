"""Units, the values that share a scale: a tensor, a channel, a group, a block."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from klcal.errors import UsageError

__all__ = [
    "ONE_AXIS",
    "UNIT_WORDS",
    "Grid",
    "Per",
    "PerBlock",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "parse_per",
    "per_at",
]

ONE_AXIS = "one scale for all: the tensor has a single axis"
"""Said where channels, groups or blocks were asked for."""
UNIT_WORDS = ("tensor", "channel", "group", "block")
FORMS = "use tensor, channel, channel:AXIS, group:SIZE, group:SIZE,AXIS or block:ROWS,COLUMNS"


@dataclass(frozen=True)
class PerTensor:
    """One scale for all values."""

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerChannel:
    """A scale for each index along an axis.

    Without an axis it is the first. In a stack of experts, [experts, out, in], each pair of indices of the first two
    axes has a scale. A tensor with three axes is such a stack if its last axis has at least ``LEAST_INPUTS`` entries.
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
        if not _is_size(self.size):
            raise UsageError(f"a group of {self.size!r} values", "a size is an int, at least 1: group:128")

    def __str__(self) -> str:
        return f"group:{self.size}" if self.axis == -1 else f"group:{self.size},{self.axis}"


@dataclass(frozen=True)
class PerBlock:
    """A scale for each ``rows`` by ``columns`` of the last two axes, as float8 checkpoints have them.

    Blocks at the edges may be smaller, and a block that exceeds the axes shrinks to them. Matrices in a stack have
    blocks of their own.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if not (_is_size(self.rows) and _is_size(self.columns)):
            raise UsageError(
                f"a block of {self.rows!r} by {self.columns!r} values", "sizes are ints, at least 1: block:128,128"
            )

    def __str__(self) -> str:
        return f"block:{self.rows},{self.columns}"


def _is_size(size: object) -> bool:
    return type(size) is int and size >= 1


def _check_axis(axis: object, is_default: bool) -> None:
    if type(axis) is not int and not is_default:
        raise UsageError(f"the axis is {axis!r}", "it is an int; -1 is the last one")


Per: TypeAlias = PerTensor | PerChannel | PerGroup | PerBlock


def parse_per(text: str | Per) -> Per:
    """The unit of "tensor", "channel", "channel:AXIS", "group:SIZE", "group:SIZE,AXIS" or "block:ROWS,COLUMNS".

    A unit that is already parsed is returned as it is.

    Raises:
        UsageError: the text is not one of these.

    >>> parse_per("group:128"), parse_per("channel:-1"), parse_per(PerChannel(0))
    (PerGroup(size=128, axis=-1), PerChannel(axis=-1), PerChannel(axis=0))
    """
    if isinstance(text, PerTensor | PerChannel | PerGroup | PerBlock):
        return text
    if not isinstance(text, str):
        raise UsageError(f"the unit is {text!r}", 'use "channel", klcal.PerChannel(0), klcal.PerGroup(128), …')
    if text == "tensor":
        return PerTensor()
    if match := re.fullmatch(r"channel(?::(-?\d{1,3}))?", text):
        return PerChannel(None if match[1] is None else int(match[1]))
    if match := re.fullmatch(r"group:(\d{1,18})(?:,(-?\d{1,3}))?", text):
        return PerGroup(int(match[1]), -1 if match[2] is None else int(match[2]))
    if match := re.fullmatch(r"block:(\d{1,18}),(\d{1,18})", text):
        return PerBlock(int(match[1]), int(match[2]))
    raise UsageError(f"unknown unit {text!r}", FORMS)


def per_at(axis: int | tuple[int, ...], size: int | tuple[int, ...] | None) -> Per:
    """The unit that the ``axis`` and ``size`` of a ``Grid`` stand for, as a table keeps them.

    >>> per_at(1, 128), per_at((0, 1), (128, 64))
    (PerGroup(size=128, axis=1), PerBlock(rows=128, columns=64))

    Raises:
        UsageError: they do not fit each other.
    """
    if isinstance(axis, tuple) or isinstance(size, tuple):
        if not (isinstance(axis, tuple) and isinstance(size, tuple) and len(axis) == len(size) == 2):
            raise UsageError(f"units of the size {size} along the axis {axis}", "a block has two of each")
        return PerBlock(*size)
    return PerChannel(axis) if size is None else PerGroup(size, axis)


@dataclass(frozen=True)
class Grid:
    """The units of a tensor: their kind, and how many of them lie along each axis."""

    per: Per  # with its axis resolved: at least 0
    axis: int | tuple[int, int]  # along which units lie; two for blocks
    size: int | tuple[int, int] | None  # of a unit along the axis, as asked for; None for channels
    shape: tuple[int, ...]  # of the units: (channels,), else the tensor's shape with fewer entries along the axis
    note: str | None = None  # a remark for people
