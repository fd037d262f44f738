"""Tables of scales → the text of a file that a runtime loads, or the errors that prevent it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from klcal.errors import UsageError
from klcal.pipeline.consumers import Consumer, model_of, names_in, renaming
from klcal.pipeline.scales import read_scales, rows_of
from klcal.pipeline.selection import Remark, is_wanted, listed, unmatched_globs
from klcal.readers.quoting import quoted
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.runtimes import FORMATS, runtime_of
from klcal.writers.runtimes.runtime import Runtime, Tensors, changes, problem

__all__ = ["Checked", "Export", "Item", "checked", "export_tables", "items_of", "of_lost"]

OF_WEIGHTS = (".onnx", ".gguf")  # files that hold nothing else
NOT_QUANTIZED = ("skipped", "empty")  # integers, tensors that are not weights, and empty ones: no scale is missed


@dataclass(frozen=True)
class Export:
    """The text of a file, or None if there are errors; and all messages."""

    text: str | None
    errors: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()
    advice: str | None = None  # settings that the runtime needs besides


class Item(NamedTuple):
    """A row under its name in the file."""

    row: Row
    is_weight: bool

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the tensor."""
        return self.row.name, *self.row.aliases


def export_tables(
    tables: Sequence[str | Table],
    to: str,
    *,
    weights: Sequence[str | Table] = (),
    model: str | None = None,
    names: str | None = None,
    rename: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Export:
    """The rows of some tables in the form that a runtime loads.

    Args:
        tables: tables of scales, or their files. A tensor is a weight if it is one in the model, or if its row is of a
            ``.onnx`` or ``.gguf``; else an activation.
        to: one of ``klcal.writers.runtimes.FORMATS``.
        weights: tables of weights.
        model: the ``.onnx`` that the file is for. It decides which names are right, and which are of weights.
        names: a file with exactly the names that the runtime needs, one on each line.
        rename: substitutions, ``s/old/new/``, for the names of the tables.
        include: patterns; only rows whose names match one of them are exported. No patterns: all rows.
        exclude: patterns; rows whose names match one of them are not exported.

    Raises:
        UsageError: an argument is not understood, or a file of it cannot be read.
    """
    if to not in FORMATS:
        raise UsageError(f"unknown format {to!r}", f"use one of {', '.join(FORMATS)}")
    runtime, renamed, consumer = runtime_of(to), renaming(rename), _consumer(model, names)
    loaded = [(read_scales(each), kind) for some, kind in ((tables, False), (weights, True)) for each in some]
    given = [item for table, are_weights in loaded for item in items_of(table, are_weights)]
    globs = [*(("--include", glob) for glob in include), *(("--exclude", glob) for glob in exclude)]
    names_given = {name for item in given for name in item.names}
    warnings = [
        Remark((), text) for text in (*of_lost(table for table, _ in loaded), *unmatched_globs(names_given, globs))
    ]
    found = checked(runtime, given, consumer, lambda name: is_wanted(name, include, exclude), renamed)
    warnings += found.warnings
    if found.errors:
        return Export(None, found.errors, tuple(warnings))
    return Export(runtime.write(found.tensors), (), tuple(warnings), runtime.advice(found.tensors))


class Checked(NamedTuple):
    """The tensors that go into a file, and all messages. With errors there will be no file."""

    tensors: Tensors
    errors: tuple[Remark, ...]
    warnings: tuple[Remark, ...]


def checked(
    runtime: Runtime,
    given: Iterable[Item],
    consumer: Consumer | None,
    wanted: Callable[[str], bool],
    renamed: Callable[[str], str] = str,
) -> Checked:
    """The rows for a runtime, checked against the abilities of its file and the names of its model.

    Args:
        runtime: describes its file.
        given: rows of tables.
        consumer: the names of its model; None if they are not known.
        wanted: whether a name of the tables is taken.
        renamed: the new name of a tensor.
    """
    items, biases = _without_biases(runtime, list(_named(given, wanted, renamed, consumer)), consumer)
    tensors = Tensors(*([item.row for item in items if item.is_weight == kind] for kind in (False, True)))
    errors = [*_doubles(items), *_refused(runtime, items, consumer), *_lacking(runtime, items, consumer, exact=True)]
    if not items and not errors:
        errors = [Remark((), "there is no tensor to export; check the tables, and what is included and excluded")]
    if errors:
        return Checked(tensors, tuple(errors), ())
    warnings = [*biases, *_changed(runtime, items, consumer), *_lacking(runtime, items, consumer, exact=False)]
    return Checked(tensors, (), tuple(warnings))


def _consumer(model: str | None, names: str | None) -> Consumer | None:
    """The names by a model, a list or both; of both, the list decides which are needed."""
    if model is None or names is None:
        return names_in(names) if names is not None else None if model is None else model_of(model)
    asked = names_in(names)
    return replace(model_of(model), source=asked.source, names=asked.names, wanted=asked.wanted, is_exact=True)


# --- which tensors


def of_lost(tables: Iterable[Table]) -> Iterator[str]:
    """A warning of the files that tables say they lack."""
    sources = {error.source for table in tables for error in table.errors}
    if sources:
        yield f"a table has nothing of {listed(sources)}, which could not be read when it was made"


def items_of(table: Table, are_weights: bool) -> Iterator[Item]:
    """The rows of a table that have a scale, or ought to.

    Raises:
        UsageError: it has rows of units.
    """
    for row in rows_of(table):
        if row.unit is not None:
            raise UsageError("a table has a row for each unit", "hand in one that has a row for each tensor")
        if row.status not in NOT_QUANTIZED:
            yield Item(row, are_weights or row.source.lower().endswith(OF_WEIGHTS))


def _named(
    items: Iterable[Item], wanted: Callable[[str], bool], renamed: Callable[[str], str], consumer: Consumer | None
) -> Iterator[Item]:
    """The wanted tensors under their new names. Tied weights are there under each name in the model, or under all."""
    for item in items:
        row, is_weight = item
        all_names = tuple(dict.fromkeys(renamed(name) for name in item.names if wanted(name)))
        known = [name for name in all_names if consumer is None or name in consumer.names]
        for name in known or all_names[:1]:
            is_known_weight = None if consumer is None else consumer.is_weight(name)
            same = row if (row.name, row.aliases) == (name, ()) else replace(row, name=name, aliases=())
            yield Item(same, is_weight if is_known_weight is None else is_known_weight)


def _without_biases(runtime: Runtime, items: list[Item], consumer: Consumer | None) -> tuple[list[Item], list[Remark]]:
    """The tensors that the file has scales of; a remark on the others, which the runtime quantizes by its own rule."""
    if runtime.no_weights:
        return items, []
    biases = [each for each in items if each.is_weight and _is_bias(each.row, consumer)]
    left_out = {id(each) for each in biases}
    reason = f"left out: {runtime.title} takes no scales of biases and other weights of one axis"
    return [each for each in items if id(each) not in left_out], _by_text((each.row.name, reason) for each in biases)


def _is_bias(row: Row, consumer: Consumer | None) -> bool:
    return len(row.shape or (1, 1)) < 2 or (consumer is not None and row.name in consumer.biases)


# --- errors


def _doubles(items: Sequence[Item]) -> list[Remark]:
    """Names that several rows have."""
    count = Counter(item.row.name for item in items)
    sources = defaultdict(list)
    for item in items:
        if count[item.row.name] > 1:
            sources[item.row.name].append(item.row.source)
    return _by_text(
        (name, f"{len(of)} rows have this name, of {listed(set(of))}; rename or exclude all but one")
        for name, of in sources.items()
    )


def _refused(runtime: Runtime, items: Sequence[Item], consumer: Consumer | None) -> list[Remark]:
    """Messages about tensors that the model lacks, or that the file cannot hold."""
    found = list[tuple[str, str]]()
    for row, is_weight in items:
        text = consumer.unknown(row.name) if consumer is not None else None
        text = text or problem(runtime, row, is_weight)
        if text is None and consumer is not None and is_weight:
            text = consumer.misplaced(row) or (None if runtime.has_axis else consumer.wrong_axis(row))
        if text is not None:
            found.append((row.name, text))
    return _by_text(found) + (_mixed(runtime, items) if not found else [])


def _mixed(runtime: Runtime, items: Sequence[Item]) -> list[Remark]:
    """An error if the file has one type of activations and one of weights, and the tables have more; else None."""
    if not runtime.one_dtype:
        return []
    names = defaultdict[tuple[bool, str], list[str]](list)
    for row, is_weight in items:
        names[is_weight, row.target or ""].append(row.name)
    found = []
    for kind, what in ((False, "activations"), (True, "weights")):
        targets = [target for is_weight, target in names if is_weight == kind]
        if len(targets) > 1:
            some = ", ".join(f"{target} ({quoted(names[kind, target][0])})" for target in targets)
            hint = "calibrate them to one, and say which tables, or which model's tensors, are weights"
            found.append(Remark((), f"{runtime.title} has one type for all {what}, these have {some}; {hint}"))
    return found


def _lacking(runtime: Runtime, items: Sequence[Item], consumer: Consumer | None, *, exact: bool) -> list[Remark]:
    """Messages about names of the model that no row is for: errors if a list says that they are needed."""
    if consumer is None or consumer.is_exact != exact:
        return []
    there = {item.row.name for item in items}
    asked = consumer.lacking(there, also_fused=runtime.needs_fused)
    missing = [name for name in asked if not (runtime.no_weights and consumer.is_weight(name))]
    what = f"it is in {consumer.source} and in no table"
    return [Remark(tuple(missing), f"{what}: {runtime.lacking}")] if missing else []


def _changed(runtime: Runtime, items: Sequence[Item], consumer: Consumer | None) -> list[Remark]:
    """Warnings about the differences between the runtime and the tables."""
    found = [(row.name, text) for row, is_weight in items for text in changes(runtime, row, is_weight)]
    if consumer is not None:
        for row in (item.row for item in items if item.is_weight):
            texts = (consumer.wrong_axis(row), consumer.made_elsewhere(row))
            found += [(row.name, text) for text in texts if text is not None]
        found += [(item.row.name, text) for item in items if (text := _dropped(runtime, item, consumer)) is not None]
    return _by_text(found)


def _dropped(runtime: Runtime, item: Item, consumer: Consumer) -> str | None:
    """A warning if a Relu or Clip is lost although the integers of its output reach beyond its limits; else None."""
    op = None if item.is_weight or not runtime.rectifier else consumer.unrectified(item.row)
    if op is None:
        return None
    return f"{runtime.title} drops the {op} before it, and its range goes on beyond it, {runtime.rectifier}"


def _by_text(said: Iterable[tuple[str, str]]) -> list[Remark]:
    """Joins equal remarks about several tensors into one."""
    names = defaultdict(list)
    for name, text in said:
        names[text].append(name)
    return [Remark(tuple(of), text) for text, of in names.items()]
