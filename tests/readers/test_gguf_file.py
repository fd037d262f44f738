"""A .gguf is read as llama.cpp's own Python reader reads it, and refused where it is cut, damaged or hostile."""

from __future__ import annotations

import re
import struct
import tracemalloc

import gguf as library
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.quantizers.blocks import BLOCKS
from klcal.readers import gguf_file, gguf_header
from klcal.readers.gguf_file import describe
from klcal.readers.gguf_header import TYPES, parse
from tests.support import gguf
from tests.support.files import check_words, damaged, file_of
from tests.support.gguf import ARRAY, HOSTILE, KEYS, Q4_0, Q8_0, TENSORS, TEXT, Tensor, alignment, key, of, text

STORED = {"float32": "<f4", "float16": "<f2", "float64": "<f8", "bfloat16": "<u2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


def values(found) -> bytes:
    chunks = [chunk for part in found.parts for chunk in part.chunks()]
    return b"".join(chunk.astype(STORED[found.dtype]).tobytes() for chunk in chunks)


def loaded(path: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor, as the library reads them."""
    found = library.GGUFReader(path).tensors
    return {t.name: (t.tensor_type.name, tuple(map(int, t.shape[::-1])), t.data.tobytes()) for t in found}


def check_agreement(file, describe=describe) -> bool:
    """What we accept the library loads: same names, types, shapes and values. Whether we accepted."""
    try:
        found = describe(file)
    except InputError as error:
        check_words(str(error))
        return False
    if any(each.status == "unsupported" for each in found):
        return False  # of a type that the library does not know: more lenient on purpose
    theirs = loaded(file.path)
    assert [each.name for each in found] == list(theirs)
    for each in found:
        name, shape, data = theirs[each.name]
        assert each.shape == shape
        assert name in ("F32", "F16", "F64", "BF16") if each.status == "ok" else each.parts == ()
        if each.status == "ok":
            assert values(each) == data
    return True


# --- sound files


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("align", [1, 8, 32, 4096])
def test_sound_files_are_read_as_the_library_reads_them(folder, version, align):
    keys = [*KEYS, alignment(align)] if align != 32 else KEYS
    file = file_of(folder, gguf.gguf(keys=keys, version=version, align=align), ".gguf")
    if align >= 8:  # the library's views need it
        assert check_agreement(file)
    found = describe(file)
    assert [each.name for each in found] == list(TENSORS)
    assert [each.status for each in found] == ["ok", "skipped", "ok", "ok", "skipped", "ok", "ok"]
    assert [each.dtype for each in found] == ["float32", "Q4_0", "bfloat16", "float16", "int32", "float64", "float64"]
    assert found[0].shape == (2, 3)
    assert {each.name: values(each) for each in found if each.status == "ok"} == {
        each.name: TENSORS[each.name].data for each in found if each.status == "ok"
    }
    assert found[1].reason == "Q4_0 values are quantized already; --dequantize takes the values that they stand for"
    assert found[4].reason == "int32 values are not calibrated"


def test_files_that_the_gguf_library_wrote_are_read(folder):
    path = folder / "written.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "bc", ""])
    writer.add_array("nested", [1, 2, 3])
    arrays = {"w": np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), "h": np.ones(7, np.float16)}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    blocks = library.quants.quantize(np.ones((4, 64), np.float32), library.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q", blocks, raw_dtype=library.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = file_of(folder, path.read_bytes(), ".gguf")
    assert check_agreement(file)
    found = {each.name: each for each in describe(file)}
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        "w": ("float32", (3, 4, 5)),
        "h": ("float16", (7,)),
        "q": ("Q8_0", (4, 64)),
    }
    assert values(found["w"]) == arrays["w"].tobytes()


def test_the_types_are_the_library_s():
    theirs = {int(kind): sizes for kind, sizes in library.constants.GGML_QUANT_SIZES.items()}
    assert {kind: (found.values, found.nbytes) for kind, found in TYPES.items()} == theirs
    names = {int(kind): kind.name for kind in library.GGMLQuantizationType}
    assert all(found.name == names[kind] for kind, found in TYPES.items() if found.values > 1)


def test_a_type_of_the_future_costs_only_itself(folder):
    tensors = {"a": of(np.float32([1])), "b": Tensor(777, (32,), bytes(40)), "c": of(np.float32([2]))}
    found = describe(file_of(folder, gguf.gguf(tensors)))
    assert [each.status for each in found] == ["ok", "unsupported", "ok"]
    assert found[1].reason.startswith("type 777 of GGML is not known; ")
    assert values(found[2]) == tensors["c"].data


def test_no_tensors_and_no_dimensions(folder):
    assert describe(file_of(folder, gguf.gguf({}, []))) == []
    (found,) = describe(file_of(folder, gguf.gguf({"x": of(np.float32(3.0))}, [])))
    assert (found.shape, values(found)) == ((), struct.pack("<f", 3.0))


def test_the_arrays_of_an_importance_matrix_are_not_weights(folder):
    file = file_of(folder, gguf.gguf(keys=[key("general.type", TEXT, text("imatrix"))]))
    found = describe(file)
    assert {(each.status, each.reason) for each in found} == {
        ("skipped", "it is part of an importance matrix; give the file as --importance")
    }


def test_a_vocabulary_is_passed_over_and_not_kept(folder):
    tokens = key("tokens", ARRAY, gguf.texts(*(f"token {number}" for number in range(200_000))))
    longer = key("template", TEXT, text("x" * 3_000_000))
    file = file_of(folder, gguf.gguf(keys=[tokens, longer, *KEYS]))
    tracemalloc.start()
    try:
        assert len(describe(file)) == len(TENSORS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- blocks of codes


def stood_for(found) -> np.ndarray:
    whole = found.dequantized
    assert found.parts == ()
    return np.concatenate([chunk.copy() for part in whole.parts for chunk in part.chunks()]).reshape(whole.shape)


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_stand_for_what_the_library_says(folder, kind, monkeypatch):
    """Whatever their bytes are, to the sign of 0; NaN and infinity are scales of float16, too."""
    type_ = library.GGMLQuantizationType[kind]
    data = np.random.default_rng(0).integers(256, size=(64, 8 * BLOCKS[kind].itemsize)).astype(np.uint8)
    data[:32, 0] = np.arange(0, 256, 8)
    with np.errstate(all="ignore"):
        theirs = library.quants.dequantize(data, type_)
    file = file_of(folder, gguf.gguf({"w": Tensor(int(type_), (64, 256), data.tobytes())}))
    monkeypatch.setattr(gguf_file, "PART_BYTES", 5 * BLOCKS[kind].itemsize + 1)
    (found,) = describe(file)
    assert (found.dtype, found.status, len(found.dequantized.parts)) == (kind, "skipped", 103)
    ours, is_number = stood_for(found), ~np.isnan(theirs)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours.view(np.uint32)[is_number], theirs.view(np.uint32)[is_number])
    swapped = data.reshape(64 * 8, -1).copy()
    swapped[:, -16:] = swapped[:, -16:] >> 4 | swapped[:, -16:] << 4  # the twin: halves of bytes the other way round
    with np.errstate(all="ignore"):
        other = library.quants.dequantize(swapped.reshape(data.shape), type_)
    assert (kind == "Q8_0") or not np.array_equal(ours, other, equal_nan=True)


def test_blocks_computed_by_hand(folder):
    halves = bytes(0x11 * code for code in range(16))
    tensors = {
        "a": Tensor(Q8_0, (1, 32), bytes.fromhex("0034") + np.arange(-16, 16, dtype=np.int8).tobytes()),
        "b": Tensor(Q4_0, (32,), bytes.fromhex("0038") + halves),
        "c": Tensor(3, (1, 32), bytes.fromhex("003800be") + halves),
        "d": Tensor(39, (1, 32), b"\x7f" + halves),
    }
    found = [stood_for(each).ravel().tolist() for each in describe(file_of(folder, gguf.gguf(tensors)))]
    assert found[0] == [code / 4 for code in range(-16, 16)]
    assert found[1] == [(code - 8) / 2 for code in range(16)] * 2
    assert found[2] == [code / 2 - 1.5 for code in range(16)] * 2
    assert found[3] == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6] * 2


# --- damage

WHOLE = gguf.gguf(keys=[*KEYS[:3], alignment(32)])


def test_a_file_cut_anywhere_in_its_tensors_is_refused(folder):
    assert check_agreement(file_of(folder, WHOLE))
    needed = len(WHOLE) - 16  # the last data are padded
    for length in range(needed):
        with pytest.raises(InputError) as refused:
            describe(file_of(folder, WHOLE[:length]))
        check_words(str(refused.value))
    assert describe(file_of(folder, WHOLE[:needed]))


@settings(max_examples=300)
@given(damaged(WHOLE, b"\0\1\2\x20\xff"))
def test_damage_is_refused_or_yields_what_the_library_would_read(folder, data):
    check_agreement(file_of(folder, data, ".gguf"))


@settings(max_examples=300)
@given(damaged(gguf.gguf({"a": of(np.float32([1, 2])), "b": of(np.float16([3]))}, [alignment(64)], align=64)))
def test_a_damaged_file_is_refused_or_read_as_the_gguf_library_reads_it(folder, data):
    check_agreement(file_of(folder, data, ".gguf"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_an_input_error(folder, data):
    assert not check_agreement(file_of(folder, data))
    check_agreement(file_of(folder, b"GGUF\3\0\0\0" + data))


def test_the_agreement_checker_can_fail(folder):
    file = file_of(folder, WHOLE)
    other = file_of(folder, gguf.gguf({**TENSORS, "half": of(np.float16([[[1.5]], [[-3.0]]]))}))
    for wrong in (lambda _: [], lambda _: describe(other), lambda _: describe(file)[::-1]):
        with pytest.raises(AssertionError):
            check_agreement(file, wrong)


# --- hostile files


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_before_memory_is_allocated(folder, data, message):
    file = file_of(folder, data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=re.escape(message)) as refused:
            describe(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    check_words(str(refused.value))


def test_a_header_without_end_is_refused(folder, monkeypatch):
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 256)
    data = gguf.gguf(keys=[key("k", TEXT, text("x" * 1000))])
    with pytest.raises(InputError, match="its header is longer than 256 bytes"):
        describe(file_of(folder, data))
    monkeypatch.setattr(gguf_header, "MAX_TEXTS", 2)
    with pytest.raises(InputError, match="more than 2 texts"):
        parse(file_of(folder, gguf.gguf(keys=KEYS[:2])))
