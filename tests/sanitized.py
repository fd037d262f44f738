"""``python -m tests.sanitized``: the tests of the kernel, on a copy that stops where C leaves defined behaviour.

Options and paths are pytest's; by default all of ``tests/kernels``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted(map(str, (ROOT / "klcal" / "kernels" / "source").glob("*.c")))
FLAGS = [
    "-std=c11",
    "-O1",
    "-g",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-shared",
    "-fPIC",
]
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
FLAGS += [*CHECKS, "-Wall", "-Wextra"]
FLAGS += ["-DKLCAL_ONE_VARIANT"]  # which copy to use is asked before the sanitizer is there to ask
COMPILER = os.environ.get("CC", "cc")
TESTS = """
import sys
from pathlib import Path
import pytest
from klcal.kernels import library
library.FILE = Path(sys.argv[1])
assert library.library() is not None, "it cannot be loaded"
sys.exit(pytest.main(["-q", "--capture=sys", "-p", "no:xdist", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/sanitized.so"
        subprocess.run([COMPILER, *FLAGS, "-o", library, *SOURCES], check=True)
        name = [COMPILER, "-print-file-name=libasan.so"]  # Python itself knows nothing of it, so it has to come first
        runtime = subprocess.run(name, capture_output=True, text=True, check=True).stdout.strip()
        leaks = "detect_leaks=0"  # of Python's, which frees nothing at its end
        env = os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": leaks, "KLCAL_KERNEL": "compiled"}
        env |= {"KLCAL_SHIM_FLAGS": " ".join(["-g", *CHECKS])}
        paths = sys.argv[1:] or ["tests/kernels"]
        return subprocess.run([sys.executable, "-c", TESTS, library, *paths], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
