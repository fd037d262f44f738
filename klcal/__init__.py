"""Scales and zero points for post-training quantization, by KL divergence, straight from tensors.

    sketch(values) → Sketch         a summary of a tensor from which it can be calibrated; sketches add, exactly
    Accumulator()                   a sketch of batches that come one by one; it does not wait for their device
    calibrate(values) → Row         a scale and a zero point, and what they cost
    read(path) → {name: tensor}     the tensors of a file, to sketch or to calibrate
    record(model) → Recording       sketches of the activations of a torch model
    quantize, dequantize            the reference rounding, by the quantizer of a row
    calibrate_files(paths) → Table  a row for every tensor of some files; Table.write(path) writes it
    load_table(path) → Table        a table from a file
    apply(model, output)            writes a quantized model
    export(tables, to, output)      writes scales in the form that a runtime loads
    sketch_files(paths, output)     writes a sketch file, which stands for tensors; merge(parts, output) adds such files
    save_sketches(path, {…})         writes sketches to a file; load_sketches(path) reads them
    check(paths, table) → Table     calibrates again: what changed since the table was committed
    diff(a, b) → Table              what changed between two tables, without their tensors
    compare(p, q) → Table           how far tensors are from others, or from their quantized copy
    divergence                      information theory, as a library of its own

Names are resolved when they are first used, so that importing klcal costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klcal import divergence
    from klcal.api.files import calibrate_files, compare, load_table
    from klcal.api.gates import check, diff
    from klcal.api.models import apply, export
    from klcal.api.sketch_files import load_sketches, merge, save_sketches, sketch_files
    from klcal.calibration.published import kl_divergence_calibration
    from klcal.calibration.values import calibrate
    from klcal.errors import InputError, KlcalError, OutputError, UsageError
    from klcal.quantizers.granularity import PerBlock, PerChannel, PerGroup, PerTensor
    from klcal.quantizers.qparams import Qparams
    from klcal.quantizers.rounding import dequantize, quantize
    from klcal.readers import Description, read
    from klcal.search.methods import KL, MSE, KLClassic, MinMax, Percentile
    from klcal.sketches.accumulator import Accumulator
    from klcal.sketches.recorder import Recording, record
    from klcal.sketches.sketch import Sketch
    from klcal.sketches.values import sketch
    from klcal.tables.rows import Row
    from klcal.tables.table import Table
    from klcal.tables.units import Units

__all__ = [
    "KL",
    "MSE",
    "Accumulator",
    "Description",
    "InputError",
    "KLClassic",
    "KlcalError",
    "MinMax",
    "OutputError",
    "PerBlock",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Percentile",
    "Qparams",
    "Recording",
    "Row",
    "Sketch",
    "Table",
    "Units",
    "UsageError",
    "apply",
    "calibrate",
    "calibrate_files",
    "check",
    "compare",
    "dequantize",
    "diff",
    "divergence",
    "export",
    "kl_divergence_calibration",
    "load_sketches",
    "load_table",
    "merge",
    "quantize",
    "read",
    "record",
    "save_sketches",
    "sketch",
    "sketch_files",
]

_HOMES = {
    "calibration.values": ("calibrate",),
    "calibration.published": ("kl_divergence_calibration",),
    "api.files": ("calibrate_files", "compare", "load_table"),
    "api.models": ("apply", "export"),
    "api.gates": ("check", "diff"),
    "errors": ("InputError", "KlcalError", "OutputError", "UsageError"),
    "quantizers.granularity": ("PerBlock", "PerChannel", "PerGroup", "PerTensor"),
    "search.methods": ("KL", "MSE", "KLClassic", "MinMax", "Percentile"),
    "quantizers.qparams": ("Qparams",),
    "quantizers.rounding": ("dequantize", "quantize"),
    "readers": ("Description", "read"),
    "sketches.accumulator": ("Accumulator",),
    "sketches.recorder": ("Recording", "record"),
    "sketches.sketch": ("Sketch",),
    "sketches.values": ("sketch",),
    "api.sketch_files": ("load_sketches", "merge", "save_sketches", "sketch_files"),
    "tables.rows": ("Row",),
    "tables.table": ("Table",),
    "tables.units": ("Units",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("klcal")
    if name == "divergence":
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
