"""The names of fields and the versions of schemas: all that the command line needs to know without a table.

Fields are only ever added. If the meaning of a field changes, the version of the schema does. Version
``klcal.table/1``, which 0.1.0 wrote, had lists in a row if channels or groups have their own scales; it can still be
read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from klcal.errors import UsageError

__all__ = [
    "BASES",
    "CHANGES",
    "CHANGE_FIELDS",
    "COMPARISON",
    "CONTENTS",
    "DEFAULT_RULES",
    "DIFFERENCE_FIELDS",
    "DOCUMENT",
    "EXPLANATION",
    "LEAST_FIRST",
    "MAX_HEADER_BYTES",
    "NUMERIC_FIELDS",
    "OPTIONS",
    "RELATIVE",
    "REPORT",
    "SKETCH",
    "TABLE",
    "TABLE_1",
    "UNIT_FIELDS",
    "check_field",
    "unit_key",
]

TABLE, TABLE_1 = "klcal.table/2", "klcal.table/1"
COMPARISON = "klcal.comparison/1"
SKETCH = "klcal.sketch/1"
CHANGES = "klcal.changes/1"
CONTENTS = "klcal.contents/1"
EXPLANATION = "klcal.explanation/1"
REPORT = "klcal.report/1"
OPTIONS = "klcal.options/1"

UNIT_FIELDS = ("scale", "zero_point", "low", "high", "kl", "mse", "sqnr_db", "clipped")
"""The fields that each channel, group or block has."""

NUMERIC_FIELDS = (
    *("scale", "global_scale", "zero_point", "qmin", "qmax", "low", "high", "min", "max"),
    *("numel", "zeros", "nan", "neg_inf", "pos_inf", "kl", "mse", "sqnr_db", "clipped", "rounded_to_zero"),
)
"""The numbers of a row."""

DIFFERENCE_FIELDS = (
    *("numel", "kl", "kl_common", "reverse_kl", "js", "cross_entropy", "entropy", "other_entropy", "wasserstein"),
    *("cosine", "max_abs_diff", "mse", "sqnr_db"),
)
"""The numbers of a comparison."""

CHANGE_FIELDS = ("scale", "zero_point", "low", "high", "kl", "mse", "sqnr_db", "clipped", "rounded_to_zero")
"""The numbers whose change a row of changes has, as ``d.FIELD``."""

RELATIVE = frozenset({"scale", "mse"})
"""Numbers whose change is relative to the old value; all others change in their own units."""

DEFAULT_RULES = (
    *("missing", "extra", "status", "changed"),
    *("|d.scale| > 2%", "|d.zero_point| > 2", "d.sqnr_db < -0.5", "d.clipped > 0.1%"),
)
"""The rules that hold if none is given. Changes that are no matter of degree always count. Equal values have the same
scales to the bit, so the limits do not allow for noise of klcal's own: they say which changes of weights are worth a
look. Activations that are recorded anew move by more (two batches of 65,536 normal values at int8 by 1.6 % in the
median) and want wider rules. Half a decibel is an eighth more noise; one value in a thousand that is newly clipped is a
new tail."""

LEAST_FIRST = frozenset({"cosine", "sqnr_db", "low", "min"})
"""Numbers that are sorted with the smallest first, because it is the worst; of all others the largest is."""
BASES = {"e": math.e, "2": 2.0, "10": 10.0}
"""The bases of a comparison's logarithms, by their names."""

DOCUMENT = "table"  # the metadata key of a binary table's JSON, without the arrays of units; another key is "schema"
MAX_HEADER_BYTES = 100_000_000  # of a .safetensors file; its library's limit
SEPARATOR = ":"  # of a key's parts


def check_field(field: str, known: Sequence[str]) -> None:
    """Refuse to sort by an unknown field.

    Raises:
        UsageError: names the nearest one, and all.
    """
    if field not in known:
        from difflib import get_close_matches

        near = get_close_matches(str(field), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown field {field!r} to sort by", f"{hint}use one of {', '.join(known)}")


def unit_key(source: str, name: str, field: str) -> str:
    r"""The key of a field's array in a binary table: three parts, escaped so that the separator is unique.

    A percent sign, the separator, control characters and half surrogate pairs are written as the bytes of their UTF-8.

    >>> unit_key("model.pt", "fc.weight", "scale"), unit_key("a:b", "c%", "scale")
    ('model.pt:fc.weight:scale', 'a%3Ab:c%25:scale')
    """
    return SEPARATOR.join(ACTING.sub(_escaped, part) for part in (source, name, field))


ACTING = re.compile(f"[%{SEPARATOR}\\x00-\\x1f\\x7f\\ud800-\\udfff]")


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
