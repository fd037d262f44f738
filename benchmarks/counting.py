"""The sketch of much data by either kernel on one core, and on two, against NumPy's own pass and a loop in C."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import in_turns, one_core, ratio, report, seconds
from klcal.kernels.library import NAMES, VARIABLE, library
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
from klcal.readers import find
from klcal.sketches.counting import count
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import sketch_parts
from klcal.sketches.values import sketch

VALUES = 1 << 26  # 256 MiB of float32
LARGE_VALUES = 1 << 28  # 1 GiB
PASS = "numpy min() + max()"
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
    bits = values.view(np.uint32)
    float64 = values[: VALUES // 2].astype(np.float64)
    data = {
        "an array": (values, "float32"),
        "an array, half of it zeros": (np.maximum(values, 0), "float32"),
        "an array of 40 values": (np.rint(values * 4) * np.float32(0.0137), "float32"),
        "an array of 4,000 values": (np.clip(np.rint(values * 500), -2000, 1999) * np.float32(0.0137), "float32"),
        "an array, nine in ten of it one value": (np.where(bits % 10 > 0, np.float32(0.37), values), "float32"),
        "float64": (float64, "float64"),
        "bfloat16": ((bits >> 16).astype(np.uint16), "bfloat16"),
        "float16": (values.astype(np.float16), "float16"),
        "float8": ((bits >> 24).astype(np.uint8), "float8_e5m2"),
    }
    candidates: dict[str, Callable[[], object]] = {PASS: lambda: (values.min(), values.max())}
    sizes = {PASS: VALUES}
    for kernel in NAMES:
        for name, (array, dtype) in data.items():
            candidates[f"{kernel}: {name}"] = _by(kernel, partial(count, [array], dtype))
            sizes[f"{kernel}: {name}"] = array.size
        candidates[f"{kernel}: a file"] = _by(kernel, partial(sketch_parts, described.parts, described.dtype))
    if c_loop := _c_loop(folder, values, sketch(values)):
        candidates["a loop in C that only counts"] = c_loop
    with one_core():
        times = in_turns(candidates, rounds=3)
    nanoseconds = {name: min(times[name]) / sizes.get(name, VALUES) * 1e9 for name in candidates}
    rows = [
        (name, f"{nanoseconds[name]:.2f} ns {ratio(times, name, PASS) * VALUES / sizes.get(name, VALUES):5.1f}")
        for name in candidates
    ]
    report("Counting on one core: a value, and in passes of min + max over float32", rows)


def _by(kernel: str, work: Callable[[], object]) -> Callable[[], object]:
    """The work done by a kernel."""

    def timed() -> None:
        os.environ[VARIABLE] = kernel
        library.cache_clear()
        work()
        del os.environ[VARIABLE]
        library.cache_clear()

    return timed


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
    request = Request.parse(method="minmax", dtype="int8")

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
