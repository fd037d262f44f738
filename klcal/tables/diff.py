"""The changes between two tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from klcal.errors import UsageError
from klcal.tables.changes import Change, is_bare
from klcal.tables.ranges import with_scales
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Table

__all__ = ["diff", "is_judged"]

LEFT_OUT = ("skipped", "empty", "zero")  # rows that a file of scales alone lacks


def diff(was: Table, now: Table, baseline: str, compared: str) -> Table:
    """The changes of each tensor between two tables of scales.

    Rows are matched by file and name, or by name alone if it is unique in both tables.

    Args:
        was: the baseline.
        now: the table that is compared with it.
        baseline: the name of the baseline.
        compared: the name of the other table.

    Raises:
        UsageError: two rows of a table are of one tensor.
    """
    changes = list(map(with_scales, _paired(_rows(was, now), _rows(now, was))))
    count = Counter(each.status for each in changes)
    config = Changes(baseline, compared, count["same"], count["changed"], count["missing"], count["extra"])
    judged = any(is_judged(each) for each in changes)
    return Table.of(config, changes, now.errors, judged=judged)


def is_judged(change: Change) -> bool:
    """Whether the baseline has a scale for at least one tensor of the other table."""
    return change.was is not None and change.now is not None and change.was.status in ("ok", "zero")


def _rows(table: Table, other: Table) -> list[Row]:
    """The rows of a table; rows without a scale only if the other table can have them."""
    rows = [row for row in table.rows if isinstance(row, Row)]
    twice = [place for place, count in Counter((row.source, row.name) for row in rows).items() if count > 1]
    if twice:
        raise UsageError(f"a table has two rows for {twice[0][1]!r}", "write it again with klcal calibrate")
    has_scales_alone = bool(other.rows) and all(isinstance(row, Row) and is_bare(row) for row in other.rows)
    return [row for row in rows if row.status not in LEFT_OUT] if has_scales_alone else rows


def _paired(was: list[Row], now: list[Row]) -> Iterator[Change]:
    exact = {(row.source, row.name): row for row in now}
    partners = [exact.pop((row.source, row.name), None) for row in was]
    rest = [row for row in now if (row.source, row.name) in exact]
    by_name = _only(rest)
    alone = _only(row for row, partner in zip(was, partners, strict=True) if partner is None)
    taken = set[int]()
    for row, partner in zip(was, partners, strict=True):
        if partner is None:
            names = [name for name in (row.name, *row.aliases) if alone.get(name) is row]
            found = (by_name[name] for name in names if name in by_name and id(by_name[name]) not in taken)
            partner = next(found, None)
            taken.add(id(partner))
        yield Change(row, partner)
    yield from (Change(None, row) for row in rest if id(row) not in taken)


def _only(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows by each of their names that no other row has."""
    given = list(rows)
    count = Counter(name for row in given for name in {row.name, *row.aliases})
    return {name: row for row in given for name in (row.name, *row.aliases) if count[name] == 1}
