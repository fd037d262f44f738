"""PyTorch files, as `torch.save` writes them: zip archives, or the form from before torch 1.6.

The pickle inside says which tensors there are, and where their bytes lie. Nothing in it is run, and torch is not
needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from klcal.errors import InputError
from klcal.readers.archive import Member, open_archive
from klcal.readers.archive_parts import crc_checks, member_parts
from klcal.readers.byte_stream import ByteStream
from klcal.readers.description import Description, Part
from klcal.readers.formats import KNOWN, is_text
from klcal.readers.pt.arrays import Array, describe_array
from klcal.readers.pt.calls import OPTIMIZER_STATE
from klcal.readers.pt.foreign import refuse_foreign_alone, with_foreign
from klcal.readers.pt.machine import MAX_PICKLE_BYTES, interpret
from klcal.readers.pt.names import Named, named_values
from klcal.readers.pt.stream import DamagedPickle
from klcal.readers.pt.strided import StridedSpan, axis_order, extent, ordered_dims
from klcal.readers.pt.values import ITEM_BYTES, Foreign, Storage, Tensor, shown
from klcal.readers.pt.views import Views
from klcal.readers.regular import RegularFile

__all__ = ["describe"]

ZIP_MAGIC = b"PK\x03\x04"
TAR_MAGIC, TAR_MAGIC_OFFSET = b"ustar", 257
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before torch 1.6
LEGACY_PROTOCOL = 1001  # the second
LEGACY_COUNT_BYTES = 8  # little-endian, before each storage: how many elements follow
FORMAT_VERSIONS = range(1, 11)  # of the zip form, as torch 2.13 reads them
LEAST_OPERATIONS = 300_000  # half a second's work, which any pickle may take; a tensor needs 43
MEMBER_OPERATIONS = 50  # more for each tensor's data in the archive
BYTES_PER_OPERATION = 256  # of tensor data, for each operation of the pickle: large models may have long lists
SMALL_PICKLE = 1000  # operations of those that hold a number
SMALL_MEMBER_BYTES = 64  # byteorder and version hold a word
MAX_NUMEL = (1 << 63) - 1  # the largest int64
DAMAGED = "download or save the file again"
AS_FLOAT = "save it as float32"

STORED_AS = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "float8_e4m3fn": "u1",
    "float8_e4m3fnuz": "u1",
    "float8_e5m2": "u1",
    "float8_e5m2fnuz": "u1",
    "float8_e8m0fnu": "u1",
}
"""The NumPy dtype of each dtype that can be calibrated, without its byte order."""

EXACT_DTYPES = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)) | {
    "bool"
}
"""Types that are not calibrated, found beside the floats of every model."""
WHOLES = {f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)} | {
    "bool": "u1"
}
"""NumPy's dtypes of what of these is copied."""


@dataclass(frozen=True)
class _Checkpoint:
    """The object in a file, and where its storages lie."""

    root: Any
    locate: Callable[[Storage], Member]  # raises InputError where a storage is not as claimed
    order: str  # "<" or ">"


def describe(file: RegularFile, name: str) -> list[Description]:
    """The tensors of a file that ``torch.save`` wrote.

    Args:
        file: The file.
        name: The tensor's name, where the file is a single one.

    Raises:
        InputError: If the file is damaged, or holds objects that only code could make, and no tensors.
    """
    head = file.read(0, min(file.size, TAR_MAGIC_OFFSET + len(TAR_MAGIC)))
    if head.startswith(ZIP_MAGIC):
        checkpoint = _open_zip(file)
    elif head[TAR_MAGIC_OFFSET:] == TAR_MAGIC:
        hint = "load it with an old torch and save it again"
        raise InputError("it is in the .tar form from before torch 0.1.10, which nothing reads safely", hint)
    else:
        try:
            checkpoint = _open_legacy(file)
        except DamagedPickle:
            if is_text(head):  # whatever its suffix says
                raise InputError("it is a text file", KNOWN) from None
            raise
    named = named_values(checkpoint.root, name)
    refuse_foreign_alone(named)
    return with_foreign(_describe_all(checkpoint, named), named)


def _open_zip(file: RegularFile) -> _Checkpoint:
    members = open_archive(file)
    folder = next(iter(members), "").partition("/")[0]
    _explain_other_archives(folder, members)
    if len({name.lower() for name in members}) < len(members):  # torch looks members up in any case
        raise InputError("its members' names differ in upper and lower case only", DAMAGED)
    _check_version(folder, members)
    order = b"little"
    if f"{folder}/byteorder" in members:
        order = members[f"{folder}/byteorder"].read(SMALL_MEMBER_BYTES)
    if order not in (b"little", b"big"):
        raise InputError("its byte order is neither little nor big", DAMAGED)
    pickled = members[f"{folder}/data.pkl"].read(MAX_PICKLE_BYTES)
    limit = _operations(max(0, file.size - len(pickled))) + MEMBER_OPERATIONS * len(members)

    def locate(storage: Storage) -> Member:
        member = members.get(f"{folder}/data/{storage.key}")
        if member is None:
            raise InputError(f"the file has no data {shown(storage.key)}", DAMAGED)
        wanted = storage.numel * ITEM_BYTES[storage.dtype]
        if member.size != wanted:
            raise InputError(f"its storage should have {wanted:,} bytes and has {member.size:,}", DAMAGED)
        return member

    return _Checkpoint(interpret(io.BytesIO(pickled), limit=limit), locate, "<" if order == b"little" else ">")


def _operations(others: int) -> int:
    """The number of operations that a pickle may have, given the other bytes: a checkpoint is mostly tensors."""
    return LEAST_OPERATIONS + others // BYTES_PER_OPERATION


def _explain_other_archives(folder: str, members: dict[str, Member]) -> None:
    if f"{folder}/constants.pkl" in members:
        hint = "save torch.jit.load(file).state_dict() with torch.save"
        raise InputError("it is a TorchScript program, not a file of tensors", hint)
    if f"{folder}/archive_format" in members or "archive_format" in members:
        hint = "save torch.export.load(file).state_dict with torch.save"
        raise InputError("it is a program saved by torch.export, not a file of tensors", hint)
    if f"{folder}/data.pkl" not in members:
        raise InputError("it is a zip archive that torch.save did not write: it has no data.pkl", DAMAGED)


def _check_version(folder: str, members: dict[str, Member]) -> None:
    member = members.get(f"{folder}/.data/version") or members.get(f"{folder}/version")
    text = member.read(SMALL_MEMBER_BYTES).strip() if member else b""
    if not text.isdigit() or int(text) not in FORMAT_VERSIONS:
        found = shown(text.decode("latin-1")) or "none"
        what = f"its format version is {found}; {FORMAT_VERSIONS[0]} to {FORMAT_VERSIONS[-1]} can be read"
        raise InputError(what, "save it with a current torch")


def _open_legacy(file: RegularFile) -> _Checkpoint:
    end = min(file.size, MAX_PICKLE_BYTES)
    stream = ByteStream(file, 0, end, MAX_PICKLE_BYTES)
    if interpret(stream, limit=SMALL_PICKLE, plain=True) != LEGACY_MAGIC:
        raise InputError("it is a pickle that torch.save did not write", "save it with torch.save")
    if interpret(stream, limit=SMALL_PICKLE, plain=True) != LEGACY_PROTOCOL:
        raise InputError("its protocol version is unknown", DAMAGED)
    interpret(stream, limit=SMALL_PICKLE, plain=True)  # sys_info: the data are little-endian whatever it says
    storages: dict[str, Storage] = {}
    root = interpret(stream, storages, _operations(file.size))
    keys = interpret(stream, limit=SMALL_PICKLE + 4 * len(storages), plain=True)
    if type(keys) is not list or any(type(key) is not str for key in keys) or len({*keys}) < len(keys):
        raise InputError("its list of storages is malformed", DAMAGED)
    members = _legacy_members(file, stream.tell(), keys, storages)

    def locate(storage: Storage) -> Member:
        if storage.key not in members:
            raise InputError("its data are missing: the file is cut short or damaged", DAMAGED)
        return members[storage.key]

    return _Checkpoint(root, locate, "<")


def _legacy_members(
    file: RegularFile, position: int, keys: list[str], storages: dict[str, Storage]
) -> dict[str, Member]:
    """The position of each storage, up to the first damaged one, behind which no position is known."""
    members: dict[str, Member] = {}
    for key in keys:
        if key not in storages:
            raise InputError(f"no tensor uses the storage {shown(key)}", DAMAGED)
        storage = storages[key]
        offset, size = position + LEGACY_COUNT_BYTES, storage.numel * ITEM_BYTES[storage.dtype]
        if offset + size > file.size:
            break
        if int.from_bytes(file.read(position, LEGACY_COUNT_BYTES), "little") != storage.numel:
            break
        members[key] = Member(file, key, offset, size, size, 0)
        position = offset + size
    return members


def _describe_all(checkpoint: _Checkpoint, named: list[Named]) -> list[Description]:
    """One description for each distinct view of a storage, and for each array; its other names are aliases."""
    found: dict[Any, Description] = {}
    aliases: dict[Any, list[str]] = {}
    views, others = Views(), Views()
    for item in named:
        value = item.value
        if isinstance(value, Foreign):
            continue
        identity = _identity(value) if isinstance(value, Tensor) else id(value.state)
        if identity in found:
            aliases.setdefault(identity, []).append(item.name)
        elif isinstance(value, Array):
            found[identity] = describe_array(item.name, value, views, training=item.training)
        else:
            found[identity] = _describe_one(checkpoint, item, value, views, others)
    return [replace(found[identity], aliases=tuple(aliases.get(identity, ()))) for identity in found]


def _identity(tensor: Tensor) -> Any:
    """Equal for two tensors that are the same values in the same arrangement."""
    storage = tensor.storage
    if storage is None:
        return id(tensor)
    return storage.key, storage.first, tensor.offset, tensor.dtype, tensor.shape, tensor.strides


def _describe_one(checkpoint: _Checkpoint, item: Named, tensor: Tensor, views: Views, others: Views) -> Description:
    plain = Description(item.name, tensor.dtype, tuple(max(0, size) for size in tensor.shape))
    if tensor.storage is None:
        return replace(plain, status="unsupported", reason=tensor.unsupported)
    try:
        member, start = _place(checkpoint, tensor, tensor.storage)
    except InputError as error:
        return replace(plain, status="failed", reason=str(error))
    if item.training:
        return replace(plain, status="skipped", reason=OPTIMIZER_STATE)
    if tensor.dtype in EXACT_DTYPES:
        skipped = replace(plain, status="skipped", reason=f"{tensor.dtype} values are not calibrated")
        return _with_raw(skipped, checkpoint.order, member, start, tensor, others)
    if tensor.dtype not in STORED_AS:
        return replace(plain, status="unsupported", reason=f"{tensor.dtype} values cannot be calibrated; {AS_FLOAT}")
    if checkpoint.order == ">" and ITEM_BYTES[tensor.storage.dtype] != ITEM_BYTES[tensor.dtype]:
        return replace(plain, status="unsupported", reason=f"its byte order is not known; {AS_FLOAT}")
    counts_check = tensor.storage.key not in views.checked
    stored_as = checkpoint.order + STORED_AS[tensor.dtype]
    try:
        parts = _parts(member, start, tensor, stored_as, counts_check)
        views.add(parts, tensor.storage.key, member.size, member.file.size)
        return replace(plain, parts=parts, order=axis_order(tensor.shape, tensor.strides))
    except InputError as error:
        return replace(plain, status="unsupported", reason=str(error))


def _with_raw(
    plain: Description, byte_order: str, member: Member, start: int, tensor: Tensor, others: Views
) -> Description:
    """Integers with where they lie, if they can be copied, or restored where they are codes."""
    if tensor.dtype not in WHOLES or tensor.storage is None:
        return plain
    key = tensor.storage.key
    try:
        raw = _parts(member, start, tensor, byte_order + WHOLES[tensor.dtype], key not in others.checked)
        others.add(raw, key, member.size, member.file.size)
    except InputError:
        return plain
    return replace(plain, raw=raw, order=axis_order(tensor.shape, tensor.strides))


def _place(checkpoint: _Checkpoint, tensor: Tensor, storage: Storage) -> tuple[Member, int]:
    """The position of the first value of a tensor: a member, and the number of bytes from its start.

    Raises:
        InputError: If the tensor is not inside its storage, or that not in the file. All sizes are
            whatever the file claims; Python's integers do not wrap.
    """
    member = checkpoint.locate(storage)
    if len(tensor.shape) != len(tensor.strides):
        raise InputError("it has other dimensions than strides", DAMAGED)
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise InputError("its offset, size or strides are negative", DAMAGED)
    if max((tensor.offset, *tensor.strides, prod(filter(None, tensor.shape)))) > MAX_NUMEL:  # torch multiplies so
        raise InputError("its offset, size or strides are larger than an int64 can hold", DAMAGED)
    item, storage_item = ITEM_BYTES[tensor.dtype], ITEM_BYTES[storage.dtype]
    if prod(tensor.shape):
        _, dims = ordered_dims(tensor.shape, tensor.strides)
        end, available = (tensor.offset + extent(dims)) * item, storage.length * storage_item
        if end > available:
            raise InputError(f"it reaches to byte {end:,} of a storage of {available:,}", DAMAGED)
    return member, storage.first * storage_item + tensor.offset * item


def _parts(member: Member, start: int, tensor: Tensor, stored_as: str, counts_check: bool) -> tuple[Part, ...]:
    """The parts of a tensor inside a member; InputError where its view cannot be read there."""
    if not prod(tensor.shape):
        return ()
    repeats, dims = ordered_dims(tensor.shape, tensor.strides)
    values = prod(size for size, _ in dims)
    if repeats == 1 and dims in ((), ((values, 1),)):
        length = values * ITEM_BYTES[tensor.dtype]
        return member_parts(member, start, length, stored_as, counts_check=counts_check)
    if member.deflated:
        raise InputError("it is a strided view of compressed data", "save tensor.contiguous()")
    span = StridedSpan(member.file, member.offset + start, dims, stored_as, repeats)
    return (span, *crc_checks(member, counts_check))
