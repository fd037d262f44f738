"""Checkpoints made to harm: no code runs, no lie about a tensor is believed, nothing grows without bound."""

import io
import os
import re
import tracemalloc
import zipfile

import pytest

from klcal.errors import InputError
from klcal.readers.pt import file as pt_file
from klcal.readers.pt import machine as pickle_machine
from klcal.readers.pt import names as tensor_names
from klcal.readers.pt.file import describe
from klcal.readers.pt.machine import interpret
from tests.support.checkpoints import check_agreement, loaded, refusal, saved, values
from tests.support.files import check_words, file_of, unzipped, zipped
from tests.support.lazy import torch
from tests.support.pickles import (
    FLOAT,
    GOOD,
    LIES,
    OLD_GOOD,
    OLD_LIES,
    checkpoint,
    dict_of,
    gadgets,
    legacy_checkpoint,
    name,
    number,
    old,
    pickled,
    runs,
    storage,
    tensor,
    text,
    tuple_of,
    view,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# --- code


KINDS = list(gadgets("", b""))


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_pickle_is_reported_by_its_name_and_not_run(tmp_path, kind):
    canary = tmp_path / "canary"
    value, named = gadgets(f"echo > {canary}", GOOD)[kind]
    old_value, _ = gadgets(f"echo > {canary}", OLD_GOOD)[kind]
    members = {**unzipped(saved({"w": torch.ones(2)})), "archive/data.pkl": pickled(value)}
    old = legacy_checkpoint(old_value, **({"0": FLOAT * 4} if OLD_GOOD in old_value else {}))
    for data in (checkpoint(value, FLOAT * 4), zipped(members), old, pickled(value)):
        file = file_of(tmp_path, data)
        assert named in (refusal(file) or str([each.warnings for each in describe(file, "x")]))
        assert not canary.exists()
    assert runs(pickled(value), canary)  # the canary can sing


def test_a_name_of_nothing_printable_leaves_room_for_the_rest_of_a_message(folder):
    says = refusal(file_of(folder, checkpoint(name("os." + "\0" * 76))))  # each is shown as four characters
    assert says.startswith("it needs os.")
    assert says.endswith("where you trust it")


@pytest.mark.parametrize("place", range(5))
def test_each_pickle_of_a_file_from_before_torch_1_6_is_looked_at(tmp_path, place):
    canary = tmp_path / "canary"
    pickles = [number(0x1950A86A20F9469CFC6C), b"M\xe9\x03", b"}", b"}", b"]"]
    pickles[place], named = gadgets(f"echo > {canary}", GOOD)["GLOBAL"]
    assert named in refusal(file_of(tmp_path, b"".join(map(pickled, pickles))))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"cos\n\n", "needs os."),
        (name("torch.load") + b")R", "needs torch.load"),
        (name("torch.storage._load_from_bytes") + tuple_of(b"N") + b"R", "needs torch.storage._load_from_bytes"),
        (name("numpy.core.multiarray._reconstruct"), "numpy object"),
        (b"cos\nsystem\x1b[31m\n", r"os.system\x1b[31m"),
        (name("os." + "x" * 10_000), "needs os.xxx"),
        (name("collections.OrderedDict") + b"]R", "malformed"),
        (name("collections.OrderedDict") + tuple_of(b"](" + text("ab") + b"e") + b"R", "malformed"),
        (name("torch.Tensor") + b")R", "it calls torch.Tensor"),
        (text("os.system") + b")R", "it calls something that is not a function"),
        (name("builtins.bytearray") + tuple_of(number(10**11)) + b"R", "malformed"),
        (name("torch.FloatStorage") + tuple_of(number(10**12)) + b"R", "it calls torch.FloatStorage"),
        (b"\x82\x01", "EXT1"),
        (b"P1\n", "PERSID"),
        (b"}" + dict_of(a=b"N") + b"b", "sets attributes"),
        (GOOD + b"(" + text("a") + b"Nub", "damaged"),  # SETITEMS of a tensor: CVE-2026-24747
        (GOOD + b"Na", "damaged"),
        (name("torch._tensor._rebuild_from_type_v2") + tuple_of(name("torch.Size"), b"NNN") + b"R", "malformed"),
        (
            name("torch._utils._rebuild_parameter_with_state") + tuple_of(GOOD, b"\x89N", dict_of(data=b"N")) + b"R",
            "replace its values",
        ),
    ],
)
def test_operations_that_no_checkpoint_needs_are_refused(folder, value, says):
    assert says in refusal(file_of(folder, checkpoint(value, FLOAT * 4)))
    assert says in refusal(file_of(folder, legacy_checkpoint(value.replace(GOOD, OLD_GOOD))))


IDENTITIES = [
    b"N",
    text("storage"),
    number(7),
    tuple_of(),
    tuple_of(text("module"), name("torch.Tensor"), b"NN"),
    tuple_of(text("storage")),
    tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu")),
    tuple_of(text("storage"), name("torch.float32"), text("0"), text("cpu"), number(4)),
    tuple_of(text("storage"), text("FloatStorage"), text("0"), text("cpu"), number(4)),
    tuple_of(text("storage"), name("torch.FloatStorage"), number(0), text("cpu"), number(4)),
    tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(-1)),
    tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), b"\x88"),
    tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(1 << 63)),
    tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(4), b"N", b"N"),
]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_nothing_outside_a_pickle_is_referred_to_but_storages(folder, identity):
    data = checkpoint(dict_of(w=tensor(identity + b"Q")), FLOAT * 4)
    assert refusal(file_of(folder, data))
    assert isinstance(loaded(data), Exception) or identity == IDENTITIES[9]  # torch is lenient with a number as key


# --- lies about a tensor


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_tensor_is_found_and_costs_only_itself(folder, lie):
    data = checkpoint(dict_of(bad=LIES[lie], good=tensor(storage(4, "1"))), FLOAT * 4, FLOAT * 4)
    bad, good = describe(file_of(folder, data), "x")
    assert (bad.name, bad.status, bad.parts) == ("bad", "failed", ())
    check_words(bad.reason)
    assert (good.status, values(good).view("f4").tolist()) == ("ok", [1, 1, 1, 1])
    if lie != "storage shorter than its data":  # torch may take as much as it was told
        assert isinstance(loaded(data), Exception)


def test_the_tensor_that_the_lies_are_variants_of_is_sound(folder):
    assert check_agreement(file_of(folder, checkpoint(dict_of(good=GOOD), FLOAT * 4)))
    assert check_agreement(file_of(folder, legacy_checkpoint(dict_of(good=OLD_GOOD), **{"0": FLOAT * 4})))


def test_a_tensor_of_a_hundred_dimensions_is_refused(folder):
    for rank in (65, 100):
        lie = tensor(storage(4), 0, (1,) * rank, (1,) * rank)
        assert "malformed" in refusal(file_of(folder, checkpoint(dict_of(w=lie), FLOAT * 4)))


def test_an_expanded_tensor_of_terabytes_is_read_in_bytes(folder):
    (found,) = describe(file_of(folder, checkpoint(tensor(storage(1), 0, (1 << 40, 1), (0, 0)), FLOAT)), "x")
    assert [part.repeats for part in found.parts if list(part.chunks())] == [1 << 40]


def test_an_overlapping_view_of_billions_of_values_is_not_read(folder):
    (found,) = describe(file_of(folder, checkpoint(tensor(storage(32), 0, (2,) * 31, (1,) * 31), FLOAT * 32)), "x")
    assert found.status == "unsupported"
    assert re.match(r"reading it costs as much as 8,589,934,\d+ bytes; .* exceeds 2,147,\d+,\d+; save", found.reason)


def test_thousands_of_views_of_all_that_a_file_holds_are_not_read(folder):
    """Each was within its bounds, and together they took hours."""
    many = 1000
    overlapping = dict_of(**{str(i): tensor(storage(64), i % 33, (2,) * 20, (1,) * 20) for i in range(many)})
    found = describe(file_of(folder, checkpoint(overlapping, FLOAT * 64)), "x")
    assert sum(part.nbytes for each in found for part in each.parts) < 3 << 30
    assert {each.status for each in found} == {"ok"}  # 33 different ones, each read once
    shapes = [(2,) * (20 - i % 3) + (i + 1,) for i in range(many)]
    overlapping = dict_of(**{str(i): tensor(storage(9999), 0, s, (1,) * len(s)) for i, s in enumerate(shapes)})
    found = describe(file_of(folder, checkpoint(overlapping, FLOAT * 9999)), "x")
    assert sum(part.nbytes for each in found for part in each.parts) < 3 << 30
    assert [each.status for each in found].count("unsupported") > many // 2


def test_a_tensor_that_is_read_once_is_read_whatever_stands_before_it(folder):
    views = {str(i): tensor(storage(64), i, (2,) * 27, (1,) * 27) for i in range(9)}
    data = checkpoint(dict_of(**views, plain=tensor(storage(4, "1"))), FLOAT * 64, FLOAT * 4)
    *rest, plain = describe(file_of(folder, data), "x")
    assert {each.status for each in rest} == {"ok", "unsupported"}
    assert plain.status == "ok"


def test_thousands_of_views_of_a_compressed_storage_are_not_inflated(folder):
    views = dict_of(**{str(i): tensor(storage(1 << 20), i, (1,), (1,)) for i in range(3000)})
    members = unzipped(checkpoint(views, bytes(4 << 20)))
    found = describe(file_of(folder, zipped(members, zipfile.ZIP_DEFLATED)), "x")
    assert 100 < [each.status for each in found].count("ok") < 1000


@pytest.mark.parametrize("lie", OLD_LIES)
def test_a_lie_about_a_storage_of_the_old_form_is_refused(folder, lie):
    data = legacy_checkpoint(OLD_LIES[lie], **{"0": FLOAT * 4, "1": FLOAT * 4})
    assert refusal(file_of(folder, data))


def test_parts_of_a_storage_are_read_as_torch_reads_them(folder):
    parts = dict_of(a=old(view=view("v", 1, 3), shape=(2,)), b=old(shape=(2,)))
    assert check_agreement(file_of(folder, legacy_checkpoint(parts, **{"0": bytes(range(16))})))


@pytest.mark.parametrize("keys", [b"N", b"](K\x00e", b"](" + text("0") * 2 + b"e", b"](" + text("other") + b"e"])
def test_a_malformed_list_of_storages_is_refused(folder, keys):
    data = legacy_checkpoint(dict_of(w=old()), **{"0": FLOAT * 4})
    listed = pickled(b"](" + text("0") + b"e")
    assert data.count(listed) == 1
    assert refusal(file_of(folder, data.replace(listed, pickled(keys))))


def test_values_of_the_old_form_that_are_missing_are_not_made_up(folder):
    state = dict_of(a=old("0"), b=old("1"), c=old("2"))
    listed = legacy_checkpoint(state, **{"0": FLOAT * 4, "1": FLOAT * 3, "2": FLOAT * 4})
    unlisted = legacy_checkpoint(state, **{"0": FLOAT * 4})  # torch gives b and c whatever lay in memory
    for data in (listed, unlisted):
        assert [each.status for each in describe(file_of(folder, data), "x")] == ["ok", "failed", "failed"]


# --- what grows without bound


@pytest.mark.parametrize(
    "value",
    [
        b"]q\0(h\0" + GOOD + b"e",
        b"}q\0(" + text("self") + b"h\0" + text("w") + GOOD + b"u",
        b"]q\0" + tuple_of(b"h\0", GOOD) + b"a",
        b"](" + GOOD + b"e" + b"".join(b"q\0(h\0h\0t" for _ in range(60)),
    ],
    ids=["list", "dict", "tuple in list", "billion laughs"],
)
def test_an_object_that_contains_itself_or_repeats_is_visited_once(folder, value):
    (found,) = describe(file_of(folder, checkpoint(value, FLOAT * 4)), "x")
    assert found.status == "ok"
    assert len(found.name) < 300


@pytest.mark.parametrize(
    "value", [b"]" * 100_000 + b"a" * 99_999, b")" + b"\x85" * 100_000, b"(" * 100_000 + b"t" * 99_999]
)
def test_deep_nesting_is_refused(folder, value):
    assert "nested more than 1,000 deep" in refusal(file_of(folder, checkpoint(value)))


def test_a_key_that_takes_for_ever_to_hash_is_refused(folder):
    key = b")" + b"q\0h\0h\0\x86" * 60
    assert "key is neither text nor a number" in refusal(file_of(folder, checkpoint(b"}(" + key + b"Nu")))


@pytest.mark.parametrize(
    ("module", "limit", "value", "says"),
    [
        (pt_file, "MAX_PICKLE_BYTES", 50, "claims .* 50 are allowed"),
        (pickle_machine, "MAX_OPERATIONS", 10, "more than 10 operations"),
        (pt_file, "LEAST_OPERATIONS", -205, "more than .* operations"),
        (tensor_names, "MAX_NAME_CHARACTERS", 10, "more than 10 characters"),
        (tensor_names, "MAX_DEPTH", 1, "nested more than 1 deep"),
    ],
)
def test_every_limit_holds(folder, monkeypatch, module, limit, value, says):
    file = file_of(folder, checkpoint(dict_of(a=dict_of(long_name=GOOD)), FLOAT * 4))
    assert not refusal(file)
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(InputError, match=says):
        describe(file, "x")


def test_names_are_refused_before_they_take_memory(folder, monkeypatch):
    monkeypatch.setattr(tensor_names, "MAX_NAME_CHARACTERS", 1000)
    word = text("x" * 1_000_000) + b"q\0"
    key = tuple_of(word, *[b"h\0"] * 15)
    root = interpret(io.BytesIO(pickled(b"}(" + key + GOOD + b"u")))
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 1,000 characters"):
        tensor_names.named_values(root, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_line_without_an_end_is_not_a_name(folder):
    assert refusal(file_of(folder, checkpoint(b"c" + os.urandom(1000).replace(b"\n", b""))))
