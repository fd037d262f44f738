"""A zip means the same to every reader, or it is refused: nothing of it is believed before it is checked."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers import archive
from klcal.readers.archive import open_archive
from klcal.readers.archive_parts import CrcCheck, MemberSpan, member_parts
from klcal.readers.description import CHUNK_BYTES
from tests.support.archives import END, altered, places
from tests.support.files import check_words, damaged, file_of, zipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("archive")


def contents(file) -> dict[str, bytes]:
    return {name: b"".join(bytes(block) for block in member.blocks()) for name, member in open_archive(file).items()}


def refusal(file) -> str:
    """Why an archive cannot be opened, or a member not be read."""
    with pytest.raises(InputError) as caught:
        contents(file)
    check_words(str(caught.value))
    return str(caught.value)


STORED = zipped({"a.bin": b"A" * 50, "b.bin": b"B" * 70})
DEFLATED = zipped({"a.bin": b"A" * 5000, "b.bin": b"B" * 7000}, zipfile.ZIP_DEFLATED)


def check_agreement(data: bytes, file, read=contents) -> bool:
    """What we accept Python's zipfile reads, with the same content. Whether we accepted."""
    try:
        ours = read(file)
    except InputError as error:
        check_words(str(error))
        return False
    with zipfile.ZipFile(io.BytesIO(data)) as theirs:
        assert list(ours) == [info.orig_filename for info in theirs.infolist()]
        for info in theirs.infolist():
            assert not info.CRC or ours[info.orig_filename] == theirs.read(info)  # zipfile believes a CRC of 0
    return True


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(members=st.dictionaries(names, st.binary(max_size=300), max_size=4), deflate=st.booleans())
def test_sound_archives_are_read_as_zipfile_reads_them(folder, members, deflate):
    data = zipped(members, zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)
    assert check_agreement(data, file_of(folder, data))
    assert contents(file_of(folder, data)) == members


@settings(max_examples=300, deadline=1000)
@given(data=damaged(STORED) | damaged(DEFLATED))
def test_damaged_archives_are_refused_or_read_as_zipfile_reads_them(folder, data):
    check_agreement(data, file_of(folder, data))


def test_the_agreement_checker_can_fail(folder):
    with pytest.raises(AssertionError):
        check_agreement(STORED, file_of(folder, zipped({"a.bin": b"A" * 50, "b.bin": b"C" * 70})))
    with pytest.raises(KeyError):
        check_agreement(STORED, file_of(folder, STORED), lambda _: {}["a bug"])


@pytest.mark.parametrize("data", [STORED, DEFLATED])
def test_an_archive_cut_anywhere_is_refused(folder, data):
    for length in range(len(data)):
        assert "no sound directory at its end" in refusal(file_of(folder, data[:length]))


ATTACKS = {
    "two members of one name": (altered(STORED, "name", b"a.bin", 1), "two members named 'a.bin'"),
    "another name in its own header": (altered(STORED, "name", b"x.bin", where="own"), "another name in its own"),
    "another name in the directory": (altered(STORED, "name", b"x.bin", where="directory"), "another name in its own"),
    "a longer name in its own header": (altered(STORED, "name", b"\xff", where="own"), "another name in its own"),
    "a NUL in its name": (altered(STORED, "name", b"a\0bin"), "another name in its own"),
    "a password": (altered(STORED, "flags", 0x0001), "is encrypted"),
    "strong encryption": (altered(STORED, "flags", 0x0041), "is encrypted"),
    "masked headers": (altered(STORED, "flags", 0x2000), "is encrypted"),
    "patched data": (altered(STORED, "flags", 0x0020), "is a patch"),
    "method 99": (altered(STORED, "method", 99), "only stored and deflated"),
    "bzip2": (altered(STORED, "method", 12), "only stored and deflated"),
    "no header there": (altered(STORED, "header", 1, 1), "not where the archive's directory says"),
    "a header outside the file": (altered(STORED, "header", 1 << 30, 1), "begins outside the file"),
    "one header for two members": (altered(altered(STORED, "name", b"b.bin"), "header", 0, 1), "two members named"),
    "a member over the next": (altered(altered(STORED, "stored", 100), "size", 100), "overlap"),
    "a member over the directory": (altered(altered(STORED, "stored", 90, 1), "size", 90, 1), "overlaps the archive's"),
    "a member beyond the file": (altered(altered(STORED, "stored", 9999, 1), "size", 9999, 1), "not where"),
    "two different sizes": (altered(STORED, "size", 49), "two different sizes"),
    "a folder with data": (altered(STORED, "attributes", 0x10), "marked as a folder"),
    "wrong CRC": (altered(STORED, "crc", 1), "'a.bin' do not match their CRC-32"),
    "wrong CRC of deflated data": (altered(DEFLATED, "crc", 1), "'a.bin' do not match their CRC-32"),
    "size below the content": (altered(DEFLATED, "size", 4999), "hold more than 4,999 bytes"),
    "size above the content": (altered(DEFLATED, "size", 5001), "end after 5,000 of 5,001 bytes"),
    "200 bytes that claim 4 GB": (altered(DEFLATED, "size", 0xFFFFFFFE), "a decompression bomb"),
    "compressed data cut": (altered(DEFLATED, "stored", 10), "end too early"),
    "compressed data of another kind": (altered(STORED, "method", 8), "compressed data are damaged"),
    "bytes before the first member": (b"MZ" + STORED, "2 bytes stand before the first member"),
    "nothing of an archive": (b"PK", "no sound directory"),
    "a directory that claims gigabytes": (
        STORED[: places(STORED, END)[0] + 12] + struct.pack("<LLH", 1 << 31, 0, 0),
        "no sound directory",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_lies_is_refused(folder, attack):
    data, says = ATTACKS[attack]
    assert data not in (STORED, DEFLATED)
    assert says in refusal(file_of(folder, data))


def test_a_checksum_of_zero_means_that_none_was_computed(folder):
    file = file_of(folder, altered(STORED, "crc", 0))
    assert contents(file)["a.bin"] == b"A" * 50
    member = open_archive(file)["a.bin"]
    assert not any(isinstance(part, CrcCheck) for part in member_parts(member, 0, 48, "<f4"))


@pytest.mark.parametrize("deflate", [False, True])
def test_parts_give_the_values_and_then_check_them(folder, deflate):
    array = np.arange(5000, dtype=">f4")
    data = zipped({"x": b"head" + array.tobytes()}, zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)
    member = open_archive(file_of(folder, data))["x"]
    parts = member_parts(member, 4, array.nbytes, ">f4")
    assert {type(part) for part in parts} >= ({MemberSpan} if deflate else {CrcCheck})
    chunks = [chunk.copy() for part in parts for chunk in part.chunks()]
    assert all(chunk.dtype.isnative for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate(chunks), array)
    assert member_parts(member, 4, 0, ">f4") == ()
    wrong = open_archive(file_of(folder, altered(data, "crc", 1)))["x"]
    with pytest.raises(InputError, match="CRC-32"):
        [list(part.chunks()) for part in member_parts(wrong, 4, array.nbytes, ">f4")]


@pytest.mark.parametrize("block", [1, 3, 7])
def test_values_that_are_split_between_blocks_are_put_together(folder, monkeypatch, block):
    monkeypatch.setattr(archive, "CHUNK_BYTES", block)
    array = np.arange(50.0)
    member = open_archive(file_of(folder, zipped({"x": b"odd" + array.tobytes() + b"tail"}, zipfile.ZIP_DEFLATED)))["x"]
    (part,) = member_parts(member, 3, array.nbytes, "<f8")
    np.testing.assert_array_equal(np.concatenate(list(part.chunks())), array)


def test_the_work_of_a_shared_check_is_counted_once(folder):
    member = open_archive(file_of(folder, STORED))["a.bin"]
    first, second = (member_parts(member, 0, 48, "<f4", counts_check=counts) for counts in (True, False))
    assert [part.nbytes for part in (*first, *second)] == [48, 50, 48, 0]


def test_a_bomb_is_inflated_no_further_than_it_was_declared(folder):
    bomb = zipped({"x": bytes(16 * CHUNK_BYTES)}, zipfile.ZIP_DEFLATED)
    member = open_archive(file_of(folder, altered(bomb, "size", 100)))["x"]
    tracemalloc.start()
    with pytest.raises(InputError, match="hold more than 100 bytes"):
        member.read(1000)
    whole = open_archive(file_of(folder, bomb))["x"]
    assert sum(len(block) for block in whole.blocks()) == 16 * CHUNK_BYTES
    assert whole.head(10) == bytes(10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * CHUNK_BYTES
    with pytest.raises(InputError, match="67,108,864 bytes; 1,000 are allowed"):
        whole.read(1000)


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [("MAX_MEMBERS", 1, "has 2 members; 1 are allowed"), ("MAX_DIRECTORY_BYTES", 50, "more than any real file needs")],
)
def test_the_directory_is_bounded(folder, monkeypatch, limit, value, says):
    monkeypatch.setattr(archive, limit, value)
    assert says in refusal(file_of(folder, STORED))


def test_a_bomb_of_a_ratio_that_no_tensor_has_is_refused(folder, monkeypatch):
    monkeypatch.setattr(archive, "BOMB_BYTES", 4000)
    monkeypatch.setattr(archive, "BOMB_RATIO", 100)
    assert "a decompression bomb" in refusal(file_of(folder, DEFLATED))
    assert contents(file_of(folder, STORED))


def test_names_of_other_writers_are_read(folder):
    """In code page 437 without a flag, in UTF-8 with one; with a comment, a data descriptor, extra fields."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as writer:
        writer.comment = b"comment"
        info = zipfile.ZipInfo("名前")
        info.extra = struct.pack("<HH4s", 0x4242, 4, b"more")
        writer.writestr(info, b"one")
    data = out.getvalue()
    assert contents(file_of(folder, data)) == {"名前": b"one"}
    raw = zipped({"cafe": b"two"}).replace(b"cafe", b"caf\x82")
    assert contents(file_of(folder, raw)) == {"café": b"two"}


def test_a_name_from_the_archive_cannot_act_in_a_message(folder):
    name = "\x1b[31m" + "x" * 5000 + "\n"
    assert r"\x1b[31mxxx" in refusal(file_of(folder, altered(zipped({name: b"A"}), "flags", 1)))


def test_a_name_of_nothing_printable_leaves_room_for_the_rest_of_a_message(folder):
    says = refusal(file_of(folder, altered(zipped({"\x1b" * 60: b"A"}), "flags", 1)))  # of 60 characters, shown as 240
    assert says.endswith("is encrypted; decrypt the archive first")
    assert len(says) < 130
