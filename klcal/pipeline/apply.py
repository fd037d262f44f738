"""Quantizes a model by a table, and writes it: as a whole or not at all."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from klcal.errors import InputError, KlcalError, OutputError, UsageError
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.model import Files, TensorPath, files_of, tensors_of
from klcal.pipeline.quantized_copy import read_quantizers
from klcal.pipeline.request import Request
from klcal.pipeline.scales import read_scales
from klcal.pipeline.selection import Remark, listed, names_of
from klcal.pipeline.tasks import Progress
from klcal.pipeline.work import Taken, Work, check_output, name_of
from klcal.quantizers.layout import layout
from klcal.readers import Description, index_file
from klcal.readers.quoting import quoted
from klcal.readers.regular import open_regular
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.codes import Codes
from klcal.writers.directory import NewDirectory, new_directory
from klcal.writers.file import replacement
from klcal.writers.forms import form_of
from klcal.writers.forms.form import Assigned, Form, Model, TensorFile

__all__ = ["Applied", "apply_files", "request_for", "table_of"]

KEPT = ("empty", "skipped")  # rows that need no scale: their tensors stay as they are
WEIGHT, INPUT = ".weight", ".input"  # ends of names: MODULE.weight, and MODULE.input for dumped inputs
MORE = "calibrate the model again, or leave it out with --exclude"
TABLE = "table.safetensors"  # the calibrated table, kept until the model is written


class Applied(NamedTuple):
    """The result of ``apply``: counts of tensors and bytes, warnings and errors."""

    quantized: int  # tensors
    kept: int  # tensors that were copied as they are
    nbytes: int  # the size of all files
    warnings: tuple[str, ...]
    errors: tuple[Remark, ...] = ()  # if there are any, nothing was written
    activations: int = 0  # the number of quantized inputs of layers

    @property
    def headline(self) -> str:
        """The result in a sentence, for people."""
        what = f"{self.quantized} {'weight' if self.activations else 'tensor'}{'s' * (self.quantized != 1)}"
        what += f" and {self.activations} activation{'s' * (self.activations != 1)}" if self.activations else ""
        return f"{what} quantized, {self.kept} kept as they were; {self.nbytes:,} bytes"


def apply_files(
    path: str,
    output: str,
    to: str,
    by: Mapping[str, Any] | str | Table,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Write a model, quantized by a table, or calibrated first.

    Args:
        path: a file, a directory, or the index of a sharded checkpoint.
        output: the new file, or the new directory if the path is one. It appears only when it is complete.
        to: the name of the form: see ``klcal.writers.forms``.
        by: settings for the calibration, as keywords of ``Request.parse`` (the form has defaults for the others); or a
            table, or the path of one.
        include: patterns; only tensors whose names match one of them are quantized. No patterns: all tensors.
        exclude: patterns; tensors whose names match one of them are not quantized.
        jobs: the number of processes that calibrate.
        scheduler: a Dask cluster that calibrates instead: see ``klcal.pipeline.mapping.workers_at``.
        progress: told of the calibration, then of the writing.

    Raises:
        UsageError: the output cannot be written, the form is unknown, or the file is not a table.
        InputError: the model cannot be read.
        OutputError: the model or one of its tensors cannot be written in this form. Then nothing is written.
    """
    files, taken = files_of(path), Taken(form_of(to), include, exclude)
    asked = request_for(files, taken, by) if isinstance(by, Mapping) else by
    work = Work(files, output, to, asked, tuple(include), tuple(exclude))
    check_output(work)
    calibrate = partial(calibrate_files, jobs=jobs, scheduler=scheduler, progress=progress)
    if work.files.directory is None:
        with replacement(output, [path, *work.inputs]) as file:
            table = table_of(work, calibrate)
            return _applied(work, table, progress, partial(_write_file, work, file.replace))
    with new_directory(output, name_of(work)) as new:
        table = table_of(work, calibrate, new.own / TABLE)
        return _applied(work, table, progress, partial(_write_directory, work, new))


def request_for(files: Files, taken: Taken, given: Mapping[str, Any]) -> Request:
    """The settings for the calibration: the options that were given, and the defaults of the form.

    Raises:
        UsageError: a tensor with these settings could not be written in the form. This is checked before calibrating.
    """
    wanted = [taken.of(file.source, each) for file in files.tensors for each in _described(files, file)]
    tensors = [each for each in wanted if each is not None]
    request = Request.parse(**taken.form.usual(files.directory, (each.description for each in tensors), given))
    for source, tensor, *_ in tensors:
        names = names_of(tensor)
        try:
            place = layout(request.per.of(names), tensor.shape) if 0 not in tensor.shape else None
            taken.form.fits(tensor, request.settings(names).scheme, place.grid if place else None)
        except UsageError as error:
            raise UsageError(f"{source}: {tensor.name}: {error.what}", error.hint) from None
    return request


def table_of(work: Work, calibrate: Callable[..., Table], kept: Path | None = None) -> Table:
    """The table that was given, or the calibrated table of the model.

    Args:
        work: the arguments.
        calibrate: ``calibrate_files`` with the arguments for jobs, scheduler and progress.
        kept: the file in which the calibrated table is kept, so that a second try need not calibrate again; or None.
    """
    by = work.by
    if isinstance(by, Request):
        if kept is None or not kept.exists():
            which = {"include": work.include, "exclude": work.exclude, "takes": work.taken.takes}
            found = calibrate(work.files.paths, by, **which)
            if kept is not None:
                found.write(kept)
            return found
        by = str(kept)
    return read_scales(by)


def _applied(work: Work, table: Table, progress: Progress | None, write: Callable[[Model, _Meter], int]) -> Applied:
    """Writes the model, quantized by a table, and returns the result."""
    meter = _Meter(progress)
    model, lacking = _assigned(work, table, meter)
    counts = Counter(each.codes is not None for file in model.files for each in file.tensors)
    if not counts[True]:
        raise InputError("no tensor of the model has a scale in the table", "check --table, --include and --exclude")
    told = work.form.check(model)
    meter.start(model)
    nbytes = write(model, meter)
    warnings = table.warnings if isinstance(work.by, Request) else work.files.warnings
    return Applied(counts[True], counts[False], nbytes, (*told, *warnings, *_unmet(work, table, model, lacking)))


def _unmet(work: Work, table: Table, model: Model, lacking: int) -> Iterator[str]:
    """Warnings if tensors of the model have no row in the table, or rows have no tensor."""
    if lacking:
        many = "s" * (lacking > 1)
        yield f"the table has no row for {lacking} floating-point tensor{many}: kept as they are"
    tensors = [each for file in model.files for each in file.tensors]
    used = {id(each.codes.row) for each in tensors if each.codes is not None} | {id(each.input) for each in tensors}
    left = {name for each in tensors if not work.taken.takes(each.tensor) for name in each.names}
    known = [row for row in table.rows if row.status in ("ok", "zero") and id(row) not in used]
    idle = [row.name for row in known if row.name not in left]
    if idle and not (work.include or work.exclude):
        yield f"the model has no tensor for {len(idle)} row{'s' * (len(idle) > 1)} of the table: {listed(idle)}"


class _Meter:
    """Reports progress: the bytes of quantized tensors that were read, and finished files."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.told = 0  # reported bytes of the file that is being written

    def start(self, model: Model) -> None:
        if self.progress is not None:
            self.progress.start(sum(len(file.tensors) for file in model.files), sum(map(_nbytes, model.files)))

    def advance(self, nbytes: int) -> None:
        self.told += nbytes
        if self.progress is not None:
            self.progress.advance(nbytes)

    def finish(self, file: TensorFile) -> None:
        self.advance(_nbytes(file) - self.told)
        self.told = 0
        for each in file.tensors if self.progress is not None else ():
            self.progress.finish(each.tensor.name)  # type: ignore[union-attr]  # it is one


def _nbytes(file: TensorFile) -> int:
    return sum(part.nbytes for each in file.tensors for part in each.tensor.parts)


# --- a quantizer for each tensor


def _assigned(work: Work, table: Table, meter: _Meter) -> tuple[Model, int]:
    """The model with the quantizers of its tensors, and the number of floating-point tensors without a row."""
    quantizers = read_quantizers(table)
    described = [(file, _described(work.files, file)) for file in work.files.tensors]
    usable = sum(each.status == "ok" for _, tensors in described for each in tensors)
    lacking, found = 0, []
    for file, tensors in described:
        assigned = []
        for each in tensors:
            wanted = work.taken.of(file.source, each)
            row = quantizers.of(wanted, alone=usable == 1) if wanted else ""
            lacking += isinstance(row, str) and row != ""
            codes = None
            if isinstance(row, Row) and row.status not in KEPT:
                with _named(file.source, each.name):
                    codes = Codes.of(each, row, meter.advance)
            by_input = quantizers.by_name.get(f"{each.name.removesuffix(WEIGHT)}{INPUT}", [])
            takes_input = work.form.inputs and codes is not None and len(by_input) == 1
            assigned.append(Assigned(each, codes, by_input[0] if takes_input else None))
        found.append(TensorFile(file.name, file.path, file.source, tuple(assigned)))
    return Model(tuple(found), work.files.directory), lacking


def _described(files: Files, file: TensorPath) -> list[Description]:
    """The tensors of a file. If one file of a directory cannot be read, nothing is written."""
    try:
        return tensors_of(file)
    except InputError as error:
        kind = InputError if files.directory is None else OutputError
        raise kind(f"{quoted(file.name)}: {error.what}", error.hint) from None


@contextmanager
def _named(*places: str) -> Iterator[None]:
    """Adds the name of a file or a tensor to an error, which means that nothing is written."""
    try:
        yield
    except KlcalError as error:
        where = ": ".join(map(quoted, places))
        raise OutputError(f"{where}: {error.what}; nothing was written", error.hint or MORE) from None


# --- writing


def _write(form: Form, file: TensorFile, out: BinaryIO) -> Mapping[str, int] | None:
    with _named(file.name):
        return form.write(file, out)


def _write_file(work: Work, replace: Callable[[Callable[[TextIO], None]], None], model: Model, meter: _Meter) -> int:
    """Writes a model that is one file, and returns its size in bytes."""
    (file,) = model.files

    def render(out: TextIO) -> None:
        _write(work.form, file, out.buffer)

    replace(render)
    meter.finish(file)
    return Path(work.output).stat().st_size


def _write_directory(work: Work, new: NewDirectory, model: Model, meter: _Meter) -> int:
    """Writes a model that is a directory, and returns the size of all files in bytes."""
    held: dict[str, Mapping[str, int] | None] = {}
    for file in model.files:
        name = work.form.renamed(file.name)
        held[name] = new.write(name, partial(_write, work.form, file))
        meter.finish(file)
    for name, data in _beside(work, model, held).items():
        new.put(name, data)
    for name in work.files.others:
        with _named(name):
            new.copy(name, posixpath.join(work.files.directory or "", name))
    return sum(each.stat().st_size for each in new.path.rglob("*") if each.is_file() and new.own not in each.parents)


def _beside(work: Work, model: Model, held: Mapping[str, Mapping[str, int] | None]) -> dict[str, bytes]:
    """Small files beside the model: indexes of sharded checkpoints, and the configuration of the form.

    Args:
        work: the arguments.
        model: the model.
        held: the tensors of each new file and their sizes, by the name of the file.
    """
    form, made = work.form, dict(work.form.beside(model))
    for index in work.files.indexes:
        shards = [form.renamed(file.name) for file in work.files.tensors if file.index == index]
        known = {shard: sizes for shard in shards if (sizes := held[shard]) is not None}
        if not known:
            file = open_regular(posixpath.join(work.files.directory or "", index))
            made[index] = file.read(0, file.size)
            continue
        sizes = {name: size for each in known.values() for name, size in each.items()}
        weight_map = {name: Path(shard).name for shard, each in known.items() for name in each}
        document = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(weight_map.items()))}
        whole = form.renamed(index.removesuffix(index_file.SUFFIX)) + index_file.SUFFIX
        made[whole] = json.dumps(document, indent=2).encode() + b"\n"
    return made
