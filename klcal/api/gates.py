"""The functions of the library for gates in CI: the changes since a table was committed, judged by rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from klcal.api import arguments
from klcal.api.arguments import Path
from klcal.errors import UsageError
from klcal.tables.table import Table

if TYPE_CHECKING:
    from klcal.pipeline.request import ByName
    from klcal.quantizers.granularity import Per
    from klcal.search.methods import Method
    from klcal.search.settings import Nonfinite

__all__ = ["check", "diff"]


def diff(a: Table | Path, b: Table | Path, *, rules: str | Sequence[str] = ()) -> Table:
    """Compare two tables of scales, without their tensors: as ``klcal diff``.

    Args:
        a: the baseline: a table from ``calibrate_files``, or a file that ``klcal calibrate`` or ``klcal export`` wrote.
        b: the table, or the file, to compare with it.
        rules: the changes that are findings, as for ``--fail-on``: "d.sqnr_db < -0.5", "missing". By default, those
            that ``klcal diff --help`` lists.

    Returns:
        A table with a row for each tensor that changed. Its ``findings`` are the changes that met a rule, the worst
        first. A gate passes if there are none.

    Raises:
        UsageError: a rule is invalid, or an argument is not a table of scales, or its file cannot be read.
        InputError: no tensor has a scale in both tables, so nothing can be judged.
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
    scheduler: str | None = None,
) -> Table:
    """Calibrate files again, and compare the scales with those of a committed table: as ``klcal check``.

    ``dtype``, ``method``, ``scheme``, ``scale_format`` and ``per`` are taken from the baseline. If they are given, they
    must be the same. A table does not have the other arguments, from ``bounds`` on: give them as they were.

    Args:
        paths: one path or several: files, directories, patterns.
        baseline: a table from ``calibrate_files``, or its file.
        rules: the changes that are findings, as for ``diff``.
        dtype: the number format to quantize to.
        method: chooses the range.
        scheme: which integers are used, around which zero point.
        scale_format: the number format of the scale.
        per: the units that get a scale.
        bounds: (low, high), the widest range that a quantizer may cover.
        nonfinite: "fail" gives a tensor with NaN or infinities no scale, "ignore" leaves these values out.
        importance: a file with the importance of each tensor, under the name of the tensor.
        include: globs: only tensors whose name matches one of them are used; empty for all tensors.
        exclude: globs: tensors whose name matches one of them are left out.
        dequantize: whether codes with a scale in the same file are restored to their values.
        pool: which tensors of the files count as batches of one tensor, as for ``--pool``.
        device: where values are counted: "auto", "cpu", "cuda", "cuda:N" or "cuda:all".
        jobs: the number of cores to use. The result does not depend on it.
        scheduler: the address of a Dask cluster that does the work instead, or "local": as for ``--scheduler``.

    Returns:
        A table with a row for each tensor that changed, as for ``diff``. Files that cannot be read are in its
        ``errors``. Tensors that have lost their scale meet the rule "status".

    Raises:
        UsageError: an argument is invalid, or the baseline is not a table, or has another configuration or version.
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
        scheduler=None if scheduler is None else arguments.text("scheduler", scheduler),
    )
    return _judged(done.changes, asked)


IN_MEMORY = "the baseline"  # the name, in messages, of a table without a file


def _judged(changes: Table, rules: Any) -> Table:
    from klcal.pipeline.rules import differing, drifted, not_judged

    if not changes.usable:
        raise not_judged(changes)
    return differing(drifted(changes, rules))


def _side(name: str, given: Table | Path) -> tuple[Table, str]:
    """A table of scales, and its name in messages."""
    from klcal.pipeline.scales import read_any, read_scales

    if isinstance(given, Table):
        return read_scales(given), name
    path = arguments.path(name, given)
    return read_any(path), path
