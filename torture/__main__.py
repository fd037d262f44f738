"""Run every case of the corpus through the command, and print what went wrong: all zeros but the inputs.

A few cases at a time, the heavy ones alone, beside a good file, whose result must not be lost; then all of them in one
run in each format.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torture.runs import Batch, Run, run, run_batches

COUNTS = (
    "inputs", "tracebacks", "hangs", "executions", "wrong accepts", "wrong refusals", "lost results", "raw escapes",
)  # fmt: skip
MEASURES = ("peak MB", "slowest s")
MOST_MB = 500.0  # beyond what the command needs for a small good file
SLOWEST_SECONDS = 1.0  # of a refusal, beyond the same
SHOWN = 60
FAILURES = ("nonfinite", "underflow", "overflow", "unsupported", "failed")
TEXT_FORMATS = ("plain", "csv", "md", "table", "jsonl")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
GOOD = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"
GOOD += bytes.fromhex("0000803f000000bf")  # 1.0, -0.5

Problem = tuple[str, str, str, str]  # the kind of case, the column, the case, what is wrong


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="klcal-torture-") as scratch:
        places = {name: Path(scratch, name) for name in ("corpus", "batches", "results", "empty", "beside")}
        for place in places.values():
            place.mkdir()
        (places["beside"] / "neighbour.npy").write_bytes(GOOD)
        cases = written(places["corpus"], places["empty"])
        command = ["--format", "json", str(places["beside"])]
        alone = [run(command, places["results"] / f"alone{i}", places["empty"]) for i in range(5)]
        start_up, imports = min(each.seconds for each in alone), alone[0].peak_mb
        batches = run_batches(cases, places, start_up)
        (good,) = json.loads(alone[0].out)["tensors"]
        problems = [problem for batch in batches for problem in wrong(batch, good)]
        problems += list(in_all_formats(places))
        problems += [("hostile", "executions", "any", path.name) for path in sorted(places["empty"].iterdir())]
        return report(batches, problems, start_up, imports)


def written(folder: Path, canaries: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "torture.write", str(folder), str(canaries)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def wrong(batch: Batch, good: Mapping[str, Any]) -> Iterator[Problem]:
    """All that is wrong with one run."""
    from tests.corpus import cases as corpus  # late: what it imports would count as the command's memory

    first, done = batch.cases[0], batch.done
    title = f"{first['folder']} {first['name']}" + (f" and {len(batch.cases) - 1} more" if len(batch.cases) > 1 else "")
    document = None
    for column, what in wrong_text(done):
        yield first["kind"], column, title, what
    try:
        document = json.loads(done.out)
    except ValueError:
        yield first["kind"], "lost results", title, f"exit code {done.code}, no document: {done.err[:200]!a}"
        return
    for case in batch.cases:
        for column, what in corpus.judged(case, *corpus.of_case(case["folder"], document)):
            yield case["kind"], column, f"{case['folder']} {case['name']}", what
    for column, what in wrong_as_a_whole(document, done, good):
        yield first["kind"], column, title, what


def wrong_as_a_whole(document: Mapping[str, Any], done: Run, good: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if good not in document["tensors"]:
        yield "lost results", "the good file beside it"
    failed = document["errors"] or any(row["status"] in FAILURES for row in document["tensors"])
    if done.code != (4 if failed else 0):
        yield "wrong accepts" if failed else "wrong refusals", f"exit code {done.code}"
    if bool(done.err) != bool(failed or document["warnings"]):
        yield "lost results", "stderr and the document disagree"


def wrong_text(done: Run) -> Iterator[tuple[str, str]]:
    """What no run may print, and that it ends."""
    if done.hung:
        yield "hangs", f"it ran for {done.seconds:.0f} s"
    if done.code not in (0, 3, 4) or "Traceback" in done.err or "bug in klcal" in done.err:
        yield "tracebacks", f"exit code {done.code}: {done.err[:200]!a}"
    if CONTROL.search(done.out.replace("\r\n", "\n")):
        yield "raw escapes", "on stdout"
    for line in done.err.splitlines():
        if not line.isprintable() or not line.startswith("klcal: ") or len(line) > 300:
            yield "raw escapes", ascii(line)


def in_all_formats(places: Mapping[str, Path]) -> Iterator[Problem]:
    """Names are data in every format. The heavy cases say nothing more about that."""
    light = [str(path) for path in sorted(places["batches"].iterdir()) if len(list(path.iterdir())) > 1]
    for name in TEXT_FORMATS:
        done = run(["--format", name, "--method", "minmax", *light], places["results"] / name, places["empty"])
        for column, what in wrong_text(done) if not done.hung else [("hangs", "")]:
            yield "hostile", column, f"all cases, --format {name}", what


def report(batches: Sequence[Batch], problems: Sequence[Problem], start_up: float, imports: float) -> int:
    inputs = sum(len(batch.cases) for batch in batches)
    runs = f"{inputs} inputs in {len(batches)} runs, and all in {len(TEXT_FORMATS)} more"
    print(f"{runs}; start-up {start_up:.2f} s, {imports:.0f} MB")
    print(f"{'':<8}" + "".join(f"{name:>15}" for name in (*COUNTS, *MEASURES)))
    failed = bool(problems)
    found = Counter((kind, column) for kind, column, *_ in problems)
    for kind in ("hostile", "damaged", "values"):
        mine = [batch for batch in batches if batch.cases[0]["kind"] == kind]
        refusals = [batch for batch in mine if all(case["error"] is not None or case["loose"] for case in batch.cases)]
        largest = max(mine, key=lambda batch: batch.done.peak_mb)
        slowest = max(refusals, key=lambda batch: batch.done.seconds, default=None)
        peak, slow = largest.done.peak_mb - imports, slowest.done.seconds - start_up if slowest else 0.0
        counts = [sum(case["kind"] == kind for batch in batches for case in batch.cases)]
        counts += [found[kind, column] for column in COUNTS[1:]]
        print(f"{kind:<8}" + "".join(f"{count:>15,}" for count in counts) + f"{peak:>15.0f}{slow:>15.2f}")
        print(
            f"  largest: {largest.cases[0]['name']}; slowest refusal: {slowest.cases[0]['name'] if slowest else 'none'}"
        )
        failed |= peak > MOST_MB or slow > SLOWEST_SECONDS
    for kind, column, case, what in problems[:SHOWN]:
        print(f"{column}: {kind}: {case}: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
