"""An interpreter for pickled checkpoints that builds descriptions and calls nothing.

It knows the operations that torch.save writes; those of plain checkpoints with the checks of their operands that
``torch.load(weights_only=True)`` makes (torch 2.13, ``_weights_only_unpickler.py``). ``stream`` cuts the bytes
into operations; what is on the stack are plain values and the descriptions of ``values``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from klcal.errors import InputError
from klcal.readers.pt.calls import find_global, reduce, refused_global
from klcal.readers.pt.plain import is_key
from klcal.readers.pt.stream import DAMAGED, damaged, full_name, operations, refusal
from klcal.readers.pt.values import (
    STORAGE_DTYPES,
    UNTYPED,
    Foreign,
    Global,
    Opaque,
    StateDict,
    Storage,
    malformed,
    shown,
)

__all__ = ["MAX_PICKLE_BYTES", "interpret"]

MAX_PICKLE_BYTES = 1 << 26  # bytes of one pickle: a real one has about 120 per tensor
MAX_OPERATIONS = 4_500_000  # of one pickle: 43 for each of 100,000 parameters; each can leave 90 bytes behind
STORAGE_WORK = 50  # operations that a tensor with its own storage may take
GLOBAL_WORK = 8  # operations that take as long as finding one name; a pickle names each function once
MAX_ARGUMENTS = 16  # that a call may have for nothing: one tuple can be passed over and over
FOREIGN_WORK = 2  # operations: the memory that a foreign object takes


class Machine:
    """The stacks, the memo and the storages met so far."""

    def __init__(self, legacy_storages: dict[str, Storage] | None) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.legacy = legacy_storages is not None
        self.storages = {} if legacy_storages is None else legacy_storages
        self.views: dict[str, tuple[str, int, int]] = {}
        self.work = 0  # operations, and elements that they copied

    def check_work(self, limit: int) -> None:
        """Raises InputError where a pickle took more than its share; storages of the old form earn it some."""
        allowed = min(MAX_OPERATIONS, limit + self.legacy * STORAGE_WORK * len(self.storages))
        if self.work > allowed:
            raise InputError(f"its pickle has more than {allowed:,} operations", "save fewer objects in it")

    def pop(self, count: int) -> list[Any]:
        """The topmost ``count`` values, removed, the deepest first."""
        if len(self.stack) < count:
            raise damaged()
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def top(self) -> Any:
        """The topmost value."""
        if not self.stack:
            raise damaged()
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """The values since the last mark, removed with it."""
        if not self.marked:
            raise damaged()
        values, self.stack = self.stack, self.marked.pop()
        return values


def interpret(
    stream: IO[bytes],
    legacy_storages: dict[str, Storage] | None = None,
    limit: int = MAX_OPERATIONS,
    *,
    plain: bool = False,
) -> Any:
    """The value that the next pickle of a stream describes; the stream then stands behind it.

    Args:
        stream: A readable stream that tells its position.
        legacy_storages: A dictionary to fill with the storages by key, where the pickle names them as
            in files from before torch 1.6; None where it is of the later form.
        limit: How many operations it may have, but for those that the storages of the old form take: each takes
            a microsecond.
        plain: whether foreign objects are refused.

    Raises:
        InputError: If the pickle is damaged, or uses an operation that torch.save does not write.
    """
    machine = Machine(legacy_storages)
    limit = min(limit, MAX_OPERATIONS)
    for name, argument, position in operations(stream):
        machine.work += 1
        if machine.work > limit:
            machine.check_work(limit)
        if name == "STOP":
            return machine.pop(1)[0]
        if name == "GLOBAL":
            # Two lines; pickletools resolves escapes in them, which torch does not.
            if stream.tell() - position != len(argument) + 2:
                raise damaged()
            machine.work += GLOBAL_WORK
            machine.stack.append(find_global(full_name(argument)))
            if plain and type(machine.top()) is Foreign:
                raise refused_global(machine.top().name)
        elif name in OPERATIONS:
            OPERATIONS[name](machine, argument)
        else:
            below = (values[-1] for values in machine.marked if values and type(values[-1]) is Foreign)
            raise refusal(name, argument, stream, [*below, *machine.stack[-2:]])
    raise damaged()


def _persistent(machine: Machine, _: Any) -> None:
    """BINPERSID: the one thing outside a pickle that it may refer to is a storage."""
    machine.work += 1  # it takes as long as two others
    (identity,) = machine.pop(1)
    kind, *fields = identity if type(identity) is tuple and identity else (None,)
    if fields and type(fields[0]) is Foreign:
        if kind != "module" or not machine.legacy:
            raise refused_global(fields[0].name)
        machine.stack.append(fields[0])  # a class, which the old form keeps with its source
        return
    if kind != "storage":
        raise InputError("it refers to something other than tensor data", "save model.state_dict()")
    if len(fields) != (5 if machine.legacy else 4):
        raise malformed("a storage")
    storage_type, key, _location, numel = fields[:4]
    if type(storage_type) is not Global or storage_type.name not in STORAGE_DTYPES:
        raise malformed("a storage")
    if type(key) is not str or type(numel) is not int or not 0 <= numel < 1 << 63 or key in machine.views:
        raise malformed("a storage")
    if machine.legacy and storage_type.name == UNTYPED:
        what = "it holds a dtype that files from before torch 1.6 do not know"
        raise InputError(what, "save it without _use_new_zipfile_serialization=False")
    storage = Storage(key, STORAGE_DTYPES[storage_type.name], numel, 0, numel)
    known = machine.storages.setdefault(key, storage)
    if known.numel != numel or (known.dtype != storage.dtype and numel):  # one of no values can have two types
        raise InputError(f"the storage {shown(key)} has two types or sizes", DAMAGED)
    view = fields[4] if machine.legacy else None
    if known.dtype == storage.dtype:
        storage = known  # not one more for each time it is named
    machine.stack.append(storage if view is None else _view(machine, storage, view))


def _view(machine: Machine, storage: Storage, view: Any) -> Storage:
    """A part of a storage, as files from before torch 0.4 name it."""
    if type(view) is not tuple or len(view) != 3:
        raise malformed("a storage's view")
    key, first, length = view
    if type(key) is not str or type(first) is not int or type(length) is not int:
        raise malformed("a storage's view")
    part = (storage.key, first, length)
    if not 0 <= first <= first + length <= storage.numel or key in machine.storages:
        raise malformed("a storage's view")
    if machine.views.setdefault(key, part) != part:
        raise malformed("a storage's view")
    return Storage(storage.key, storage.dtype, storage.numel, first, length)


def _build(machine: Machine, _: Any) -> None:
    """BUILD: the attributes of an OrderedDict (``_metadata``), which do not matter; the state of a foreign object."""
    (state,) = machine.pop(1)
    if type(machine.top()) is Foreign:
        machine.top().contents.append(state)
        return
    if type(machine.top()) is not StateDict or not isinstance(state, dict):
        raise InputError("it sets attributes of something other than a state_dict", "save model.state_dict()")
    machine.top().attributes = state


def _reduce(machine: Machine, _: Any) -> None:
    target, args = machine.pop(2)
    machine.work += FOREIGN_WORK * (type(target) is Foreign)
    if type(args) is tuple:
        machine.work += max(0, len(args) - MAX_ARGUMENTS)
        machine.work += sum(len(arg) for arg in args if isinstance(arg, (tuple, list, dict)))
    machine.stack.append(reduce(target, args))


def _new_object(machine: Machine, _: Any) -> None:
    """NEWOBJ: an object of a class that is not known."""
    target, args = machine.pop(2)
    if type(target) is not Foreign:
        raise damaged()
    machine.work += FOREIGN_WORK
    machine.stack.append(Foreign(target.name, [args]))


def _append(machine: Machine, values: list[Any]) -> None:
    if type(machine.top()) is Foreign:
        machine.top().contents.extend(values)
        return
    if type(machine.top()) is not list:
        raise damaged()
    machine.top().extend(values)


def _set_items(machine: Machine, values: list[Any]) -> None:
    # Only dictionaries: on anything else this was a way to corrupt memory (CVE-2026-24747).
    target = machine.top()
    if type(target) is Foreign:
        target.contents.extend(values)
        return
    if not isinstance(target, dict) or len(values) % 2:
        raise damaged()
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not is_key(key):
            raise InputError("a dictionary's key is neither text nor a number", "save a state_dict")
        target[key] = value


def _mark(machine: Machine, _: Any) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _put(machine: Machine, index: Any) -> None:
    machine.memo[index] = machine.top()


def _get(machine: Machine, index: Any) -> None:
    if index not in machine.memo:
        raise damaged()
    machine.stack.append(machine.memo[index])


def _text(machine: Machine, argument: Any) -> None:
    """SHORT_BINSTRING: pickletools decodes it as latin-1, torch as UTF-8."""
    try:
        machine.stack.append(argument.encode("latin-1").decode("utf-8"))
    except UnicodeDecodeError:
        raise damaged() from None


def _tuple(count: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: _push(machine, tuple(machine.pop(count)))


def _push(machine: Machine, argument: Any) -> None:
    machine.stack.append(argument)


OPERATIONS: dict[str, Callable[[Machine, Any], None]] = {
    "APPEND": lambda machine, _: _append(machine, machine.pop(1)),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "BINFLOAT": _push,
    "BINGET": _get,
    "BININT": _push,
    "BININT1": _push,
    "BININT2": _push,
    "BINPERSID": _persistent,
    "BINPUT": _put,
    "BINUNICODE": _push,
    "BUILD": _build,
    "EMPTY_DICT": lambda machine, _: _push(machine, {}),
    "EMPTY_LIST": lambda machine, _: _push(machine, []),
    "EMPTY_SET": lambda machine, _: _push(machine, Opaque()),
    "EMPTY_TUPLE": lambda machine, _: _push(machine, ()),
    "LONG1": _push,
    "LONG_BINGET": _get,
    "LONG_BINPUT": _put,
    "MARK": _mark,
    "NEWOBJ": _new_object,
    "NEWFALSE": lambda machine, _: _push(machine, False),
    "NEWTRUE": lambda machine, _: _push(machine, True),
    "NONE": lambda machine, _: _push(machine, None),
    "PROTO": lambda _machine, _: None,
    "REDUCE": _reduce,
    "SETITEM": lambda machine, _: _set_items(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "SHORT_BINSTRING": _text,
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.pop_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
}
"""The operations beside GLOBAL and STOP."""
