"""Tables of very many groups: how long they take to write and to read, and how much memory beside their own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.side_by_side import PYTHON, report

TENSORS, UNITS = 224, 245_760  # groups of 128: a language model of 7 billion parameters
FEW = 8  # tensors of a table that is written as JSON
PEAK = """
def peak():  # getrusage's counts what this process was before it became Python as well
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
"""
WRITE = f"""
import json, sys, time
import numpy as np
import klcal.api.files, klcal.writers.safetensors_table, klcal.writers.json_table
from klcal.tables.rows import Row
from klcal.tables.table import Config, Table
from klcal.tables.units import Units
{PEAK}
def row(number, units):
    scale = np.random.default_rng(number).random(units).astype(np.float32).astype(float)
    figures = {{"mse": scale.copy(), "sqnr_db": scale + 0, "clipped": scale + 0, "zero_point": np.full(units, 1.0)}}
    found = Units(per="group", axis=1, size=128, shape=(units,), scale=scale, low=-scale, high=scale + 0, **figures)
    return Row(name=f"layers.{{number}}.w", status="ok", qmin=-8, qmax=7, units=found)
table = Table(Config("mse", "int4", "affine"), tuple(row(number, {UNITS}) for number in range(int(sys.argv[2]))))
before, start = peak(), time.perf_counter()
table.write(sys.argv[1])
print(json.dumps([time.perf_counter() - start, peak() - before]))
"""
READ = f"""
import json, sys, time
import klcal.readers.table_file, klcal.api.files
{PEAK}
before, start = peak(), time.perf_counter()
table = klcal.api.files.load_table(sys.argv[1])
own = sum(column.nbytes for row in table.rows for column in vars(row.units).values() if hasattr(column, "nbytes"))
print(json.dumps([time.perf_counter() - start, peak() - before - own / 2**20]))
"""


def run() -> None:
    """Each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, tensors in (("groups.safetensors", TENSORS), ("groups.json", FEW)):
            path = Path(folder, name)
            for verb, program in (("write", WRITE), ("read", READ)):
                done = subprocess.run([PYTHON, "-c", program, path, str(tensors)], check=True, capture_output=True)
                seconds, memory = json.loads(done.stdout)
                size = f"{tensors * UNITS:,} groups, {path.stat().st_size / 1e6:,.0f} MB"
                rows.append(
                    (f"{verb} {path.suffix}, {size}", f"{seconds:.1f} s, {memory:.0f} MB beside the table's own")
                )
            path.unlink()
        report("Tables of many groups", rows)
