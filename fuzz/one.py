"""One target in one process: ``python -m fuzz.one TARGET RUNS FOLDER``."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from fuzz.__main__ import HAS_ATHERIS, LONGEST_INPUT, MEMORY_MB, SLOWEST


def with_atheris(name: str, runs: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["klcal", "zipfile", "pickletools"]):
        from fuzz.targets import TARGETS, safe
    options = {
        "runs": runs,
        "seed": 1,
        "max_len": LONGEST_INPUT,
        "timeout": SLOWEST,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
        "dict": folder / "words",
        "artifact_prefix": f"{folder}/",
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(folder / "inputs")], safe(TARGETS[name]))
    atheris.Fuzz()


def with_mutations(name: str, runs: int, folder: Path) -> None:
    """Blind changes to the seeds."""
    from fuzz.targets import TARGETS, safe

    target = safe(TARGETS[name])
    seeds = [path.read_bytes() for path in sorted((folder / "inputs").iterdir())]
    made = random.Random(1)
    for number in range(1, runs + 1):
        data = bytearray(made.choice(seeds))
        for _ in range(made.randint(1, 6)):
            mutate(data, seeds, made)
        start = time.monotonic()
        try:
            target(bytes(data[:LONGEST_INPUT]))
            assert time.monotonic() - start < SLOWEST
        except BaseException:
            (folder / "crash-0").write_bytes(data[:LONGEST_INPUT])
            print(f"#{number}", flush=True)
            raise
    print(f"#{runs}")


def mutate(data: bytearray, seeds: list[bytes], made: random.Random) -> None:
    at = made.randint(0, len(data))
    match made.randint(0, 4):
        case 0:
            data[at : at + 1] = bytes([made.randint(0, 255)])
        case 1:
            data[at : at + 1] = made.choice([b"\0", b"\xff", b"\x7f", b"\x80"])
        case 2:
            del data[at : at + made.randint(1, 9)]
        case 3:
            other = made.choice(seeds)
            start = made.randint(0, len(other))
            data[at : at + made.randint(0, 9)] = other[start : start + made.randint(1, 40)]
        case 4:
            data[at:at] = data[at : at + made.randint(1, 40)]


if __name__ == "__main__":
    run = with_atheris if HAS_ATHERIS else with_mutations
    run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
