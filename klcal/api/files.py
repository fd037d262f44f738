"""The functions of the library for files: the commands, as Python functions.

``klcal.calibrate`` and ``klcal.sketch`` take values. These functions take files, and read one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from klcal.api import arguments
from klcal.api.arguments import Path
from klcal.errors import UsageError
from klcal.tables.table import Table

if TYPE_CHECKING:
    from klcal.pipeline.request import ByName
    from klcal.quantizers.granularity import Per
    from klcal.search.methods import Method
    from klcal.search.settings import Nonfinite
    from klcal.tables.explanation import Detail

__all__ = ["calibrate_files", "compare", "load_table"]


def calibrate_files(
    paths: Path | Sequence[Path],
    *,
    dtype: ByName[str] = "uint8",
    method: ByName[Method] = "kl",
    scheme: ByName[str] = "auto",
    scale_format: ByName[str] = "float32",
    per: ByName[Per] = "tensor",
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
    detail: Detail = "none",
) -> Table:
    """Calibrate files: a table with a row for every tensor, as from ``klcal calibrate``.

    ``dtype``, ``method``, ``scheme``, ``scale_format`` and ``per`` are as in ``klcal.calibrate``, or rules by the names
    of tensors. The first rule that matches holds: ``per={"*.weight": "group:128", "*": "tensor"}``, or the
    texts of the command, ``per=["*.weight=group:128", "tensor"]``.

    Args:
        paths: one path or several: files, directories, patterns.
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
        dequantize: whether float8 and int8 codes with a scale in the same file are restored to their values; otherwise
            they are skipped.
        pool: which tensors of the files count as batches of one tensor: "dir", "stem", "name" or a pattern, as for
            ``--pool``.
        device: where values are counted: "auto", "cpu", "cuda", "cuda:N" or "cuda:all".
        jobs: the number of cores to use; with several, processes are forked. The result does not depend on it.
        scheduler: the address of a Dask cluster that does the work instead, or "local": as for ``--scheduler``.
        detail: how much the ``explanation`` of each row has: "none", "histogram" (which notebooks show), "plots" or
            "all"; see ``klcal.calibrate``.

    Returns:
        The table. A file or a tensor that cannot be used does not raise an error. The table has it: in its ``errors``
        and ``warnings``, and in the ``status`` and ``reason`` of the row.

    Raises:
        UsageError: an argument is invalid, a tensor does not have the axis that is asked for, or the importance cannot
            be used.
    """
    from klcal.pipeline import calibrate
    from klcal.pipeline.pooling import Pool
    from klcal.pipeline.request import Request
    from klcal.sketches.device_counting import usable_devices

    request = Request.parse(
        dtype=dtype,
        method=method,
        scheme=scheme,
        scale_format=scale_format,
        per=per,
        bounds=bounds,
        nonfinite=nonfinite,
        device=arguments.text("device", device),
        importance=None if importance is None else arguments.path("importance", importance),
        detail=detail,
    )
    usable_devices(request.device)
    return calibrate.calibrate_files(
        arguments.paths("paths", paths),
        request,
        include=arguments.globs("include", include),
        exclude=arguments.globs("exclude", exclude),
        dequantize=dequantize,
        pool=None if pool is None else Pool.parse(arguments.text("pool", pool)),
        jobs=arguments.count("jobs", jobs),
        scheduler=None if scheduler is None else arguments.text("scheduler", scheduler),
    )


def compare(
    p: Path,
    q: Path | None = None,
    *,
    table: Table | Path | None = None,
    base: str = "e",
    bins: int | None = None,
    sort: str = "js",
    strip_prefix: str = "",
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    dequantize: bool = False,
    pool: str | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
) -> Table:
    """Compare the tensors of P with those of Q, or with their own quantized copy: as ``klcal compare``.

    Args:
        p: the reference: a file, a directory, or the index of a sharded checkpoint.
        q: the approximation, of the same forms; or give a table instead.
        table: of scales, from ``calibrate_files`` or ``load_table``, or its file: P is compared with its copy that is
            quantized by the table.
        base: of the logarithms: "e" (nats), "2" (bits) or "10" (bans).
        bins: the number of common bins of equal mass, 64 by default.
        sort: the field to sort by; the worst row comes first.
        strip_prefix: a prefix to remove from names on both sides, such as "module.".
        include: globs: only tensors whose name matches one of them are used; empty for all tensors.
        exclude: globs: tensors whose name matches one of them are left out.
        dequantize: whether float8 and int8 codes with a scale in the same file are restored to their values; otherwise
            they are skipped.
        pool: which tensors of the files count as batches of one tensor: "dir", "stem", "name" or a pattern, as for
            ``--pool``.
        jobs: the number of cores to use. The result does not depend on it.
        scheduler: the address of a Dask cluster that does the work instead, or "local": as for ``--scheduler``.

    Returns:
        A table with a row for each pair of tensors. A file or a tensor that cannot be used is in its ``errors``, or in
        the ``status`` and ``reason`` of the row.

    Raises:
        UsageError: an argument is invalid, or both q and a table are given, or neither.
    """
    from klcal.pipeline.compare import compare_files
    from klcal.pipeline.pooling import Pool

    if (q is None) == (table is None):
        raise UsageError("p is compared with q, or with what a table makes of it", "give one of the two: q or table")
    return compare_files(
        arguments.path("p", p),
        None if q is None else arguments.path("q", q),
        table=table if table is None or isinstance(table, Table) else arguments.path("table", table),
        base=base,
        bins=None if bins is None else arguments.count("bins", bins),
        sort=sort,
        strip_prefix=arguments.text("strip_prefix", strip_prefix),
        include=arguments.globs("include", include),
        exclude=arguments.globs("exclude", exclude),
        dequantize=dequantize,
        pool=None if pool is None else Pool.parse(arguments.text("pool", pool)),
        jobs=arguments.count("jobs", jobs),
        scheduler=None if scheduler is None else arguments.text("scheduler", scheduler),
    )


def load_table(path: Path) -> Table:
    """Read a table that the command or ``Table.write`` has written, as JSON or .safetensors.

    Raises:
        InputError: the file is not a table, or is damaged.
        UsageError: the argument is not a path.
    """
    from klcal.readers.table_file import read_table

    return read_table(arguments.path("path", path))
