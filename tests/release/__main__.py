"""``python -m tests.release [NAME…]``: proofs by runtimes that are too large for every commit, before a release.

Each has a virtual environment of its own in .release, in the version that it was proven with. A proof is a module
test_NAME.py here; it may import all of ``tests.support``, and fails where its runtime is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".release"
TORCH = os.environ.get("TORCH", "torch==2.13.0")  # the Makefile says which: an open-ended one brings gigabytes of CUDA
OURS = (str(ROOT), "pytest>=8.4", "hypothesis>=6.130")
ONNX = ("onnx==1.23.2", "onnxruntime==1.32.0")

NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "openvino": (("openvino==2026.4.1", *ONNX), ()),
    "modelopt": (
        (
            *(TORCH, "ninja", "nvidia-ml-py>=12", "omegaconf>=2.3", "packaging", "pulp<4", "pydantic>=2", "PyYAML>=6"),
            *("huggingface_hub", "regex", "requests", "scipy", "setuptools>=80", "tqdm"),
        ),
        ("nvidia-modelopt==0.47.0",),
    ),
    "aimet": (
        (
            *(TORCH, *ONNX, "bokeh>=3.3", "hvplot>=0.10", "Jinja2", "jsonschema", "onnx2torch", "onnx_ir>=0.1.16"),
            *("onnxscript>=0.4", "osqp", "pandas", "psutil", "PyYAML", "scikit-learn", "scipy", "tqdm"),
        ),
        ("aimet-onnx==2.42.0",),
    ),
}
"""What is installed for each: with what it needs, and without, as that is in the first list."""


def main(names: list[str]) -> int:
    """Run some proofs, or all."""
    unknown = [name for name in names if name not in NEEDS]
    if unknown:
        print(f"there is no {unknown[0]}; there are {', '.join(NEEDS)}")
        return 2
    results = {name: proven(name) for name in names or NEEDS}
    for name, (passed, seconds) in results.items():
        versions = ", ".join(NEEDS[name][1] or NEEDS[name][0][:1])
        print(f"{name:10} {versions:30} {'passed' if passed else 'FAILED':8} {seconds:4.0f} s")
    return 0 if all(passed for passed, _ in results.values()) else 1


def proven(name: str) -> tuple[bool, float]:
    """Whether a proof holds, and how long it took without installing."""
    python = FOLDER / name / "bin" / "python"
    needed, alone = NEEDS[name]
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER / name], check=True)
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *OURS, *needed], check=True)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True)
    begin = time.monotonic()
    test = ["-m", "pytest", "-W", "default", "-p", "no:cacheprovider", f"tests/release/test_{name}.py"]
    done = subprocess.run([python, *test], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return done.returncode == 0, time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
