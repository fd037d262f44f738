"""The sketch of much data on one core and on two, against NumPy's own pass and a loop in C."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import in_turns, one_core, ratio, report, seconds
from klcal.pipeline.calibrate import Request, calibrate_files
from klcal.quantizers.scheme import Scheme
from klcal.readers import find
from klcal.search.methods import MinMax
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch, sketch_parts

VALUES = 1 << 26  # 256 MiB of float32
LARGE_VALUES = 1 << 28  # 1 GiB
C_LOOP = """
#include <stdint.h>
#include <stddef.h>
void count(const uint32_t *bits, size_t n, int64_t *table) {
    for (size_t i = 0; i < n; i++) table[bits[i] >> 13]++;
}
"""


def run() -> None:
    """Files are in the page cache: they were written a moment ago."""
    with tempfile.TemporaryDirectory() as folder:
        values = np.random.default_rng(0).standard_normal(VALUES, dtype=np.float32)
        np.save(f"{folder}/values.npy", values)
        _one_core(folder, values)
        large = np.lib.format.open_memmap(f"{folder}/large.npy", "w+", np.float32, (LARGE_VALUES,))
        for start in range(0, LARGE_VALUES, VALUES):
            large[start : start + VALUES] = values
        large.flush()
        del large
        _two_cores(folder)


def _one_core(folder: str, values: np.ndarray) -> None:
    (described,) = find([f"{folder}/values.npy"]).sources[0].describe()
    whole = sketch(values)
    bfloat16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    relu = np.maximum(values, 0)

    def from_file() -> None:
        assert sketch_parts(described.parts, described.dtype) == whole

    def of_bfloat16() -> None:
        assert count_patterns([bfloat16], "bfloat16").numel[0] == VALUES

    from klcal.sketches.counting import count as count_patterns

    candidates: dict[str, Callable[[], object]] = {
        "numpy min() + max()": lambda: (values.min(), values.max()),
        "sketch of an array": lambda: sketch(values),
        "sketch of a file": from_file,
        "sketch of an array, half of it zeros": lambda: sketch(relu),
        "sketch of bfloat16": of_bfloat16,
    }
    if c_loop := _c_loop(folder, values, whole):
        candidates["a loop in C that only counts"] = c_loop
    with one_core():
        times = in_turns(candidates, rounds=5)
    per_value = {name: [second / VALUES * 1e9 for second in seconds] for name, seconds in times.items()}
    rows = [(name, f"{min(nanoseconds):.2f} ns") for name, nanoseconds in per_value.items()]
    pass_ = "numpy min() + max()"
    rows += [(f"{name} / {pass_}", f"{ratio(times, name, pass_):.1f}") for name in candidates if name != pass_]
    report("Counting on one core, per value (at most 9 times min + max, torch not needed)", rows)


def _c_loop(folder: str, values: np.ndarray, whole: Sketch) -> Callable[[], object] | None:
    """The physical limit: one pass, one addition per value; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    Path(folder, "loop.c").write_text(C_LOOP)
    library = f"{folder}/loop.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, f"{folder}/loop.c"], check=True)
    count = ctypes.CDLL(library).count
    table = np.zeros(1 << 19, np.int64)

    def loop() -> None:
        table[:] = 0
        count(ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.size), ctypes.c_void_p(table.ctypes.data))
        assert np.array_equal(table[whole.keys >> 13], whole.counts)

    return loop


def _two_cores(folder: str) -> None:
    request = Request(MinMax(), Scheme.parse("int8"))

    def with_jobs(jobs: int) -> Callable[[], object]:
        def calibrate() -> None:
            table = calibrate_files([f"{folder}/large.npy"], request, jobs=jobs)
            assert [(row.status, row.numel) for row in table.rows] == [("ok", LARGE_VALUES)]

        return calibrate

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    times = in_turns({"1 process": with_jobs(1), "2 processes": with_jobs(2)}, rounds=5)
    report(
        f"1 GiB of float32 from a file, by minmax ({cores} cores)",
        [
            *((name, seconds(values)) for name, values in times.items()),
            ("two are faster by (at least 1.5)", f"{ratio(times, '1 process', '2 processes'):.2f}"),
        ],
    )
