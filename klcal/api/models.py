"""The functions of the library for models: a quantized model, and scales in the form that a runtime loads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from klcal.api import arguments
from klcal.api.arguments import Path
from klcal.errors import InputError, OutputError, UsageError
from klcal.tables.table import Table

if TYPE_CHECKING:
    from klcal.pipeline.apply import Applied
    from klcal.pipeline.request import ByName
    from klcal.quantizers.granularity import Per
    from klcal.search.methods import Method
    from klcal.search.settings import Nonfinite

__all__ = ["apply", "export"]


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
