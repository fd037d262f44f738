"""The recipes of docs/ci.md, run as far as they can be without the services that they are for."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.tables.schema import DEFAULT_RULES
from tests.support.command import klcal, normal
from tests.support.guides import DOCS, ROOT

GUIDE = (DOCS / "ci.md").read_text()
COMMANDS = re.findall(r"^ *- (?:run: )?(klcal check .*)$", GUIDE, re.MULTILINE)
HOOKS = (ROOT / ".pre-commit-hooks.yaml").read_text()


def save(factor: float = 1.0) -> None:
    safetensors.numpy.save_file({"w": np.float32(factor) * normal()}, "model.safetensors")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a model, its baseline, and a klcal that a shell finds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "klcal").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m klcal "$@"\n')
    (tmp_path / "bin" / "klcal").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    save()
    assert klcal("calibrate", "model.safetensors", "--dtype", "int8", "-o", "scales.json").code == 0
    return tmp_path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def block(language: str, word: str) -> str:
    (found,) = [each for each in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if word in each]
    return found


def test_there_is_a_command_of_each_service():
    assert len(COMMANDS) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_service_s_command_passes_fails_and_writes_what_the_recipe_takes_up(here, command):
    assert run("sh", "-c", command).returncode == 0
    save(1.5)
    assert run("sh", "-c", command).returncode == 1
    recipe = next(each for each in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if command in each)
    taken = set(re.findall(r"(?:cat |sarif_file: |junit: |paths: \[)([\w.]+)", recipe))
    assert taken == set(re.findall(r"-o (\w[\w.]+)", command))
    assert all(Path(name).stat().st_size for name in taken)


def test_make_checks_and_updates(here):
    Path("Makefile").write_text(block("make", "check-scales"))
    assert run("make", "check-scales").returncode == 0
    save(1.5)
    failed = run("make", "check-scales")
    assert failed.returncode != 0
    assert "klcal: model.safetensors: w: |d.scale| 50 % > 2 %: was " in failed.stderr
    assert run("make", "update-scales").returncode == 0
    assert run("make", "check-scales").returncode == 0


def test_the_hook_of_pre_commit_runs_its_entry_with_the_arguments_of_the_guide(here):
    config = block("yaml", "hooks:")
    hook = dict(re.findall(r"^(?:- |  )(\w+): (.*)$", HOOKS, re.MULTILINE))
    assert hook["id"] in config
    assert (hook["pass_filenames"], hook["language"]) == ("false", "python")
    arguments = re.search(r"args: \[(.*)\]", config)
    assert arguments is not None
    command = [*shlex.split(hook["entry"]), *arguments[1].split(", ")]
    assert run(*command).returncode == 0
    save(1.5)
    assert run(*command).returncode == 1
    for name in ("model.safetensors", "scales.json"):
        assert re.search(hook["files"], name)
    assert not re.search(hook["files"], "README.md")


def test_the_guide_has_the_rules_that_hold():
    (table,) = re.findall(r"\| rule \| it fails if \|\n(.*?)\n\n", GUIDE, re.DOTALL)
    told = re.findall(r"`([^`]+)`", "\n".join(line.split(" | ")[0] for line in table.splitlines()[1:]))
    assert [each.replace("\\|", "|") for each in told] == list(DEFAULT_RULES)
