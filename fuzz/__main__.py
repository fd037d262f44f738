"""Run the targets that are named, or all, and print how often each was executed and what was found.

Each runs in a process of its own: with atheris, which follows the branches of the code, where it is installed,
else with plain mutations. A finding is an exception other than InputError, a hang or a crash; the input that
shows it is left in ``.fuzz/``.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".fuzz"  # what was found, and the inputs that reached something new
LONGEST_INPUT = 4096  # bytes
SLOWEST = 10  # seconds for one input: it is a hang
MEMORY_MB = 2048
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None


def main() -> int:
    from fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each")
    chosen = parser.parse_args()
    if unknown := set(chosen.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    print(f"{'target':<14}{'executions':>12}{'findings':>10}{'seconds':>10}   with {engine()}", flush=True)
    findings = [fuzz(name, chosen.runs) for name in chosen.targets or TARGETS]
    return 1 if any(findings) else 0


def engine() -> str:
    return "atheris" if HAS_ATHERIS else "plain mutations: atheris is not installed"


def fuzz(name: str, runs: int) -> int:
    """Findings of a target, of which the first ends its run."""
    from fuzz.seeds import SEEDS, WORDS

    folder = KEPT / name
    for number, seed in enumerate(SEEDS[name]()):
        (folder / "inputs").mkdir(parents=True, exist_ok=True)
        (folder / "inputs" / f"seed-{number}").write_bytes(seed)
    (folder / "words").write_text("".join(map(quoted, WORDS[name])))
    start = time.monotonic()
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "fuzz.one", name, str(runs), str(folder)]
        failed = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode != 0
    counts = re.findall(
        r"(?:number_of_executed_units: |^#)(\d+)", (folder / "log").read_text("utf-8", "replace"), re.MULTILINE
    )
    executed = max(map(int, counts), default=0)
    print(f"{name:<14}{executed:>12,}{int(failed):>10}{time.monotonic() - start:>10.0f}", flush=True)
    if failed:
        print(f"  see {folder.relative_to(ROOT)}/log", flush=True)
    return int(failed)


def quoted(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


if __name__ == "__main__":
    sys.exit(main())
