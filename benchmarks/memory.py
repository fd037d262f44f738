"""Peak memory on files of 4 GB, above that of importing what reads them."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import PYTHON, report

VALUES = 10**9  # of float32: 4 GB
TENSORS = 2000
LIMIT_MB = 400
IMPORTS = "import klcal.pipeline.calibrate, klcal.pipeline.workers, klcal.readers.{reader}, klcal.calibration.values"
MEASURE = """
import json, resource, sys
{imports}
peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
before = peak(resource.RUSAGE_SELF)
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
table = calibrate_files([sys.argv[1]], Request.parse(dtype="int8"), jobs=int(sys.argv[2]))
numel = sum(row.numel for row in table.rows)
print(json.dumps([before, peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN), len(table.rows), numel,
                  sorted({{row.status for row in table.rows}})]))
"""
SAVE = "import torch, sys; torch.save({'w': torch.full((int(sys.argv[2]),), 1.5)}, sys.argv[1])"


def run() -> None:
    """The files are sparse, or temporary; their values are zeros but for a few."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, reader, tensors, write in (
            ("one.npy", "npy_file", 1, _write_npy),
            ("one.safetensors", "safetensors_file", 1, lambda path: _write_safetensors(path, 1)),
            ("many.safetensors", "safetensors_file", TENSORS, lambda path: _write_safetensors(path, TENSORS)),
            ("one.pt", "pt.file", 1, _write_pt),
        ):
            path = Path(folder, name)
            write(path)
            for jobs in (1, 2):
                rows.append(_measured(path, reader, tensors, jobs))
            path.unlink()
        report(f"Peak memory above the imports, files of 4 GB (at most {LIMIT_MB} MB)", rows)


def _measured(path: Path, reader: str, tensors: int, jobs: int) -> tuple[str, str]:
    program = MEASURE.format(imports=IMPORTS.format(reader=reader))
    start = time.perf_counter()
    printed = subprocess.run(
        [PYTHON, "-c", program, str(path), str(jobs)], check=True, capture_output=True, text=True
    ).stdout
    took = time.perf_counter() - start
    before, own, worker, found, numel, statuses = json.loads(printed)
    assert (found, numel, statuses) == (tensors, VALUES, ["ok"]), printed
    above = own - before, (worker - before if jobs > 1 else 0)
    assert max(above) <= LIMIT_MB, printed
    return f"{path.name}, --jobs {jobs} ({took:.1f} s)", " + ".join(f"{mb:.0f} MB" for mb in above[:jobs])


def _write_npy(path: Path) -> None:
    values = np.lib.format.open_memmap(path, "w+", np.float32, (VALUES,))
    values[:: VALUES // 10] = 1.5


def _write_safetensors(path: Path, tensors: int) -> None:
    size = 4 * VALUES // tensors
    header = {
        f"layers.{i}.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i in range(tensors):
            file.seek(8 + len(text) + i * size)
            file.write(np.float32([1.5, -2.5]).tobytes())
        file.truncate(8 + len(text) + 4 * VALUES)


def _write_pt(path: Path) -> None:
    """By torch itself, with the CRCs that it writes."""
    subprocess.run([PYTHON, "-c", SAVE, str(path), str(VALUES)], check=True)
