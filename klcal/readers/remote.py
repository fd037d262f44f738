"""Files elsewhere: what ``s3://``, ``gs://``, ``hf://``, ``https://`` and other addresses lead to, through fsspec.

fsspec, and the package that a scheme needs, are imported when the first such address is read. Nothing is cached: what
is asked for is fetched, no more. By HTTP each answer says which file it is a part of, so that a change is found out;
elsewhere the file is looked at again behind each long pass. Addresses may hold secrets: messages have them without
(see ``klcal.errors.redacted``), and no text of a library is relayed.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from klcal.errors import InputError, redacted

__all__ = [
    "Remote",
    "State",
    "beside",
    "files_below",
    "is_directory",
    "is_pattern",
    "is_remote",
    "matching",
    "opened",
    "shown",
]

SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
HTTP = ("http://", "https://")
OURS = ("file://", "local://")  # files of this machine, which have a path
FETCHED = 1 << 24  # bytes, the most that is asked for at once: at 100 ms an answer, 160 MB a second
AHEAD = 1 << 20  # bytes, the most that is fetched before it is asked for
LOOKED_AT = 1 << 20  # bytes: a pass over more is followed by another look at the file, where that costs a request
CONNECT, SILENCE = 30, 60  # seconds that a server may take to be reached, and between two pieces of its answer
PAUSES = (0.5, 2.0)  # seconds before each other try, where a connection fails
STAMPS = (
    *("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "blob_id", "updated", "modified", "created"),
)
"""What file systems call that which changes with a file; the first of these that there is."""
RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
BUSY = frozenset({429, 500, 502, 503, 504})  # a server that may answer when it is asked again

CHANGED = "wait until it is written, then run again"
NAME = "check its address"
ACCESS = "check the credentials that its file system reads, and whether they may read it"
AGAIN = "check the network, then run again"
DOWNLOAD = "download it, and give the file"
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs"}

Found = TypeVar("Found")


State = tuple[int, int | str]
"""A file as it is: its size in bytes, and what changes with it; "" where nobody says."""


def is_remote(path: str) -> bool:
    """Whether a path is an address.

    >>> is_remote("s3://bucket/model.safetensors"), is_remote("models/s3.npy"), is_remote("c://x")
    (True, False, False)
    """
    return SCHEME.match(path) is not None


def shown(path: str) -> str:
    """A path for people, and to be taken apart: of an address nothing that is secret, or only for the server.

    >>> shown("https://me:secret@host/m.npz?signature=abc"), shown("a?b.npz")
    ('https://host/m.npz', 'a?b.npz')
    """
    return redacted(path) if is_remote(path) else path


class _Held(NamedTuple):
    """What was fetched last: small pieces, read one behind the other, come together."""

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
        self._source = (_Http if path.startswith(HTTP) else _Stored)(*_file_system(path))
        self._expected: State | None = None
        self._start, self._data = 0, b""  # of ``fill``

    def state(self) -> State:
        """What the file is now; raises InputError where there is none."""
        with _told():
            return self._source.state()

    def expect(self, state: State) -> None:
        """Raises InputError if it is known, or worth a request, that the file is another one by now."""
        self._expected = state
        with _told():
            now = self._source.seen()
        if now is not None and now != state:
            raise InputError("the file changed while it was read", CHANGED)

    def fill(self, room: memoryview, position: int, end: int) -> int:
        """Reads to the beginning of a room, which may be fetched together with what lies behind, up to an end."""
        offset = position - self._start
        if not 0 <= offset < len(self._data):
            offset, self._start, self._data = 0, position, self.read(position, end - position)
        count = min(len(room), len(self._data) - offset)
        room[:count] = memoryview(self._data)[offset : offset + count]
        return count

    def read(self, position: int, length: int) -> bytes:
        """The bytes there, as many as are sent at once: all of them up to ``FETCHED``.

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
        with _told():
            found = self._source.fetch(start, end + ahead)
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


# --- what lies there


def is_directory(path: str) -> bool:
    """Whether other files lie below an address, as far as its file system says so; False where nothing does."""
    try:
        with _told():
            system, place = _file_system(path)
            return bool(system.isdir(place))
    except InputError:
        return False


def files_below(path: str) -> list[str]:
    """The addresses of all files below one, sorted.

    Raises:
        InputError: they cannot be listed.
    """
    with _told():
        system, place = _file_system(path)
        system.invalidate_cache()
        root = f"{path.rstrip('/')}/"
        if path.startswith(HTTP):  # where it is another page than that without a slash
            place = f"{place.rstrip('/')}/"
        base = f"{place.rstrip('/')}/"
        below = (name.removeprefix(base) for name in system.find(place) if name.startswith(base))
        return sorted({f"{root}{name}" for name in below if {"", ".."}.isdisjoint(name.split("/"))})


def matching(pattern: str) -> list[str]:
    """The addresses that match a pattern, sorted; of one with ``**``, which finds all at any depth, those of files.

    Raises:
        InputError: they cannot be listed.
    """
    with _told():
        system, place = _file_system(pattern)
        system.invalidate_cache()
        found = system.glob(place, detail=True)
        wanted = [name for name, info in found.items() if info["type"] == "file" or "**" not in pattern]
        return sorted(map(system.unstrip_protocol, wanted))


def is_pattern(path: str) -> bool:
    """Whether an address is one. By HTTP, a question mark begins what only the server understands.

    >>> is_pattern("https://host/a.npy?x=*"), is_pattern("s3://bucket/?.npy"), is_pattern("https://host/*.npy")
    (False, True, True)
    """
    return (
        not set("*[").isdisjoint(path.partition("?")[0]) if path.startswith(HTTP) else not set("*?[").isdisjoint(path)
    )


def beside(path: str, name: str) -> str:
    """The path of what lies in the folder of a file, or below it.

    Raises:
        InputError: the name means something else to a server, and could lead anywhere.

    >>> beside("a/m.onnx", "m.onnx_data"), beside("https://host/a/m.onnx?b=c/d", "m.onnx_data")
    ('a/m.onnx_data', 'https://host/a/m.onnx_data')
    """
    if is_remote(path) and not set("%?#").isdisjoint(name):
        raise InputError("its name is not that of a file in the same folder", "take it from a source you trust")
    return posixpath.join(posixpath.dirname(shown(path)), name)


# --- file systems


def _file_system(path: str) -> tuple[Any, str]:
    """The file system of an address, and what it calls the file."""
    if path.lower().startswith(OURS) or "::" in path:
        raise InputError("such addresses are not read", "give the path of a file, or s3://, gs://, hf://, https://")
    scheme = path.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(f"{scheme}:// needs the package fsspec", "pip install 'klcal[remote]'") from None
    try:
        system, place = url_to_fs(path, **(_options() if path.startswith(HTTP) else {}))
    except ImportError:
        package = "klcal[remote]" if path.startswith(HTTP) else PACKAGES.get(scheme, f"fsspec[{scheme}]")
        raise InputError(f"{scheme}:// needs another package", f"pip install '{package}'") from None
    except ValueError:
        raise InputError(f"{scheme}:// is no scheme that fsspec knows", NAME) from None
    except Exception as error:  # whatever a file system raises where its credentials are missing
        raise _fault(error) from None
    return system, place


@lru_cache
def _options() -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}


class _Stored:
    """A file of any file system of fsspec's but HTTP's."""

    def __init__(self, system: Any, place: str) -> None:
        self.system, self.place = system, place
        self.fetched = 0

    def state(self) -> State:
        self.system.invalidate_cache()
        info = self.system.info(self.place)
        if info["type"] != "file" or info["size"] is None:
            raise IsADirectoryError
        return (info["size"], next((str(info[key]) for key in STAMPS if info.get(key)), ""))

    def seen(self) -> State | None:
        """What it is now, where so much was read that this is worth a request."""
        return self.state() if self.fetched > LOOKED_AT else None

    def fetch(self, start: int, end: int) -> bytes:
        self.fetched += end - start
        if self.system.async_impl:  # which asks for this range alone
            return bytes(self.system.cat_file(self.place, start=start, end=end))
        with self.system.open(self.place, "rb", cache_type="none") as file:
            file.seek(start)
            return bytes(file.read(end - start))


class _Http:
    """A file that a server sends in parts."""

    def __init__(self, system: Any, place: str) -> None:
        self.system, self.place = system, place
        self.last: State | None = None  # as the last answer says

    def state(self) -> State:
        self.fetch(0, 1)
        assert self.last is not None
        return self.last

    def seen(self) -> State | None:
        return self.last

    def fetch(self, start: int, end: int) -> bytes:
        from fsspec.asyn import sync

        def ask() -> bytes:
            found: tuple[State, bytes] = sync(self.system.loop, _part, self.system, self.place, start, end)
            self.last = found[0]
            return found[1]

        return _repeated(ask)


class _Refused(Exception):
    """What a server answered instead."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Whole(Exception):
    """A server sends no parts."""


async def _part(system: Any, url: str, start: int, end: int) -> tuple[State, bytes]:
    """A part of a file, and what the answer says of the whole; the first byte of an empty one is nothing."""
    session = await system.set_session()
    headers = {**system.kwargs.get("headers", {}), "Range": f"bytes={start}-{end - 1}"}
    async with session.get(system.encode_url(url), headers=headers) as answer:
        where = RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if answer.status == 416 and where and where[2] == "0":
            return (0, stamp), b""
        if answer.status == 200:
            raise _Whole
        if answer.status != 206:
            raise _Refused(answer.status)
        if where is None or where[1] != str(start):
            raise _Refused(0)
        data = bytearray()
        async for piece in answer.content.iter_any():
            data += piece
            if len(data) > end - start:
                raise _Refused(0)
        return (int(where[2]), stamp), bytes(data)


def _repeated(work: Callable[[], Found]) -> Found:
    """What work gives, tried again where a connection failed or a server was busy."""
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:
            if not _is_passing(error):
                raise
        time.sleep(pause)
    return work()


def _is_passing(error: Exception) -> bool:
    if isinstance(error, _Refused):
        return error.status in BUSY
    return not isinstance(error, _Whole) and isinstance(error, (*_network_errors(), TimeoutError, ConnectionError))


def _network_errors() -> tuple[type[Exception], ...]:
    import aiohttp

    return aiohttp.ClientConnectionError, aiohttp.ClientPayloadError


# --- what is wrong


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a file system raises is told in words of ours."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _fault(error) from None


def _fault(error: Exception) -> InputError:
    match error:
        case _Whole():
            return InputError("its server sends whole files only, no parts of them", DOWNLOAD)
        case _Refused(status=0):
            return InputError("its server sent another part than was asked for", DOWNLOAD)
        case _Refused(status=404 | 410) | FileNotFoundError():
            return InputError("there is no such file", NAME)
        case _Refused(status=401 | 403 | 407) | PermissionError():
            return InputError("its server gives no permission to read it", ACCESS)
        case _Refused(status=416):
            return InputError("the file was cut while it was read", CHANGED)
        case _Refused(status=status):
            return InputError(f"its server answered with the status {status}", AGAIN)
        case IsADirectoryError():
            return InputError("it is a directory", "give the files in it, or the directory as an argument of its own")
        case TimeoutError():  # those of asyncio and fsspec are, too
            return InputError("its server did not answer in time", AGAIN)
        case ImportError():
            return InputError("its file system needs another package", "install what fsspec needs for it")
        case MemoryError():
            return InputError("there is not enough memory", "give this process more")
    what = type(error).__name__
    if isinstance(error, OSError) or type(error).__module__.startswith("aiohttp"):
        return InputError(f"the connection to its server failed ({what})", AGAIN)
    return InputError(f"its file system refused it ({what})", f"{ACCESS}; {NAME}")
