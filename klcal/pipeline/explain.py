"""One tensor of a file, calibrated and explained."""

from __future__ import annotations

from klcal.errors import InputError, UsageError
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
from klcal.pipeline.selection import names_of, nearest
from klcal.pipeline.tasks import Progress
from klcal.readers import Description
from klcal.readers.quoting import quoted
from klcal.tables.table import Table

__all__ = ["explain_file"]


def explain_file(
    path: str,
    name: str | None,
    request: Request,
    *,
    dequantize: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Table:
    """A table with one row, whose ``explanation`` says why the tensor has its scale.

    Args:
        path: a file that has it, the index of a sharded checkpoint, or a directory.
        name: of the tensor; None if there is only one.
        request: how it is calibrated, and how much of that is explained.
        dequantize: whether codes with a scale in the same file are restored to their values.
        jobs: how many cores are used.
        progress: told of the work that is done.

    Raises:
        UsageError: several tensors have the name; or there are several, and no name is given; or it has no such unit.
        InputError: no tensor has the name.
    """
    seen, found = list[str](), list[str]()

    def is_wanted(description: Description) -> bool:
        names = names_of(description)
        seen.extend(names)
        if wanted := name is None or name in names:
            found.append(description.name)
        if len(found) > 1:
            raise _several(path, name, found)
        return wanted

    table = calibrate_files([path], request, dequantize=dequantize, takes=is_wanted, jobs=jobs, progress=progress)
    if seen and not found:
        raise InputError(f"{path} has no tensor {quoted(str(name))}", nearest(str(name), seen))
    return table


def _several(path: str, name: str | None, found: list[str]) -> UsageError:
    if name is None:
        return UsageError(
            f"{path} has several tensors", f"name one of them, such as {quoted(found[0])}; klcal inspect has all"
        )
    return UsageError(f"several files in {path} have a tensor {quoted(name)}", "name the file")
