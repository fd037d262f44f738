"""A published example of calibration, by its own name and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klcal.calibration.values import calibrate
from klcal.errors import InputError
from klcal.search.methods import KL
from klcal.sketches.values import sketch

if TYPE_CHECKING:
    from klcal.sketches.values import Values

__all__ = ["kl_divergence_calibration"]


def kl_divergence_calibration(
    tensor: Values, num_bins: int = 2048, min_val: float | None = None, max_val: float | None = None
) -> tuple[float, int]:
    """The scale and the zero point of affine uint8 quantization by `kl`.

    It has the name and the arguments of a published example, and computes D(P‖Q) correctly.

    Args:
        tensor: any shape, any floating dtype, NumPy or torch.
        num_bins: the number of sub-bins over the kept range; 2048 are 8 for each level.
        min_val: the lowest value that a candidate may keep, at most 0; by default the minimum of the tensor, or 0.
        max_val: the highest value that a candidate may keep, at least 0; by default the maximum of the tensor, or 0.

    Raises:
        UsageError: the bounds do not contain zero, or ``num_bins`` is out of range.
        InputError: the tensor has no scale: it is empty, all zeros, or not finite.

    >>> import numpy as np
    >>> kl_divergence_calibration(np.linspace(-1, 1, 512))  # doctest: +ELLIPSIS
    (0.0078..., 128)
    """
    found = sketch(tensor)
    bounds = None
    if min_val is not None or max_val is not None:
        low = min(float(found.minimum[0]), 0.0) if min_val is None else min_val
        bounds = (low, max(float(found.maximum[0]), 0.0) if max_val is None else max_val)
    row = calibrate(found, method=KL(bins=num_bins), bounds=bounds)
    if row.scale is None or row.zero_point is None:
        raise InputError(f"the tensor has no scale: {row.reason}")
    return row.scale, row.zero_point
