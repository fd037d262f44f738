"""How long a command takes that has little to do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import klcal
from benchmarks.side_by_side import PYTHON, in_turns, process, ratio, report, seconds

REFERENCE = "import typer, rich.console"
SMALL = Path(__file__).parent.parent / "sample_tensors" / "silero_vad_convs.safetensors"


def run() -> None:
    """Whole processes, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        table = str(Path(folder) / "small.json")
        klcal.calibrate_files(SMALL, dtype="int8").write(table)
        assert not klcal.diff(table, table).rows
        _run(table)


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
