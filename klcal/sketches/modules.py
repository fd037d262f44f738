"""The modules of a torch model: which are recorded, the tensors of their calls, and the columns of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, TypeGuard

from klcal.errors import KlcalError, UsageError
from klcal.quantizers.rounding import is_tensor

if TYPE_CHECKING:
    import torch

__all__ = ["columns_of", "is_float", "modules_of", "naming", "tensors_in"]

NEAREST = 3  # similar names in the error about a glob that matches nothing


def modules_of(model: torch.nn.Module, wanted: tuple[str | type, ...]) -> dict[str, torch.nn.Module]:
    """The selected modules, by name; a module with several names has the first one.

    Args:
        model: a torch model that was not compiled.
        wanted: globs of names, and types; empty for all modules without children that have parameters.

    Raises:
        UsageError: the model is compiled, or a glob or a type matches no module.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    for each in named.values():
        if hasattr(each, "_orig_mod") or getattr(each, "_compiled_call_impl", None) is not None:
            raise UsageError("the model is compiled, and would not call the hooks", "record it before torch.compile")
    if not wanted:
        leaves = {name: each for name, each in named.items() if not [*each.children()] and [*each.parameters(False)]}
        return _distinct(leaves)
    found: dict[str, torch.nn.Module] = {}
    for each in wanted:
        if not isinstance(each, str | type):
            raise UsageError(f"a module is {each!r}", "give a glob of names, or a type")
        some = {name: module for name, module in named.items() if _is_meant(name, module, each)}
        if not some:
            from difflib import get_close_matches

            near = get_close_matches(each, named, n=NEAREST, cutoff=0) if isinstance(each, str) else []
            hint = f"the nearest are {', '.join(map(repr, near))}" if near else "name a type that it has"
            raise UsageError(f"no module of the model is {each!r}", hint)
        found |= some
    return _distinct({name: module for name, module in named.items() if name in found})


def _distinct(named: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Each module once, by the first of its names."""
    first = {id(module): name for name, module in reversed([*named.items()])}
    return {name: module for name, module in named.items() if first[id(module)] == name}


def _is_meant(name: str, module: torch.nn.Module, wanted: str | type) -> bool:
    return fnmatchcase(name, wanted) if isinstance(wanted, str) else isinstance(module, wanted)


def tensors_in(value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """The floating-point tensors in the inputs or outputs of a module, each with the suffix of its name.

    The suffix of a single tensor is empty. Else it has the index or the key of the tensor, and so on in nested tuples,
    lists, mappings and dataclasses.

    >>> list(tensors_in((1, {"mask": None}))), list(tensors_in([]))
    ([], [])
    """
    if is_float(value):
        yield "", value
        return
    places = _places(value)
    for key, each in places.items():
        own = "" if len(places) == 1 else f".{key}"
        yield from ((own + rest, tensor) for rest, tensor in tensors_in(each))


def _places(value: object) -> dict[str, object]:
    """The items of a container, by their indices or keys; empty for other objects."""
    if isinstance(value, Mapping):
        return {str(key): value[key] for key in value}
    if isinstance(value, tuple | list):
        return {str(place): each for place, each in enumerate(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def is_float(value: object) -> TypeGuard[torch.Tensor]:
    """Whether an object is a tensor of floating-point values."""
    return is_tensor(value) and value.is_floating_point()


def columns_of(module: torch.nn.Module, tensor: torch.Tensor) -> torch.Tensor | None:
    """The input of a linear layer or a convolution as (outer, columns, run), contiguous; None for any other module.

    A column has the inputs that are multiplied with one index of axis 1 of the weight.
    """
    from torch import nn

    convolutions = nn.Conv1d, nn.Conv2d, nn.Conv3d
    if isinstance(module, nn.Linear):
        axis = tensor.dim() - 1
    elif isinstance(module, convolutions) and not module.transposed:
        axis = tensor.dim() - 1 - len(module.kernel_size)
    else:
        return None
    shape = tensor.shape
    outer, columns, run = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    last = tensor.detach().movedim(axis, -1)
    if last.is_contiguous():  # channels last
        return last.reshape(outer * run, columns, 1)
    return tensor.detach().contiguous().reshape(outer, columns, run)


class naming:  # called as a function: a context manager made of one would take 2 us
    """A context in which errors, in the middle of a forward pass, get the name of the module or tensor."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, KlcalError):
            raise type(error)(f"{self.name}: {error.what}", error.hint) from None
        if isinstance(error, Exception):
            error.add_note(f"klcal was recording {self.name!r}")
