"""What is built and installed: a wheel with the compiled kernel, and one without where there is no C compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.command import SAMPLES, environment

ROOT = Path(__file__).parent.parent
SOURCES = ("klcal", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
BUILD = "import sys, setuptools.build_meta; print(setuptools.build_meta.build_wheel(sys.argv[1]))"
OPTIONS = (
    (),
    ("--per", "channel", "--dtype", "int8", "--method", "mse"),
    ("--per", "*weight=channel", "--dtype", "uint4", "--include", "*weight"),
    ("--dtype", "float4_e2m1fn", "--scale-format", "e8m0"),
)
QUIET = "--disable-pip-version-check", "--quiet"


def built(folder: Path, **env: str) -> Path:
    """The wheel of a copy of the source: without an index, as setuptools is there."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-c", BUILD, str(folder / "wheels")]
    done = subprocess.run(command, cwd=folder, env=environment(**env), capture_output=True, text=True, check=True)
    return folder / "wheels" / done.stdout.split()[-1]


def installed(wheel: Path, folder: Path) -> Path:
    options = ["--no-index", "--no-deps", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *QUIET, *options, str(wheel)]
    subprocess.run(command, env=environment(), check=True)
    return folder


def klcal(installation: Path, *arguments: str, **env: str) -> str:
    """What the command prints that was installed there."""
    env = environment(PYTHONPATH=str(installation), **env)
    command = [str(installation / "bin" / "klcal"), *arguments]
    done = subprocess.run(command, cwd=SAMPLES.parent, env=env, capture_output=True, check=True)
    assert not done.stderr
    return done.stdout.decode()


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory) -> Path:
    wheel = built(tmp_path_factory.mktemp("source"), CC="/bin/false")
    return installed(wheel, tmp_path_factory.mktemp("without"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if not shutil.which(os.environ.get("CC", "cc")):
        pytest.skip("there is no C compiler")
    return built(tmp_path_factory.mktemp("source"))


def test_a_wheel_has_the_kernel_and_serves_every_python_3(wheel):
    assert re.fullmatch(r"klcal-[\d.]+-py3-none-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert "klcal/kernels/compiled.so" in archive.namelist()
        assert "klcal/kernels/source/search.c" in archive.namelist()


def test_without_a_compiler_it_installs_and_numpy_computes(without_compiler):
    assert not list(without_compiler.rglob("*.so"))
    assert klcal(without_compiler, "--version").endswith(", numpy kernel\n")


def test_the_answer_is_the_same_to_the_byte_by_whichever_kernel(wheel, without_compiler, tmp_path):
    installation = installed(wheel, tmp_path)
    assert klcal(installation, "--version").endswith(", compiled kernel\n")
    for options in OPTIONS:
        command = ("calibrate", "sample_tensors", "--format", "json", *options)
        compiled = klcal(installation, *command)
        assert compiled.count('"status": "ok"') > 20
        assert compiled == klcal(installation, *command, "--jobs", "1")
        assert compiled == klcal(installation, *command, KLCAL_KERNEL="numpy")
        assert compiled == klcal(without_compiler, *command)
