"""Recording: what flows through the modules of a torch model, as sketches; no activation is kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from threading import Lock, get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from klcal.errors import UsageError
from klcal.kernels.threads import at_most_threads, cores
from klcal.quantizers.granularity import Per, PerChannel, PerTensor, parse_per
from klcal.quantizers.layout import layout
from klcal.quantizers.rounding import is_tensor
from klcal.sketches.accumulator import Accumulator
from klcal.sketches.arrays import array_chunks, stored_array
from klcal.sketches.energy import SUFFIX, Energy, energy_sketch
from klcal.sketches.modules import columns_of, is_float, modules_of, naming, tensors_in
from klcal.sketches.patterns import Resolution
from klcal.sketches.processes import Counts, summed
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import Units, sketch, sketch_of_units

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from klcal.sketches.arrays import Held

__all__ = ["CHANNELS", "Recording", "record"]

CHANNELS = Resolution(mantissa_bits=5, least_bits=0, few=250)
"""Of recorded channels: 2 KB for each, so that 200 layers of 4,096 fit into 2 GB. The two octaves below a channel's
largest magnitude have buckets 3 % wide, each further one twice as wide."""

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

    Tensors are counted where they lie. Only reading the answer waits for a device, save that channels are counted on
    the CPU, which has to wait for their values. Memory does not grow with the number of batches. A sketch depends
    neither on how values came in batches nor on the thread that brought them.

    Args:
        model: its modules are hooked, and unhooked at the end of the block, whatever happens.
        modules: globs of their names (``model.named_modules()``), or their types; all that have weights and no modules
            of their own, if none is given.
        of: "inputs" or "outputs" of the modules. A tensor is called ``MODULE.input`` or ``MODULE.output``; of several,
            ``MODULE.input.1``, ``MODULE.input.mask``, ``MODULE.output.1.0`` by their places and keys in tuples, lists,
            mappings and dataclasses. What is no float tensor is left out.
        per: "tensor"; or "channel:AXIS", of which the sketch is coarser: 2 KB for each (``CHANNELS``). Its counting
            takes a fifth of a forward pass on two cores at batch 8 (docs/performance.md).
        importance: whether to keep the mean square of each input column of linear layers and convolutions too, for
            ``klcal calibrate --importance``: 528 bytes each, 0.1 % off at most. Infinities and NaN among the inputs
            make it unusable, and are told then.

    Raises:
        UsageError: no module has such a name or type; there are no such units.
    """
    return Recording(modules_of(model, modules), of, parse_per(per), importance=importance)


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
        self._energies: dict[tuple[str, str, int], Energy] = {}  # by name, device and thread
        self._handles: list[Any] = []
        self._is_sum = False  # of several processes
        self._lock = Lock()  # replicas of a model run in threads

    # --- hooks

    def __enter__(self) -> Self:
        self._check_open()
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
                given = {str(place): value for place, value in enumerate(args)} | kwargs
                for key, tensor in tensors_in(given):
                    self.add(f"{front}input{key}", tensor)
            met = args[0] if args else kwargs.get("input")
            if self._weighs and is_float(met):
                self._add_energy(f"{front}weight", module, met)

        return hook

    def _output_hook(self, front: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: object) -> None:
            for key, tensor in tensors_in(output):
                self.add(f"{front}output{key}", tensor)

        return hook

    # --- counting

    def add(self, name: str, values: Held) -> None:
        """Counts values more under a name: what another framework gave, as ``onnxruntime``'s outputs.

        Values of several dtypes under one name are float32, as which all are counted.

        Raises:
            UsageError: they are not floating point, or have not the channels.
        """
        self._check_open()
        with naming(name):
            dtype = _dtype(values)
            counted = self._counted(values)
        with self._lock, naming(name):
            if self._dtypes.setdefault(name, dtype) != dtype:
                self._dtypes[name] = "float32"
            before = self._found.get(name)
            if self._per == PerTensor():
                held = Accumulator() if before is None else before  # made once: that takes as long as to begin to count
                assert isinstance(held, Accumulator)
                held.add(counted)
                self._found[name] = held
                return
            assert isinstance(counted, Sketch)
            assert not isinstance(before, Accumulator)
            self._found[name] = counted if before is None else before + counted

    def _counted(self, values: Held) -> Held | Sketch:
        """The sketch of a batch, counted outside the lock: replicas in other threads do not wait.

        A tensor on a CUDA device is given back as it is: its ``Accumulator`` counts it there later.
        """
        if self._per == PerTensor() and is_tensor(values) and values.is_cuda:
            return values
        with at_most_threads(cores() // 2):  # the model's own wait for work by going round in circles, for milliseconds
            return sketch(values) if self._per == PerTensor() else _by_channel(values, self._per)

    def _add_energy(self, name: str, module: torch.nn.Module, tensor: torch.Tensor) -> None:
        """Adds the squares of what meets each column of a module's weight, if that has columns.

        Args:
            name: of the weight.
            module: that is called.
            tensor: its input.
        """
        with naming(name):
            columns = columns_of(module, tensor)
            if columns is None:
                return
            key = name, str(columns.device), get_ident()  # each thread has its own: none waits for another
            if key not in self._energies:
                device = columns.device if columns.is_cuda else None
                self._energies[key] = Energy(columns.shape[1], device)
            self._energies[key].add(columns if columns.is_cuda else columns.float().resolve_neg().numpy())

    # --- the answer

    @property
    def sketches(self) -> dict[str, Sketch]:
        """By name, what was counted so far; and the importance of columns, as ``WEIGHT.importance``."""
        with self._lock:
            found = {
                name: held.sketch() if isinstance(held, Accumulator) else held for name, held in self._found.items()
            }
        return found | {f"{name}{SUFFIX}": energy_sketch(each) for name, each in self._sums().items()}

    def _sums(self) -> dict[str, npt.NDArray[np.int64]]:
        """Sums of the squares that meet each weight, (columns, WIDTH) each, of all devices and threads together."""
        sums: dict[str, npt.NDArray[np.int64]] = {}
        for (name, *_), energy in list(self._energies.items()):
            sums[name] = sums.get(name, 0) + energy.numbers()
        return sums

    def all_reduce(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sums the counts of all processes of ``torch.distributed``, as under torchrun: each has those of all then.

        Every process of the group has to call it, once, at the end. The sum is exact: that of one process that recorded
        everything. Sketches travel as they are, some hundred KB a tensor, in a tree.

        Args:
            group: of processes; None for all.

        Raises:
            UsageError: there are no such processes; this recording has been summed before; the sketches of one name do
                not add, as where channels differ.
        """
        self._check_open()
        names = {name for name in self.sketches if not name.endswith(SUFFIX)}
        own = Counts({name: (self._dtypes[name], self.sketches[name]) for name in names}, self._sums())
        total = summed(own, Counts.added, group)
        with self._lock:
            self._is_sum = True
            self._dtypes = {name: dtype for name, (dtype, _) in total.sketches.items()}
            self._found = {name: found for name, (_, found) in total.sketches.items()}
            self._energies = {(name, "", 0): Energy.of(each) for name, each in total.sums.items()}

    def _check_open(self) -> None:
        if self._is_sum:
            raise UsageError("it is the sum of all processes already", "record anew: klcal.record(...)")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a sketch file: what ``klcal calibrate`` takes for tensors, ``klcal merge`` adds to others.

        Raises:
            UsageError: there can be no such file.
            OutputError: it could not be written after all.
        """
        import_module("klcal.api.sketch_files").save_sketches(path, self.sketches, self._dtypes)

    def __repr__(self) -> str:
        return f"<Recording of {len(self._found)} tensors>"


# --- counting


def _dtype(values: Held) -> str:
    if is_tensor(values):
        return str(values.dtype).removeprefix("torch.")
    return stored_array(values)[1]


def _by_channel(values: Held, per: Per) -> Sketch:
    """The sketch of a batch per channel, on the CPU, in the resolution ``CHANNELS``.

    Raises:
        UsageError: the values are not floating point, or have no such axis.
    """
    array, dtype = stored_array(values)
    place = layout(per, array.shape)
    if place is None:
        what = f"values of the shape {list(array.shape)} have no channels"
        raise UsageError(what, 'leave that module out, or record per "tensor"')
    return sketch_of_units(Units(array_chunks(array, dtype, "C"), dtype, place, None), CHANNELS)
