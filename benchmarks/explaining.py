"""What explaining costs beside calibrating: one large tensor, a report of thousands, and the report in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.side_by_side import PYTHON, in_turns, process, ratio, report, seconds

SAMPLES = Path(__file__).parent.parent / "sample_tensors"
VALUES = 10**8
TENSORS, SHAPE = 5000, (64, 256)
PARTS = ("q", "k", "v", "o", "up", "down", "gate")
MOST_BYTES = 15_000_000  # of a page, which people send to each other
PROGRAM = """async (act) => {
  const start = performance.now();
  const node = document.querySelector(act[0]);
  if (act.length > 1) { node.value = act[1]; node.dispatchEvent(new Event("input")); } else node.click();
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - start;
}"""


def run() -> None:
    """Whole processes, in turns; then the page of 5,000 tensors in a browser, if there is one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        np.save(folder / "large.npy", rng.standard_normal(VALUES, dtype=np.float32))
        arrays = {
            f"layers.{i // 7}.{PARTS[i % 7]}.weight": rng.standard_normal(SHAPE, dtype=np.float32)
            for i in range(TENSORS)
        }
        save_file(arrays, folder / "many.safetensors")
        _one(folder)
        _many(folder)
        _page(folder / "many.html")


def _klcal(*arguments: object) -> str:
    return subprocess.run(
        [PYTHON, "-m", "klcal", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def _one(folder: Path) -> None:
    large = folder / "large.npy"
    explained = json.loads(_klcal("explain", large, "--format", "json"))
    assert explained["tensor"] == json.loads(_klcal("calibrate", large, "--format", "json"))["tensors"][0]
    assert sum(explained["histogram"]["counts"]) == VALUES
    commands = {verb: process(PYTHON, "-m", "klcal", verb, str(large)) for verb in ("calibrate", "explain")}
    times = in_turns(commands, rounds=11)
    report(
        f"Explaining {VALUES:,} values, whole processes",
        [
            *((f"klcal {name}", seconds(values)) for name, values in times.items()),
            ("explain / calibrate (at most 1.2)", f"{ratio(times, 'explain', 'calibrate'):.2f}"),
        ],
    )


def _many(folder: Path) -> None:
    many, page = folder / "many.safetensors", folder / "many.html"
    table = json.loads(_klcal("calibrate", many, "--format", "json"))["tensors"]
    _klcal("report", many, "-o", page)
    assert {row["name"]: row["scale"] for row in _data(page)["rows"]} == {row["name"]: row["scale"] for row in table}
    assert page.stat().st_size <= MOST_BYTES
    times = in_turns(
        {
            "calibrate": process(PYTHON, "-m", "klcal", "calibrate", str(many)),
            "report": process(PYTHON, "-m", "klcal", "report", str(many)),
            "report of the sample tensors": process(PYTHON, "-m", "klcal", "report", str(SAMPLES)),
        },
        rounds=3,
    )
    report(
        f"A report of {TENSORS:,} tensors of {SHAPE[0] * SHAPE[1]:,} values, whole processes",
        [
            *((f"klcal {name}", seconds(values)) for name, values in times.items()),
            ("report / calibrate (at most 1.5)", f"{ratio(times, 'report', 'calibrate'):.2f}"),
            ("the page (at most 15 MB)", f"{page.stat().st_size / 1e6:.1f} MB"),
        ],
    )


def _data(page: Path) -> dict:
    return json.loads(page.read_text().partition('id="data">')[2].partition("</script>")[0])


def _page(path: Path) -> None:
    browser = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        print("no browser: install chromium, and playwright (pip install --group browser)")
        return
    with sync_playwright() as api:
        opened = api.chromium.launch(executable_path=browser)
        page = opened.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(path.as_uri())
        paint = page.evaluate("performance.getEntriesByType('paint').map((each) => each.startTime)[0]")
        sorts = [page.evaluate(PROGRAM, [f"#rows thead th:nth-child({n}) button"]) for n in (1, 2, 1, 4, 5, 2)]
        numbers = [float(text) for text in page.locator("#rows tbody td:nth-child(2)").all_inner_texts()]
        assert numbers == sorted(numbers)
        texts = ("layers.7", "layers.71", ".gate", "nothing", "")
        filters = [page.evaluate(PROGRAM, ["#query", text]) for text in texts]
        assert page.locator("#count").inner_text().startswith(f"The first 100 of {TENSORS:,}")
        opened.close()
    report(
        f"The page of {TENSORS:,} tensors in Chromium",
        [
            ("first paint (at most 1,000 ms)", f"{paint:.0f} ms"),
            ("to sort, until it is drawn (at most 100 ms)", f"{sorted(sorts)[len(sorts) // 2]:.0f} ms"),
            ("to filter, until it is drawn (at most 100 ms)", f"{sorted(filters)[len(filters) // 2]:.0f} ms"),
        ],
    )
