"""A view gives the values that torch's as_strided gives, from reads no larger than a chunk."""

import pickle
import tracemalloc
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers.description import CHUNK_BYTES
from klcal.readers.pt import strided
from klcal.readers.pt.strided import READ_BYTES, StridedSpan, effort, extent, ordered_dims
from klcal.readers.regular import RegularFile
from tests.support.files import file_of
from tests.support.lazy import torch

COUNT = 400  # values in the file
HEAD = 3  # bytes before them


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A file of the values 0, 1, 2, …."""
    return file_of(tmp_path_factory.mktemp("strided"), bytes(HEAD) + np.arange(COUNT, dtype="<f4").tobytes())


@st.composite
def geometries(draw):
    """A shape and strides of a view that is inside the file; with overlaps, repeats, sizes of 1."""
    shape = draw(st.lists(st.integers(1, 5), max_size=6))
    strides = draw(st.lists(st.integers(0, 60), min_size=len(shape), max_size=len(shape)))
    while 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) > COUNT:
        strides = [stride // 2 for stride in strides]
    return tuple(shape), tuple(strides)


def theirs(shape, strides) -> list[float]:
    return torch.as_strided(torch.arange(float(COUNT)), shape, strides).flatten().sort().values.tolist()


def ours(file, shape, strides) -> list[float]:
    repeats, dims = ordered_dims(shape, strides)
    span = StridedSpan(file, HEAD, dims, "<f4", repeats)
    chunks = [chunk.copy() for chunk in span.chunks()]
    assert span.nbytes == sum(chunk.nbytes for chunk in chunks)
    return np.sort(np.repeat(np.concatenate(chunks), span.repeats)).tolist()


def check_values(file, geometry, read=ours) -> None:
    assert read(file, *geometry) == theirs(*geometry)


@given(geometry=geometries(), chunk=st.sampled_from([4, 8, 12, 40, 400, CHUNK_BYTES]))
def test_the_values_are_those_of_as_strided_whatever_the_size_of_a_chunk(ramp, geometry, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "CHUNK_BYTES", chunk)
        check_values(ramp, geometry)


def test_the_check_of_values_can_fail(ramp):
    check_values(ramp, ((3, 4), (1, 3)))
    with pytest.raises(AssertionError):
        check_values(ramp, ((3, 4), (1, 3)), lambda file, shape, _: ours(file, shape, (1, 2)))
    with pytest.raises(AssertionError):
        check_values(ramp, ((3, 4), (0, 3)), lambda file, *_: ours(file, (4,), (3,)))  # repeats forgotten


@given(geometry=geometries())
def test_ordered_dims_are_falling_and_keep_count_reach_and_values(geometry):
    shape, strides = geometry
    repeats, dims = ordered_dims(shape, strides)
    assert repeats * prod(size for size, _ in dims) == prod(shape)
    assert extent(dims) == 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    assert [stride for _, stride in dims] == sorted((stride for _, stride in dims), reverse=True)
    assert all(size > 1 and stride > 0 for size, stride in dims)
    assert all(outer[1] != inner[0] * inner[1] for outer, inner in pairwise(dims))  # merged
    assert ordered_dims(*zip(*dims, strict=True) if dims else ((), ())) == (1, dims)


@given(geometry=geometries(), order=st.randoms())
def test_the_order_of_dimensions_does_not_matter(geometry, order):
    pairs = list(zip(*geometry, strict=True))
    expected = ordered_dims(*geometry)
    order.shuffle(pairs)
    repeats, dims = ordered_dims(*zip(*pairs, strict=True) if pairs else ((), ()))
    assert (repeats, extent(dims), prod(size for size, _ in dims)) == (
        expected[0],
        extent(expected[1]),
        prod(size for size, _ in expected[1]),
    )


def test_contiguous_views_in_any_order_are_one_dimension():
    for permuted in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        view = torch.empty(2, 3, 4, 5).permute(permuted)
        assert ordered_dims(tuple(view.shape), view.stride()) == (1, ((120, 1),))
    assert ordered_dims((), ()) == ordered_dims((1, 1), (7, 0)) == (1, ())
    assert ordered_dims((3, 4), (0, 0)) == (12, ())


class Watched(RegularFile):
    """A file that notes the largest read."""

    largest = 0

    def read(self, offset: int, length: int) -> bytes:
        Watched.largest = max(Watched.largest, length)
        return super().read(offset, length)


@given(geometry=geometries(), chunk=st.sampled_from([4, 8, 12, 40]))
def test_no_read_is_larger_than_a_chunk(ramp, geometry, chunk):
    watched, Watched.largest = Watched(ramp.path, ramp.size, ramp.stamp), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "CHUNK_BYTES", chunk)
        ours(watched, *geometry)
    assert 0 < Watched.largest <= chunk


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((1 << 22, 3), (4, 1)),  # a slice of the last dimension
        ((1 << 20,), (16,)),  # a column
        ((16, 1 << 16), (1 << 20, 7)),
        ((2, 4, 1 << 20), (1 << 23, 1, 8)),
        ((1 << 13, 1 << 10), (1, 1)),  # windows that overlap
    ],
)
def test_memory_is_bounded_by_chunks(tmp_path, shape, strides):
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        out.truncate(4 << 24)
    found = path.stat()
    repeats, dims = ordered_dims(shape, strides)
    span = StridedSpan(RegularFile(str(path), found.st_size, found.st_mtime_ns), 0, dims, "<f4", repeats)
    tracemalloc.start()
    assert sum(chunk.size for chunk in span.chunks()) * repeats == prod(shape)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.5 * CHUNK_BYTES  # the chunk, what was read last, what is read now


@given(geometries(), st.integers(4, 200))
def test_the_effort_is_known_before(ramp, geometry, chunk):
    read, lengths = RegularFile.read, []

    def counted(file, offset, length):
        lengths.append(length)
        return read(file, offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "CHUNK_BYTES", chunk)
        patch.setattr(RegularFile, "read", counted)
        ours(ramp, *geometry)
        dims = ordered_dims(*geometry)[1]
        work = effort(dims, 4)
    reads, values = len(lengths), prod(size for size, _ in dims)
    assert sum(lengths) + reads * READ_BYTES <= work
    assert work <= max(4 * values, reads * (READ_BYTES + max(lengths)))


@pytest.mark.parametrize("rank", [26, 40, 64])
def test_more_dimensions_than_an_array_can_have_are_read(ramp, rank):
    shape, strides = (2,) * 6 + (1,) * (rank - 6), tuple(range(2, 8)) + (1,) * (rank - 6)
    check_values(ramp, (shape, strides))
    overlapping = StridedSpan(ramp, HEAD, ((2, 2),) * 13 + ((2, 1),) * 3, "<f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "MAX_BLOCK_RANK", 2)
        chunks = [chunk.copy() for chunk in overlapping.chunks()]
    expected = torch.as_strided(torch.arange(float(COUNT)), (2,) * 16, (2,) * 13 + (1,) * 3)
    np.testing.assert_array_equal(np.sort(np.concatenate(chunks)), expected.flatten().sort().values)


@pytest.mark.parametrize("storage", ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2", "<u2", ">u2", "|u1"])
def test_values_come_in_native_order(tmp_path, storage):
    array = np.arange(60).astype(storage)
    span = StridedSpan(file_of(tmp_path, array.tobytes()), 0, ((5, 12), (3, 2)), storage)
    (chunk,) = span.chunks()
    assert chunk.dtype.isnative
    np.testing.assert_array_equal(np.sort(chunk), np.sort(array.reshape(5, 12)[:, :6:2].astype(chunk.dtype), axis=None))


def test_a_view_beyond_the_file_is_refused(ramp):
    with pytest.raises(InputError, match="the file has"):
        list(StridedSpan(ramp, HEAD, ((2, COUNT),), "<f4").chunks())


def test_a_span_can_be_sent_to_another_process(ramp):
    span = StridedSpan(ramp, HEAD, ((3, 7),), "<f4", 5)
    assert pickle.loads(pickle.dumps(span)) == span
