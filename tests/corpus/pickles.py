"""Pickles made to harm: code in every place that a file has for it, and lies about tensors."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.corpus.cases import Case, later, read, refused
from tests.support.files import zipped
from tests.support.pickles import (
    FLOAT,
    GOOD,
    LIES,
    OLD_GOOD,
    OLD_LIES,
    array,
    checkpoint,
    dict_of,
    gadgets,
    legacy_checkpoint,
    name,
    number,
    pickled,
    storage,
    tensor,
    text,
    tuple_of,
)

FOUR = FLOAT * 4
MODEL = "pytorch_model.bin"
BESIDE = "in containers"  # the one gadget that stands beside a tensor, which is read


def cases(canaries: Path) -> Iterator[Case]:
    """Everything a pickle can try."""
    for made in (code(canaries), constructors(), classes(), lies(), growth(), operations()):
        for case in made:
            yield Case(**{**vars(case), "kind": "hostile"})


# --- code


def code(canaries: Path) -> Iterator[Case]:
    """Each way to run a command, in each kind of file."""
    for kind in gadgets("", b""):

        def command(place: str, kind: str = kind) -> str:
            return f"echo > {canaries / f'{kind}-{place}'.replace(' ', '_')}"

        def made(place: str, good: bytes = GOOD, kind: str = kind) -> bytes:
            return gadgets(command(place), good)[kind][0]

        says = gadgets("", b"")[kind][1]
        front = f"code by {kind}"
        old = made("old", OLD_GOOD)
        for title, file, data in (
            (f"{front} in a zip", "x.pt", checkpoint(made("zip"), FOUR)),
            (f"{front} in a deflated zip", "x.pth", deflated(pickled(made("deflated")))),
            (f"{front} in the old form", "x.bin", legacy_checkpoint(old, **({"0": FOUR} if OLD_GOOD in old else {}))),
        ):
            if kind == BESIDE:
                yield read(title, file, data, {"0.a.1": "ok"})
            else:
                yield refused(title, file, data, says)
        yield refused(f"{front} alone", "x.ckpt", pickled(made("alone")), says)
        for suffix in (".npy", ".npz", ".safetensors"):
            yield refused(f"{front} as {suffix}", f"x{suffix}", pickled(made(suffix)), "pickle")
        yield refused(f"{front} as an index", "x.bin.index.json", pickled(made("index")), "JSON")
        if kind != BESIDE:
            yield sharded(f"{front} in a shard", checkpoint(made("shard"), FOUR), f"failed: {says}"[:60])
        yield read(
            f"{front} in an object array", "x.npy", objects(pickled(made("objects"))), {"x": "unsupported: unpickling"}
        )
    yield from more_code(canaries)


def more_code(canaries: Path) -> Iterator[Case]:
    """Code in places of which a file has one."""

    def made(place: str) -> bytes:
        return gadgets(f"echo > {canaries / place}", GOOD)["GLOBAL"][0]

    for place in range(5):
        pickles = [number(0x1950A86A20F9469CFC6C), b"M\xe9\x03", b"}", b"}", b"]"]
        pickles[place] = made(f"old{place}")
        data = b"".join(map(pickled, pickles))
        yield refused(f"code in pickle {place} of the old form", "x.pt", data, "os.system")
    arrays = zipped({"good.npy": saved(np.ones(4, np.float32)), "bad.npy": objects(pickled(made("npz")))})
    rows = {"good": "ok", "bad": "unsupported: unpickling"}
    yield read("code in an object array of a .npz", "x.npz", arrays, rows)
    also = zipped({"w.npy": saved(np.ones(4, np.float32)), "data.pkl": pickled(made("beside"))})
    yield read(
        "a pickle beside the arrays of a .npz", "x.npz", also, {"w": "ok", "data.pkl": "unsupported: another kind"}
    )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        content = pickled(made("tar"))
        entry = tarfile.TarInfo("pickle")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    yield refused("code in a tar", "x.pt", out.getvalue(), "0.1.10")
    nested = name("torch.storage._load_from_bytes") + tuple_of(b"B\x10\0\0\0" + bytes(16)) + b"R"
    yield refused("a load within a load", "x.pt", checkpoint(nested, FOUR), "_load_from_bytes")
    for target in ("torch.load", "pickle.loads", "numpy.load", "runpy.run_path", "pkgutil.resolve_name", "pip.main"):
        call = name(target) + tuple_of(text(str(canaries / "x"))) + b"R"
        yield refused(f"a call of {target}", "x.pt", checkpoint(call, FOUR), target)
    program = f"__import__('os').system('echo > {canaries}/literal')"
    literal = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({program},)}}".encode()
    yield refused("an expression in the header of a .npy", "x.npy", npy(literal, bytes(4)), "not a literal")
    yield refused(
        "an f-string in the header of a .npy", "x.npy", npy(b"f'{" + program.encode() + b"}'"), "not a literal"
    )


def objects(payload: bytes) -> bytes:
    """An object array, whose values are a pickle."""
    return npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", payload)


def npy(literal: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + len(literal).to_bytes(2, "little") + literal + data


def saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def deflated(pickle: bytes) -> bytes:
    members = {"a/data.pkl": pickle, "a/byteorder": b"little", "a/data/0": FOUR, "a/version": b"3\n"}
    return zipped(members, zipfile.ZIP_DEFLATED)


def sharded(title: str, shard: bytes, status: str) -> Case:
    """An index of two shards, of which one is bad and the other none of its business."""
    weights = {"bad": "1.bin", "good": "2.bin"}
    files = {
        f"{MODEL}.index.json": json.dumps({"weight_map": weights}).encode(),
        "1.bin": shard,
        "2.bin": checkpoint(dict_of(good=GOOD), FOUR),
    }
    return Case(title, files, rows={"bad": status, "good": "ok"})


# --- what torch would allocate, or misses


def constructors() -> Iterator[Case]:
    """Calls that restricted unpicklers allow, or have been made to do harm."""
    calls = {
        "bytearray of 100 GB": (name("builtins.bytearray") + tuple_of(number(10**11)) + b"R", "malformed"),
        "storage of 4 TB": (name("torch.FloatStorage") + tuple_of(number(10**12)) + b"R", "torch.FloatStorage"),
        "torch.Tensor": (name("torch.Tensor") + tuple_of(number(10**12)) + b"R", "torch.Tensor"),
        "a global without a name": (b"cos\n\n", "needs os."),
        "a name with an escape": (b"cos\nsystem\x1b[31m\n", r"os.system\x1b[31m"),
        "a name of ten thousand letters": (name("os." + "x" * 10_000), "needs os.xxx"),
        "an extension code": (b"\x82\x01", "EXT1"),
        "a persistent id of text": (b"P1\n", "PERSID"),
        "a persistent id that is no storage": (tuple_of(text("module"), text("x")) + b"Q", "other than tensor data"),
        "items of a tensor": (GOOD + b"(" + text("a") + b"Nu", "damaged"),
        "attributes of a dictionary": (b"}" + dict_of(a=b"N") + b"b", "sets attributes"),
        "a tensor whose data are replaced": (
            name("torch._utils._rebuild_parameter_with_state") + tuple_of(GOOD, b"\x89N", dict_of(data=b"N")) + b"R",
            "replace its values",
        ),
    }
    for title, (value, says) in calls.items():
        yield refused(f"{title} in a zip", "x.pt", checkpoint(value, FOUR), says)
        old_value = value.replace(GOOD, OLD_GOOD)
        old = legacy_checkpoint(old_value, **({"0": FOUR} if OLD_GOOD in old_value else {}))
        yield refused(f"{title} in the old form", "x.pt", old, says)


def classes() -> Iterator[Case]:
    """Not hostile, and the commonest: what is no plain checkpoint."""
    for full in ("models.yolo.Model", "__main__.Net", "torch.nn.modules.linear.Linear", "omegaconf.DictConfig"):
        value = name(full) + b")\x81" + dict_of(weight=GOOD) + b"b"
        yield refused(f"a pickled {full}", "x.pt", checkpoint(value, FOUR), f"needs {full}")
        data = checkpoint(dict_of(net=value, w=tensor(storage(4, "1"))), FOUR, FOUR)
        yield read(f"a pickled {full} beside a tensor", "x.pt", data, {"net": f"unsupported: needs {full}", "w": "ok"})
    for full in ("numpy.core.multiarray.scalar", "numpy._core.multiarray._reconstruct", "numpy.dtype"):
        foreign = name(full) + tuple_of(b"N") + b"R"
        yield read(f"a {full} among the tensors", "x.pt", checkpoint(dict_of(epoch=foreign, w=GOOD), FOUR), {"w": "ok"})
        yield refused(f"a {full} alone", "x.pt", checkpoint(dict_of(epoch=foreign)), "numpy object")
    wrapped = name("torch._tensor._rebuild_from_type_v2")
    wrapped += tuple_of(name("torch._utils._rebuild_tensor_v2"), name("x.DTensor"), b"NN")
    args = tuple_of(storage(4, "0"), number(0), tuple_of(number(4)), tuple_of(number(1)), b"\x89N")
    wrapped = wrapped.replace(b"NNt", args + b"Nt") + b"R"
    data = checkpoint(dict_of(d=wrapped, w=tensor(storage(4, "1"))), FOUR, FOUR)
    yield read("a DTensor beside a tensor", "x.pt", data, {"d": "unsupported: tensor.full_tensor()", "w": "ok"})
    for title, value in FOREIGN.items():
        yield read(f"a foreign object: {title}", "x.pt", checkpoint(dict_of(x=value, w=GOOD), FOUR), {"w": "ok"})
    for title, (value, status) in ARRAYS.items():
        yield read(f"an array {title}", "x.pt", checkpoint(dict_of(a=value, w=GOOD), FOUR), {"a": status, "w": "ok"})


OBJECT = name("x.Y") + b")\x81"
FOREIGN = {
    "in itself": OBJECT + b"q\5" + dict_of(me=b"h\5") + b"b",
    "with state upon state": OBJECT + b"Nb" * 100,
    "with items and appended values": OBJECT + b"(" + text("k") + b"Nu" + b"(NNe" + b"Na",
    "called again": name("x.y") + b")R" + b")R" * 100,
    "as a key": b"}(" + OBJECT + b"Nu",
    "deep": name("x.y") + b")" + b"\x85" * 100_000 + b"R",
    "without a name": b"c\n\n)R",
    "of ten thousand letters": name("x." + "y" * 10_000) + b")R",
    "with an escape": b"cx\n\x1b[31m\n)R",
    "of a huge tuple": name("x.y") + b"(" + b"N" * 10_000 + b"tR",
}
ARRAYS = {
    "of four values": (array(), "ok"),
    "of another byte order": (array(order=">"), "ok"),
    "of integers": (array("i4"), "skipped"),
    "of complex numbers": (array("c8", (2,)), "unsupported"),
    "of no values": (array(shape=(0,), data=""), "empty"),
    "longer than its bytes": (array(shape=(5,)), "failed: 20 bytes and has 16"),
    "shorter than its bytes": (array(shape=(3,)), "failed: 12 bytes and has 16"),
    "far longer than its bytes": (array(shape=(1 << 62, 4)), "failed"),
    "of a negative size": (array(shape=(-4,)), "failed"),
    "of characters that are no bytes": (array(data="\u20ac" * 16), "failed"),
    "of a hundred dimensions": (array(shape=(1,) * 100), "failed"),
}


# --- lies


def lies() -> Iterator[Case]:
    """Each costs its tensor, or, in the old form, where it hides the others, the file."""
    for title, lie in LIES.items():
        data = checkpoint(dict_of(bad=lie, good=tensor(storage(4, "1"))), FOUR, FOUR)
        yield read(f"a tensor with an {title}", "x.pt", data, {"bad": "failed", "good": "ok"})
    for title, lie in OLD_LIES.items():
        data = legacy_checkpoint(lie, **{"0": FOUR, "1": FOUR})
        yield refused(title, "x.pt", data)
    expanded = checkpoint(tensor(storage(1), 0, (1 << 40, 1), (0, 0)), FLOAT)
    numel = {"x": {"numel": 1 << 40, "min": 1.0, "max": 1.0, "zeros": 0}}
    yield read("4 bytes that claim 4 TB", "x.pt", expanded, facts=numel)
    overlapping = checkpoint(tensor(storage(32), 0, (2,) * 31, (1,) * 31), FLOAT * 32)
    yield read("billions of values in 32 places", "x.pt", overlapping, {"x": "unsupported: as much as"})
    scattered = tensor(storage((16 << 19) + 1), 0, (2,) * 16, (1 << 19,) * 16)
    made = later(lambda: checkpoint(scattered, bytes((16 << 21) + 4)))
    yield read(
        "views of 33 MB that take gigabytes of reads", "x.pt", made, {"x": "unsupported: as much as"}, heavy=True
    )
    for rank in (65, 100):
        lie = tensor(storage(4), 0, (1,) * rank, (1,) * rank)
        yield refused(f"a tensor of {rank} dimensions", "x.pt", checkpoint(dict_of(w=lie), FOUR), "malformed")
    quantized = name("torch._utils._rebuild_qtensor")
    far = (number(0), tuple_of(number(4)), tuple_of(number(1 << 40)), b"N", b"\x89", b"N")
    value = dict_of(
        q=quantized + tuple_of(storage(4, "0", "torch.QInt8Storage"), *far) + b"R", w=tensor(storage(4, "1"))
    )
    yield read(
        "a quantized stride", "x.pt", checkpoint(value, bytes(4), FOUR), {"q": "unsupported: quantized", "w": "ok"}
    )
    indices = tuple_of(tensor(storage(4, "0")), tensor(storage(4, "0")), tuple_of(number(1 << 40)))
    value = name("torch._utils._rebuild_sparse_tensor") + tuple_of(b"N", indices) + b"R"
    yield read("a sparse index", "x.pt", checkpoint(dict_of(s=value), FOUR), {"s": "unsupported: sparse"})


# --- growth


def growth() -> Iterator[Case]:
    """What contains itself, goes deep, or has no end."""
    loops = {
        "a list in itself": b"]q\0(h\0" + GOOD + b"e",
        "a dictionary in itself": b"}q\0(" + text("self") + b"h\0" + text("w") + GOOD + b"u",
        "a billion laughs": b"](" + GOOD + b"e" + b"".join(b"q\0(h\0h\0t" for _ in range(60)),
    }
    names = {"a list in itself": "1", "a dictionary in itself": "w", "a billion laughs": ".".join("0" * 61)}
    for title, value in loops.items():
        yield read(title, "x.pt", checkpoint(value, FOUR), {names[title]: "ok"})
    deep = {"lists": b"]" * 100_000 + b"a" * 99_999, "tuples": b")" + b"\x85" * 100_000}
    for title, value in deep.items():
        yield refused(f"{title} nested 100,000 deep", "x.pt", checkpoint(value), "nested more than 1,000 deep")
    key = b")" + b"q\0h\0h\0\x86" * 60
    yield refused("a key that takes for ever to hash", "x.pt", checkpoint(b"}(" + key + b"Nu"), "key is neither")
    big = [
        ("lists", b"]", 8_000_000),
        ("dictionaries", b"}", 8_000_000),
        ("marks", b"(", 8_000_000),
        ("names", b"ctorch\nSize\n", 5_000_000),
        ("state dicts", b"h\0)R", 2_500_000),
        ("letters", "X\x04\0\0\0😀".encode(), 7_000_000),
        ("storages", b"h\1Q", 2_500_000),
        ("foreign names", b"cx\ny\n", 5_000_000),
        ("foreign objects", b"h\2)\x81", 2_500_000),
        ("foreign calls", b"h\2)R", 2_500_000),
    ]
    first = name("collections.OrderedDict") + b"q\0" + storage(4, "0")[:-1] + b"q\1Q" + name("x.Y") + b"q\2"
    for title, operation, times in big:
        made = later(lambda operation=operation, times=times: checkpoint(first + operation * times, FOUR))
        yield refused(f"millions of {title}", "x.pt", made, "operations", heavy=True)
    packed = {
        "200 MB of lists in 200 KB": lambda: b"]" * 200_000_000,
        "a text of 200 MB in 200 KB": lambda: text("x" * 200_000_000),
        "a pickle above the limit": lambda: text("x" * (1 << 28)),
    }
    for title, value in packed.items():
        made = later(lambda value=value: deflated(pickled(value())))
        yield Case(title, {"x.pt": made}, loose="no result", heavy=True)
    word = "😀" * 250_000
    long = b"}(" + text(word) + dict_of(**{str(i): GOOD for i in range(300)}) + b"u"
    yield refused("one key of a megabyte before hundreds of names", "x.pt", checkpoint(long, FOUR), "characters")


# --- operations


def operations() -> Iterator[Case]:
    """Every byte as an operation, alone and behind values, and noise."""
    for byte in range(256):
        yield noise(f"operation {byte:#04x}", checkpoint(bytes([byte]), FOUR))
        value = b"N" + number(4) + text("x") + b")](" + text("x") + bytes([byte]) + b"\1\0\0\0x\nx\n"
        yield noise(f"operation {byte:#04x} behind values", checkpoint(value, FOUR))
    random = np.random.default_rng(4)
    for length in range(1, 60, 3):
        yield noise(f"a pickle of {length} random bytes", checkpoint(random.bytes(length), FOUR))
    yield noise("a name without an end", checkpoint(b"c" + os.fsencode("x" * 5000)))


def noise(title: str, data: bytes) -> Case:
    return Case(title, {"x.pt": data}, loose="no result")
