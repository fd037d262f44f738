"""Recording: what flows through the modules of a torch model, as sketches; no activation is kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from klcal.errors import UsageError
from klcal.quantizers.granularity import Per, PerChannel, PerTensor, parse_per
from klcal.quantizers.layout import layout
from klcal.sketches.accumulator import Accumulator
from klcal.sketches.energy import SUFFIX, Energy
from klcal.sketches.patterns import Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import Units, array_chunks, is_tensor, sketch_of_units, stored_array

if TYPE_CHECKING:
    import torch

    from klcal.sketches.values import Held

__all__ = ["CHANNELS", "Recording", "record"]

CHANNELS = Resolution(mantissa_bits=5, least_bits=0, few=250)
"""Of recorded channels: 2 KB for each, so that 200 layers of 4,096 fit into 2 GB. The two octaves below a channel's
largest magnitude have buckets 3 % wide, each further one twice as wide."""

NEAREST = 3  # names shown where a glob matches none

Of = Literal["inputs", "outputs"]


def record(
    model: torch.nn.Module,
    *modules: str | type,
    of: Of = "inputs",
    per: str | Per = "tensor",
    importance: bool = False,
) -> Recording:
    """Records what flows through modules while the ``with`` block runs.

        with klcal.record(model, "*.fc1", torch.nn.Conv2d) as recorded:
            for batch in batches:
                model(batch)
        recorded.save("acts.safetensors")

    Tensors are counted where they lie, and nothing waits for a device but reading the answer; channels and importance
    are counted on the CPU, which has to wait for one. Memory does not grow with the number of batches. A sketch does
    not depend on how values came in batches, or on which thread brought them.

    Args:
        model: its modules are hooked, and unhooked at the end of the block, whatever happens.
        modules: globs of their names (``model.named_modules()``), or their types; all that have weights and no modules
            of their own, if none is given.
        of: "inputs" or "outputs" of the modules. A tensor is called ``MODULE.input`` or ``MODULE.output``; of several,
            ``MODULE.input.1``, ``MODULE.input.mask`` by their place or keyword. What is no float tensor is left out.
        per: "tensor"; or "channel:AXIS", of which the sketch is coarser: 2 KB for each (``CHANNELS``).
        importance: whether to keep the mean square of each input column of linear layers and convolutions too, for
            ``klcal calibrate --importance``: 512 bytes each, 0.1 % off at most.

    Raises:
        UsageError: no module has such a name or type; there are no such units.
    """
    return Recording(_hooked(model, modules), of, parse_per(per), importance=importance)


class Recording:
    """What was recorded: sketches by name.

    >>> import numpy as np
    >>> recorded = Recording({})
    >>> recorded.add("x", np.float32([1, 2])); recorded.add("x", np.float32([2]))
    >>> recorded.sketches["x"].numel.tolist()
    [3]
    """

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module],
        of: Of = "inputs",
        per: Per = PerTensor(),  # noqa: B008 - it is frozen
        *,
        importance: bool = False,
    ) -> None:
        if of not in ("inputs", "outputs"):
            raise UsageError(f"of {of!r}", 'record "inputs" or "outputs"')
        if not isinstance(per, PerTensor | PerChannel):
            raise UsageError(f"activations are recorded per tensor or channel, not per {per}", 'use "channel:1"')
        self._modules, self._of, self._per, self._weighs = modules, of, per, importance
        self._found: dict[str, Accumulator | Sketch] = {}
        self._dtypes: dict[str, str] = {}
        self._energies: dict[str, Energy] = {}
        self._handles: list[Any] = []
        self._lock = Lock()  # replicas of a model run in threads

    # --- hooks

    def __enter__(self) -> Self:
        if self._handles:
            raise UsageError("it is recording already", "make another one: klcal.record(...)")
        try:
            for name, module in self._modules.items():
                self._hook(f"{name}." if name else "", module)
        except BaseException:
            self._unhook()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._unhook()
        if kind is None and not self._found and not self._energies:
            what = "nothing was recorded: no module was called with float tensors, or by a copy that torch has compiled"
            warnings.warn(what, stacklevel=2)

    def _hook(self, front: str, module: torch.nn.Module) -> None:
        if self._of == "outputs":
            self._handles.append(module.register_forward_hook(self._output_hook(front)))
        if self._of == "inputs" or self._weighs:
            hook = self._input_hook(front)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _input_hook(self, front: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._of == "inputs":
                for key, tensor in _named(args, kwargs):
                    self.add(f"{front}input{key}", tensor)
            met = args[0] if args else kwargs.get("input")
            if self._weighs and _is_float(met):
                self._add_energy(f"{front}weight", module, met)

        return hook

    def _output_hook(self, front: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: object) -> None:
            several = output if isinstance(output, tuple | list) else (output,)
            keyed = output if isinstance(output, Mapping) else {}
            for key, tensor in _named(() if keyed else several, keyed):
                self.add(f"{front}output{key}", tensor)

        return hook

    # --- counting

    def add(self, name: str, values: Held) -> None:
        """Counts values more under a name: what another framework gave, as ``onnxruntime``'s outputs.

        Values of several dtypes under one name are float32, as which all are counted.

        Raises:
            UsageError: they are not floating point, or have not the channels.
        """
        dtype = _dtype(values)
        with self._lock:
            if self._dtypes.setdefault(name, dtype) != dtype:
                self._dtypes[name] = "float32"
            if self._per == PerTensor():
                held = self._found.setdefault(name, Accumulator())
                assert isinstance(held, Accumulator)
                held.add(values)
                return
            found, before = _by_channel(values, self._per), self._found.get(name)
            assert not isinstance(before, Accumulator)
            self._found[name] = found if before is None else before + found

    def _add_energy(self, name: str, module: torch.nn.Module, tensor: torch.Tensor) -> None:
        """The squares of what meets each column of a module's weight."""
        columns = _columns(module, tensor)
        if columns is None:
            return
        rows = columns.detach().float().cpu().numpy()
        with self._lock:
            self._energies.setdefault(name, Energy(rows.shape[1])).add(rows)

    # --- the answer

    @property
    def sketches(self) -> dict[str, Sketch]:
        """By name, what was counted so far; and the importance of columns, as ``WEIGHT.importance``."""
        with self._lock:
            found = {
                name: held.sketch() if isinstance(held, Accumulator) else held for name, held in self._found.items()
            }
            return found | {f"{name}{SUFFIX}": energy.sketch() for name, energy in self._energies.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a sketch file: what ``klcal calibrate`` takes for tensors, ``klcal merge`` adds to others.

        Raises:
            UsageError: there can be no such file.
            OutputError: it could not be written after all.
        """
        import_module("klcal.files").save_sketches(path, self.sketches, self._dtypes)

    def __repr__(self) -> str:
        return f"<Recording of {len(self._found)} tensors>"


# --- modules


def _hooked(model: torch.nn.Module, wanted: tuple[str | type, ...]) -> dict[str, torch.nn.Module]:
    """The modules that are wanted, by name; a module that has several names by the first."""
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


def _named(args: tuple[Any, ...] | list[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The floating-point tensors of a call, with what follows their name: nothing for the only one."""
    places = {str(place): value for place, value in enumerate(args)} | {str(key): kwargs[key] for key in kwargs}
    tensors = {key: value for key, value in places.items() if _is_float(value)}
    alone = len(places) == 1
    yield from (("" if alone else f".{key}", value) for key, value in tensors.items())


def _is_float(value: object) -> bool:
    return is_tensor(value) and value.is_floating_point()


def _dtype(values: Held) -> str:
    if is_tensor(values):
        return str(values.dtype).removeprefix("torch.")
    return stored_array(values)[1]


def _by_channel(values: Held, per: Per) -> Sketch:
    array, dtype = stored_array(values)
    place = layout(per, array.shape)
    if place is None:
        raise UsageError(f"values of the shape {list(array.shape)} have no channels", 'record per "tensor"')
    return sketch_of_units(Units(array_chunks(array, dtype, "C"), dtype, place, None), CHANNELS)


def _columns(module: torch.nn.Module, tensor: torch.Tensor) -> torch.Tensor | None:
    """The input of a linear layer or a convolution as (rows, columns); None for any other module."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return tensor.reshape(-1, tensor.shape[-1])
    convolutions = nn.Conv1d, nn.Conv2d, nn.Conv3d
    if isinstance(module, convolutions) and not module.transposed:
        axis = -len(module.kernel_size) - 1
        return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])
    return None
