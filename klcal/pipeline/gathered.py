"""From arguments to tensors: the tensors of files, those that are selected, and those that are batches of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from klcal.pipeline.selection import Selected, described_tensors, file_warnings, selected, unmatched
from klcal.readers import find
from klcal.tables.table import FileError

if TYPE_CHECKING:
    from klcal.pipeline.pooling import Pool

__all__ = ["Asked", "Gathered", "gathered"]


@dataclass(frozen=True)
class Asked:
    """The selection of tensors from files, and the ways to read them."""

    include: Sequence[str] = ()  # globs: only matching names are used; empty for all
    exclude: Sequence[str] = ()  # globs: matching names are left out
    dequantize: bool = False  # whether codes with a scale in the same file are restored to their values
    pool: Pool | None = None  # which tensors are batches of one


class Gathered(NamedTuple):
    """The tensors of some files."""

    described: list[Selected]  # all of them
    tensors: list[Selected]  # those that are wanted, pooled
    named: list[Selected]  # the tensors whose names options may use: those of pools
    unread: set[str]  # the files that cannot be used
    errors: list[FileError]  # of these, and of batches; more may come
    warnings: list[str]


def gathered(
    paths: Sequence[str], asked: Asked, renamed: Callable[[list[Selected]], list[Selected]] | None = None
) -> Gathered:
    """Finds files, describes their tensors before any value is read, and chooses.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        asked: which tensors.
        renamed: gives the tensors other names, before any is chosen by its name.
    """
    found, pool = find(paths), asked.pool
    errors = list(found.errors)
    tensors = described_tensors(found.sources, errors, dequantize=asked.dequantize, batches=pool is not None)
    described = list(tensors) if renamed is None else renamed(list(tensors))
    wanted = selected(described, asked.include, asked.exclude)
    warnings = [*found.warnings, *file_warnings(described), *unmatched(described, asked.include)]
    unread = {each.source for each in errors}
    if pool is None:
        return Gathered(described, wanted, described, unread, errors, warnings)
    from klcal.pipeline.pooling import pooled, unpooled  # imported late: it loads the counters

    batches = pooled(wanted, pool, errors, found.sources)
    return Gathered(described, batches, batches, unread, errors, [*warnings, *unpooled(batches, pool)])
