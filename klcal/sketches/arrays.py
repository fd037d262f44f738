"""Arrays and torch tensors in memory, as flat chunks in storage form. None is copied as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.rounding import is_tensor
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.numpy_counting import BLOCK

if TYPE_CHECKING:
    import torch

    Held: TypeAlias = npt.ArrayLike | torch.Tensor

__all__ = ["array_chunks", "checked_tensor", "stored_array"]


def stored_array(values: Held) -> tuple[npt.NDArray[Any], str]:
    """Values that Python holds, as an array in the memory of the CPU, and their dtype.

    Raises:
        UsageError: they are not an array, or not floating point.
    """
    if is_tensor(values):
        return _tensor_array(values)
    if isinstance(values, np.ma.MaskedArray):
        raise UsageError("masked arrays are not calibrated", "hand in values.compressed()")
    try:
        array: npt.NDArray[Any] = np.asarray(values)
    except ValueError:
        raise UsageError("the values are no array: their lengths differ", "hand in an array") from None
    return array, _float_dtype(array.dtype.name)


def checked_tensor(tensor: torch.Tensor) -> str:
    """The dtype of a tensor, one of ``FLOAT_DTYPES``.

    Raises:
        UsageError: it is not floating point, or it is sparse or a meta tensor.
    """
    return _float_dtype(str(_dense(tensor).dtype).removeprefix("torch."))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if str(tensor.layout) != "torch.strided" or tensor.is_meta:
        what = "a meta tensor, without values" if tensor.is_meta else f"of the layout {tensor.layout}"
        raise UsageError(f"the tensor is {what}", "hand in a dense one")
    return tensor


def _tensor_array(tensor: torch.Tensor) -> tuple[npt.NDArray[Any], str]:
    """A torch tensor as an array: bfloat16 and float8 as their bit patterns, which NumPy can hold."""
    import torch

    dtype = checked_tensor(tensor)
    unsigned = {1: torch.uint8, 2: torch.uint16}
    plain = tensor.detach().cpu().resolve_neg()
    native = dtype in ("float64", "float32", "float16")
    return (plain if native else plain.view(unsigned[plain.element_size()])).numpy(), dtype


def _float_dtype(name: str) -> str:
    if name not in FLOAT_DTYPES:
        raise UsageError(f"{name} values are not calibrated", f"hand in one of {', '.join(FLOAT_DTYPES)}")
    return name


def array_chunks(array: npt.NDArray[Any], dtype: str, order: Literal["C", "K"]) -> Iterable[npt.NDArray[Any]]:
    """The values of an array as flat arrays in storage form and native byte order.

    A contiguous array is one view of its memory, in a list. Any other one is copied in blocks of at most ``BLOCK``
    values, never as a whole: a block is valid until the next one is taken.

    Args:
        array: of any strides and byte order.
        dtype: of its values.
        order: "C", or "K" for the order in which they lie in memory, which is faster.
    """
    storage = np.dtype(FLOAT_DTYPES[dtype])
    if array.dtype == storage and (array.flags.c_contiguous or (order == "K" and array.flags.f_contiguous)):
        return [array.ravel(order="K")]  # no copy
    if array.dtype.name != storage.name:  # a dtype of ml_dtypes: only its bit patterns are used
        return [array.ravel(order=order).view(storage)]
    blocks: Any = np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        order=order,
        op_dtypes=[storage],
        casting="equiv",
        buffersize=BLOCK,
    )
    return cast("Iterable[npt.NDArray[Any]]", blocks)
