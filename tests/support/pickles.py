"""PyTorch files put together by hand, without torch: what it would write, and what it never would."""

import contextlib
import io
import pickle

from tests.support.files import zipped


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def name(full: str) -> bytes:
    """GLOBAL: ``os.system``."""
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def number(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + item for key, item in items.items()) + b"u"


def storage(numel: int, key: str = "0", kind: str = "torch.FloatStorage", view: bytes = b"") -> bytes:
    return tuple_of(text("storage"), name(kind), text(key), text("cpu"), number(numel), view) + b"Q"


def tensor(held: bytes, offset: int = 0, shape=(4,), strides=(1,), tail: bytes = b"\x89" + b"N") -> bytes:
    """A call of _rebuild_tensor_v2; without a gradient or hooks."""
    sizes = [tuple_of(*map(number, numbers)) for numbers in (shape, strides)]
    return name("torch._utils._rebuild_tensor_v2") + tuple_of(held, number(offset), *sizes, tail) + b"R"


def array(dtype: str = "f4", shape=(4,), data: str = "\0\0\x80?" * 4, order: str = "<") -> bytes:
    """A NumPy array in its plain form; without arguments of four values 1.0."""
    word = name("_codecs.encode") + tuple_of(text(data), text("latin1")) + b"R"
    kind = name("numpy.dtype") + tuple_of(text(dtype), b"\x89\x88") + b"R"
    kind += tuple_of(number(3), text(order), b"NNN", number(-1), number(-1), number(0)) + b"b"
    made = name("numpy._core.multiarray._reconstruct") + tuple_of(name("numpy.ndarray"), tuple_of(number(0)), b"N")
    return made + b"R" + tuple_of(number(1), tuple_of(*map(number, shape)), kind, b"\x89", word) + b"b"


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def checkpoint(value: bytes, *data: bytes, **more: bytes) -> bytes:
    """A zip as torch.save writes it, of a pickled value and its storages."""
    members = {"a/data.pkl": pickled(value), "a/byteorder": b"little"}
    members |= {f"a/data/{key}": content for key, content in enumerate(data)}
    return zipped({**members, "a/version": b"3\n", **{f"a/{key}": content for key, content in more.items()}})


def legacy_checkpoint(value: bytes, **data: bytes) -> bytes:
    """A file as torch wrote it before 1.6, of a pickled value and its float32 storages."""
    head = [number(0x1950A86A20F9469CFC6C), b"M" + (1001).to_bytes(2, "little"), b"}", value]
    keys = b"](" + b"".join(map(text, data)) + b"e"
    body = b"".join((len(content) // 4).to_bytes(8, "little") + content for content in data.values())
    return b"".join(map(pickled, [*head, keys])) + body


FLOAT = bytes.fromhex("0000803f")  # 1.0
GOOD = tensor(storage(4, "0"))
OLD_GOOD = tensor(storage(4, "0", view=b"N"))  # in a file from before torch 1.6


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
        "BUILD": (
            name("collections.OrderedDict") + b")R" + state + b"b" + text(command) + b"b",
            "save model.state_dict()",
        ),
        "getattr": (attribute, "builtins.getattr"),
        "in containers": (b"](" + dict_of(a=tuple_of(system, good)) + b"e", "os.system"),
        "behind POP": (system + b"0" + dict_of(w=good), "os.system"),
        "behind POP_MARK": (b"(" + by_stack + b"1" + dict_of(w=good), "os.system"),
        "as a key": (b"}(" + system + text("x") + b"u", "os.system"),
        "in a gradient flag": (good.replace(b"\x89NtR", system + b"NtR"), "os.system"),
        "as a storage": (tuple_of(text("storage"), system) + b"Q", "os.system"),
        "behind an unknown operation": (b"\x95" + bytes(8) + system, "os.system"),
    }


def runs(data: bytes, canary) -> bool:
    """Whether Python's own unpickler lets the command run."""
    unpickler = pickle.Unpickler(io.BytesIO(data))
    unpickler.persistent_load = lambda identity: identity
    with contextlib.suppress(Exception):  # not all of them end well
        unpickler.load()
    return canary.exists()


# --- lies

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
