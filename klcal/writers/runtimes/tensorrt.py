"""The calibration cache of TensorRT up to version 10: a line of text for each activation.

A line has the name and the scale, as the eight hexadecimal digits of a float32, most significant digit first. There are
no zero points, and no scales of weights, which TensorRT chooses itself.
"""

from __future__ import annotations

import re

from klcal.tables.rows import Row
from klcal.writers.runtimes.runtime import Runtime, Tensors, scales

__all__ = ["CACHE", "FIRST_LINE"]

FIRST_LINE = "TRT-8601-EntropyCalibration2"  # a version and the calibrator; readers skip it
PARTS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]|: |^\s|\s$")  # ends of lines or names, to some reader


def cache(tensors: Tensors) -> str:
    """The text; it ends with the last line, for a blank one is an error to some readers."""
    lines = (f"{row.name}: {scales(row).astype('>f4').tobytes().hex()}" for row in tensors.activations)
    return "\n".join([FIRST_LINE, *lines]) + "\n"


def _problem(row: Row, _is_weight: bool) -> str | None:
    if PARTS.search(row.name):
        return "a name in this format has no ': ' or line break, and no space at its ends; rename it"
    if row.zero_point:
        return "there are no zero points here; calibrate it to int8, scheme symmetric"
    return None


CACHE = Runtime(
    title="TensorRT",
    write=cache,
    activations=frozenset({"int8"}),
    weights=frozenset(),
    no_weights="it is a weight, and TensorRT chooses their scales itself: exclude it",
    problem=_problem,
    lacking="TensorRT runs layers without a scale in higher precision",
)
