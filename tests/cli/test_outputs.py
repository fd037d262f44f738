"""Several outputs of one run, and the formats for CI as the command writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from junitparser import JUnitXml

from tests.cli.test_exit_codes import closed_pipe
from tests.support.command import environment, klcal, klcal_process, normal, one_message


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal())
    assert klcal("calibrate", "x.npy", "-o", "base.json").code == 0
    np.save("x.npy", np.float32(1.5) * normal())
    return tmp_path


CALIBRATE = ("calibrate", "x.npy", "--fail-on", "scale > 0")
CHECK = ("check", "x.npy", "--baseline", "base.json")


@pytest.mark.parametrize("command", [CALIBRATE, CHECK], ids=lambda command: command[0])
def test_each_output_is_what_it_is_alone(here, command):
    outputs = ("a.json", "b.md", "c.xml", "d.sarif", "e.csv", "-")
    words = [word for output in outputs for word in ("-o", output)]
    result = klcal_process(*command, *words, "--format", "github")
    assert result.code == 1
    for output in outputs[:-1]:
        assert klcal(*command, "-o", f"alone{output}").code == 1
        assert Path(output).read_bytes() == Path(f"alone{output}").read_bytes() != b""
    assert result.out == klcal(*command, "--format", "github").out
    assert "\n::error file=" in result.out


def test_one_output_has_the_format_that_is_asked_for_whatever_it_is_called(here):
    assert klcal(*CHECK, "-o", "x.txt", "--format", "sarif").code == 1
    assert json.loads(Path("x.txt").read_text())["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.json", "--output=./a.json"], "--output 'a.json' is given twice; name different files"),
        (["-o", "-", "-o", "/dev/stdout"], "is given twice"),
        (["-o", "a.json", "-o", "b.nothing"], "the suffix of 'b.nothing' names no format"),
        (["-o", "a.json", "-o", "no/b.json"], "cannot write 'no/b.json'"),
        (["-o", "a.json", "-o", "x.npy"], "x.npy"),
    ],
)
def test_an_output_that_cannot_be_written_is_reported_and_none_is_written(here, words, message):
    was = sorted(path.name for path in here.iterdir())
    result = klcal_process(*CALIBRATE, *words)
    assert result.code == 2
    assert message in one_message(result)
    assert sorted(path.name for path in here.iterdir()) == was


def test_a_directory_that_is_gone_is_reported_of_several_outputs_too(here):
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()
    result = klcal("calibrate", here / "x.npy", "-o", "a.json", "-o", "b.md")
    assert (result.code, "cannot write 'a.json'" in one_message(result)) == (2, True)


def test_a_report_is_written_where_nothing_is_usable_and_a_table_is_not_replaced(here):
    np.save("x.npy", np.array([1, np.nan], np.float32))
    was = Path("base.json").read_bytes()
    Path("report.xml").write_text("of yesterday")
    assert klcal("calibrate", "x.npy", "-o", "base.json", "-o", "report.xml").code == 3
    assert Path("base.json").read_bytes() == was
    assert JUnitXml.fromfile("report.xml").errors == 1


def test_a_report_has_every_finding_whatever_is_shown(here):
    result = klcal(*CALIBRATE, "--format", "junit", "--top", "1", "--units")
    assert JUnitXml.fromstring(result.out.encode()).failures == 1


def test_compare_has_them_too(here):
    np.save("y.npy", normal(1000, 3))
    result = klcal("compare", "x.npy", "y.npy", "--fail-on", "kl > 0", "--format", "junit")
    assert result.code == 1
    assert JUnitXml.fromstring(result.out.encode()).failures == 1


def test_a_row_with_units_shows_the_one_that_moved_most(here):
    channels = normal(400).reshape(4, 100)
    np.save("y.npy", channels)
    assert klcal("calibrate", "y.npy", "--per", "channel", "--dtype", "int8", "-o", "units.json").code == 0
    channels[2] *= 2
    np.save("y.npy", channels)
    table = klcal("check", "y.npy", "--baseline", "units.json", "--format", "table").out.splitlines()
    assert table[0].split()[:5] == ["name", "was", "scale", "scale", "d.scale"]
    assert table[0].endswith("worst unit  units changed")
    cells = table[2].split()
    assert (cells[3], cells[-4:]) == ("+100", ["2", "1", "of", "4"])
    assert float(cells[2]) == pytest.approx(2 * float(cells[1]), rel=1e-4)  # five digits are shown


def test_the_summary_of_a_check_has_the_findings(here):
    text = klcal(*CHECK, "--format", "md").out
    assert "| `x` | `\\|d.scale\\| > 2%` |" in text
    assert text.startswith("`base.json → x.npy · 1 changed`\n")


@pytest.mark.parametrize("format_", ["github", "junit", "sarif", "json", "md"])
def test_bytes_are_the_same_in_any_locale_width_and_terminal(here, format_):
    ways = ({"LC_ALL": "C", "COLUMNS": "20"}, {"LC_ALL": "C.UTF-8", "COLUMNS": "200", "TERM": "dumb"})
    texts = {klcal_process(*CHECK, "--format", format_, env=environment(**way)).out for way in ways}
    assert len(texts) == 1


def test_where_the_reader_of_stdout_went_away_the_files_are_whole(here):
    result = klcal_process(*CHECK, "-o", "-", "-o", "a.json", "-o", "b.xml", stdout=closed_pipe())
    assert (result.code, result.err) == (141, "")
    assert json.loads(Path("a.json").read_text())["schema"] == "klcal.changes/1"
    assert JUnitXml.fromfile("b.xml").failures == 1
