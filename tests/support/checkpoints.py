"""PyTorch files for the tests, and what torch itself makes of them: the oracle of the .pt reader."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from klcal.errors import InputError
from klcal.readers.description import Description
from klcal.readers.pt.file import describe
from klcal.readers.regular import RegularFile
from tests.support.files import check_words
from tests.support.lazy import torch

FOREIGN = "Unsupported global: GLOBAL|Unsupported operand 129"  # NEWOBJ: what we leave alone, torch refuses
BITS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


def saved(value, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def loaded(data: bytes):
    """What torch makes of it, or the exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the many it has
        return error


# --- what is in them


def refusal(file: RegularFile) -> str:
    """Why a file is refused, in words fit to be shown; empty if it is not."""
    try:
        describe(file, "x")
    except InputError as error:
        check_words(str(error))
        return str(error)
    return ""


def values(found: Description) -> np.ndarray:
    """The bit patterns of all values, sorted."""
    pieces = [np.repeat(chunk, part.repeats) for part in found.parts for chunk in part.chunks()]
    flat = np.concatenate(pieces or [np.empty(0, "u1")])
    assert flat.dtype.isnative
    return np.sort(flat.view(f"u{flat.itemsize}"))


def bits(tensor: torch.Tensor) -> np.ndarray:
    if not tensor.numel():  # of sizes that torch cannot copy
        return np.empty(0)
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    flat = flat.view(getattr(torch, BITS[tensor.element_size()]))
    return np.sort(flat.numpy().view(f"u{tensor.element_size()}"))


def tensors(value, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of what torch loaded, by our names."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(child, f"{path}.{key}" if path else str(key))


def comparable(found: Description) -> bool:
    return math.prod(found.shape) <= 1 << 20  # an expanded view of few values can have any size


def check_agreement(file: RegularFile, read=values, torch_may_refuse: str = "nothing") -> bool:
    """What we accept torch loads, with the same tensors under the same names. Whether we accepted.

    ``torch_may_refuse`` is a pattern of what it says where it is stricter.
    """
    try:
        ours = describe(file, "x")
        read_values = {found.name: read(found) for found in ours if found.status == "ok" and comparable(found)}
    except InputError as error:
        check_words(str(error))
        return False
    for found in ours:
        if found.status != "ok":
            check_words(found.reason)
            assert found.parts == ()
    if not ours or any(found.status in ("failed", "unsupported") for found in ours):
        return False  # torch gives all or nothing
    root = loaded(Path(file.path).read_bytes())
    if isinstance(root, Exception):
        assert re.search(f"{torch_may_refuse}|{FOREIGN}", str(root)), root
        return False
    theirs = dict(tensors(root, "x" if isinstance(root, torch.Tensor) else ""))
    names = [name for found in ours for name in (found.name, *found.aliases)]
    assert sorted(names) == sorted(theirs)
    for found in ours:
        for each in (found.name, *found.aliases):
            assert found.dtype == str(theirs[each].dtype).removeprefix("torch.")
            assert found.shape == tuple(theirs[each].shape)
            if found.name in read_values:
                assert found.dtype.startswith(("float", "bfloat"))
                np.testing.assert_array_equal(read_values[found.name], bits(theirs[each]))
    return True
