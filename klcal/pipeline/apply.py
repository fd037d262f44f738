"""A model and a table to the quantized model: the whole of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, TypeVar

from klcal.errors import InputError, KlcalError, OutputError, UsageError
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.model import Files, files_of, tensors_of
from klcal.pipeline.quantized_copy import Quantizers, read_quantizers
from klcal.pipeline.request import Request
from klcal.pipeline.selection import Selected, selected
from klcal.pipeline.tasks import Progress
from klcal.readers import Description, index_file
from klcal.readers.quoting import quoted
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.codes import Codes
from klcal.writers.file import reason, replacement, sync
from klcal.writers.forms import form_of
from klcal.writers.forms.form import Assigned, Form, Model, TensorFile

__all__ = ["Applied", "apply_files"]

Result = TypeVar("Result")

KEPT = ("empty", "skipped")  # rows that need no scale: their tensors stay as they are
MORE = "calibrate the model again, or leave it out with --exclude"


class Applied(NamedTuple):
    """What was done."""

    quantized: int  # tensors
    kept: int
    nbytes: int  # written
    warnings: tuple[str, ...]

    @property
    def headline(self) -> str:
        """For people."""
        many = "s" * (self.quantized != 1)
        return f"{self.quantized} tensor{many} quantized, {self.kept} kept as they were; {self.nbytes:,} bytes"


def _check_output(files: Files, output: str) -> None:
    """Refuses an output that is, holds or lies in the model.

    Raises:
        UsageError: it does, or there is something already.
    """
    target = Path(os.path.realpath(output))
    if files.directory is None:
        return  # ``replacement`` checks a file
    model = Path(os.path.realpath(files.directory))
    if target == model or target.is_relative_to(model) or model.is_relative_to(target):
        raise UsageError(f"'{output}' is, holds or lies in the model", "name a directory elsewhere")
    if target.exists() and not target.is_dir():
        raise UsageError(f"'{output}' is a file, and the model a directory", "name a directory that is not there yet")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"the directory '{output}' is not empty", "name one that is not there yet")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write '{output}': there is no directory '{target.parent}'", "make it: mkdir -p")


def apply_files(
    path: str,
    output: str,
    to: str,
    by: Mapping[str, Any] | str | Table,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int = 1,
    progress: tuple[Progress, Progress] | None = None,
) -> Applied:
    """Writes a model, quantized by a table, or as it is calibrated here.

    Args:
        path: a file, a directory, or the index of a sharded checkpoint.
        output: a file for a file, a directory for a directory; nothing of it is there before all of it is.
        to: the form: see ``klcal.writers.forms``.
        by: how the model is calibrated: what ``Request.parse`` takes, the form knowing the rest; or a table of it, or
            the table's file.
        include: globs, one of which a tensor's name has to match to be quantized.
        exclude: globs, none of which it may match.
        jobs: how many processes calibrate.
        progress: are told how far calibrating and writing are.

    Raises:
        UsageError: the output cannot be written, there is no such form, or the table is none.
        InputError: nothing of the model can be used.
        OutputError: the model, or a tensor of it, cannot be written so; nothing is.
    """
    form, files = form_of(to), files_of(path)
    _check_output(files, output)
    warnings: list[str] = []
    taken = _Taken(form.takes, include, exclude)
    if isinstance(by, Mapping):
        wanted = (each for file in files.tensors for each in tensors_of(file) if taken.of(file.source, each))
        request = Request.parse(**form.usual(files.directory, wanted, by))
        table = calibrate_files(
            files.paths,
            request,
            include=include,
            exclude=exclude,
            takes=taken.takes,
            jobs=jobs,
            progress=progress[0] if progress else None,
        )
        warnings += table.warnings
        quantizers = read_quantizers(table)
    else:
        quantizers = read_quantizers(by)
    model, lacking = _assigned(files, quantizers, taken)
    if lacking:
        warnings.append(
            f"the table has no row for {lacking} floating-point tensor{'s' * (lacking > 1)}: kept as they are"
        )
    counts = Counter(each.codes is not None for file in model.files for each in file.tensors)
    if not counts[True]:
        raise InputError("no tensor of the model has a scale in the table", "check --table, --include and --exclude")
    warnings += form.check(model)
    shown = progress[1] if progress else None
    if shown is not None:
        shown.start(len(model.files), sum(map(_nbytes, model.files)))
    if files.directory is None:
        nbytes = _written_file(model, output, form)
    else:
        nbytes = _written_directory(model, files, output, form, shown)
    return Applied(counts[True], counts[False], nbytes, tuple(warnings))


def _nbytes(file: TensorFile) -> int:
    return sum(part.nbytes for each in file.tensors for part in each.tensor.parts)


# --- what becomes of each tensor


class _Taken(NamedTuple):
    """Which tensors are quantized, if they can be."""

    by_form: Callable[[Description, Sequence[str]], bool]
    include: Sequence[str]
    exclude: Sequence[str]

    def takes(self, tensor: Description) -> bool:
        """Whether the form does."""
        return self.by_form(tensor, self.include)

    def of(self, source: str, tensor: Description) -> Selected | None:
        """A tensor, under the name by which it is wanted; None if it is not."""
        found = selected([Selected(source, tensor)], self.include, self.exclude) if self.takes(tensor) else []
        return found[0] if found and tensor.status == "ok" else None


def _assigned(files: Files, quantizers: Quantizers, taken: _Taken) -> tuple[Model, int]:
    """The model with a quantizer for each tensor that has one; and how many float tensors the table lacks."""
    described = [(file, tensors_of(file)) for file in files.tensors]
    usable = sum(each.status == "ok" for _, tensors in described for each in tensors)
    lacking, found = 0, []
    for file, tensors in described:
        assigned = []
        for each in tensors:
            wanted = taken.of(file.source, each)
            row = quantizers.of(wanted, alone=usable == 1) if wanted else ""
            lacking += isinstance(row, str) and row != ""
            codes = None
            if isinstance(row, Row) and row.status not in KEPT:
                with _named(file.source, each.name):
                    codes = Codes.of(each, row)
            assigned.append(Assigned(each, codes))
        found.append(TensorFile(file.name, file.path, file.source, tuple(assigned)))
    return Model(tuple(found), files.directory), lacking


@contextmanager
def _named(*places: str) -> Iterator[None]:
    """What is wrong with a tensor is told with its name: then nothing is written."""
    try:
        yield
    except KlcalError as error:
        where = ": ".join(map(quoted, places))
        raise OutputError(f"{where}: {error.what}; nothing was written", error.hint or MORE) from None


# --- writing


def _write(form: Form, file: TensorFile, out: BinaryIO) -> Mapping[str, int] | None:
    with _named(file.name):
        return form.write(file, out)


def _write_below(form: Form, file: TensorFile, out: TextIO) -> None:
    """To the bytes below a text stream."""
    _write(form, file, out.buffer)


def _written_file(model: Model, output: str, form: Form) -> int:
    """A file for a file."""
    (file,) = model.files
    with replacement(output, [file.path]) as out:
        out.replace(partial(_write_below, form, file))
    return Path(output).stat().st_size


def _written_directory(model: Model, files: Files, output: str, form: Form, progress: Progress | None) -> int:
    """A directory for a directory: a new one beside it, which gets its name when it is complete."""
    target = Path(os.path.realpath(output))
    temporary = target.with_name(f".klcal-{os.urandom(8).hex()}.tmp")
    try:
        temporary.mkdir()
        held: dict[str, Mapping[str, int] | None] = {}
        for file in model.files:
            name = form.renamed(file.name)
            held[name] = _write_new(temporary / name, partial(_write, form, file))
            if progress is not None:
                progress.advance(_nbytes(file))
                progress.finish(file.name)
        for name, data in _beside(model, files, form, held).items():
            _write_new(temporary / name, partial(_write_bytes, data))
        for name in files.others:
            if not (temporary / name).exists():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(files.directory or "") / name, temporary / name)
        nbytes = sum(each.stat().st_size for each in temporary.rglob("*") if each.is_file())
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        what = f"cannot write '{output}': {reason(error)}"
        raise OutputError(what, "make room, or name another directory") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return nbytes


def _write_bytes(data: bytes, out: BinaryIO) -> None:
    out.write(data)


def _write_new(path: Path, write: Callable[[BinaryIO], Result]) -> Result:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x+b") as out:
        found = write(out)
        out.flush()
        os.fsync(out.fileno())
    return found


def _beside(model: Model, files: Files, form: Form, held: Mapping[str, Mapping[str, int] | None]) -> dict[str, bytes]:
    """The indexes of sharded checkpoints, and what the form has to say; ``held`` are the tensors of each new file."""
    made = dict(form.beside(model))
    for index in files.indexes:
        shards = [form.renamed(file.name) for file in files.tensors if file.index == index]
        known = {shard: sizes for shard in shards if (sizes := held[shard]) is not None}
        if not known:
            made[index] = (Path(files.directory or "") / index).read_bytes()
            continue
        sizes = {name: size for each in known.values() for name, size in each.items()}
        weight_map = {name: Path(shard).name for shard, each in known.items() for name in each}
        document = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(weight_map.items()))}
        whole = form.renamed(index.removesuffix(index_file.SUFFIX)) + index_file.SUFFIX
        made[whole] = json.dumps(document, indent=2).encode() + b"\n"
    return made
