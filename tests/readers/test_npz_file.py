"""A .npz is described as NumPy would load it, array by array; a damaged one costs the others nothing."""

import io
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from klcal.errors import InputError
from klcal.readers.npz_file import NO_ARRAY, describe
from tests.support.files import check_words, damaged, file_of, unzipped, zipped

FLOATS = ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("npz")


def saved(compressed: bool = False, **arrays) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def values(found) -> np.ndarray:
    flat = np.concatenate([np.empty(0, "f4"), *(chunk.copy() for part in found.parts for chunk in part.chunks())])
    return np.sort(flat)


def check_agreement(file, read=values) -> bool:
    """What we accept NumPy loads, with equal values; what NumPy refuses we refuse. Whether we accepted."""
    try:
        found = describe(file, "x")
    except InputError as error:
        check_words(str(error))
        return False
    read_values = {}
    for each in found:
        if each.status != "ok":
            check_words(each.reason)
            assert each.parts == ()
            continue
        try:
            read_values[each.name] = read(each)
        except InputError as error:
            check_words(str(error))
    if not read_values:
        return False
    with np.load(file.path, allow_pickle=False) as theirs:
        for each in found:
            if each.name in read_values:
                array = theirs[each.name]
                assert (each.dtype, each.shape) == (array.dtype.name, array.shape)
                np.testing.assert_array_equal(read_values[each.name], np.sort(array, axis=None))
    return len(read_values) == len(found)


arrays = st.dictionaries(
    st.text("abc_/.", min_size=1, max_size=6).filter(lambda name: name != "file" and not name.endswith(".npy")),
    hnp.arrays(st.sampled_from(FLOATS), hnp.array_shapes(min_dims=0, min_side=0, max_side=9)),
    min_size=1,
    max_size=4,
)


@given(arrays=arrays, compressed=st.booleans(), fortran=st.booleans())
def test_any_float_arrays_are_described_as_numpy_loads_them(folder, arrays, compressed, fortran):
    order = {name: np.asfortranarray(array) if fortran else array for name, array in arrays.items()}
    file = file_of(folder, saved(compressed, **order), ".npz")
    assert check_agreement(file)
    assert [found.name for found in describe(file, "x")] == list(arrays)


SEEDS = [saved(packed, a=np.arange(9.0), b=np.ones((2, 30), ">f4"), n=np.arange(3)) for packed in (False, True)]


@settings(max_examples=200, deadline=1000)
@given(data=damaged(SEEDS[0], b"0123456789(),'<>|fiOV") | damaged(SEEDS[1]))
def test_damaged_archives_are_refused_or_read_as_numpy_reads_them(folder, data):
    check_agreement(file_of(folder, data, ".npz"))


@settings(max_examples=200, deadline=1000)
@given(data=damaged(unzipped(SEEDS[0])["a.npy"], b"0123456789(),'<>|fiOV"), packed=st.booleans())
def test_damaged_arrays_in_a_sound_archive_are_refused_or_read_as_numpy_reads_them(folder, data, packed):
    members = {"a.npy": data, "b.npy": unzipped(SEEDS[0])["b.npy"]}
    file = file_of(folder, zipped(members, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED), ".npz")
    check_agreement(file)
    assert describe(file, "x")[1].status == "ok"


def test_the_agreement_checker_can_fail(folder):
    file = file_of(folder, saved(a=np.arange(3.0)))
    assert check_agreement(file)
    with pytest.raises(AssertionError):
        check_agreement(file, lambda found: values(found) + 1)
    with pytest.raises(KeyError):
        check_agreement(file, lambda _: {}["a bug"])


def test_whole_numbers_and_floats_stand_side_by_side(folder):
    data = saved(weight=np.ones((2, 3), np.float32), steps=np.int64(7), mask=np.ones(4, bool))
    found = describe(file_of(folder, data), "x")
    assert [(each.name, each.dtype, each.shape, each.status) for each in found] == [
        ("weight", "float32", (2, 3), "ok"),
        ("steps", "int64", (), "skipped"),
        ("mask", "bool", (4,), "skipped"),
    ]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3, "c8"), "complex"),
        (np.array([None]), "unpickling"),
        (np.array([(1, 2)], "f4,f4"), "structured"),
        (np.array(["text"]), "text"),
        (np.array([b"text"]), "text"),
        (np.zeros(2, "M8[s]"), "dates"),
        (np.zeros(2, np.longdouble), "long double"),
        (np.zeros(2, ml_dtypes.bfloat16), "bfloat16"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
@pytest.mark.parametrize("compressed", [False, True])
def test_an_array_that_cannot_be_calibrated_does_not_affect_the_others(folder, array, reason, compressed):
    bad, good = describe(file_of(folder, saved(compressed, bad=array, good=np.ones(3))), "x")
    assert (bad.name, bad.status, bad.parts) == ("bad", "unsupported", ())
    assert reason in bad.reason
    assert (good.status, values(good).tolist()) == ("ok", [1, 1, 1])


def test_an_array_that_would_run_code_is_not_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary",)

    file = file_of(tmp_path, saved(harm=np.array([Harm()], object)))
    (found,) = describe(file, "x")
    assert (found.status, found.parts) == ("unsupported", ())
    assert not (tmp_path / "canary").exists()
    with np.load(file.path, allow_pickle=True) as archive:
        archive["harm"]
    assert (tmp_path / "canary").exists()  # the canary can sing


@pytest.mark.parametrize("compressed", [False, True])
def test_a_member_that_is_cut_or_no_array_costs_only_itself(folder, compressed):
    good = unzipped(saved(good=np.ones(3)))["good.npy"]
    members = {"cut.npy": good[:-1], "text.npy": b"hello", "empty.npy": b"", "readme.txt": b"hello", "good.npy": good}
    data = zipped(members, zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED)
    found = {each.name: (each.status, each.reason) for each in describe(file_of(folder, data), "x")}
    assert found["cut"][0] == found["text"][0] == found["empty"][0] == "failed"
    assert "needs 152 bytes, the file has 151" in found["cut"][1]
    assert found["readme.txt"] == ("unsupported", NO_ARRAY)
    assert found["good"] == ("ok", None)


@pytest.mark.parametrize("compressed", [False, True])
def test_changed_values_are_found_by_their_checksum_and_cost_only_themselves(folder, compressed):
    array = np.frombuffer(np.random.default_rng(0).bytes(800), np.uint64) % (1 << 62)
    data = bytearray(saved(compressed, a=array.view(np.float64), b=np.ones(3)))
    data[300] ^= 16
    a, b = describe(file_of(folder, bytes(data)), "x")
    assert (a.status, a.shape, values(b).tolist()) == ("ok", (100,), [1, 1, 1])
    with pytest.raises(InputError, match=r"CRC-32|compressed data"):
        values(a)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("found", "changed", "says"),
    [(b"(100,)", b"(000,)", "800 more bytes stand behind its array"), (b"<f8", b"<i8", "CRC-32")],
)
def test_a_changed_header_does_not_hide_an_array(folder, compressed, found, changed, says):
    """It would be empty or skipped, both of them no failures."""
    data = saved(a=np.ones(100), b=np.ones(3)).replace(found, changed, 1)
    if compressed:
        members = {
            name: content.replace(found, changed, 1) for name, content in unzipped(saved(a=np.ones(100))).items()
        }
        crc = zipfile.ZipFile(io.BytesIO(saved(a=np.ones(100)))).infolist()[0].CRC.to_bytes(4, "little")
        packed = zipped(members, zipfile.ZIP_DEFLATED)
        data = packed.replace(packed[14:18], crc)  # in its own header and in the directory
    damaged, *_ = describe(file_of(folder, data), "x")
    assert (damaged.name, damaged.status) == ("a", "failed")
    assert says in damaged.reason


def test_a_header_that_claims_more_than_is_there_is_refused_before_memory_is_taken(folder):
    header = b"\x93NUMPY\x01\0v\0" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(118)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (found,) = describe(file_of(folder, zipped({"x.npy": header + bytes(64)}, method)), "x")
        assert found.status == "failed"
        assert "needs 8,000,000,000,128 bytes, the file has 192" in found.reason


def test_two_members_that_come_to_one_name_are_refused(folder):
    member = unzipped(saved(x=np.ones(3)))["x.npy"]
    with pytest.raises(InputError, match="two of its members are called 'x'"):
        describe(file_of(folder, zipped({"x.npy": member, "x": member})), "x")


def test_an_archive_without_arrays_has_none(folder):
    assert describe(file_of(folder, saved()), "x") == []
