"""What the README shows is what happens."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from klcal.divergence import DIVERGENCES
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.search.methods import METHODS
from tests.support.guides import replayed, sessions

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SESSIONS = sessions(README)
PROGRAMS = [textwrap.dedent(each) for each in re.findall(r"```python\n(.*?)```", README, re.DOTALL)]


@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_a_session_prints_what_the_readme_shows(session, tmp_path):
    assert replayed(session, tmp_path) == session


def test_a_session_that_prints_something_else_is_noticed(tmp_path):
    assert replayed("$ echo 1\n2\n", tmp_path) == "$ echo 1\n1\n"
    assert len(SESSIONS) >= 7


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_runs(program, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(program, "README.md", "exec"), {})
    assert ("print(" in program) == ("conv1.weight" in capsys.readouterr().out)


def test_the_makefile_has_the_commands_that_the_readme_names():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test", "bench"} <= named <= targets


def test_links_lead_to_files():
    for text in (README, (ROOT / "klcal" / "README.md").read_text()):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / target).exists(), target


def test_the_readme_has_every_divergence_method_and_format():
    for name, each in DIVERGENCES.items():
        assert f"| `{name}` | {each.title} | {each.meaning} |" in README
    for name in METHODS:
        assert f"`{name}" in README
    for name in (*FLOATS, *SCALE_FORMATS):
        assert name in README
