"""The structures of ``klcal/kernels/source``: what a search is told, and where it writes what it finds."""

from __future__ import annotations

import ctypes
from typing import Any, TypeAlias

__all__ = [
    "DOUBLE",
    "INT",
    "POINTER",
    "Bins",
    "Chosen",
    "Classic",
    "LevelScheme",
    "Ratios",
    "Rounding",
    "ScaleFormat",
    "Search",
    "Units",
    "Wanted",
    "fields_of",
]

MAX_LEVELS = 16  # of a format that is looked up
MAX_FINE = 3

DOUBLE, INT, POINTER = ctypes.c_double, ctypes.c_int64, ctypes.c_void_p
Fields: TypeAlias = "list[tuple[str, Any]]"


def fields_of(kind: Any, names: str) -> Fields:
    """Fields of one kind, by their names."""
    return [(name, kind) for name in names.split()]


class Rounding(ctypes.Structure):
    """How values become levels."""

    _fields_ = [
        ("kind", INT),
        *fields_of(ctypes.c_float, "low high normal ulp max"),
        ("levels", INT),
        ("level", ctypes.c_float * MAX_LEVELS),
        ("middle", ctypes.c_float * MAX_LEVELS),
        ("few_level", DOUBLE * MAX_LEVELS),
        ("few_middle", DOUBLE * MAX_LEVELS),
    ]


class ScaleFormat(ctypes.Structure):
    """The format of scales."""

    _fields_ = [
        *fields_of(INT, "is_float32 mantissa_bits min_exponent"),
        *fields_of(DOUBLE, "max above least global_scale limit"),
    ]


class LevelScheme(ctypes.Structure):
    """The levels of a scheme: Scheme in source/values.h."""

    _fields_ = [
        *fields_of(INT, "kind size zero is_float"),
        *fields_of(DOUBLE, "under_end above_end widest"),
        *fields_of(POINTER, "above below"),
        *fields_of(INT, "aboves belows"),
        ("rounding", Rounding),
        ("format", ScaleFormat),
    ]


class Ratios(ctypes.Structure):
    """Numbers one behind the other."""

    _fields_ = [("ratio", POINTER), ("size", INT)]


class Bins(ctypes.Structure):
    """The sub-bins of a divergence."""

    _fields_ = [("sub", INT), ("edges", POINTER), ("relative", POINTER), ("logarithms", Ratios)]


class Search(ctypes.Structure):
    """How units are searched."""

    _fields_ = [
        ("scheme", LevelScheme),
        ("bins", Bins),
        *fields_of(INT, "few by_few_alone by_buckets starts seeds basins refinements rounds"),
        *fields_of(Ratios, "first wider coarse"),
        ("fine", Ratios * MAX_FINE),
        ("near", Ratios),
        ("middles", Ratios),
        ("on_level", POINTER),
        *fields_of(INT, "on_levels lattice"),
        *fields_of(DOUBLE, "slack weight enough same"),
        *fields_of(INT, "evenly between thoroughly"),
    ]


class Units(ctypes.Structure):
    """Sketches of some units."""

    _fields_ = [
        *fields_of(POINTER, "keys counts starts ends exact minimum maximum tops number"),
        *fields_of(INT, "type_of_counts fewest_dropped most_dropped fine_octaves"),
    ]


class Wanted(ctypes.Structure):
    """What is known of each unit, and where to write what is chosen for it."""

    _fields_ = fields_of(POINTER, "low high bounded full full_below narrow plain plain_below scale below")


class Classic(ctypes.Structure):
    """The candidates of `kl-classic`: source/classic.h."""

    _fields_ = [
        *fields_of(Ratios, "grid around"),
        *fields_of(INT, "shift others units"),
        *fields_of(POINTER, "scale below"),
    ]


class Chosen(ctypes.Structure):
    """Quantizers, of which each unit has one, and where to write what they do."""

    _fields_ = [*fields_of(POINTER, "above below_zero scale below found"), *fields_of(INT, "aboves belows")]
