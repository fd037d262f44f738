"""The names that a pickled checkpoint may use, and a description of what each would make. Nothing is called.

The names are those that ``torch.load(weights_only=True)`` allows (torch 2.13, ``_weights_only_unpickler.py``), without
the constructors that allocate. Any other name is foreign, and so is everything that it would make.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from klcal.errors import InputError
from klcal.readers.pt import plain
from klcal.readers.pt.values import (
    ITEM_BYTES,
    STORAGE_DTYPES,
    Foreign,
    Global,
    Storage,
    Tensor,
    malformed,
    shown,
)

__all__ = ["OPTIMIZER_STATE", "find_global", "is_known", "reduce", "refused_global"]

OPTIMIZER_STATE = "optimizer state is not calibrated"
MAX_RANK = 64  # axes: the limit of NumPy and of torch's operators
MAX_ATTRIBUTES = 1000  # of one tensor: real ones have a handful
MAKERS = ("copy_reg._reconstructor", "copy_reg.__newobj_ex__")  # their first argument is the class

SUBCLASS_ADVICE = {
    "DTensor": "save tensor.full_tensor(), or a full state dict",
    "NestedTensor": "save its tensors one by one",
}
"""Advice for tensors of a class for which a plain copy is not enough."""

REPLACES_VALUES = frozenset({"__class__", "__dict__", "_backward_hooks", "data", "imag", "names", "real"})
"""Attributes that torch would set on a loaded tensor, and that change its values or its kind."""


def is_known(name: str) -> bool:
    """Whether a pickled checkpoint may name this."""
    return name in STORAGE_DTYPES or name in CALLS or name in NAMES


def find_global(name: str) -> Global | Foreign:
    """The description that stands for a name."""
    return _global(name) if is_known(name) else Foreign(name)


@cache
def _global(name: str) -> Global:
    """One for each name, however often a pickle names it."""
    return Global(name)


def refused_global(name: str) -> InputError:
    """The error for a name that no plain checkpoint needs: which one it is, and the way out."""
    if name.startswith("numpy"):
        hint = "save torch tensors and plain numbers, without numpy values among them"
        return InputError(f"it holds a numpy object ({shown(name)}), and klcal runs no code from a file", hint)
    hint = "save model.state_dict() instead, or convert the file to safetensors where you trust it"
    return InputError(f"it needs {shown(name)}, and klcal runs no code from a file", hint)


def reduce(target: Any, args: Any) -> Any:
    """A description of the result of ``target(*args)``.

    The result of an unknown function is foreign, and so is that of a known one with foreign arguments.
    """
    if isinstance(target, Foreign):
        return Foreign(_made_by(target.name, args), [args])
    if not isinstance(target, Global) or target.name not in CALLS:
        what = shown(target.name) if isinstance(target, Global) else "something that is not a function"
        raise InputError(f"it calls {what}, which no saved tensor needs", "save model.state_dict() with torch.save")
    if type(args) is not tuple:
        raise malformed(target.name)
    if target.name not in TAKE_FOREIGN and any(type(arg) is Foreign for arg in args):
        return Foreign(target.name, [args])
    try:
        return CALLS[target.name](*args)
    except TypeError:  # a wrong number of arguments: the functions check their types themselves
        raise malformed(target.name) from None


def _made_by(name: str, args: Any) -> str:
    """The class of a call's result; for one of Python's own helpers, its first argument."""
    first = args[0] if type(args) is tuple and args else None
    return first.name if name in MAKERS and type(first) is Foreign else name


def _tensor(storage: Any, offset: Any, size: Any, strides: Any, *, dtype: str | None = None) -> Tensor:
    if type(storage) is not Storage or type(offset) is not int:
        raise malformed("_rebuild_tensor")
    return Tensor(dtype or storage.dtype, _ints(size), storage, offset, _ints(strides))


def _tensor_v2(
    storage: Any, offset: Any, size: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    return _finished(_tensor(storage, offset, size, strides), grad, hooks, metadata)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    tensor = _tensor(storage, offset, size, strides, dtype=_dtype(dtype))
    return _finished(tensor, grad, hooks, metadata)


def _finished(tensor: Tensor, grad: Any, hooks: Any, metadata: Any = None) -> Tensor:
    """The tensor, after checking that the attributes that torch sets afterwards do not change its values."""
    if type(grad) is not bool or not (hooks is None or (isinstance(hooks, dict) and not hooks)):
        raise malformed("_rebuild_tensor_v2")
    if grad and not tensor.dtype.startswith(("float", "bfloat", "complex")):
        raise malformed("_rebuild_tensor_v2")
    if metadata is None or (isinstance(metadata, dict) and not metadata):
        return tensor
    return _unsupported(tensor.dtype, tensor.shape, "it is negated or conjugated lazily; save tensor.clone()")


def _parameter(data: Any, grad: Any, hooks: Any) -> Tensor:
    if type(data) is not Tensor:
        raise malformed("_rebuild_parameter")
    return _finished(data, grad, hooks)


def _parameter_with_state(data: Any, grad: Any, hooks: Any, state: Any) -> Tensor:
    _check_state(state)
    return _parameter(data, grad, hooks)


def _from_type_v2(function: Any, kind: Any, args: Any, state: Any) -> Tensor:
    if type(function) is Foreign:
        return _of_class(kind, "", ())
    if type(function) is not Global or not function.name.startswith("torch._utils._rebuild"):
        raise malformed("_rebuild_from_type_v2")
    tensor = reduce(function, args)
    if type(tensor) is Foreign:
        return _of_class(kind, "", ())
    if type(tensor) is not Tensor:
        raise malformed("_rebuild_from_type_v2")
    if type(kind) is Foreign:
        return _of_class(kind, tensor.dtype, tensor.shape)
    if type(kind) is not Global or kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        raise malformed("_rebuild_from_type_v2")
    _check_state(state)
    return tensor


def _check_state(state: Any) -> None:
    """Refuses attributes that would replace the values; others do not matter."""
    for attributes in state if type(state) is tuple and len(state) == 2 else (state,):
        if attributes is None:
            continue
        if not isinstance(attributes, dict) or len(attributes) > MAX_ATTRIBUTES:
            raise malformed("the state of a tensor")
        if any(type(name) is not str for name in attributes):
            raise malformed("the state of a tensor")
        if not REPLACES_VALUES.isdisjoint(attributes):
            raise InputError("a tensor's attributes replace its values", "save the tensor without attributes")


def _quantized(storage: Any, offset: Any, size: Any, strides: Any, _quantizer: Any, _grad: Any, _hooks: Any) -> Tensor:
    tensor = _tensor(storage, offset, size, strides)
    return _unsupported(tensor.dtype, tensor.shape, "it is quantized already; calibrate the float tensor")


def _sparse(_layout: Any, data: Any) -> Tensor:
    parts = data if type(data) is tuple and len(data) in (3, 4) else ()
    values = [part for part in parts if type(part) is Tensor]
    sizes = [part for part in parts if type(part) is tuple]
    if not values or not sizes:
        raise malformed("_rebuild_sparse_tensor")
    return _unsupported(values[-1].dtype, sizes[0], "it is sparse; save tensor.to_dense()")


def _nested(buffer: Any, _sizes: Any, _strides: Any, _offsets: Any) -> Tensor:
    if type(buffer) is not Tensor:
        raise malformed("_rebuild_nested_tensor")
    return _unsupported(buffer.dtype, buffer.shape, "it is a nested tensor; save its tensors one by one")


def _meta(dtype: Any, size: Any, _strides: Any, _grad: Any) -> Tensor:
    return _unsupported(_dtype(dtype), size, "it is a meta tensor, without values; load the weights before saving it")


def _subclass(kind: Any, dtype: Any, size: Any, *_: Any) -> Tensor:
    return _of_class(kind, _dtype(dtype), size)


def _of_class(kind: Any, dtype: str, shape: Any) -> Tensor:
    """A tensor of a class that is not torch's: only the code of the class knows its values."""
    name = kind.name if isinstance(kind, Global | Foreign) else "another class"
    advice = SUBCLASS_ADVICE.get(name.rpartition(".")[2], "save a plain tensor, as tensor.dequantize() may give")
    return _unsupported(dtype, shape, f"it is a tensor subclass ({shown(name)}); {advice}")


def _from_cpu(data: Any, dtype: Any, _device: Any, grad: Any) -> Tensor:
    """A tensor of a device that has no storages, XLA's for one."""
    if type(data) is not Tensor:
        raise malformed("_rebuild_device_tensor_from_cpu_tensor")
    if data.dtype != _dtype(dtype):
        return _unsupported(
            _dtype(dtype), data.shape, f"it is converted from {data.dtype} while it is loaded; save tensor.cpu()"
        )
    return _finished(data, grad, None)


def _from_numpy(_data: Any, dtype: Any, _device: Any, _grad: Any) -> Tensor:
    return _unsupported(_dtype(dtype), (), "it was saved as a numpy array; save tensor.cpu()")


def _unsupported(dtype: str, shape: Any, reason: str) -> Tensor:
    return Tensor(dtype, tuple(max(0, extent) for extent in _ints(shape)), unsupported=reason)


def _ints(values: Any) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > MAX_RANK:
        raise malformed("a tensor's size and strides")
    if any(type(value) is not int for value in values):
        raise malformed("a tensor's size and strides")
    return tuple(values)


def _dtype(value: Any) -> str:
    name = value.name.removeprefix("torch.") if type(value) is Global else ""
    if name not in ITEM_BYTES:
        raise malformed("a tensor's dtype")
    return name


def _size(extents: Any = ()) -> tuple[int, ...]:
    return _ints(extents)


CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": plain.encoded,
    "builtins.bytearray": plain.byte_array,
    "builtins.bytes": plain.no_bytes,
    "builtins.complex": plain.scalars,
    "builtins.set": plain.set_of,
    "collections.Counter": plain.counter,
    "collections.OrderedDict": plain.ordered_dict,
    "collections.defaultdict": plain.default_dict,
    "torch.Size": _size,
    "torch.device": plain.scalars,
    "torch.serialization._get_layout": plain.scalars,
    "torch._tensor._rebuild_from_type_v2": _from_type_v2,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_wrapper_subclass": _subclass,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
}
"""The functions that may be called, and klcal's functions that describe their results."""

TAKE_FOREIGN = frozenset(
    {"collections.defaultdict", "torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_wrapper_subclass"}
)
"""The functions that may be called with foreign objects and still yield a description."""

NAMES = frozenset(
    {"torch.Tensor", "torch.nn.parameter.Parameter"}
    | {f"torch.{dtype}" for dtype in ITEM_BYTES}
    | {f"torch.per_tensor_{kind}" for kind in ("affine", "symmetric")}
    | {f"torch.per_channel_{kind}" for kind in ("affine", "symmetric", "affine_float_qparams")}
)
"""Other names that may occur, beside functions and storage types."""
