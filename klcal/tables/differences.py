"""A comparison of two tensors as plain Python values."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from klcal.tables.status import FAILURES, Cause, Status

__all__ = ["Difference"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two tensors, P and Q. A number that does not apply, or is infinite, is null in the formats for machines.

    Divergences are on common bins (``klcal.divergence.samples.common_bins``), in the unit of the base. They are lower
    bounds if bins with values of one side only were merged, and ``note`` then says so. If Q is the copy of P that a
    table quantizes, ``kl`` is on the cells of the quantizer instead, as in calibration. ``wasserstein`` is in the unit
    of the values. Figures element by element (``cosine``, ``max_abs_diff``, ``mse``, ``sqnr_db``) need equal shapes,
    and a cosine two sides that are not all zeros; ``note`` says why one is missing. Two equal tensors of zeros have the
    status ``zero``.
    """

    name: str
    source: str = ""  # of P
    other_source: str | None = None  # of Q
    dtype: str | None = None
    other_dtype: str | None = None
    shape: tuple[int, ...] | None = None
    other_shape: tuple[int, ...] | None = None
    status: Status
    reason: str | None = None
    cause: Cause | None = None  # of a failure
    note: str | None = None  # about the figures, or why there are "no " figures of a kind; several are joined by "; "
    numel: int | None = None  # of P
    kl: float | None = None  # D(P‖Q); for a copy made by a table, on the cells of its quantizers
    kl_common: float | None = None  # D(P‖Q) on the common bins: cross_entropy − entropy
    reverse_kl: float | None = None  # D(Q‖P)
    js: float | None = None
    cross_entropy: float | None = None  # H(P, Q)
    entropy: float | None = None  # H(P)
    other_entropy: float | None = None  # H(Q)
    wasserstein: float | None = None
    cosine: float | None = None
    max_abs_diff: float | None = None
    mse: float | None = None
    sqnr_db: float | None = None  # Q as a noisy copy of P

    def __post_init__(self) -> None:
        if self.cause is None and self.status in FAILURES:
            object.__setattr__(self, "cause", "data")

    def to_dict(self) -> dict[str, object]:
        """The fields of the JSON as plain Python values."""
        found: dict[str, object] = import_module("klcal.writers.records").as_dict(self)
        return found

    @property
    def failed(self) -> bool:
        """Whether the tensors should have been compared and were not."""
        return self.status in FAILURES
