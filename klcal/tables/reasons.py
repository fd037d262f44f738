"""The reasons why a tensor has no scale, in words, with the next step."""

from __future__ import annotations

from klcal.quantizers.scale_formats import RELATIVE

__all__ = ["nonfinite_reason", "overflow_reason", "underflow_reason", "zero_reason"]

FLOAT32 = "float32, in which values are counted"


def nonfinite_reason(counts: str, numel: int, has_finite: bool) -> str:
    """The reason of a tensor with NaN or infinite values."""
    if not has_finite:
        return f"no finite value: {counts}; record or save it again"
    return f"{counts} among {numel} values; --nonfinite ignore calibrates the finite ones"


def zero_reason(has_nonfinite: bool) -> str:
    """The reason of a tensor whose values are all zero."""
    return f"every {'finite value' if has_nonfinite else 'value'} is 0"


def underflow_reason(scale: float | None, scale_format: str) -> str:
    """The reason of a tensor whose largest scale is too small for its format; None if its values are too small."""
    if scale is None:
        return f"every value is 0 as {FLOAT32}; multiply the tensor by a power of two"
    return f"{scale_format} has no scale as small as {scale:.3g}; {_advice('multiply', scale_format)}"


def overflow_reason(values: int, numel: int, scale: float, scale_format: str) -> str:
    """The reason of a tensor with values beyond float32, or whose smallest scale is too large for its format."""
    if values:
        return f"{values} of {numel} values are beyond {FLOAT32}; divide the tensor by a power of two"
    return f"{scale_format} has no scale as large as {scale:.3g}; {_advice('divide', scale_format)}"


def _advice(verb: str, scale_format: str) -> str:
    powers, wider = f"{verb} the tensor by a power of two", "use --scale-format float32"
    if scale_format in RELATIVE:
        return wider  # multiplying the tensor multiplies its global scale too
    return powers if scale_format == "float32" else f"{powers}, or {wider}"
