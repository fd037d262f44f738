"""The functions of the library for gates: what changed since a table was committed, and what of it met a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from klcal import arguments
from klcal.arguments import Path
from klcal.errors import UsageError
from klcal.tables.table import Table

if TYPE_CHECKING:
    from klcal.pipeline.request import ByName
    from klcal.quantizers.granularity import Per
    from klcal.search.methods import Method
    from klcal.search.settings import Nonfinite

__all__ = ["check", "diff"]


def diff(a: Table | Path, b: Table | Path, *, rules: str | Sequence[str] = ()) -> Table:
    """What changed between two tables of scales, without their tensors: as ``klcal diff``.

    Args:
        a: the baseline: a table of ``calibrate_files``, or a file: a table, or what ``klcal export`` wrote.
        b: what is compared with it.
        rules: what is a finding, as ``--fail-on`` has it: "d.sqnr_db < -0.5", "missing"; without any, the rules that
            ``klcal diff --help`` lists.

    Returns:
        A table whose rows are changes, one for each tensor that is not the same. Its ``findings`` are what met a rule,
        the worst first: a gate passes where there are none.

    Raises:
        UsageError: a rule is none; an argument is no table of scales, or its file cannot be read.
        InputError: no tensor with a scale is in both, so nothing can be judged.
    """
    from klcal.pipeline.rules import asked_rules
    from klcal.tables.diff import diff as changes_of

    asked = asked_rules(arguments.globs("rules", rules))
    (was, baseline), (now, compared) = _side("a", a), _side("b", b)
    return _judged(changes_of(was, now, baseline, compared), asked)


def check(
    paths: Path | Sequence[Path],
    baseline: Table | Path,
    *,
    rules: str | Sequence[str] = (),
    dtype: ByName[str] | None = None,
    method: ByName[Method] | None = None,
    scheme: ByName[str] | None = None,
    scale_format: ByName[str] | None = None,
    per: ByName[Per] | None = None,
    bounds: tuple[float, float] | None = None,
    nonfinite: Nonfinite = "fail",
    importance: Path | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    dequantize: bool = False,
    pool: str | None = None,
    device: str = "auto",
    jobs: int = 1,
) -> Table:
    """Calibrates files again and says what changed since a table was committed: as ``klcal check``.

    The baseline says how its tensors were calibrated, so ``dtype``, ``method``, ``scheme``, ``scale_format`` and
    ``per`` need not be given, and are an error where they say something else. What a table does not say has to be given
    as it was: all that follow them.

    Args:
        paths: files, directories, patterns; one, or several.
        baseline: a table of ``calibrate_files``, or its file.
        rules: what is a finding, as for ``diff``.
        dtype: what to quantize to.
        method: how the range is chosen.
        scheme: which integers are used, around which zero point.
        scale_format: what the hardware wants the scale in.
        per: what gets a scale of its own.
        bounds: (low, high), the widest range a candidate may keep.
        nonfinite: what becomes of a tensor with NaN or infinities: "fail" or "ignore".
        importance: a file of weights, by the names of tensors.
        include: globs, one of which a tensor's name has to match; none for all tensors.
        exclude: globs, none of which it may match.
        dequantize: whether codes that have a scale beside them are taken for what they stand for.
        pool: which tensors of the files are batches of one, as ``--pool`` has it.
        device: where values are counted: "auto", "cpu", "cuda", "cuda:N" or "cuda:all".
        jobs: how many cores are used. The result does not depend on it.

    Returns:
        A table whose rows are changes, as for ``diff``. Files that cannot be read are its ``errors``; tensors that have
        no scale any more meet the rule "status".

    Raises:
        UsageError: an argument is not understood; the baseline is none, or of another configuration or version.
        InputError: no tensor of the files has a scale in the baseline, so nothing can be judged.
    """
    from klcal.pipeline.check import asked_again, check_files
    from klcal.pipeline.pooling import Pool
    from klcal.pipeline.rules import asked_rules
    from klcal.pipeline.scales import read_baseline, read_scales
    from klcal.sketches.device_counting import usable_devices

    asked = asked_rules(arguments.globs("rules", rules))
    inputs = arguments.paths("paths", paths)
    if not inputs:
        raise UsageError("paths is []", "name a file")
    is_table = isinstance(baseline, Table)
    called = IN_MEMORY if is_table else arguments.path("baseline", baseline)
    was = read_scales(baseline) if isinstance(baseline, Table) else read_baseline(called)
    words = {"dtype": dtype, "method": method, "scheme": scheme, "scale_format": scale_format, "per": per}
    given: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
    weights = None if importance is None else arguments.path("importance", importance)
    given |= {"bounds": bounds, "nonfinite": nonfinite, "importance": weights}
    request = asked_again(was, {**given, "device": arguments.text("device", device)})
    usable_devices(request.device)
    done = check_files(
        inputs,
        was,
        request,
        called=called,
        include=arguments.globs("include", include),
        exclude=arguments.globs("exclude", exclude),
        dequantize=dequantize,
        pool=None if pool is None else Pool.parse(arguments.text("pool", pool)),
        jobs=arguments.count("jobs", jobs),
    )
    return _judged(done.changes, asked)


IN_MEMORY = "the baseline"  # what a table without a file is called


def _judged(changes: Table, rules: Any) -> Table:
    from klcal.pipeline.rules import differing, drifted, not_judged

    if not changes.usable:
        raise not_judged(changes)
    return differing(drifted(changes, rules))


def _side(name: str, given: Table | Path) -> tuple[Table, str]:
    """A table of scales, and what it is called."""
    from klcal.pipeline.scales import read_any, read_scales

    if isinstance(given, Table):
        return read_scales(given), name
    path = arguments.path(name, given)
    return read_any(path), path
