"""A .npy is described as NumPy would load it, or refused in our own words."""

import io
import os
import struct
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from klcal.errors import InputError
from klcal.readers import formats
from klcal.readers.npy_file import HEAD_BYTES, describe, describe_batches, parse
from klcal.readers.regular import open_regular
from tests.support.files import check_words, damaged

FLOATS = ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2"]


def saved(array, version=None) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(out, np.asanyarray(array), version)
    return out.getvalue()


def made(literal: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(literal))
    return b"\x93NUMPY" + bytes([version, 0]) + length + literal + data


def parsed(data: bytes):
    return parse(data[:HEAD_BYTES], len(data))


def loaded(data: bytes):
    """What NumPy makes of it, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:  # the many it has
        return None


def check_agreement(data: bytes, header_of=parsed) -> bool:
    """What we accept NumPy loads: same dtype, shape and values. Whether we accepted."""
    try:
        header = header_of(data)
    except InputError as error:
        check_words(str(error))
        return False
    if header.status == "unsupported":
        return False
    array = loaded(data)
    assert array is not None
    assert header.shape == array.shape
    assert header.dtype == array.dtype.name
    if header.status == "ok":
        values = data[header.offset : header.offset + header.length]
        assert values == array.tobytes(order="A")
        assert header.storage == array.dtype.str
    return True


@given(array=hnp.arrays(st.sampled_from(FLOATS), hnp.array_shapes(min_dims=0, min_side=0)), version=st.integers(1, 3))
def test_float_arrays_are_described_as_numpy_loads_them(array, version):
    assert check_agreement(saved(array, (version, 0)))


@pytest.mark.parametrize("storage", FLOATS)
def test_the_values_are_those_that_were_saved(tmp_path, storage):
    array = np.random.default_rng(0).normal(size=(30, 7)).astype(storage)
    np.save(tmp_path / "x.npy", np.asfortranarray(array))
    (found,) = describe(open_regular(str(tmp_path / "x.npy")), "layer.x")
    values = np.concatenate([chunk.copy() for part in found.parts for chunk in part.chunks()])
    assert (found.name, found.shape, found.status) == ("layer.x", (30, 7), "ok")
    assert values.dtype.isnative
    np.testing.assert_array_equal(np.sort(values), np.sort(array, axis=None))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 32])
def test_odd_shapes(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    (found,) = describe(open_regular(str(tmp_path / "x.npy")), "x")
    assert (found.shape, found.status) == (shape, "ok")
    assert sum(part.nbytes for part in found.parts) == 4 * np.prod(shape)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i2", "u4", "i8", "u8"])
def test_whole_numbers_are_skipped(dtype):
    header = parsed(saved(np.zeros(3, dtype)))
    assert (header.status, header.dtype) == ("skipped", np.dtype(dtype).name)
    assert header.reason == f"{header.dtype} values are not calibrated"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3, "c8"), "complex"),
        (np.array([None]), "unpickling"),
        (np.array([(1, 2)], "f4,f4"), "structured"),
        (np.array([(1, None)], "f4,O"), "structured"),
        (np.array(["text"]), "text"),
        (np.array([b"text"]), "text"),
        (np.array([""], "S0"), "text"),
        (np.zeros(2, "M8[s]"), "dates"),
        (np.zeros(2, "m8[s]"), "time spans"),
        (np.zeros(2, np.longdouble), "long double"),
        (np.zeros(2, ml_dtypes.bfloat16), "bfloat16"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_what_cannot_be_calibrated_says_why(tmp_path, array, reason):
    (tmp_path / "x.npy").write_bytes(saved(array))
    (found,) = describe(open_regular(str(tmp_path / "x.npy")), "x")
    assert found.status == "unsupported"
    assert reason in found.reason
    assert found.parts == ()


NAMED = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]


def read(tmp_path, data: bytes):
    (tmp_path / "x.npy").write_bytes(data)
    (found,) = describe(open_regular(str(tmp_path / "x.npy")), "x")
    return found, np.concatenate([chunk.copy() for part in found.parts for chunk in part.chunks()])


@pytest.mark.parametrize("name", NAMED)
def test_the_names_of_ml_dtypes_are_read(tmp_path, name):
    array = np.random.default_rng(0).normal(size=(3, 5)).astype(getattr(ml_dtypes, name))
    header = f"{{'descr': '{name}', 'fortran_order': False, 'shape': (3, 5)}}".encode()
    found, bits = read(tmp_path, made(header, array.tobytes()))
    assert (found.dtype, found.shape, found.status) == (name, (3, 5), "ok")
    np.testing.assert_array_equal(bits, array.ravel().view(bits.dtype))
    theirs = loaded(made(header, array.tobytes()))  # with ml_dtypes imported, NumPy knows the name
    assert theirs.dtype.name == name
    np.testing.assert_array_equal(theirs.view(bits.dtype), array.view(bits.dtype))


def test_float8_e5m2_is_known_by_what_ml_dtypes_writes_for_it(tmp_path):
    array = np.array([1, -2, 0.5], ml_dtypes.float8_e5m2)
    found, bits = read(tmp_path, saved(array))
    assert (found.dtype, bits.tolist()) == ("float8_e5m2", array.view("u1").tolist())
    others = [np.dtype(getattr(ml_dtypes, name)) for name in dir(ml_dtypes) if name.startswith(("float", "bfloat"))]
    written = {dtype.name: np.lib.format.dtype_to_descr(dtype) for dtype in others}
    assert [name for name, descr in written.items() if descr == "<f1"] == ["float8_e5m2"]


def test_other_names_are_explained():
    with pytest.raises(InputError, match=r"'float8_e9' is not NumPy's; .*safetensors"):
        parsed(made(b"{'descr': 'float8_e9', 'fortran_order': False, 'shape': (1,)}", b"x"))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shape", [b"(3L,)", b"(3L, 1L)", b"(1, 3L)", b"(0x3L,)"])
def test_headers_of_python_2_are_read(version, shape):
    data = made(b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }", bytes(12), version)
    assert check_agreement(data)


@pytest.mark.parametrize(
    "literal",
    [
        b"{'descr': '<f4L', 'fortran_order': False, 'shape': (3L,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3LL,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3Lx,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (L,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').getpid(), 3L)}",
    ],
)
def test_an_l_elsewhere_is_refused(literal):
    assert not check_agreement(made(literal, bytes(12)))
    assert not check_agreement(made(literal.replace(b"3L", b"3"), bytes(12), 3)) or b"L" not in literal


def test_python_2_wrote_no_version_3():
    assert not check_agreement(made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L,)}", bytes(12), 3))


def test_a_file_cut_anywhere_is_refused():
    whole = saved(np.arange(5, dtype=np.float32))
    assert check_agreement(whole)
    for length in range(len(whole)):
        with pytest.raises(InputError):
            parsed(whole[:length])


def test_a_cut_array_tells_both_sizes():
    with pytest.raises(InputError, match=r"needs 4,128 bytes, the file has 1,128; .*incomplete"):
        parsed(saved(np.zeros(1000, np.float32))[:-3000])


@pytest.mark.parametrize("more", [b"x", saved(np.ones(3, np.float32))])
@pytest.mark.parametrize("array", [np.ones(3, np.float32), np.zeros(0), np.arange(3), np.array(["text"])])
def test_bytes_behind_the_array_are_no_part_of_it_and_said(array, more):
    with pytest.raises(InputError, match=rf"^{len(more)} more bytes stand behind its array; .*numpy.savez"):
        parsed(saved(array) + more)


@given(st.lists(hnp.arrays(st.sampled_from(FLOATS), hnp.array_shapes(min_dims=0, min_side=0)), min_size=1, max_size=4))
def test_arrays_behind_each_other_are_what_numpy_loads_one_by_one(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("behind") / "x.npy"
    path.write_bytes(b"".join(map(saved, arrays)))
    found = describe_batches(open_regular(str(path)), "x")
    with path.open("rb") as file:
        loads = [np.load(file) for _ in arrays]
        assert not file.read()
    for one, array in zip(found, loads, strict=True):
        assert (one.name, one.shape) == ("x", array.shape)
        values = b"".join(chunk.tobytes() for part in one.parts for chunk in part.chunks())
        assert values == array.astype(array.dtype.newbyteorder("=")).tobytes()


@given(damaged(saved(np.ones(3, np.float32)) + saved(np.zeros((2, 2), ">f8"))))
def test_damaged_arrays_behind_each_other_are_refused_in_our_words(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "x.npy"
    path.write_bytes(data)
    try:
        found = describe_batches(open_regular(str(path)), "x")
    except InputError as error:
        check_words(str(error))
    else:
        assert sum(part.nbytes for one in found for part in one.parts) < len(data)


def test_the_pickles_of_an_object_array_are_not_behind_it():
    assert parsed(saved(np.array([None, {}]))).status == "unsupported"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04N.",
        b"\x93NUMPY",
        b"\x93NUMPY\x04\0" + bytes(100),
        b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(50),
        made(b" " * 10_001, version=2),
        made(b"__import__('os').system('false')"),
        made(b"-" * 5000 + b"1"),
        made(b"(" * 5000),
        made(b"\0"),
        made(b"\xff", version=3),
        made(b"{'descr': '<f4', 'fortran_order': False}"),
        made(b"{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': [1]}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4, 0)}", bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}" % (b"9" * 5000), bytes(4)),
        made(b"{'descr': '<f4', 'fortran_order': False, 'shape': %s}" % repr((1,) * 65).encode(), bytes(4)),
        made(b"{'descr': '|S2147483647', 'fortran_order': False, 'shape': (1,)}", bytes(4)),
        made(b"{'descr': 'nonsense', 'fortran_order': False, 'shape': ()}", bytes(4)),
        made(b"{'descr': %s'<f4'%s, 'fortran_order': False, 'shape': ()}" % (b"[" * 90, b"]" * 90), bytes(4)),
    ],
    ids=lambda data: ascii(data)[2:60],
)
def test_hostile_headers_are_refused(data):
    with pytest.raises(InputError):
        parsed(data)
    assert loaded(data) is None or b"True" in data  # stricter than NumPy only about bools


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_an_input_error(data):
    check_agreement(b"\x93NUMPY\x01\0" + data)
    check_agreement(data)


@given(st.data())
def test_mutated_files_agree_with_numpy(data):
    array = data.draw(hnp.arrays(st.sampled_from(FLOATS), hnp.array_shapes(max_side=4)))
    mutated = bytearray(saved(array, (data.draw(st.integers(1, 3)), 0)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(90, len(mutated) - 1)))
        mutated[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b"0123456789,()'<>|fiOVT")))
    check_agreement(bytes(mutated))


@given(
    descr=st.sampled_from(["<f4", ">f4", "f4", "float32", "<i8", "(2,)f4", "V0", "|O", "f4,f4", "<c8", "|b1", "T"]),
    order=st.sampled_from([True, False]),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 1 << 31, 1 << 62, 1 << 63, -1]), max_size=4),
    size=st.integers(0, 100),
)
def test_made_headers_agree_with_numpy(descr, order, shape, size):
    text = repr({"descr": descr, "fortran_order": order, "shape": tuple(shape)})
    check_agreement(made(text.encode(), bytes(size)))


def test_the_agreement_checker_can_fail():
    data = saved(np.ones(3, np.float32))
    other = parsed(saved(np.ones(3, np.float64)))
    with pytest.raises(AssertionError):
        check_agreement(data, lambda _: other)


def test_a_file_is_opened_once_to_be_described(tmp_path, monkeypatch):
    path, opened = tmp_path / "x.npy", list[str]()
    np.save(path, np.ones(3, np.float32))
    really = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest, **more: opened.append(name) or really(name, *rest, **more))
    (found,) = formats.describe(open_regular(str(path)), "x.npy")
    assert (found.shape, opened) == ((3,), [str(path)])


def test_a_header_that_is_longer_than_what_is_looked_at_first_is_read(tmp_path):
    path = tmp_path / "x.npy"
    fields = [(f"a field with a long name {number}", "<f4") for number in range(60)]
    np.save(path, np.zeros(2, fields))
    (found,) = formats.describe(open_regular(str(path)), "x.npy")
    assert (found.status, found.shape) == ("unsupported", (2,))
