"""Remote files: `s3://`, `gs://`, `hf://`, `https://` and other addresses, through fsspec.

fsspec, and the package that a scheme needs, are imported when the first such address is read. Little more is fetched
than is asked for, and nothing is stored. Addresses may contain secrets: messages show them without (see
``klcal.errors.redacted``), and never show the text of an error of a library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.addresses import is_http
from klcal.readers.file_systems import AGAIN, CHANGED, State, file_system, source_of, told

__all__ = ["Remote", "State", "files_below", "is_directory", "matching", "opened"]

FETCHED = 1 << 24  # bytes, the most that is asked for at once: at 100 ms an answer, 160 MB a second
AHEAD = 1 << 20  # bytes, the most that is fetched before it is asked for


class _Held(NamedTuple):
    """The bytes that were fetched last, so that small pieces side by side need one request."""

    of: tuple[str, State | None] = ("", None)  # which file
    start: int = 0
    data: bytes = b""
    run: int = 0  # bytes fetched so far without a gap

    @property
    def end(self) -> int:
        return self.start + len(self.data)


_held = [_Held()]  # of this process; whoever reads another file, or elsewhere in it, has no use of it


class Remote:
    """A file elsewhere, open: nothing was asked for yet. It is read as a descriptor is."""

    def __init__(self, path: str) -> None:
        """Raises InputError where nothing can read such an address."""
        self._path = path
        self._source = source_of(path)
        self._expected: State | None = None
        self._start, self._data = 0, b""  # of ``fill``

    def state(self) -> State:
        """The present state of the file. Raises InputError if it does not exist."""
        with told():
            return self._source.state()

    def expect(self, state: State) -> None:
        """Raises InputError if it is known, or worth a request, that the file is another one by now."""
        self._expected = state
        with told():
            self._compare(self._source.seen())

    def _compare(self, now: State | None) -> None:
        if None not in (now, self._expected) and now != self._expected:
            raise InputError("the file changed while it was read", CHANGED)

    def fill(self, room: memoryview, position: int, end: int) -> int:
        """Reads bytes to the beginning of a room. Bytes behind them, up to ``end``, may come with the same request."""
        offset = position - self._start
        if not 0 <= offset < len(self._data):
            offset, self._start, self._data = 0, position, self.read(position, end - position)
        count = min(len(room), len(self._data) - offset)
        room[:count] = memoryview(self._data)[offset : offset + count]
        return count

    def read(self, position: int, length: int) -> bytes:
        """The bytes at a position: as many as come with one request, all of them up to ``FETCHED``.

        Where small pieces are read one behind the other, as many bytes are fetched ahead as were read so before, up
        to ``AHEAD``: so a file of many small tensors takes few requests, and one of which few are wanted few bytes.
        """
        wanted, held = min(length, FETCHED), _held[0]
        follows = held.of == (self._path, self._expected) and held.start <= position <= held.end
        have = held.data[position - held.start :][:wanted] if follows else b""
        if len(have) == wanted:
            return have
        start, end = position + len(have), position + wanted
        ahead = 0
        if follows and self._expected is not None and wanted <= AHEAD:
            ahead = max(0, min(AHEAD, held.run, self._expected[0] - end))
        with told():
            found = self._source.fetch(start, end + ahead)
        self._compare(self._source.last)  # before anything of it is held for others
        if len(found) != end + ahead - start:
            raise InputError(f"{len(found):,} bytes came where {end + ahead - start:,} were asked for", AGAIN)
        run = len(found) + (held.run if follows else 0)
        kept, begin = (found, start) if len(found) <= 2 * AHEAD else (b"", end)
        _held[0] = _Held((self._path, self._expected), begin, kept, run)
        return have + found[: end - start]


@contextmanager
def opened(path: str) -> Iterator[Remote]:
    """A file elsewhere, for a while."""
    yield Remote(path)


# --- the contents of directories


def is_directory(path: str) -> bool:
    """Whether other files lie below an address, as far as its file system says so; False where nothing does."""
    try:
        with told():
            system, place = file_system(path)
            return bool(system.isdir(place))
    except InputError:
        return False


def files_below(path: str) -> list[str]:
    """The addresses of all files below one, sorted.

    Raises:
        InputError: they cannot be listed.
    """
    with told():
        system, place = file_system(path)
        system.invalidate_cache()
        root = f"{path.rstrip('/')}/"
        if is_http(path):  # where it is another page than that without a slash
            place = f"{place.rstrip('/')}/"
        base = f"{place.rstrip('/')}/"
        below = (name.removeprefix(base) for name in system.find(place) if name.startswith(base))
        return sorted({f"{root}{name}" for name in below if {"", ".."}.isdisjoint(name.split("/"))})


def matching(pattern: str) -> list[str]:
    """The addresses that match a pattern, sorted; of one with ``**``, which finds all at any depth, those of files.

    Raises:
        InputError: they cannot be listed.
    """
    with told():
        system, place = file_system(pattern)
        system.invalidate_cache()
        found = system.glob(place, detail=True)
        wanted = [name for name, info in found.items() if info["type"] == "file" or "**" not in pattern]
        return sorted(map(system.unstrip_protocol, wanted))
