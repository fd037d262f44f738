"""How long a command takes that has little to do, and one that has much of it: thousands of small tensors."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import klcal
from benchmarks.side_by_side import PYTHON, in_turns, process, ratio, report, seconds
from klcal.kernels.threads import cores

REFERENCE = "import typer, rich.console"
MANY, VALUES = 10_000, 1_000  # tensors of one file, and the values of each
SMALL = Path(__file__).parent.parent / "sample_tensors" / "silero_vad_convs.safetensors"


def run() -> None:
    """Whole processes, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        table = str(Path(folder) / "small.json")
        klcal.calibrate_files(SMALL, dtype="int8").write(table)
        assert not klcal.diff(table, table).rows
        _run(table)
        _many(Path(folder))


def _many(folder: Path) -> None:
    """What each further tensor of a file costs."""
    rng = np.random.default_rng(0)
    path, out = folder / "many.safetensors", folder / "many.json"
    save_file({f"layers.{i}.weight": rng.standard_normal(VALUES, np.float32) for i in range(MANY)}, path)
    commands = {"small": process(PYTHON, "-m", "klcal", "calibrate", str(SMALL))}
    for method in ("minmax", "kl"):
        asked = ("--method", method, "--format", "json", "--output", str(out))
        commands[method] = process(PYTHON, "-m", "klcal", "calibrate", str(path), *asked)
    times = in_turns(commands, rounds=5)
    rows = klcal.load_table(out).rows
    assert [row.status for row in rows] == ["ok"] * MANY
    assert {str(row.method) for row in rows} == {str(klcal.KL())}
    bounds = {"minmax": 6, "kl": 12}
    report(
        f"{MANY:,} tensors of {VALUES:,} float32 values / a small file, whole processes, on {cores()} cores",
        [(f"{name} (at most {most})", f"{ratio(times, name, 'small'):.1f}") for name, most in bounds.items()],
    )


def _run(table: str) -> None:
    times = in_turns(
        {
            "import torch": process(PYTHON, "-c", "import torch"),
            "import typer, rich.console": process(PYTHON, "-c", "import typer, rich.console"),
            "import numpy, typer, rich, safetensors": process(PYTHON, "-c", "import numpy, typer, rich, safetensors"),
            "klcal --help": process(PYTHON, "-m", "klcal", "--help"),
            "klcal calibrate --help": process(PYTHON, "-m", "klcal", "calibrate", "--help"),
            "klcal calibrate small.safetensors": process(PYTHON, "-m", "klcal", "calibrate", str(SMALL)),
            "klcal inspect small.safetensors": process(PYTHON, "-m", "klcal", "inspect", str(SMALL)),
            "klcal diff small.json small.json": process(PYTHON, "-m", "klcal", "diff", table, table),
        },
        rounds=11,
    )
    calibrate = ratio(times, "klcal calibrate small.safetensors", "import torch")
    help_ = ratio(times, "klcal --help", "import typer, rich.console")
    report(
        "Start-up, whole processes",
        [
            *((name, seconds(values)) for name, values in times.items()),
            ("calibrate / import torch (at most 0.25)", f"{calibrate:.2f}"),
            ("--help / import typer, rich.console (at most 2)", f"{help_:.2f}"),
            *(
                (
                    f"{name} / import typer, rich.console (at most 2.5)",
                    f"{ratio(times, f'klcal {name}', REFERENCE):.2f}",
                )
                for name in ("inspect small.safetensors", "diff small.json small.json")
            ),
        ],
    )
