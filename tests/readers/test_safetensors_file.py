"""A .safetensors header is believed where the library believes it too, and nowhere else."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import InputError
from klcal.readers import strict_json
from klcal.readers.regular import open_regular
from klcal.readers.safetensors_file import KINDS, describe, header_length, parse
from klcal.sketches.counting import values_of
from tests.support.files import check_words
from tests.support.lazy import torch

NUMPY_KINDS = ["F64", "F32", "F16", "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"]


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def tensor(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def document(**tensors) -> bytes:
    return json.dumps(tensors).encode()


def parsed(data: bytes):
    length = header_length(data[:8], len(data))
    return parse(data[8 : 8 + length], len(data) - 8 - length)


def loaded(data: bytes):
    """What the library makes of it: (name, {dtype, shape, data}), or None."""
    try:
        return dict(safetensors.deserialize(data))
    except safetensors.SafetensorError:
        return None


def check_agreement(data: bytes, entries_of=parsed) -> bool:
    """What we accept the library loads: same names, dtypes, shapes and bytes. Whether we accepted."""
    try:
        entries = entries_of(data)
    except InputError as error:
        check_words(str(error))
        return False
    if any(entry.dtype not in KINDS for entry in entries):
        return False  # more lenient on purpose
    theirs = loaded(data)
    assert theirs is not None
    start = 8 + header_length(data, len(data))
    ours = {
        entry.name: (entry.dtype, list(entry.shape), data[start + entry.begin : start + entry.end]) for entry in entries
    }
    assert ours == {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in theirs.items()}
    return True


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def files(draw):
    """Sound files with every dtype that has whole bytes."""
    whole = [name for name, kind in KINDS.items() if kind.bits % 8 == 0]
    header, position = {}, 0
    for name in draw(st.lists(names, unique=True, max_size=4)):
        dtype, shape = draw(st.sampled_from(whole)), draw(shapes)
        length = int(np.prod(shape, dtype=int)) * KINDS[dtype].bits // 8
        header[name] = tensor(dtype, shape, (position, position + length))
        position += length
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(names, names, max_size=2))
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode() + b" " * draw(st.integers(0, 8))
    return file_of(text, draw(st.binary(min_size=position, max_size=position)))


@given(files())
def test_sound_files_are_accepted_as_the_library_accepts_them(data):
    assert check_agreement(data)


@settings(max_examples=300)
@given(st.data())
def test_mutated_files_agree_with_the_library(data):
    mutated = bytearray(data.draw(files()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789[]{},:-+.eE" \\FIU')))
    check_agreement(bytes(mutated))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_an_input_error(data):
    check_agreement(data)
    check_agreement(file_of(data))
    check_agreement(file_of(b"{" + data))


numbers = st.sampled_from(
    [0, 1, 2, 4, 8, 16, -1, 1.0, True, None, "1", 1 << 31, 1 << 61, 1 << 63, (1 << 64) - 1, 1 << 64]
)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", ""]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from([*KINDS, None, 3]),
                "shape": st.lists(numbers, max_size=3),
                "data_offsets": st.lists(numbers, max_size=3),
            }
        ),
    ),
    st.sampled_from([0, 4, 8, 16]),
)
def test_made_headers_agree_with_the_library(header, size):
    check_agreement(file_of(json.dumps(header).encode(), bytes(size)))


def test_the_agreement_checker_can_fail():
    data = file_of(document(a=tensor()), bytes(4))
    with pytest.raises(AssertionError):
        check_agreement(data, lambda _: ())
    with pytest.raises(AssertionError):
        check_agreement(data + b"x", lambda _: parsed(data))


HOSTILE = {
    "empty": b"",
    "short": bytes(7),
    "no header": bytes(8),
    "length of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "length of 100 MB": struct.pack("<Q", 100_000_000) + b"{}",
    "length above the limit": struct.pack("<Q", 100_000_001) + b"{}",
    "no brace": file_of(b"null"),
    "byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "UTF-16": file_of("{}".encode("utf-16")),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "list": file_of(b"[]"),
    "rest": file_of(b"{}{}"),
    "deep": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "NaN": file_of(b'{"a": NaN}'),
    "many digits": file_of(b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % (b"9" * 5000), bytes(4)),
    "half a surrogate pair": file_of(b'{"\\ud800": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'),
    "control character": file_of(b'{"\n": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'),
    "metadata of numbers": file_of(b'{"__metadata__": {"a": 1}}'),
    "metadata list": file_of(b'{"__metadata__": []}'),
    "minus zero": file_of(b'{"a": {"dtype": "U8", "shape": [-0], "data_offsets": [0, 0]}}'),
    "negative": file_of(document(a=tensor(shape=[-1], offsets=[0, -4]))),
    "fraction": file_of(document(a=tensor(shape=[1.0])), bytes(4)),
    "bool": file_of(document(a=tensor(shape=[True])), bytes(4)),
    "text as shape": file_of(b'{"a": {"dtype": "F32", "shape": "", "data_offsets": [0, 4]}}', bytes(4)),
    "wrong size": file_of(document(a=tensor(shape=[2])), bytes(4)),
    "overflow": file_of(document(a=tensor(shape=[1 << 62, 4, 0], offsets=[0, 0]))),
    "overlap": file_of(document(a=tensor(), b=tensor()), bytes(4)),
    "gap": file_of(document(a=tensor(), b=tensor(offsets=[8, 12])), bytes(12)),
    "gap at the start": file_of(document(a=tensor(offsets=[4, 8])), bytes(8)),
    "reversed": file_of(document(a=tensor(offsets=[4, 0])), bytes(4)),
    "bytes left over": file_of(document(a=tensor()), bytes(5)),
    "half a byte": file_of(document(a=tensor("F4", [1], [0, 0]))),
    "a field twice": file_of(
        b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)
    ),
    "a field is missing": file_of(b'{"a": {"dtype": "F32", "shape": [1]}}', bytes(4)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_files_that_the_safetensors_library_refuses_are_refused(data):
    assert loaded(data) is None
    with pytest.raises(InputError):
        parsed(data)


STRICTER = {
    "a tensor twice": b'{"a": %s, "a": %s}' % ((json.dumps(tensor()).encode(),) * 2),
    "metadata twice": b'{"__metadata__": {"k": "1", "k": "2"}, "a": %s}' % json.dumps(tensor()).encode(),
    "a field more": document(a=tensor(more=1)),
    "a space first": b" " + document(a=tensor()),
}


@pytest.mark.parametrize("header", STRICTER.values(), ids=STRICTER)
def test_ambiguous_headers_are_refused(header):
    assert loaded(file_of(header, bytes(4))) is not None
    with pytest.raises(InputError):
        parsed(file_of(header, bytes(4)))


@pytest.mark.parametrize(
    ("limit", "says"), [("MAX_BYTES", "has .* bytes; 10 are allowed"), ("MAX_VALUES", "more than 10 values")]
)
def test_a_header_that_would_take_much_memory_is_refused_before_it_does(monkeypatch, limit, says):
    header = document(a=tensor(shape=[1, 1, 1, 1, 1], offsets=[0, 4]))
    assert parsed(file_of(header, bytes(4)))
    monkeypatch.setattr(strict_json, limit, 10)
    with pytest.raises(InputError, match=says):
        parsed(file_of(header, bytes(4)))


def test_a_file_cut_anywhere_is_refused():
    whole = file_of(document(a=tensor(), b=tensor("F64", [2, 1], [4, 20])), bytes(20))
    assert check_agreement(whole)
    for length in range(len(whole)):
        with pytest.raises(InputError):
            parsed(whole[:length])


def test_cut_data_tell_both_sizes():
    with pytest.raises(InputError, match=r"need 4 bytes of data, the file has 3; .*incomplete"):
        parsed(file_of(document(a=tensor()), bytes(3)))


def test_an_error_names_the_tensor_in_few_printable_characters():
    name = "\x1b[31m" * 10_000
    with pytest.raises(InputError) as caught:
        parsed(file_of(document(**{name: tensor(offsets=[4, 8])}), bytes(8)))
    assert r"\x1b[31m" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


def test_the_values_are_those_that_were_saved(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {kind.lower(): rng.integers(0, 2, (5, 3)).astype(KINDS[kind].name) for kind in NUMPY_KINDS}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    found = {d.name: d for d in describe(open_regular(str(tmp_path / "x.safetensors")), "x")}
    assert {name: (d.dtype, d.shape) for name, d in found.items()} == {
        n: (a.dtype.name, a.shape) for n, a in arrays.items()
    }
    for name, array in arrays.items():
        assert found[name].status == ("ok" if array.dtype.kind == "f" else "skipped")
        if array.dtype.kind == "f" or array.dtype == np.int8:  # which may be codes
            (chunk,) = (chunk for part in found[name].parts for chunk in part.chunks())
            np.testing.assert_array_equal(chunk.reshape(array.shape), array)
        else:
            assert found[name].parts == ()


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"])
def test_small_floats_come_as_bit_patterns(tmp_path, kind):
    values = np.linspace(-2, 2, 9).astype(getattr(ml_dtypes, KINDS[kind].name))
    header = document(a=tensor(kind, [9], [0, values.nbytes]))
    (tmp_path / "x").write_bytes(file_of(header, values.tobytes()))
    (found,) = describe(open_regular(str(tmp_path / "x")))
    (chunk,) = found.parts[0].chunks()
    assert found.dtype == values.dtype.name
    np.testing.assert_array_equal(chunk, values.view(chunk.dtype))


def test_float4_comes_one_value_at_a_time_the_lower_bits_first(tmp_path):
    """As torch packs it: two values a byte, which the library counts as two."""
    codes = np.array([[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]], np.uint8)
    packed = torch.from_numpy(codes[:, ::2] | codes[:, 1::2] << 4).view(torch.float4_e2m1fn_x2)
    (tmp_path / "x").write_bytes(pytest.importorskip("safetensors.torch").save({"a": packed}))
    (found,) = describe(open_regular(str(tmp_path / "x")))
    assert (found.dtype, found.shape, found.status) == ("float4_e2m1fn", (2, 8), "ok")
    (chunk,) = found.parts[0].chunks()
    assert chunk.tolist() == codes.ravel().tolist()
    assert values_of(chunk, found.dtype).tolist() == [*(F4 := [0, 0.5, 1, 1.5, 2, 3, 4, 6]), *(-x for x in F4)]
    row = klcal.calibrate(found, dtype="float4_e2m1fn")
    assert (row.scale, row.mse) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "shape", "length", "named"),
    [
        ("C64", [1], 8, "complex64"),
        ("F6_E2M3", [4], 3, "float6"),
        ("F6_E3M2", [4], 3, "float6"),
    ],
)
def test_types_that_cannot_be_calibrated_cost_only_themselves(tmp_path, kind, shape, length, named):
    header = document(a=tensor(kind, shape, [0, length]), b=tensor(offsets=[length, length + 4]))
    (tmp_path / "x").write_bytes(file_of(header, bytes(length + 4)))
    assert check_agreement((tmp_path / "x").read_bytes())
    bad, good = describe(open_regular(str(tmp_path / "x")))
    assert (bad.status, bad.parts, good.status) == ("unsupported", (), "ok")
    assert named in bad.reason


def test_a_dtype_of_the_future_is_named(tmp_path):
    header = document(a=tensor("\x1bI4", [2], [0, 1]), b=tensor(offsets=[1, 5]))
    (tmp_path / "x").write_bytes(file_of(header, bytes(5)))
    bad, good = describe(open_regular(str(tmp_path / "x")))
    assert (bad.status, good.status) == ("unsupported", "ok")
    assert bad.reason == r"\x1bI4 values cannot be calibrated; save it as float32"


def test_no_values_no_parts(tmp_path):
    (tmp_path / "x").write_bytes(file_of(document(a=tensor("F32", [0, 3], [0, 0]))))
    (found,) = describe(open_regular(str(tmp_path / "x")))
    assert (found.shape, found.parts, found.status) == ((0, 3), (), "ok")
