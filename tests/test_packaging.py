"""What is built: a wheel with the compiled kernel, one without a C compiler, and an sdist with its tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.command import SAMPLES, environment

ROOT = Path(__file__).parent.parent
SOURCES = ("klcal", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
HIDDEN = {".ci", ".github", ".pre-commit-hooks.yaml"}  # what a sdist has beside what is not hidden
MADE = {"build", "dist"}  # what is made of the source, and is no part of it
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
OPTIONS = (
    (),
    ("--per", "channel", "--dtype", "int8", "--method", "mse"),
    ("--per", "*weight=channel", "--dtype", "uint4", "--include", "*weight"),
    ("--dtype", "float4_e2m1fn", "--scale-format", "e8m0"),
)
QUIET = "--disable-pip-version-check", "--quiet"


def built(kind: str, folder: Path, names: Iterable[str] = SOURCES, **env: str) -> Path:
    """The wheel or sdist of a copy of the source: without an index, as setuptools is there."""
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-c", BUILD, kind, str(folder / "dist")]
    done = subprocess.run(command, cwd=folder, env=environment(**env), capture_output=True, text=True, check=True)
    return folder / "dist" / done.stdout.split()[-1]


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
    wheel = built("wheel", tmp_path_factory.mktemp("source"), CC="/bin/false")
    return installed(wheel, tmp_path_factory.mktemp("without"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        pytest.skip("there is no C compiler")
    hasty = tmp_path_factory.mktemp("compiler") / "cc"  # the kernel of all other tests has the true options: 40 s
    hasty.write_text(f'#!/bin/sh\nexec {shlex.quote(compiler)} "$@" -O0\n')
    hasty.chmod(0o755)
    return built("wheel", tmp_path_factory.mktemp("source"), CC=str(hasty))


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


def source() -> list[str]:
    """The names of what the repository has, in its root."""
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and ".egg" not in path.name}
    return sorted((names | HIDDEN) - MADE)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """An sdist, built for a repository with an address, and unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = built("sdist", folder, source(), REPOSITORY_URL=ADDRESS)
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (found,) = (folder / "unpacked").iterdir()
    return found


ADDRESS = "https://example.org/somebody/klcal"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_sdist_has_what_the_repository_has(unpacked):
    wanted = {f"{name}/{file}" for name in source() if (ROOT / name).is_dir() for file in files(ROOT / name)}
    wanted |= {name for name in source() if (ROOT / name).is_file()}
    wanted = {file for file in wanted if "__pycache__" not in file and not file.endswith(".so")}
    found = {file for file in files(unpacked) if not file.startswith("klcal.egg-info/")}
    assert found - {"PKG-INFO", "setup.cfg"} == wanted


def test_an_sdist_passes_its_own_tests(unpacked):
    """All of them are collected, so that every helper is there; those of the pages and the map are run."""
    env = environment(PYTHONPATH=str(unpacked))
    for some in (
        ["--collect-only", "--assert=plain"],
        ["tests/test_layers.py", "tests/test_docs.py", "-k", "not block and not tables"],
    ):
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *some]
        done = subprocess.run(command, cwd=unpacked, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


def test_links_of_the_package_lead_to_its_repository(unpacked):
    text = (unpacked / "PKG-INFO").read_text()
    assert f"Project-URL: Homepage, {ADDRESS}\n" in text
    assert f"]({ADDRESS}/blob/v0.2.0/docs/methods.md)" in text
    assert not re.findall(r"\]\((?!https?:)[^)]*\)", text)


def test_a_package_of_no_known_address_names_none(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as archive:
        (name,) = [each for each in archive.getnames() if each.count("/") == 1 and each.endswith("/PKG-INFO")]
        text = archive.extractfile(name).read().decode()
    assert "Project-URL" not in text
    assert "](docs/methods.md)" in text


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = [each.rsplit(" ", 1)[1] for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert set(pythons) == set(re.findall(r'"(3\.\d+)"', workflow))
    assert project["requires-python"] == f">={pythons[0]}"
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_run_what_there_is():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "run: .ci/run\n" in workflow
    assert set(re.findall(r"run: make ([a-z-]+)", workflow)) <= targets
    assert "macos" in workflow
