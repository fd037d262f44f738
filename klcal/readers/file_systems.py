"""Remote file systems, through fsspec, and web servers: whether a file exists, and any range of its bytes.

By HTTP, each answer tells which version of the file it is a part of. Other file systems are asked again after each long
pass.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from klcal.errors import InputError
from klcal.readers.addresses import is_http

__all__ = ["AGAIN", "CHANGED", "Http", "State", "Stored", "file_system", "source_of", "told"]

OURS = ("file://", "local://")  # files of this machine, which have a path
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


def file_system(path: str) -> tuple[Any, str]:
    """The file system of an address, and the name of the file in it."""
    if path.lower().startswith(OURS) or "::" in path:
        raise InputError("such addresses are not read", "give the path of a file, or s3://, gs://, hf://, https://")
    scheme = path.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(f"{scheme}:// needs the package fsspec", "pip install 'klcal[remote]'") from None
    try:
        system, place = url_to_fs(path, **(_options() if is_http(path) else {}))
    except ImportError:
        package = "klcal[remote]" if is_http(path) else PACKAGES.get(scheme, f"fsspec[{scheme}]")
        raise InputError(f"{scheme}:// needs another package", f"pip install '{package}'") from None
    except ValueError:
        raise InputError(f"{scheme}:// is no scheme that fsspec knows", NAME) from None
    except Exception as error:  # whatever a file system raises where its credentials are missing
        raise _fault(error) from None
    return system, place


def source_of(path: str) -> Http | Stored:
    """The file at an address; nothing was asked for yet.

    Raises:
        InputError: nothing can read such an address.
    """
    return (Http if is_http(path) else Stored)(*file_system(path))


@lru_cache
def _options() -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}


class Stored:
    """A file of any file system of fsspec except HTTP."""

    def __init__(self, system: Any, place: str) -> None:
        self.system, self.place = system, place
        self.last: State | None = None  # answers do not have the state
        self.fetched = 0

    def state(self) -> State:
        """The present state of the file."""
        self.system.invalidate_cache()
        info = self.system.info(self.place)
        if info["type"] != "file" or info["size"] is None:
            raise IsADirectoryError
        return (info["size"], next((str(info[key]) for key in STAMPS if info.get(key)), ""))

    def seen(self) -> State | None:
        """The present state of the file, if so much was read that a request is worth it; else None."""
        return self.state() if self.fetched > LOOKED_AT else None

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from one position to another; the server may send fewer or others, which the caller checks."""
        self.fetched += end - start
        if self.system.async_impl:  # which asks for this range alone
            return bytes(self.system.cat_file(self.place, start=start, end=end))
        with self.system.open(self.place, "rb", cache_type="none") as file:
            file.seek(start)
            return bytes(file.read(end - start))


class Http:
    """A file that a server sends in parts."""

    def __init__(self, system: Any, place: str) -> None:
        self.system, self.place = system, place
        self.last: State | None = None  # as the last answer says

    def state(self) -> State:
        """The present state of the file."""
        self.fetch(0, 1)
        assert self.last is not None
        return self.last

    def seen(self) -> State | None:
        """The state of the file at the last answer."""
        return self.last

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from one position to another."""
        from fsspec.asyn import sync

        def ask() -> bytes:
            found: tuple[State, bytes] = sync(self.system.loop, _part, self.system, self.place, start, end)
            self.last = found[0]
            return found[1]

        return _repeated(ask)


class _Refused(Exception):
    """An answer of a server that is not the file."""

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
    """The result of ``work``, which is tried again if a connection failed or a server was busy."""
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


# --- errors


@contextmanager
def told() -> Iterator[None]:
    """A context in which every error of a file system becomes an InputError in klcal's own words."""
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
