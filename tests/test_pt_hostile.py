"""Checkpoints made to harm: no code runs, no lie about a tensor is believed, nothing grows without bound."""

import contextlib
import io
import os
import pickle
import tracemalloc

import pytest
import torch
from checkpoints import (
    check_agreement,
    checkpoint,
    dict_of,
    legacy_checkpoint,
    loaded,
    name,
    number,
    pickled,
    refusal,
    saved,
    storage,
    tensor,
    text,
    tuple_of,
    values,
)
from files import check_words, file_of, unzipped, zipped

from klcal.errors import InputError
from klcal.readers import pickle_machine, pt_file, tensor_names
from klcal.readers.pickle_machine import interpret
from klcal.readers.pt_file import describe

FLOAT = bytes.fromhex("0000803f")  # 1.0
GOOD = tensor(storage(4, "0"))
OLD_GOOD = tensor(storage(4, "0", view=b"N"))  # in a file from before torch 1.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# --- code


def gadgets(command: str, good: bytes) -> dict[str, tuple[bytes, str]]:
    """Values whose unpickling runs a command, and what the refusal has to name."""
    call = tuple_of(text(command))
    system = name("os.system") + call + b"R"
    by_stack = text("os") + text("system") + b"\x93" + call + b"R"
    short = b"\x8c\x02os\x8c\x06system\x93" + call + b"R"
    from_memo = text("system") + b"q\x01" + text("os") + b"q\x00" + b"h\x00h\x01\x93" + call + b"R"
    inst = b"(" + text(command) + b"ios\nsystem\n"
    state = b"}" + text("__setstate__") + name("os.system") + b"s"
    attribute = name("builtins.getattr") + tuple_of(name("os.path"), text("os")) + b"R"
    attribute = name("builtins.getattr") + tuple_of(attribute, text("system")) + b"R" + call + b"R"
    return {
        "GLOBAL": (system, "os.system"),
        "posix": (name("posix.system") + call + b"R", "posix.system"),
        "eval": (name("__builtin__.eval") + tuple_of(text(f"__import__('os').system({command!r})")) + b"R", "eval"),
        "STACK_GLOBAL": (by_stack, "os.system"),
        "STACK_GLOBAL of short strings": (short, "os.system"),
        "STACK_GLOBAL from the memo": (from_memo, "os.system"),
        "a dotted STACK_GLOBAL": (
            b"\x80\x04" + text("shutil") + text("os.system") + b"\x93" + call + b"R",
            "shutil.os.system",
        ),
        "INST": (inst, "os.system"),
        "OBJ": (b"(" + name("os.system") + text(command) + b"o", "os.system"),
        "BUILD": (name("collections.OrderedDict") + b")R" + state + b"b" + text(command) + b"b", "os.system"),
        "getattr": (attribute, "builtins.getattr"),
        "in containers": (b"](" + dict_of(a=tuple_of(system, good)) + b"e", "os.system"),
        "behind POP": (system + b"0" + dict_of(w=good), "os.system"),
        "behind POP_MARK": (b"(" + by_stack + b"1" + dict_of(w=good), "os.system"),
        "as a key": (b"}(" + system + text("x") + b"u", "os.system"),
        "in a gradient flag": (good.replace(b"\x89NtR", system + b"NtR"), "os.system"),
        "as a storage": (tuple_of(text("storage"), system) + b"Q", "os.system"),
        "behind an unknown operation": (b"\x95" + bytes(8) + system, "os.system"),
    }


KINDS = list(gadgets("", b""))


def runs(data: bytes, canary) -> bool:
    """Whether Python's own unpickler lets the command run."""
    unpickler = pickle.Unpickler(io.BytesIO(data))
    unpickler.persistent_load = lambda identity: identity
    with contextlib.suppress(Exception):  # not all of them end well
        unpickler.load()
    return canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_pickle_is_refused_by_its_name_and_not_run(tmp_path, kind):
    canary = tmp_path / "canary"
    value, named = gadgets(f"echo > {canary}", GOOD)[kind]
    old_value, _ = gadgets(f"echo > {canary}", OLD_GOOD)[kind]
    members = {**unzipped(saved({"w": torch.ones(2)})), "archive/data.pkl": pickled(value)}
    old = legacy_checkpoint(old_value, **{"0": FLOAT * 4})
    for data in (checkpoint(value, FLOAT * 4), zipped(members), old, pickled(value)):
        assert named in refusal(file_of(tmp_path, data))
        assert not canary.exists()
    assert runs(pickled(value), canary)  # the canary can sing


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
        (text("os.system") + b")R", "it calls something that is no function"),
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

LIES = {
    "offset below zero": tensor(storage(4, "0"), -1),
    "offset at the end": tensor(storage(4, "0"), 4, (1,)),
    "offset far away": tensor(storage(4, "0"), 1 << 62),
    "size beyond": tensor(storage(4, "0"), 0, (5,)),
    "size far beyond": tensor(storage(4, "0"), 0, (1 << 62,)),
    "size below zero": tensor(storage(4, "0"), 0, (-1,)),
    "sizes below zero": tensor(storage(4, "0"), 0, (-2, -2), (1, 1)),
    "sizes that wrap to 0": tensor(storage(4, "0"), 0, (1 << 32, 1 << 32), (0, 0)),
    "no values, of impossible size": tensor(storage(4, "0"), 0, (1 << 63, 0), (1, 1)),
    "no values, of sizes that wrap": tensor(storage(4, "0"), 0, (4, 1 << 62, 0), (1, 1, 1)),
    "stride beyond": tensor(storage(4, "0"), 0, (2, 2), (3, 1)),
    "stride far beyond": tensor(storage(4, "0"), 0, (2,), (1 << 62,)),
    "stride that wraps to 0": tensor(storage(4, "0"), 0, (5,), (1 << 62,)),
    "stride of thousands of digits": tensor(storage(4, "0"), 0, (2,), (1 << 2000,)),
    "stride below zero": tensor(storage(4, "0"), 3, (2,), (-1,)),
    "more dimensions than strides": tensor(storage(4, "0"), 0, (2, 2), (1,)),
    "more strides than dimensions": tensor(storage(4, "0"), 0, (2,), (1, 1)),
    "storage longer than its data": tensor(storage(5, "0")),
    "storage shorter than its data": tensor(storage(3, "0"), 0, (3,)),
    "storage of another item size": tensor(storage(4, "0", "torch.DoubleStorage")),
    "storage that is absent": tensor(storage(4, "7")),
    "storage outside the folder": tensor(storage(4, "../data.pkl")),
}


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
    assert found.reason == "it overlaps itself: 2,147,483,648 values in 32 places"


def old(key: str = "0", numel: int = 4, view: bytes = b"N", shape=(4,)) -> bytes:
    return tensor(storage(numel, key, view=view), 0, shape)


def view(key: str, first: int, length: int) -> bytes:
    return tuple_of(text(key), number(first), number(length))


OLD_LIES = {
    "a view beyond its storage": old(view=view("v", 2, 4)),
    "a view that begins below zero": old(view=view("v", -1, 4)),
    "a view of fewer than no values": old(view=view("v", 2, -1), shape=(0,)),
    "a view with the name of a storage": old(view=view("0", 0, 4)),
    "one name for two views": dict_of(a=old(view=view("v", 0, 4)), b=old(view=view("v", 1, 3), shape=(3,))),
    "a storage with the name of a view": dict_of(a=old("1", view=view("0", 0, 4)), b=old("0")),
    "one storage of two sizes": dict_of(a=old(), b=old(numel=5)),
    "one storage without values, then with some": dict_of(a=old(numel=0, shape=(0,)), b=old()),
    "one storage of two types": dict_of(a=old(), b=tensor(storage(4, "0", "torch.IntStorage", b"N"))),
}


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
def test_what_contains_itself_or_one_thing_often_is_walked_once(folder, value):
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
        tensor_names.named_tensors(root, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_line_without_an_end_is_not_a_name(folder):
    assert refusal(file_of(folder, checkpoint(b"c" + os.urandom(1000).replace(b"\n", b""))))
