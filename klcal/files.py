"""The functions of the library for files: the commands, as Python functions.

``klcal.calibrate`` and ``klcal.sketch`` take values. These functions take files, and read one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from klcal import arguments
from klcal.arguments import Path
from klcal.errors import InputError, OutputError, UsageError
from klcal.tables.table import Table

if TYPE_CHECKING:
    from klcal.pipeline.apply import Applied
    from klcal.pipeline.request import ByName
    from klcal.quantizers.granularity import Per
    from klcal.search.methods import Method
    from klcal.search.settings import Nonfinite
    from klcal.tables.explanation import Detail

__all__ = ["apply", "calibrate_files", "compare", "export", "load_table"]


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


def apply(
    model: Path,
    output: Path,
    *,
    to: str,
    table: Path | Table | None = None,
    activations: Path | Table | None = None,
    dtype: ByName[str] | None = None,
    method: ByName[Method] | None = None,
    scheme: ByName[str] | None = None,
    scale_format: ByName[str] | None = None,
    per: ByName[Per] | None = None,
    bounds: tuple[float, float] | None = None,
    nonfinite: Nonfinite | None = None,
    importance: Path | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    device: str | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
) -> Applied:
    """Write a quantized model: as ``klcal apply``.

    Args:
        model: a file, a directory, or the index of a sharded checkpoint.
        output: a file for a file, a directory for a directory. It appears only when it is complete.
        to: the form: "compressed-tensors", "gguf", "onnx", "safetensors", "npz" or "fake".
        table: of the model, from ``klcal.calibrate_files`` or a file. Without it the model is calibrated first, with
            the arguments from ``dtype`` to ``importance``.
        activations: for "onnx", to quantize activations too, by ONNX Runtime: a table of them, its file, or a file or
            directory of values, which are calibrated to uint8.
        dtype: the number format to quantize to; by default uint8, and int4 for compressed-tensors.
        method: chooses the range; by default kl.
        scheme: which integers are used, around which zero point; by default symmetric-full for compressed-tensors.
        scale_format: the number format of the scale; by default the model's dtype for compressed-tensors.
        per: the units that get a scale; by default the tensor, and by the dtype for compressed-tensors.
        bounds: (low, high), the widest range that a quantizer may cover.
        nonfinite: "fail" (the default) gives a tensor with NaN or infinities no scale, "ignore" leaves them out.
        importance: a file with the importance of each tensor, under the name of the tensor.
        include: globs: only tensors whose name matches one of them are quantized; all others are kept as they are.
        exclude: globs: tensors whose name matches one of them are left out.
        device: where values are counted; by default "auto".
        jobs: the number of cores to use for calibration.
        scheduler: the address of a Dask cluster that calibrates instead, or "local": as for ``--scheduler``.

    Returns:
        The numbers of tensors that were ``quantized`` and ``kept``, the ``nbytes`` that were written, and ``warnings``.

    Raises:
        UsageError: an argument is invalid, or the output cannot be written.
        InputError: no tensor of the model can be used.
        OutputError: the model, or one of its tensors, cannot be written in this form. Then nothing is written.
    """
    from klcal.pipeline.apply import apply_files
    from klcal.sketches.device_counting import usable_devices

    asked: dict[str, Any] = {
        "dtype": dtype,
        "method": method,
        "scheme": scheme,
        "scale_format": scale_format,
        "per": per,
        "bounds": bounds,
        "nonfinite": nonfinite,
        "importance": None if importance is None else arguments.path("importance", importance),
        "device": None if device is None else arguments.text("device", device),
    }
    options = {name: value for name, value in asked.items() if value is not None}
    if table is not None and (options or (scheduler is not None and activations is None)):
        raise UsageError(
            f"{next(iter(options), 'scheduler')} is for calibration, which the table has done", "give one of the two"
        )
    by: dict[str, Any] | str | Table
    if table is None:
        by = {"device": "auto", **options}
        usable_devices(by["device"])
    else:
        by = table if isinstance(table, Table) else arguments.path("table", table)
    given = (arguments.path("model", model), arguments.path("output", output), arguments.text("to", to), by)
    chosen: dict[str, Any] = {
        "include": arguments.globs("include", include),
        "exclude": arguments.globs("exclude", exclude),
        "jobs": arguments.count("jobs", jobs),
        "scheduler": None if scheduler is None else arguments.text("scheduler", scheduler),
    }
    if activations is None:
        return apply_files(*given, **chosen)
    from klcal.pipeline.static import apply_static

    values = activations if isinstance(activations, Table) else arguments.path("activations", activations)
    done = apply_static(*given, **chosen, activations=values)
    if done.errors:
        raise OutputError("; ".join(map(str, done.errors)))
    return done


def load_table(path: Path) -> Table:
    """Read a table that the command or ``Table.write`` has written, as JSON or .safetensors.

    Raises:
        InputError: the file is not a table, or is damaged.
        UsageError: the argument is not a path.
    """
    from klcal.readers.table_file import read_table

    return read_table(arguments.path("path", path))


def export(
    tables: Table | Path | Sequence[Table | Path],
    to: str,
    output: Path,
    *,
    weights: Table | Path | Sequence[Table | Path] = (),
    model: Path | None = None,
    names: Path | None = None,
    rename: str | Sequence[str] = (),
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
) -> list[str]:
    """Write scales in the form that a runtime loads, all of them or nothing: as ``klcal export``.

    Args:
        tables: one table of scales or several, or their files. Their tensors count as activations, except for those
            that are weights in the model, or that were calibrated in a ``.onnx`` or ``.gguf``.
        to: "ort", "ort-cache", "aimet-2.0.0", "aimet-1.0.0", "aimet-0.6.1", "litert" or "tensorrt-cache".
        output: the file. An existing file is replaced, unless it is a tensor file.
        weights: tables of weights.
        model: the ``.onnx`` that the file is for. A tensor of the tables that is not in the model is an error; a tensor
            of the model that is not in the tables is a warning.
        names: a file with exactly the names that the runtime needs, one on each line.
        rename: substitutions for names, "s/old/new/", one after the other.
        include: globs: only tensors whose name matches one of them are used; empty for all tensors.
        exclude: globs: tensors whose name matches one of them are left out.

    Returns:
        Messages: settings of the tables that the runtime does not follow, and scales that it will not find.

    Raises:
        InputError: a tensor cannot be exported. Nothing is written.
        UsageError: an argument is invalid, or one of the files cannot be used.
        OutputError: writing failed.
    """
    from klcal.pipeline.export import export_tables
    from klcal.writers.file import is_special, replacement, write_text

    several = [arguments.tables(name, given) for name, given in (("tables", tables), ("weights", weights))]
    others = [None if each is None else arguments.path("model and names", each) for each in (model, names)]
    path = arguments.path("output", output)
    if is_special(path):
        raise UsageError(f"cannot write '{path}': it is a pipe or a device", "name a file")
    inputs = [each for each in (*several[0], *several[1], *others) if isinstance(each, str)]
    with replacement(path, inputs) as file:
        found = export_tables(
            several[0],
            arguments.text("to", to),
            weights=several[1],
            model=others[0],
            names=others[1],
            rename=arguments.globs("rename", rename),
            include=arguments.globs("include", include),
            exclude=arguments.globs("exclude", exclude),
        )
        if (text := found.text) is None:
            more = len(found.errors) - 1
            raise InputError(f"{found.errors[0]}{f'; and {more} errors more' if more else ''}", "nothing was written")
        file.replace(partial(write_text, text))
    return [*map(str, found.warnings), *([found.advice] if found.advice else [])]
