"""The names of tensors in nested dictionaries, lists and tuples: `model.layer.weight`.

A checkpoint can contain itself, or contain one list 2**60 times. So every container is entered once, under the first
path that leads to it, and without recursion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from klcal.errors import InputError
from klcal.readers.pt.arrays import Array, array_of
from klcal.readers.pt.values import Bytes, Foreign, Global, Opaque, StateDict, Tensor

__all__ = ["Named", "named_values"]

MAX_DEPTH = 1000  # containers inside each other; real checkpoints have about five
MAX_KEY_BYTES = 1000  # shown of a key of bytes
MAX_NAME_CHARACTERS = 1 << 24  # of all names together: 160 for each of 100,000 tensors

MODEL_KEYS = frozenset({"ema", "model", "model_ema", "model_state", "model_state_dict", "module", "network"})
MODEL_KEYS |= {"state_dict", "state_dict_ema"}
TRAINING_KEYS = ("lr_scheduler", "optim", "rng", "scaler", "scheduler")  # and keys that begin with these


@dataclass(frozen=True)
class Named:
    """A tensor, an array or a foreign object, where it stands."""

    name: str
    value: Tensor | Array | Foreign
    training: bool  # belongs to an optimizer or the like, beside a model


class _Names:
    """The walk's memory: containers entered, names given, characters left."""

    def __init__(self) -> None:
        self.entered: set[int] = set()
        self.taken: set[str] = set()
        self.copies: dict[str, int] = {}
        self.left = MAX_NAME_CHARACTERS

    def join(self, path: str, key: Any) -> str:
        words = [word for each in (key if type(key) is tuple else (key,)) for word in _words(each)]
        self.left -= len(path) + sum(map(len, words)) + 1
        if self.left < 0:  # known before they are put together: a few words can make gigabytes
            raise InputError(f"its names have more than {MAX_NAME_CHARACTERS:,} characters", "use shorter ones")
        text = f"({', '.join(words)})" if type(key) is tuple else ":".join(words)
        return f"{path}.{text}" if path else text

    def distinct(self, name: str) -> str:
        """The name, or the first of ``name#2``, ``name#3``, … that no other tensor has."""
        unique = name
        while unique in self.taken:
            self.copies[name] = self.copies.get(name, 1) + 1
            unique = f"{name}#{self.copies[name]}"
        self.taken.add(unique)
        return unique


def _words(key: Any) -> list[str]:
    """The name of a key, in pieces; only short ones are copied."""
    if type(key) is Bytes:
        return [repr(key.text[:MAX_KEY_BYTES].encode("latin-1", "replace"))]
    if type(key) is Opaque:
        return [str(arg) for arg in key.args]
    return [key.name if isinstance(key, Global | Foreign) else str(key)]


def named_values(root: Any, name: str) -> list[Named]:
    """All tensors and arrays inside a value, the model's before those of its training, then the foreign objects.

    Two tensors may come to one name (``{"a.b": x, "a": {"b": y}}``): the second is called ``a.b#2``.

    Args:
        root: A value of ``machine``.
        name: The tensor's name where the root itself is one.
    """
    root = _seen(root)
    if isinstance(root, Tensor | Array | Foreign):
        return [Named(name, root, False)]
    names = _Names()
    names.entered.add(id(root))
    found = [(path, value, part > 0) for part, held in enumerate(_parts(root)) for path, value in _walk(held, names)]
    found.sort(key=lambda each: isinstance(each[1], Foreign))  # they take no names from tensors
    return [Named(names.distinct(path), value, training) for path, value, training in found]


def _parts(root: Any) -> tuple[Any, Any]:
    """The parts of a checkpoint: the model, and the state of its training."""
    if not isinstance(root, dict):
        return root, {}
    if _is_optimizer(root):
        return {}, root
    has_model = any(key in MODEL_KEYS and isinstance(root[key], dict) for key in root)
    training = {key: value for key, value in root.items() if _is_optimizer(value) or (has_model and _is_training(key))}
    return {key: value for key, value in root.items() if key not in training}, training


def _is_optimizer(value: Any) -> bool:
    """Whether a value has the form of ``optimizer.state_dict()``, under any name."""
    if not isinstance(value, dict) or not {"state", "param_groups"} <= value.keys():
        return False
    return isinstance(value["state"], dict) and isinstance(value["param_groups"], (list, tuple))


def _is_training(key: Any) -> bool:
    return type(key) is str and key.startswith(TRAINING_KEYS)


def _walk(root: Any, names: _Names) -> Iterator[tuple[str, Tensor | Array | Foreign]]:
    open_containers = [_children("", root, names)]
    while open_containers:
        path, value = next(open_containers[-1], ("", None))
        if value is None:
            open_containers.pop()
        elif isinstance(value, Tensor | Array | Foreign):
            yield path, value
        elif id(value) not in names.entered:
            names.entered.add(id(value))
            if len(open_containers) == MAX_DEPTH:
                raise InputError(f"it is nested more than {MAX_DEPTH:,} deep", "save a flat state_dict")
            open_containers.append(_children(path, value, names))


def _children(path: str, value: Any, names: _Names) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        items: Any = value.items()
    else:
        items = enumerate(value) if isinstance(value, (list, tuple)) else ()
    if type(value) is StateDict:
        objects = ((key, child) for key, child in value.attributes.items() if type(child) is Foreign)
        yield from ((names.join(path, key), child) for key, child in objects)
    for key, child in items:
        if type(key) is Foreign:
            yield names.join(path, key), key
        if isinstance(child, (Tensor, Foreign, dict, list, tuple)):
            yield names.join(path, key), _seen(child)


def _seen(value: Any) -> Any:
    """The value; an array where a foreign object is one."""
    return (array_of(value) or value) if type(value) is Foreign else value
