"""Arguments and results of the information theory: NumPy arrays or torch tensors in, the same kind out.

Each formula is written once, on float64 arrays. A tensor is copied to the CPU for it; the result is a float64 tensor
on the device of the first tensor, without a gradient. torch is not imported here: a caller with a tensor has done so.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError

__all__ = ["Floats", "NotADistribution", "Values", "as_arrays", "distributions", "nats_per_unit", "row_name"]

Floats: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = Any  # npt.ArrayLike or torch.Tensor; of a result: an array, a NumPy scalar, or a tensor

SUM_TOLERANCE = 1e-9  # allowed distance of a sum from 1: float64 rounding of 10⁶ terms passes, float32 does not


class NotADistribution(UsageError):
    """A row has a negative or nonfinite number, or does not sum to 1."""


def as_arrays(**named: Values) -> tuple[list[Floats], Callable[[Any], Values]]:
    """The values as float64 arrays in C order, and a function that turns a result into the same kind.

    Raises:
        UsageError: something is not an array of real numbers.

    >>> (x,), like = as_arrays(x=[1, 2])
    >>> x, like(x + 1)
    (array([1., 2.]), array([2., 3.]))
    """
    torch: Any = sys.modules.get("torch")
    tensor_type: Any = torch.Tensor if torch is not None else ()
    arrays = [_as_array(name, each, tensor_type) for name, each in named.items()]
    devices = [each.device for each in named.values() if isinstance(each, tensor_type)]
    if not devices:
        return arrays, lambda result: result
    device = devices[0]
    return arrays, lambda result: torch.as_tensor(result, dtype=torch.float64, device=device)


def _as_array(name: str, values: Values, tensor_type: Any) -> Floats:
    try:
        if isinstance(values, tensor_type) and not values.is_complex():
            values = values.detach().cpu().double().numpy()
        array: npt.NDArray[Any] = np.asarray(values)
        if array.dtype.kind in "fiubV":  # V: a dtype of ml_dtypes, or something that is not a number
            return np.asarray(array, np.float64, order="C")
    except (TypeError, ValueError, RuntimeError):  # ragged lists; structures; tensors that are sparse or meta
        pass
    raise UsageError(f"{name} is not an array of real numbers", "hand in a NumPy array, a list or a dense torch tensor")


def row_name(name: str, row: tuple[int, ...]) -> str:
    """How an error names one row of a batch.

    >>> row_name("p", ()), row_name("p", (3,)), row_name("p", (3, 0))
    ('p', 'row 3 of p', 'row (3, 0) of p')
    """
    return f"row {row[0] if len(row) == 1 else row} of {name}" if row else name


# --- checks of distributions


def distributions(**named: Values) -> tuple[list[Floats], Callable[[Floats], Values]]:
    """Probability distributions as checked float64 arrays, and a function that turns a result into the same kind.

    The last axis runs over outcomes; leading axes are batches, and broadcast against each other.

    Raises:
        NotADistribution: a row is not a distribution; the message names the first bad row.
        UsageError: the shapes do not fit, or something is not an array of real numbers.
    """
    arrays, like = as_arrays(**named)
    shapes = " and ".join(f"{name} {array.shape}" for name, array in zip(named, arrays, strict=True))
    if any(array.ndim == 0 or array.shape[-1] == 0 for array in arrays):
        raise UsageError(f"a distribution has no outcomes: shapes are {shapes}", "the last axis runs over outcomes")
    if len({array.shape[-1] for array in arrays}) > 1:
        raise UsageError(f"the numbers of outcomes differ: shapes are {shapes}", "use common bins")
    try:
        np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        raise UsageError(f"the shapes {shapes} do not broadcast", "leading axes are batches") from None
    for name, array in zip(named, arrays, strict=True):
        _check(name, array)
    return arrays, like


def _check(name: str, rows: Floats) -> None:
    """Raises NotADistribution unless every row, on the last axis, is a distribution."""
    outside = ~((rows >= 0) & (rows < np.inf))
    with np.errstate(invalid="ignore"):
        totals = np.asarray(rows.sum(axis=-1))
        wrong = outside.any(axis=-1) | ~(np.abs(totals - 1) <= SUM_TOLERANCE)
    if not wrong.any():
        return
    row = tuple(np.argwhere(wrong)[0].tolist())
    if outside[row].any():
        at = int(outside[row].argmax())
        found, hint = f"holds {rows[row][at]:g} at {at}", "probabilities are finite and not negative"
    else:
        found, hint = f"sums to {float(totals[row])!r}", "nothing is normalised here: divide by the sum, in float64"
    raise NotADistribution(f"{row_name(name, row)} is not a probability distribution: it {found}", hint)


# --- units


def nats_per_unit(base: float) -> float:
    """The number of nats in one unit of information: ln(base).

    >>> round(nats_per_unit(2), 6)  # a bit
    0.693147

    Raises:
        UsageError: the base is not a number above 1.
    """
    try:
        measures = 1 < base < math.inf
    except TypeError:
        measures = False
    if not measures:
        raise UsageError(f"a logarithm to base {base!r} measures nothing", "use e for nats, 2 for bits, 10 for bans")
    return math.log(base)
