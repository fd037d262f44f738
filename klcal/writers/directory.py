"""A directory that appears as a whole or not at all. A second run continues where the first one stopped.

Files are written to a hidden directory beside it, ``.NAME.klcal-WORK``, which is renamed when all of them are complete.
WORK identifies the inputs and the settings, so that the same work finds the files that were finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from klcal.errors import OutputError, UsageError
from klcal.readers.regular import open_regular
from klcal.writers.file import reason, sync

__all__ = ["NewDirectory", "new_directory"]

OWN = ".klcal"  # the file with the state of the work, until it is done
DONE = "done.json"


@dataclass(frozen=True)
class NewDirectory:
    """A directory that is being made."""

    path: Path
    done: dict[str, Any] = field(default_factory=dict)  # the result of each finished file, as JSON
    made: set[str] = field(default_factory=set)  # small files that were made

    @property
    def own(self) -> Path:
        """A directory in it that will not stay."""
        return self.path / OWN

    def write(self, name: str, write: Callable[[BinaryIO], Any]) -> Any:
        """Writes a file by ``write``, unless it was written before, and returns the result of ``write``."""
        if name not in self.done:
            found = _write(self.path / name, write)
            self.done[name] = found
            _write(self.own / f"{DONE}.new", lambda out: out.write(json.dumps(self.done).encode()))
            (self.own / f"{DONE}.new").replace(self.own / DONE)
        return self.done[name]

    def put(self, name: str, data: bytes) -> None:
        """Writes a small file, in any case."""
        _write(self.path / name, lambda out: out.write(data))
        self.made.add(name)

    def copy(self, name: str, source: str) -> None:
        """Copies a file, following links, except over a file that was written.

        Raises:
            InputError: it cannot be read.
        """
        if name not in self.done and name not in self.made:
            file = open_regular(source)
            _write(self.path / name, lambda out: out.writelines(file.blocks(0, file.size)))


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w+b") as out:
        found = write(out)
        out.flush()
        os.fsync(out.fileno())
    return found


@contextmanager
def new_directory(output: str, work: str) -> Iterator[NewDirectory]:
    """A directory to be filled; once it is left without an error, it is there.

    A refused run leaves nothing. An interrupted run, or one without room, leaves its finished parts for the next run.

    Args:
        output: the path of a directory that does not exist yet, or is empty.
        work: letters and digits, the same for the same work alone.

    Raises:
        UsageError: nothing can be written there.
        OutputError: it could not be written after all, or another process writes it.
    """
    target = Path(os.path.realpath(output))
    temporary = target.with_name(f".{target.name}.klcal-{work}")
    try:
        (temporary / OWN).mkdir(parents=True, exist_ok=True)
        lock = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        what = f"cannot write '{output}': {reason(error)}"
        raise UsageError(what, "name a directory where you may write") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield NewDirectory(temporary, _known(temporary / OWN / DONE))
        shutil.rmtree(temporary / OWN)
        temporary.replace(target)
        sync(target.parent)
    except BlockingIOError:
        raise OutputError(f"another klcal writes '{output}'", "wait for it, or name another directory") from None
    except OSError as error:
        hint = f"make room, then run again: what is done stays in '{temporary.name}' until then"
        raise OutputError(f"cannot write '{output}': {reason(error)}", hint) from error
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _known(done: Path) -> dict[str, Any]:
    """The parts finished by an earlier run; empty if that is not known."""
    with suppress(OSError, ValueError):
        found = json.loads(done.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}
