"""Descriptions of the parts of a pickled checkpoint: storages, tensors, names, and values that do not matter."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from klcal.errors import InputError
from klcal.readers.quoting import quoted

__all__ = ["ITEM_BYTES", "STORAGE_DTYPES", "UNTYPED", "Bytes", "Foreign", "Global", "Opaque", "Storage", "Tensor"]
__all__ += ["StateDict", "is_scalar", "malformed", "shown"]

ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16", "bits16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("float8_e8m0fnu", "float4_e2m1fn_x2", "int8", "uint8", "bool"), 1),
    **dict.fromkeys(("bits8", "bits1x8", "bits2x4", "bits4x2"), 1),
    **dict.fromkeys(("qint8", "quint8", "quint4x2", "quint2x4"), 1),
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
    "complex128": 16,
}
"""torch's dtypes and the bytes of an element."""

UNTYPED = "torch.storage.UntypedStorage"
STORAGE_DTYPES = {
    UNTYPED: "uint8",
    **{
        f"torch.{package}{kind}Storage": dtype
        for package in ("", "cuda.")
        for kind, dtype in {
            "Double": "float64",
            "Float": "float32",
            "Half": "float16",
            "BFloat16": "bfloat16",
            "Long": "int64",
            "Int": "int32",
            "Short": "int16",
            "Char": "int8",
            "Byte": "uint8",
            "Bool": "bool",
            "ComplexDouble": "complex128",
            "ComplexFloat": "complex64",
            "QInt8": "qint8",
            "QInt32": "qint32",
            "QUInt8": "quint8",
            "QUInt4x2": "quint4x2",
            "QUInt2x4": "quint2x4",
        }.items()
    },
}

SHOWN_CHARACTERS = 80  # of a name: a class's has its module's in front


@dataclass(frozen=True, eq=False)
class Global:
    """A known name. It stands for itself."""

    name: str


@dataclass(frozen=True, eq=False)
class Opaque:
    """A value without tensors that does not matter: a device, a complex number and the like."""

    args: tuple[Any, ...] = ()  # the plain values in it


@dataclass(frozen=True, eq=False)
class Bytes:
    """Bytes, as the text that protocol 2 writes for them: a character each. Not all texts are such."""

    text: str


@dataclass(frozen=True, eq=False)
class Foreign:
    """An unknown name, or the result of calling it, which is not known because nothing is called."""

    name: str
    contents: list[Any] = field(default_factory=list)  # its arguments, then its state and items


@dataclass(frozen=True, eq=False)
class Storage:
    """A stretch of values somewhere in the file. Sizes are as claimed, not checked."""

    key: str
    dtype: str
    numel: int  # values of the whole storage
    first: int = 0  # where this view of it begins, in values
    length: int = 0  # values of this view


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor as the pickle claims it. Only types are checked: sizes may be anything."""

    dtype: str
    shape: tuple[int, ...]
    storage: Storage | None = None
    offset: int = 0  # in elements of dtype, as are the strides
    strides: tuple[int, ...] = ()
    unsupported: str | None = None  # why its values cannot be read


class StateDict(OrderedDict[Any, Any]):
    """An OrderedDict, which may have attributes."""

    __slots__ = ("attributes",)
    attributes: dict[Any, Any]


def is_scalar(value: Any) -> bool:
    """Whether a value is of a plain immutable type, cheap to hash, compare and show."""
    return value is None or type(value) in (str, int, float, bool)


def malformed(name: str) -> InputError:
    """The error for arguments that torch's own function would not take."""
    return InputError(f"the arguments of {shown(name)} are malformed", "download or save the file again")


def shown(name: str) -> str:
    """A name from the file, as short and plain as a message needs it."""
    return quoted(name, SHOWN_CHARACTERS)[1:-1]
