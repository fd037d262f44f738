"""The search from a finished sketch, against onnxruntime's from a finished histogram."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.side_by_side import in_turns, one_core, ratio, report, seconds
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Spans
from klcal.search.methods import parse
from klcal.sketches.distribution import Distribution
from klcal.sketches.values import sketch

SIZE = 10**6
REPEATS = 10  # searches in a row, as those of a model's tensors are
BINS, LEVELS = 2048, 128  # of onnxruntime, at the literature's resolution


def run() -> None:
    """The same 10⁶ Laplace values for both."""
    values = np.random.default_rng(1).laplace(size=SIZE).astype(np.float32)
    found = sketch(values)
    candidates = {
        f"klcal {method} {dtype} {scheme}": _klcal(found, method, dtype, scheme, values)
        for method in ("kl", "mse", "kl-classic")
        for dtype, scheme in (("int8", "symmetric"), ("uint8", "affine"), ("int4", "symmetric"), ("uint4", "affine"))
    }
    peer = "onnxruntime get_entropy_threshold"
    if onnxruntime := _onnxruntime(values):
        candidates[peer] = onnxruntime
    with one_core():
        times = in_turns(candidates, rounds=7)
    for name in times:
        if name != peer:
            times[name] = [second / REPEATS for second in times[name]]
    rows = [(name, seconds(values)) for name, values in times.items()]
    if onnxruntime:
        times_faster = ratio(times, peer, "klcal kl int8 symmetric")
        rows.append(("onnxruntime / klcal kl int8 symmetric (at least 100)", f"{times_faster:.0f}"))
    affine = ratio(times, "klcal kl uint8 affine", "klcal kl int8 symmetric")
    rows.append(("affine / symmetric (at most 10)", f"{affine:.1f}"))
    report(f"The search, {SIZE:,} Laplace values, from a finished sketch or histogram, one core", rows)


def _klcal(found, method: str, dtype: str, scheme: str, values: np.ndarray) -> Callable[[], object]:
    chosen, grid = parse(method), Scheme.parse(dtype, scheme)

    def search() -> None:
        for _ in range(REPEATS):
            distribution = Distribution.of(found)  # making it is a part of the search
            scale, below = chosen(distribution, grid, Spans.of(distribution, None))
        assert 2 < (grid.size - 1 - below[0]) * scale[0] <= 1.01 * np.abs(values).max()

    return search


def _onnxruntime(values: np.ndarray) -> Callable[[], object] | None:
    try:
        from onnxruntime.quantization.calibrate import HistogramCollector
    except ImportError:
        print("onnxruntime is not installed: pip install --group bench")
        return None
    options = {"symmetric": False, "num_bins": BINS, "num_quantized_bins": LEVELS, "percentile": 99.999}
    collector = HistogramCollector(method="entropy", scenario="same", **options)
    greatest = np.float32(np.abs(values).max())
    counts, edges = np.histogram(values, BINS, (-greatest, greatest))
    histogram = (counts, edges, values.min(), values.max(), greatest)

    def search() -> None:
        low, high = collector.get_entropy_threshold(histogram, LEVELS)
        assert low < 0 < high

    return search
