"""Foreign objects of a pickle, which only code of other packages could make: they are named, and skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from klcal.readers.description import Description
from klcal.readers.pt.calls import OPTIMIZER_STATE, is_known, refused_global
from klcal.readers.pt.names import Named
from klcal.readers.pt.values import Foreign, Storage, Tensor, shown
from klcal.readers.quoting import quoted

__all__ = ["refuse_foreign_alone", "with_foreign"]

NAMED = 2  # objects in a warning
NAME_CHARACTERS = 40  # of each: its name, and its class
EXACT = ("int", "uint", "bool", "bits")  # the beginnings of dtypes that are not calibrated


def refuse_foreign_alone(named: Sequence[Named]) -> None:
    """Raises InputError where there are foreign objects and nothing else, as in a pickled module."""
    foreign = [each.value for each in named if isinstance(each.value, Foreign)]
    if foreign and len(foreign) == len(named):
        raise refused_global(_first_unknown(foreign))


def with_foreign(found: Sequence[Description], named: Sequence[Named]) -> list[Description]:
    """The described values, and the foreign objects beside them.

    One that holds tensors is a row of its own, as those cannot be read; the others are named in a warning.
    """
    seen = {id(each.value) for each in named if isinstance(each.value, Tensor)}
    rows, others = [], []
    for each in named:
        if isinstance(each.value, Foreign):
            holds = _holds_weights(each.value, seen)
            rows += [_row(each, each.value)] if holds else []
            others += [] if holds else [_called(each.name, each.value)]
    if not others:
        return [*found, *rows]
    more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
    warning = f"left alone, as klcal runs no code from a file: {', '.join(others[:NAMED])}{more}"
    first, *rest = [*found, *rows]
    return [replace(first, warnings=(warning,)), *rest]


def _called(name: str, value: Foreign) -> str:
    return f"{quoted(name, NAME_CHARACTERS)} ({quoted(value.name, NAME_CHARACTERS)[1:-1]})"


def _row(named: Named, value: Foreign) -> Description:
    if named.training:
        return Description(named.name, "", (), status="skipped", reason=OPTIMIZER_STATE)
    what = f"it needs {shown(value.name)}, and klcal runs no code from a file"
    reason = f"{what}; save the tensors in it in a plain dict, as model.state_dict() does"
    return Description(named.name, "", (), status="unsupported", reason=reason)


def _holds_weights(value: Foreign, seen: set[int]) -> bool:
    """Whether something that could be calibrated is in a foreign object, and its ``id`` not among those seen."""
    inside = (each for each in _inside(value, seen) if isinstance(each, Tensor | Storage))
    return any(not each.dtype.startswith(EXACT) for each in inside)


def _first_unknown(values: Iterable[Foreign]) -> str:
    """The first name that is not known, of those that some foreign objects need."""
    seen: set[int] = set()
    found = (each.name for value in values for each in _inside(value, seen) if type(each) is Foreign)
    return next((name for name in found if not is_known(name)), "")


def _inside(value: Any, seen: set[int]) -> Iterator[Any]:
    """A value and all its parts, each once."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, dict):
            waiting += reversed([*each.keys(), *each.values()])
        elif isinstance(each, list | tuple):
            waiting += reversed(each)
        elif type(each) is Foreign:
            waiting += reversed(each.contents)
