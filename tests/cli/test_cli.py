"""The command line: what is answered, what is refused and how, and what bad input costs."""

import json
import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from typer.main import get_command

from klcal.cli.main import app
from klcal.kernels.library import NAMES, VARIABLE, library
from klcal.pipeline import gathered
from klcal.search.methods import METHODS
from klcal.writers import BINARY, WRITERS
from tests.support import tables
from tests.support.command import COMMAND, SAMPLES, environment, klcal, klcal_process, normal, one_message
from tests.support.kernels import kernel as working

TEXTS = sorted(set(WRITERS) - BINARY)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal())
    return tmp_path


# --- what is answered


def test_all_sample_tensors_are_calibrated():
    result = klcal("calibrate", SAMPLES, "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert len(result.document["tensors"]) == 62
    assert {tensor["status"] for tensor in result.document["tensors"]} == {"ok"}


@pytest.mark.parametrize("format_", ["json", "table"])
def test_stdout_has_the_answer_and_stderr_nothing(here, format_):
    result = klcal_process("calibrate", "x.npy", "--format", format_)
    assert (result.code, result.err) == (0, "")
    assert result.out == klcal("calibrate", "x.npy", "--format", format_).out
    assert "\x1b" not in result.out


def test_where_nobody_looks_auto_is_plain(here):
    assert klcal_process("calibrate", "x.npy").out == klcal("calibrate", "x.npy", "--format", "plain").out


def test_the_document_says_what_it_was_computed_with(here):
    arguments = ("--method", "percentile:99.9", "--dtype", "int8", "--format", "json")
    config = klcal("calibrate", "x.npy", *arguments).document["config"]
    assert config == {
        "method": "percentile:99.9",
        "dtype": "int8",
        "scheme": "symmetric",
        "per": "tensor",
        "scale_format": "float32",
    }


@pytest.mark.parametrize("method", ["kl", "kl-classic", "mse", "percentile:99", "minmax", "kl:bins=512,weight=1"])
@pytest.mark.parametrize("dtype", ["uint8", "int4"])
def test_the_method_in_the_document_gives_the_same_document(here, method, dtype):
    first = klcal("calibrate", "x.npy", "--method", method, "--dtype", dtype, "--format", "json")
    again = first.document["config"]
    second = klcal(
        "calibrate", "x.npy", "--method", again["method"], "--dtype", dtype, "--scheme", again["scheme"],
        "--format", "json",
    )  # fmt: skip
    assert first.out == second.out


def test_bins_are_short_for_those_of_the_method(here):
    short = klcal("calibrate", "x.npy", "--bins", "512", "--format", "json")
    assert short.out == klcal("calibrate", "x.npy", "--method", "kl:bins=512", "--format", "json").out
    assert short.out != klcal("calibrate", "x.npy", "--format", "json").out


@pytest.mark.parametrize("written", [["--range", "-1,0.5"], ["--range=-1,0.5"]])
def test_a_range_bounds_what_is_kept_and_counts_what_is_clipped(here, written):
    tensor = klcal("calibrate", "x.npy", *written, "--method", "minmax", "--format", "json").tensors["x"]
    assert tensor["low"] >= -1.01
    assert tensor["high"] <= 0.51
    assert 0.3 < tensor["clipped"] < 0.6


def test_a_pattern_that_matches_nothing_is_answered_with_the_nearest_names(here):
    safetensors.numpy.save_file({"conv1.weight": normal(), "fc.bias": normal()}, "m.safetensors")
    result = klcal("calibrate", "m.safetensors", "--include", "conv1.wieght")
    assert result.code == 3
    assert "matches no tensor; the nearest names are 'conv1.weight'" in result.messages[0]
    assert "no tensor was calibrated" in result.messages[1]
    result = klcal("calibrate", "m.safetensors", "--include", "conv1.*", "--include", "nothing", "--format", "json")
    assert result.code == 0
    assert list(result.tensors) == ["conv1.weight"]
    assert "--include 'nothing' matches no tensor" in one_message(result)
    assert len(result.document["warnings"]) == 1


def test_what_is_not_finite_is_counted_and_told(here):
    np.save("n.npy", np.array([1, -2, np.nan, np.inf, np.inf, -np.inf], np.float32))
    fails = klcal("calibrate", "n.npy", "x.npy", "--format", "json")
    assert fails.code == 4
    assert "1 NaN, 1 -inf, 2 +inf among 6 values" in one_message(fails)
    assert fails.tensors["n"]["scale"] is None
    ignored = klcal("calibrate", "n.npy", "x.npy", "--nonfinite", "ignore", "--format", "json")
    assert ignored.code == 0
    assert "1 NaN, 1 -inf, 2 +inf of 6 values were left out" in one_message(ignored)
    assert ignored.document["warnings"]
    for tensor in (fails.tensors["n"], ignored.tensors["n"]):
        assert [tensor[field] for field in ("numel", "nan", "neg_inf", "pos_inf", "min", "max")] == [6, 1, 1, 2, -2, 1]
    assert ignored.tensors["n"]["scale"] > 0


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_standard_input_is_a_file(here, name):
    safetensors.numpy.save_file({"stdin": normal()}, "x.safetensors")
    done = klcal_process("calibrate", "-", "--format", "json", input=Path(name).read_bytes())
    assert (done.code, done.err) == (0, "")
    tensor = done.tensors["stdin"]
    assert tensor["source"] == "-"
    assert tensor["scale"] == klcal("calibrate", "x.npy", "--format", "json").tensors["x"]["scale"]


def test_the_installed_script_is_the_module(here):
    script = Path(sys.executable).with_name("klcal")
    if not script.exists():
        pytest.skip("klcal is not installed beside this Python")
    done = subprocess.run([script, "calibrate", "x.npy"], capture_output=True, text=True, env=environment())
    assert done.stdout == klcal_process("calibrate", "x.npy").out


@pytest.mark.parametrize("kernel", NAMES)
def test_the_version_says_which_kernel_computes(kernel):
    with working(kernel):
        assert klcal("--version").out == f"klcal {version('klcal')}, {kernel} kernel\n"


def test_the_answer_does_not_depend_on_the_kernel(here):
    texts = []
    for kernel in NAMES:
        with working(kernel):
            texts.append(klcal("calibrate", "x.npy", "--format", "json").out)
    assert texts[0] == texts[1]


def test_help_is_an_answer():
    for arguments in (["--help"], ["-h"], ["calibrate", "-h"], ["calibrate", "--help"]):
        result = klcal(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "Usage: klcal" in result.out
    assert "Examples:" in klcal("calibrate", "-h").out


# --- what is refused


OTHERS = {
    "apply": ["--to", "safetensors", "-o", "q"],
    "export": ["--to", "ort"],
    "check": ["--baseline", "absent.json"],
    "merge": ["-o", "q.safetensors"],
    "sketch": ["-o", "q.safetensors"],
}
"""What a command needs beside a file, where it is not another one."""
WITHOUT_FILES = ("config", "schema")


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_a_kernel_that_is_not_there_is_refused_by_every_command_and_help_is_given(command, monkeypatch):
    monkeypatch.setenv(VARIABLE, "fast")
    library.cache_clear()
    try:
        needed = [] if command in WITHOUT_FILES else ["absent.npy", *OTHERS.get(command, ["absent.npy"])]
        for arguments in ([command, *needed], ["--version"]):
            result = klcal(*arguments)
            assert (result.code, result.out) == (2, "")
            assert one_message(result).endswith("KLCAL_KERNEL is 'fast'; set it to compiled or numpy, or not at all")
        assert klcal(command, "--help").code == 0
    finally:
        library.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["missing command", "klcal --help"]),
        (["calibrat"], ["no such command 'calibrat'"]),
        (["calibrate"], ["missing argument 'PATHS...'"]),
        (["calibrate", "x.npy", "--outptu", "x"], ["no such option: --outptu", "--output"]),
        (["calibrate", "x.npy", "--format", "xml"], ["'xml'", *WRITERS]),
        (["calibrate", "x.npy", "--nonfinite", "maybe"], ["'maybe'", "fail", "ignore"]),
        (["calibrate", "x.npy", "--dtype", "int1"], ["'int1'", "int2 to int16", "float8_e4m3fn"]),
        (["calibrate", "x.npy", "--scheme", "odd"], ["'odd'", "auto", "symmetric", "affine"]),
        (["calibrate", "x.npy", "--method", "entropy"], ["'entropy'", *METHODS]),
        (["calibrate", "x.npy", "--method", "minmx"], ["'minmx'", "did you mean minmax?"]),
        (["calibrate", "x.npy", "--method", "kl:wieght=1"], ["'wieght'", "it takes bins, weight"]),
        (["calibrate", "x.npy", "--method", "percentile:101"], ["percentile 101 is not in (0, 100]"]),
        (["calibrate", "x.npy", "--per", "row"], ["'row'", "tensor, channel, channel:AXIS, group:SIZE"]),
        (["calibrate", "x.npy", "--per", "group:0"], ["a group of 0 values"]),
        (["calibrate", "x.npy", "--per", "tensor", "--per", "channel"], ["twice", "tensor and channel"]),
        (["calibrate", "x.npy", "--per", "*.weight=chanel"], ["'chanel'", "channel:AXIS"]),
        (["calibrate", "x.npy", "--device", "tpu"], ["'tpu'", "auto", "cpu", "cuda"]),
        (["calibrate", "x.npy", "--device", "cuda:99"], ["cuda:99"]),
        (["calibrate", "x.npy", "--bins", "9", "--method", "minmax"], ["minmax", "'bins'", "no parameters"]),
        (["calibrate", "x.npy", "--bins", "9", "--method", "kl:bins=9"], ["bins are given twice"]),
        (["calibrate", "x.npy", "--bins", "0"], ["--bins"]),
        (["calibrate", "x.npy", "--jobs", "0"], ["--jobs"]),
        (["calibrate", "x.npy", "--jobs", "many"], ["--jobs"]),
        (["calibrate", "x.npy", "--range", "1,2"], ["1,2", "LO ≤ 0 ≤ HI"]),
        (["calibrate", "x.npy", "--range", "0,0"], ["0,0"]),
        (["calibrate", "x.npy", "--range", "-1,inf"], ["-1,inf"]),
        (["calibrate", "x.npy", "--range", "1"], ["'1' is not two numbers"]),
        (["calibrate", "x.npy", "--fail-on", "sqnr < 1"], ["'sqnr'", "did you mean sqnr_db?", "zero_point"]),
        (["calibrate", "x.npy", "--fail-on", "name < 1"], ["'name'", "scale"]),
        (["calibrate", "x.npy", "--fail-on", "scale = 1"], ["FIELD OP NUMBER", "< <= > >="]),
        (["calibrate", "x.npy", "--fail-on", "scale < nan"], ["'nan' is not a number"]),
        (["calibrate", "x.npy", "--fail-on", "scale > 0", "--fail-on", ""], ["'' is not a condition"]),
    ],
    ids=lambda value: " ".join(value[2:]) if value and value[0] == "calibrate" else None,
)
def test_a_wrong_command_line_is_told_in_one_line_before_anything_is_read(here, monkeypatch, arguments, told):
    monkeypatch.setattr(gathered, "find", None)
    result = klcal(*arguments)
    assert (result.code, result.out) == (2, "")
    message = one_message(result)
    assert all(text in message for text in told), message


# --- conditions


def tripped(*conditions: str) -> list[str]:
    options = [option for condition in conditions for option in ("--fail-on", condition)]
    result = klcal("calibrate", "x.npy", *options)
    assert result.code == (1 if result.err else 0)
    return result.messages


def test_conditions_compare_fields_of_the_document(here):
    scale = klcal("calibrate", "x.npy", "--format", "json").tensors["x"]["scale"]
    assert tripped(f"scale<{scale!r}") == tripped(f"scale > {scale!r}") == []
    assert len(tripped(f"scale <= {scale!r}")) == len(tripped(f"scale>={scale!r}")) == 1
    assert tripped("numel >= 1000") == ["klcal: x.npy: x: numel 1000 >= 1000"]
    assert len(tripped("numel > 0", "min < 0", "max < 0")) == 2
    assert tripped("nan > 0", "zeros > 0") == []


# --- bad input


def save_bad_files() -> dict[str, str]:
    """Files with something wrong, and what is said about each."""
    whole = Path("x.npy").read_bytes()
    Path("empty.npy").touch()
    Path("cut.npy").write_bytes(whole[:-8])
    Path("header.npy").write_bytes(whole[:20])
    Path("foreign.safetensors").write_text("<!doctype html>")
    Path("lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    Path("pickled.npy").write_bytes(pickle.dumps({"a": 1}))
    Path("module.pt").write_bytes(pickle.dumps(Unknown(), protocol=2))
    np.save("object.npy", np.array([1, "a"], object))
    np.save("nan.npy", np.array([1, np.nan], np.float32))
    np.save("none.npy", np.full(3, np.inf, np.float32))
    np.save("complex.npy", np.ones(3, np.complex64))
    return {
        "empty.npy": "the file is empty",
        "cut.npy": "needs",
        "header.npy": "",
        "foreign.safetensors": "web page",
        "lfs.pt": "git lfs pull",
        "pickled.npy": "pickle",
        "module.pt": "",
        "object.npy": "",
        "nan.npy": "1 NaN among 2 values",
        "none.npy": "no finite value",
        "complex.npy": "complex",
        "absent.npy": "there is no such file",
    }


class Unknown:
    """What a file must not bring to life."""

    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("beside", [False, True])
def test_every_bad_file_is_told_once_and_costs_no_other(here, beside):
    bad = save_bad_files()
    result = klcal("calibrate", *bad, *["x.npy"] * beside, "--format", "json")
    assert result.code == (4 if beside else 3)
    assert len(result.messages) == len(bad)
    document = result.document
    failed = {tensor["source"]: tensor["reason"] for tensor in document["tensors"] if tensor["status"] != "ok"}
    failed |= {error["source"]: error["reason"] for error in document["errors"]}
    assert failed.keys() == bad.keys()
    for name, text in bad.items():
        (message,) = [line for line in result.messages if line.startswith(f"klcal: error: {name}: ")]
        assert text in message
        assert text in failed[name]
        assert "weights_only" not in message
        assert "allow_pickle" not in message
        assert "bug" not in message
    assert [tensor["name"] for tensor in document["tensors"] if tensor["status"] == "ok"] == ["x"] * beside
    assert "this ran" not in result.out


def test_a_missing_shard_costs_its_tensors(here):
    Path("m").mkdir()
    safetensors.numpy.save_file({"a": normal()}, "m/1.safetensors")
    weights = {"a": "1.safetensors", "b": "2.safetensors"}
    Path("m/model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    result = klcal("calibrate", "m", "--format", "json")
    assert result.code == 4
    assert "model.safetensors: b: the shard '2.safetensors' cannot be used" in one_message(result)
    assert [tensor["status"] for tensor in result.tensors.values()] == ["ok", "failed"]


@pytest.mark.parametrize(
    ("values", "code", "status"),
    [
        (np.zeros(5), 0, "zero"),
        (-np.zeros(5), 0, "zero"),
        (np.float32(3), 0, "ok"),
        (np.full(4, -7.5), 0, "ok"),
        (np.array([1e30, 1e-3, 2e-3]), 0, "ok"),
        (np.array([3e38, -3e38], np.float32), 0, "ok"),
        (np.array([1e-45], np.float32), 3, "underflow"),
        (np.array([1e300, 1.0]), 3, "overflow"),
        (np.array([1e-300, 0.0]), 3, "underflow"),
        (np.zeros((0, 3)), 3, "empty"),
        (np.array([True]), 3, "skipped"),
        (np.arange(3), 3, "skipped"),
    ],
)
def test_odd_values_have_a_status_and_never_a_plausible_scale(here, values, code, status):
    np.save("odd.npy", values)
    result = klcal("calibrate", "odd.npy", "--format", "json")
    tensor = result.tensors["odd"]
    assert (result.code, tensor["status"]) == (code, status)
    assert (tensor["scale"] is None) == (tensor["zero_point"] is None) == (status != "ok")
    assert (tensor["reason"] is None) == (status == "ok")
    assert bool(result.err) == (code != 0)


@pytest.mark.parametrize("format_", TEXTS)
def test_names_are_data(here, format_):
    names = [name for name in tables.NASTY if name.isprintable() or name.isascii()]
    bad = np.array([np.nan], np.float32)
    tensors = {name: bad if number % 2 else normal(9) for number, name in enumerate(names)}
    safetensors.numpy.save_file(tensors, "[red]\x1b.safetensors")
    result = klcal("calibrate", ".", "--format", format_)
    assert result.code == 4
    assert len(result.messages) == len(names) // 2
    assert all(line.isprintable() for line in result.messages)
    assert "\x1b" not in result.out
    if format_ == "json":
        assert result.tensors.keys() == {*names, "x"}


def test_many_failures_are_told_in_few_lines_and_all_in_the_document(here):
    safetensors.numpy.save_file({f"t{i}": np.array([np.nan], np.float32) for i in range(50)}, "m.safetensors")
    result = klcal("calibrate", ".", "--format", "json")
    assert len(result.messages) == 21
    assert result.messages[-1] == "klcal: … and 30 more"
    assert len(result.tensors) == 51


@pytest.mark.parametrize(
    ("format_", "encoding"), [*((name, "ascii:strict") for name in TEXTS), ("table", "latin-1"), ("plain", "utf-8")]
)
def test_no_character_set_is_too_small(here, format_, encoding):
    safetensors.numpy.save_file({"名前": normal(9), "größe": np.array([np.nan], np.float32)}, "m.safetensors")
    env = environment(PYTHONIOENCODING=encoding, LC_ALL="C", PYTHONCOERCECLOCALE="0")
    command = [*COMMAND, "calibrate", "m.safetensors", "--format", format_]
    done = subprocess.run(command, capture_output=True, env=env)
    assert done.returncode == 4
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
