"""Files for the tests of the readers: written, zipped, damaged."""

import io
import itertools
import zipfile
from pathlib import Path

from hypothesis import strategies as st

from klcal.readers.regular import RegularFile, open_regular

numbers = itertools.count()


def file_of(folder: Path, data: bytes, suffix: str = "") -> RegularFile:
    """A new file. Its name is its own: a reader may remember a file by name, size and time."""
    path = folder / f"{next(numbers)}{suffix}"
    path.write_bytes(data)
    return open_regular(str(path))


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def check_words(reason: str) -> None:
    """An error's text is fit to be shown: short, and unable to act."""
    assert 0 < len(reason) <= 300
    assert reason.isprintable()
    assert reason.isascii()


@st.composite
def damaged(draw, data: bytes, likely: bytes = b"\0\xff"):
    """The same bytes with some changed, put in, left out or copied to elsewhere, or cut."""
    result = bytearray(data)
    places = st.integers(0, len(data))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(places)
        match draw(st.integers(0, 4)):
            case 0:
                result[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                result[at : at + 1] = bytes([draw(st.sampled_from(likely))])
            case 2:
                result[at:at] = draw(st.binary(min_size=1, max_size=4))
            case 3:
                del result[at : at + draw(st.integers(1, 8))]
            case _:
                other, length = draw(places), draw(st.integers(1, 40))
                result[at : at + length] = result[other : other + length]
    return bytes(result if draw(st.integers(0, 9)) else result[: draw(places)])
