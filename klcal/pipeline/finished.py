"""A folder of finished sketches, from which a run that was interrupted continues."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from klcal.errors import InputError, OutputError, UsageError
from klcal.readers.sketch_file import open_sketches
from klcal.sketches.named import Named
from klcal.writers.file import reason
from klcal.writers.sketch_file import save

__all__ = ["Finished", "Marks", "finished_in"]

SUFFIX, MARKS = ".sketch", ".json"  # of a sketch file, which searches skip, and of its fingerprints

Marks: TypeAlias = Mapping[str, Collection[bytes]]
"""The fingerprints of the counted values of each file."""


@dataclass(frozen=True)
class Finished:
    """A folder with a sketch file for each tensor that is done, called by its identity."""

    folder: Path

    def __contains__(self, identity: bytes) -> bool:
        return self._path(identity).exists()

    def read(self, identity: bytes) -> tuple[Named, Marks]:
        """One that is done.

        Raises:
            UsageError: it is damaged.
        """
        path = self._path(identity)
        try:
            sketches = open_sketches(str(path))
            marks = json.loads(path.with_suffix(MARKS).read_text())
            (name,) = sketches.tensors
            return sketches.load(name), {source: [*map(bytes.fromhex, some)] for source, some in marks.items()}
        except (InputError, OSError, ValueError, TypeError, AttributeError):
            raise UsageError(f"'{path}' is damaged", "remove it, then run again") from None

    def add(self, identity: bytes, named: Named, marks: Marks) -> None:
        """Adds a sketch. Its fingerprints are written first, and the sketch appears when it is complete.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(identity)
        text = json.dumps({source: [each.hex() for each in some] for source, some in marks.items()})
        try:
            path.with_suffix(MARKS).write_text(text)
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {reason(error)}", "make room") from None
        save(str(path), lambda _: [named], list[str])

    def _path(self, identity: bytes) -> Path:
        return self.folder / (identity.hex() + SUFFIX)


@contextmanager
def finished_in(folder: str, wanted: Collection[bytes]) -> Iterator[Finished]:
    """A context with the finished sketches in a folder. The folder is created if needed, and removed when all is done.

    Args:
        folder: its path.
        wanted: the identities of all tensors that are going to be sketched.

    Raises:
        UsageError: it has other tensors: files or options have changed; or it cannot be used.
    """
    found = Finished(Path(folder))
    try:
        found.folder.mkdir(exist_ok=True)
        there = [each.name for each in found.folder.iterdir()]
    except OSError as error:
        raise UsageError(f"cannot use '{folder}': {reason(error)}", "run without --resume") from None
    names = {identity.hex() + SUFFIX for identity in wanted}
    if any(name.endswith(SUFFIX) and name not in names for name in there):
        what = f"'{folder}' was left by a run with other options, or files have changed since"
        raise UsageError(what, "run as before, or remove it to begin again")
    yield found
    for path in list(found.folder.iterdir()):
        path.unlink()
    found.folder.rmdir()
