"""Nothing that the command prints acts on a terminal: every run of the suite is looked at (see command.harmless)."""

import numpy as np
import pytest
import safetensors.numpy

from klcal.cli import messages
from klcal.writers import BINARY, WRITERS, records, rich_table
from tests.support.command import Result, harmless, klcal, klcal_process, normal


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = np.array([np.nan], np.float32)
    safetensors.numpy.save_file(
        {"\x1b]0;title\x07": normal(9), "\r\nforged\x9b2J": bad, "\u202ertl": bad}, "\x1b[31m.safetensors"
    )


@pytest.mark.parametrize("format_", sorted(set(WRITERS) - BINARY))
@pytest.mark.parametrize("run", [klcal, klcal_process])
def test_names_of_files_and_tensors_do_not_act_anywhere(here, run, format_):
    result = run("calibrate", ".", "--format", format_)
    assert result.code == 4
    assert len(result.messages) == 2


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b2J", "\r", "\x07", "a\u202eb", "\x00", "\u200b", "\x7f"])
@pytest.mark.parametrize("stream", ["out", "err"])
def test_the_look_notices_what_acts(text, stream):
    with pytest.raises(AssertionError, match="in the output"):
        harmless(Result(0, **{"out": "", "err": "", stream: f"klcal: {text}\n"}))


def test_the_look_passes_what_does_not_act():
    result = Result(0, "name\tscale\ngröße ×\t…\n", "klcal: error: \\x1b[31m\n")
    assert harmless(result) is result


@pytest.mark.parametrize(("module", "format_"), [(messages, "json"), (records, "plain"), (rich_table, "table")])
def test_a_name_that_is_not_escaped_is_noticed_in_whatever_test(here, monkeypatch, module, format_):
    monkeypatch.setattr(module, "escape", lambda text: text)
    with pytest.raises(AssertionError, match="in the output"):
        klcal("calibrate", ".", "--format", format_)


def test_names_of_megabytes_are_not_compared_with_a_glob(here):
    """It took a second for each of them, and the warning was as long."""
    safetensors.numpy.save_file({letter * 1_000_000: normal(2) for letter in "abc"}, "m.safetensors")
    document = klcal("calibrate", "m.safetensors", "--include", "encoder.*.weight", "--format", "json").document
    assert document["warnings"] == ["--include 'encoder.*.weight' matches no tensor; their names are longer"]


def test_a_name_of_a_megabyte_does_not_pad_every_row_of_a_table(here):
    """Rows times the longest name were gigabytes."""
    tensors = {"x" * 1_000_000: normal(2), **{str(number): normal(2) for number in range(300)}}
    safetensors.numpy.save_file(tensors, "m.safetensors")
    result = klcal("calibrate", "m.safetensors", "--method", "minmax", "--format", "table")
    assert result.code == 0
    assert len(result.out) < 2_000_000
    assert "x" * 1_000_000 in klcal("calibrate", "m.safetensors", "--method", "minmax", "--format", "plain").out
