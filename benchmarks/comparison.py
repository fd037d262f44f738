"""Two checkpoints of 1 GB compared, against the time of calibrating one of them by its range: whole commands."""

from __future__ import annotations

import tempfile

import numpy as np
import safetensors.numpy

from benchmarks.side_by_side import PYTHON, in_turns, process, ratio, report, seconds
from klcal.pipeline.compare import compare_files

TENSORS, VALUES = 16, 1 << 24  # 16 tensors of 64 MiB of float32


def run() -> None:
    """Files of many tensors, in the page cache, with one process and with two."""
    with tempfile.TemporaryDirectory() as folder:
        p, q = (_written(f"{folder}/{name}.safetensors", seed) for seed, name in enumerate("pq"))
        rows = compare_files(p, q, jobs=2).rows
        assert len(rows) == TENSORS
        assert all(0 < row.js < 0.01 and 2.9 < -row.sqnr_db < 3.1 for row in rows)
        for jobs in ("1", "2"):
            minmax = (PYTHON, "-m", "klcal", "calibrate", p, "--method", "minmax", "--jobs", jobs)
            compare = (PYTHON, "-m", "klcal", "compare", p, q, "--jobs", jobs)
            times = in_turns(
                {"klcal calibrate P --method minmax": process(*minmax), "klcal compare P Q": process(*compare)}, 5
            )
            limit = ratio(times, "klcal compare P Q", "klcal calibrate P --method minmax")
            report(
                f"Two files of {TENSORS * VALUES * 4 >> 20} MiB of float32, --jobs {jobs}",
                [
                    *((name, seconds(values)) for name, values in times.items()),
                    ("compare / calibrate (at most 2.5)", f"{limit:.2f}"),
                ],
            )


def _written(path: str, seed: int) -> str:
    values = np.random.default_rng(seed).standard_normal(VALUES, dtype=np.float32)
    safetensors.numpy.save_file({f"layers.{i}.weight": values for i in range(TENSORS)}, path)
    return path
