"""The types of the C structures in ``klcal/kernels/source`` that a search reads and writes.

Fields have the names, the types and the order of the C declarations. ``klcal.search.structures`` fills them.
``POINTER`` fields point to contiguous arrays: of float64, if nothing else is said.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeAlias

__all__ = [
    "DOUBLE",
    "INT",
    "MAX_LEVELS",
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
    "Weighed",
    "fields_of",
]

MAX_LEVELS = 16  # magnitudes of a format whose levels are compared one by one, as in source/points.h
MAX_FINE = 3  # rounds of fine scales, as in source/candidates.h

DOUBLE, INT, POINTER = ctypes.c_double, ctypes.c_int64, ctypes.c_void_p
Fields: TypeAlias = "list[tuple[str, Any]]"


def fields_of(kind: Any, names: str) -> Fields:
    """Fields of one C type, from their names with spaces between."""
    return [(name, kind) for name in names.split()]


class Rounding(ctypes.Structure):
    """Rounding to levels: ``Rounding`` in source/points.h.

    ``kind`` is INTEGERS, FLOATS or LEVELS. Of FLOATS, ``normal`` is the smallest normal number, ``ulp`` the distance of
    neighbouring levels relative to their power of two, and ``max`` the largest level. Of LEVELS, ``level`` and
    ``middle`` are the levels and the middles between them in float32, ``few_level`` and ``few_middle`` in float64.
    """

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
    """The format of scales: ``ScaleFormat`` in source/numbers.h.

    ``max`` and ``least`` are its largest and its smallest positive number, and ``limit`` is the largest scale that the
    scheme allows.
    """

    _fields_ = [
        *fields_of(INT, "is_float32 mantissa_bits min_exponent"),
        *fields_of(DOUBLE, "max above least global_scale limit"),
    ]


class LevelScheme(ctypes.Structure):
    """The levels of a scheme: ``Scheme`` in source/values.h.

    ``above`` and ``below`` point to the magnitudes of the levels of either sign, ascending, without zero; ``aboves``
    and ``belows`` are their numbers. ``zero`` is the number of levels below zero of the symmetric kinds. ``under_end``
    and ``above_end`` are the largest magnitudes of any candidate, and ``widest`` is the largest distance of two
    neighbouring levels, in steps.
    """

    _fields_ = [
        *fields_of(INT, "kind size zero is_float"),
        *fields_of(DOUBLE, "under_end above_end widest"),
        *fields_of(POINTER, "above below"),
        *fields_of(INT, "aboves belows"),
        ("rounding", Rounding),
        ("format", ScaleFormat),
    ]


class Ratios(ctypes.Structure):
    """An array of float64 and its size."""

    _fields_ = [("ratio", POINTER), ("size", INT)]


class Bins(ctypes.Structure):
    """The sub-bins of a divergence: ``Bins`` in source/divergence.h.

    ``sub`` is their number in each cell. ``edges`` are the edges of the cells of a floating-point format, in steps;
    ``relative`` are the edges of all sub-bins, in steps from the lowest level. ``logarithms`` is a table for ``log``.
    """

    _fields_ = [("sub", INT), ("edges", POINTER), ("relative", POINTER), ("logarithms", Ratios)]


class Search(ctypes.Structure):
    """The settings of a search: ``Search`` in source/candidates.h.

    They are the fields of ``klcal.search.explore.Density`` and ``klcal.search.structures.Loss``, and the ratios that
    ``klcal.search.explore.first_ratios`` computes.
    """

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
    """Sketches of some units: ``Units`` in source/pieces.h.

    ``keys`` (uint32) and ``counts`` have an item for each piece; those of a unit lie from ``starts`` to ``ends``
    (int64). The others have an item for each unit: ``exact`` (bool), ``minimum`` and ``maximum`` of the nonzero values,
    ``tops`` (int64), the exponents from which buckets get coarser, and ``number``, the number of values.
    """

    _fields_ = [
        *fields_of(POINTER, "keys counts starts ends exact minimum maximum tops number"),
        *fields_of(INT, "type_of_counts fewest_dropped most_dropped fine_octaves"),
    ]


class Weighed(ctypes.Structure):
    """The weights of pieces, and the pieces that weigh something: ``Weighed`` in source/weighed.h.

    ``weights`` (int64) has the shape (3, pieces). What is written: ``keys`` (uint32), ``counts`` (of the type of the
    sketch's counts) and ``masses``, (pieces,); ``ends`` and ``weighed`` (int64), ``minimum``, ``maximum`` and
    ``number``, (units,).
    """

    _fields_ = [
        ("weights", POINTER),
        ("pieces", INT),
        *fields_of(POINTER, "keys counts masses ends minimum maximum number weighed"),
    ]


class Wanted(ctypes.Structure):
    """The input of a search and its output, ``scale``, ``below`` and ``nats``: ``Wanted`` in source/search.h.

    All arrays have the shape (units,): ``bounded`` is bool; ``full_below``, ``plain_below`` and ``below`` are int64.
    """

    _fields_ = fields_of(POINTER, "low high bounded full full_below narrow plain plain_below scale below nats")


class Classic(ctypes.Structure):
    """The candidates of `kl-classic`: ``Classic`` in source/classic.h.

    ``scale`` and ``below`` (int64) have the shape (others, units).
    """

    _fields_ = [
        *fields_of(Ratios, "grid around"),
        *fields_of(INT, "shift others units"),
        *fields_of(POINTER, "scale below"),
    ]


class Chosen(ctypes.Structure):
    """A quantizer for each unit, and its figures: ``Chosen`` in source/figures.h.

    ``above`` and ``below_zero`` are the magnitudes of the levels of either sign, from zero on. ``scale`` and ``below``
    (int64) have the shape (units,); the figures are written to ``found``, (units, FIGURES). ``nats``, (units,), is D
    where it is known already, else NaN; or null.
    """

    _fields_ = [
        *fields_of(POINTER, "above below_zero scale below found"),
        *fields_of(INT, "aboves belows"),
        *fields_of(POINTER, "nats"),
    ]
