"""llama.cpp's importance matrix: read as its own loader reads it, refused where it is cut, damaged or hostile."""

from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers.imatrix_file import describe
from tests.support.files import check_words, damaged, file_of
from tests.support.imatrix import ENTRIES, imatrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("imatrix")


def loaded(data: bytes) -> dict[str, tuple[int, list[float]]]:
    """The entries as llama-quantize loads them, but for the division by the calls; None where it gives up."""
    stream = io.BytesIO(data)

    def number() -> int:
        return struct.unpack("<i", stream.read(4))[0]

    found = {}
    for _ in range(number()):
        name = stream.read(number()).decode()
        calls, values = number(), number()
        found[name] = calls, list(struct.unpack(f"<{values}f", stream.read(4 * values)))
    return found


def values(found) -> list[float]:
    return [float(value) for part in found.parts for chunk in part.chunks() for value in chunk]


@pytest.mark.parametrize("end", [b"", struct.pack("<2i", 7, 9) + b"wiki.test", struct.pack("<2i", 7, 0)])
def test_entries_are_those_that_its_own_loader_reads(folder, end):
    data = imatrix(end=end)
    found = describe(file_of(folder, data, ".dat"))
    assert {each.name: values(each) for each in found} == {name: own for name, (_, own) in loaded(data).items()}
    assert [(each.name, each.dtype, each.shape, each.status) for each in found] == [
        (name, "float32", (len(own),), "ok") for name, (_, own) in ENTRIES.items()
    ]


def test_calls_change_no_ratio(folder):
    one, many = (
        describe(file_of(folder, imatrix({name: (calls, own) for name, (_, own) in ENTRIES.items()})))
        for calls in (1, 500)
    )
    assert [values(each) for each in one] == [values(each) for each in many]


@given(st.integers(0, len(imatrix()) - 1))
def test_a_file_that_was_cut_is_refused(folder, length):
    whole = len(imatrix(end=b""))
    data = imatrix()[:length]
    if length == whole:
        assert len(describe(file_of(folder, data))) == len(ENTRIES)
        return
    with pytest.raises(InputError) as refused:
        describe(file_of(folder, data))
    check_words(str(refused.value))


@given(damaged(imatrix(), b"\0\xff\x01\x7f"))
def test_damage_is_refused_or_yields_what_the_loader_would_read(folder, data):
    file = file_of(folder, data)
    try:
        found = {each.name: np.float32(values(each)) for each in describe(file)}
    except InputError as error:
        check_words(str(error))
        return
    theirs = {name: np.float32(own) for name, (_, own) in loaded(data).items()}
    assert list(found) == list(theirs)
    assert all(np.array_equal(found[name], theirs[name], equal_nan=True) for name in found)


HUGE = 2**31 - 1


def head(*numbers: int, name: bytes = b"") -> bytes:
    return struct.pack("<2i", *numbers[:2]) + name + struct.pack(f"<{len(numbers) - 2}i", *numbers[2:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it needs 4 bytes, the file has 0"),
        (struct.pack("<i", 0), "it is not an importance matrix of llama.cpp: it would have 0 entries"),
        (struct.pack("<i", -1), "it would have -1 entries"),
        (struct.pack("<i", HUGE), "it would have 2,147,483,647 entries"),
        (struct.pack("<i", 100_000), r"it needs 1,600,004 bytes, the file has 4"),
        (head(1, HUGE) + bytes(99), "the name of an entry would have 2,147,483,647 bytes"),
        (head(1, -4) + bytes(99), "the name of an entry would have -4 bytes"),
        (head(1, 1, 5, HUGE, name=b"a") + bytes(99), "it needs 8,589,934,605 bytes, the file has"),
        (head(1, 1, 5, 0, name=b"a") + bytes(99), "the entry 'a' would have 0 values"),
        (head(1, 1, 5, -1, name=b"a") + bytes(99), "the entry 'a' would have -1 values"),
        (head(1, 1, 5, 1, name=b"\xff") + bytes(4), "the name of an entry is not UTF-8"),
        (imatrix(end=b"")[:4] + 2 * imatrix(end=b"")[4:], "bytes at its end belong to no entry"),
        (imatrix({"a": (1, [1.0])}, end=b"", repeat=2), "two of its entries are called 'a'"),
    ],
    ids=range(13),
)
def test_hostile_files_are_refused_before_memory_is_allocated(folder, data, message):
    file = file_of(folder, data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as refused:
            describe(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    check_words(str(refused.value))
