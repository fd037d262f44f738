"""An explanation in words: a few sentences, each of them derived from its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from klcal.tables.explanation import Alternative, Explanation, Nearby, Without
from klcal.tables.rows import Row
from klcal.writers.floats import for_people

__all__ = ["FLAT_DB", "sentences"]

FLAT_DB = 0.1  # of SQNR: a difference that no network shows
SHARP_DB = 1.0
OUTLIERS_DB = 3.0  # half a bit: the loss of all other values from which outliers are mentioned
CHANGE = 0.05  # of the scale, by which its flatness is judged


def sentences(row: Row) -> list[str]:
    """The sentences about the row of a tensor, a channel or a group that was explained."""
    if row.status != "ok":
        return [f"It has no scale, status {row.status}: {row.reason}."]
    known = row.explanation
    if known is None or not known.methods:
        return [] if row.units is None else list(_of_units(row))
    chosen = known.methods[0]
    said = [_range(chosen, known), _compared(chosen, known.methods[1:]), _flatness(chosen, known.nearby)]
    return [*filter(None, said), *_outliers(chosen, known.without)]


def _of_units(row: Row) -> Iterator[str]:
    assert row.units is not None
    known = [(value, unit) for unit, value in enumerate(row.units.sqnr_db.tolist()) if value == value]
    if known:
        worst, best = min(known), max(known)
        yield (
            f"Of {len(row.units)} units, number {worst[1]} loses most: {for_people(worst[0])} dB, "
            f"against {for_people(best[0])} dB for number {best[1]}."
        )


def _range(chosen: Alternative, known: Explanation) -> str:
    kept = f"{for_people(chosen.low)} to {for_people(chosen.high)}"
    lost = f"{_percent(chosen.rounded_to_zero)} of the nonzero values become 0"
    zero = lost if chosen.rounded_to_zero else "no other value becomes 0"
    if not chosen.clipped or known.histogram is None:
        return f"No value is clipped: the codes reach from {kept}; {zero}."
    of = f"from {for_people(known.histogram.low)} to {for_people(known.histogram.high)}"
    return f"The values reach {of}, and {kept} is kept: {_percent(chosen.clipped)} of them are clipped; {zero}."


def _compared(chosen: Alternative, others: Sequence[Alternative]) -> str:
    """How other methods do against the choice, in SQNR."""
    if chosen.sqnr_db is None:
        return "It has no error at all: every value is one that a code stands for."
    gains = {each.method.partition(":bins")[0]: (each.sqnr_db or 0.0) - chosen.sqnr_db for each in others}
    alike = [name for name, gain in gains.items() if abs(gain) <= FLAT_DB]
    differ: dict[str, list[str]] = {}
    for name, gain in gains.items():
        if name not in alike:
            differ.setdefault(f"{abs(gain):.3g} dB {'better' if gain > 0 else 'worse'}", []).append(name)
    parts = [f"{_listed(alike)} would come within {FLAT_DB} dB of its SQNR"] if alike else []
    parts += [f"{_listed(names)} would be {gain}" for gain, names in differ.items()]
    return f"{'; '.join(parts)}." if parts else ""


def _flatness(chosen: Alternative, nearby: Sequence[Nearby]) -> str:
    """The sentence about the costs of scales close to the choice."""
    if chosen.sqnr_db is None or not nearby:
        return ""
    lost = {each.change: chosen.sqnr_db - each.sqnr_db for each in nearby if each.sqnr_db is not None}
    worst = max(lost, key=lambda change: lost[change], default=None)
    if worst is None or lost[worst] <= 0:
        return ""
    how = f"a scale {abs(worst):.0%} {'larger' if worst > 0 else 'smaller'}".replace("%", " %")
    if lost[worst] <= FLAT_DB:
        return f"The choice is flat: a scale up to {CHANGE:.0%} off costs at most {lost[worst]:.2g} dB.".replace(
            "%", " %"
        )
    sharp = "The choice is sharp: " if lost[worst] >= SHARP_DB else ""
    said = f"{sharp}{how} costs {lost[worst]:.2g} dB."
    return said[:1].upper() + said[1:]


def _outliers(chosen: Alternative, without: Sequence[Without]) -> Iterator[str]:
    """The sentence about the cost of the outermost values."""
    if not without or chosen.sqnr_db is None:
        return
    most = without[-1]
    who = (
        f"the largest {for_people(100 * most.share)} % of the values ({most.count:,}, beyond {for_people(most.beyond)})"
    )
    if most.scale is None or most.sqnr_db is None or most.sqnr_db_as_is is None:
        yield f"Without {who}, the others would have no error."
        return
    gain = most.sqnr_db - most.sqnr_db_as_is
    kind = "Outliers take the levels" if gain >= OUTLIERS_DB else "Outliers do not matter much"
    yield (
        f"{kind}: without {who}, the scale would be {for_people(most.scale)}, "
        f"and the others' SQNR {for_people(most.sqnr_db)} in place of {for_people(most.sqnr_db_as_is)} dB."
    )


def _percent(share: float) -> str:
    return f"{for_people(100 * share, 3)} %"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
