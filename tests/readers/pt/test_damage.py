"""Damaged checkpoints: every cut and every change ends in an InputError, or in what torch loads too."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers.pt.file import describe
from tests.support import checkpoints
from tests.support.checkpoints import check_agreement, refusal, saved, values
from tests.support.files import check_words, damaged, file_of, unzipped, zipped
from tests.support.lazy import torch
from tests.support.pickles import checkpoint, dict_of, storage, tensor

OPERATIONS = b"()t.RQNKMXGJc}]usaebqh\x85\x86\x87\x88\x89\x8a\x80\x81\x93"
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 8, -1, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64])
PER_EXAMPLE = settings(max_examples=150, deadline=1000)  # milliseconds

TORCH_IS_STRICTER = "|".join(  # none of it changes a value
    [
        "PytorchStreamReader failed",  # in the zip64 records, which Python's zipfile passes over if it can
        "codec can't decode",  # in names of members that nobody reads
        "invalid literal for int",  # in the alignment of storages, which nobody needs
        "a leaf Variable that requires grad",  # of the float8 types: torch saves it and cannot load it
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


def model() -> dict:
    base = torch.arange(12.0).reshape(4, 3)
    return {"w": base[1:, :2], "e": torch.ones(1).expand(3), "h": torch.zeros(3).half(), "n": torch.tensor(3)}


ZIP = saved({**model(), "f8": torch.ones(5).to(torch.float8_e5m2)})
OLD = saved({"model": model(), "optimizer": [torch.ones(2)]}, legacy=True)


def test_a_zip_cut_anywhere_is_refused(folder):
    assert check_agreement(file_of(folder, ZIP))
    for length in range(1, len(ZIP)):
        assert refusal(file_of(folder, ZIP[:length])), length


def test_a_file_of_the_old_form_cut_anywhere_gives_whole_tensors_or_none(folder):
    whole = {found.name: found for found in describe(file_of(folder, OLD), "x")}
    delivered = set()
    for length in range(1, len(OLD)):
        file = file_of(folder, OLD[:length])
        if refusal(file):
            assert not delivered  # once the pickles are whole there is something to say
            continue
        statuses = {found.status for found in describe(file, "x")}
        assert "failed" in statuses
        for found in describe(file, "x"):
            if found.status == "ok":
                assert values(found).tolist() == values(whole[found.name]).tolist()
        delivered.add(frozenset(statuses))
    assert len(delivered) > 1  # the tensors fail one after the other


@pytest.mark.parametrize("bit", range(0, 8 * 48, 7))
def test_a_flipped_bit_in_the_values_of_a_zip_is_found(folder, bit):
    (place,) = (at for at in range(len(ZIP)) if ZIP.startswith(torch.arange(12.0).numpy().tobytes(), at))
    changed = bytearray(ZIP)
    changed[place + bit // 8] ^= 1 << bit % 8
    found = {each.name: each for each in describe(file_of(folder, bytes(changed)), "x")}
    with pytest.raises(InputError, match="'archive/data/0' do not match their CRC-32: bits have changed"):
        values(found["w"])
    assert values(found["e"]).view("f4").tolist() == [1, 1, 1]


def test_a_flipped_bit_in_the_pickle_is_found_before_it_is_read(folder):
    at = ZIP.index(b"_rebuild_tensor_v2")
    changed = ZIP[:at] + b"R" + ZIP[at + 1 :]
    assert "CRC-32" in refusal(file_of(folder, changed))


@PER_EXAMPLE
@given(data=damaged(ZIP))
def test_a_damaged_zip_is_refused_or_read_as_torch_reads_it(folder, data):
    check_agreement(file_of(folder, data), torch_may_refuse=TORCH_IS_STRICTER)


@PER_EXAMPLE
@given(data=damaged(unzipped(ZIP)["archive/data.pkl"], OPERATIONS))
def test_a_damaged_pickle_is_refused_or_read_as_torch_reads_it(folder, data):
    file = file_of(folder, zipped({**unzipped(ZIP), "archive/data.pkl": data}))
    check_agreement(file, torch_may_refuse="a leaf Variable that requires grad")


@PER_EXAMPLE
@given(data=damaged(OLD, OPERATIONS))
def test_a_damaged_file_of_the_old_form_is_refused_or_read_as_torch_reads_it(folder, data):
    check_agreement(file_of(folder, data))


@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_end_in_an_input_error(folder, data):
    for content in (data, b"\x80\x02" + data, b"PK\x03\x04" + data):
        assert refusal(file_of(folder, content)) or describe(file_of(folder, content), "x") == []


@settings(deadline=1000)
@given(data=st.data())
def test_any_numbers_of_a_tensor_are_refused_or_read_as_torch_reads_them(folder, data):
    def made() -> bytes:
        rank = data.draw(st.integers(0, 3))
        shape, strides = (data.draw(st.lists(NUMBERS, min_size=rank, max_size=rank)) for _ in range(2))
        kind = data.draw(st.sampled_from(["torch.FloatStorage", "torch.HalfStorage", "torch.LongStorage"]))
        held = storage(data.draw(st.sampled_from([4, 8, 0])), data.draw(st.sampled_from("01")), kind)
        return tensor(held, data.draw(st.one_of(st.just(0), NUMBERS)), shape, strides)

    content = checkpoint(dict_of(a=made(), b=made()), bytes(16), bytes(range(32)))
    check_agreement(file_of(folder, content))


def test_only_an_input_error_escapes_and_the_check_of_it_can_fail(folder, monkeypatch):
    """What the checks above rest on: another exception of the reader is not taken for a refusal."""
    monkeypatch.setattr(checkpoints, "describe", lambda *_: {}["a bug"])
    with pytest.raises(KeyError):
        check_agreement(file_of(folder, ZIP))
    with pytest.raises(KeyError):
        refusal(file_of(folder, ZIP))


def test_a_file_replaced_between_describing_and_reading_is_noticed(folder):
    file = file_of(folder, ZIP)
    found = {each.name: each for each in describe(file, "x")}
    Path(file.path).write_bytes(OLD)
    for each in found.values():
        with contextlib.suppress(InputError):
            assert values(each).size == 0
    with pytest.raises(InputError) as caught:
        values(found["w"])
    check_words(str(caught.value))
