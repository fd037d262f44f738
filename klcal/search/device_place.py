"""The memory of a CUDA device for structures of C: arrays to which they point, and the structures themselves."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from klcal.search.structures import Place

if TYPE_CHECKING:
    import torch

__all__ = ["addresses_of", "place_on", "put"]

Array = npt.NDArray[Any]


class _Place:
    """The memory of a device: implements ``klcal.search.structures.Place``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, array: Array) -> tuple[int, Any]:
        """The address of a copy of the array there, and the copy, which the caller keeps alive."""
        import torch

        there = torch.from_numpy(np.array(array, order="C")).to(self.name)
        return there.data_ptr(), there


@cache
def place_on(device: str) -> Place:
    """The memory of a device, by its name."""
    return _Place(device)


def put(structures: Mapping[str, ctypes.Structure], device: torch.device) -> tuple[dict[str, int], Any]:
    """Copies structures to a device, at once, without waiting for it.

    Returns:
        Their addresses by name, and the owner of the memory.
    """
    import torch

    whole = torch.frombuffer(bytearray(b"".join(map(bytes, structures.values()))), dtype=torch.uint8)
    there = whole.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else whole
    addresses, at = {}, there.data_ptr()
    for name, each in structures.items():
        addresses[name] = at
        at += ctypes.sizeof(each)
    return addresses, there


def addresses_of(*tensors: torch.Tensor) -> list[int]:
    """The addresses of tensors in the memory of their device."""
    return [each.data_ptr() for each in tensors]
