"""What holds where the command line says nothing: files and the environment, which are as if they were typed."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import safetensors.numpy
from typer.main import get_command

from klcal.cli.configuration import NO_FILE, File, find_file, read_file
from klcal.cli.keys import options_of, shape_of, wanted
from klcal.cli.main import app
from klcal.cli.panels import ConfiguredCommand
from klcal.cli.schema import schemas
from klcal.cli.settings import settings_of
from tests.support.command import environment, klcal, normal, one_message
from tests.support.guides import DOCS

COMMANDS = get_command(app).commands
OPTIONS = options_of({name: each for name, each in COMMANDS.items() if isinstance(each, ConfiguredCommand)})


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The root of a repository with a model."""
    monkeypatch.chdir(tmp_path)
    Path(".git").mkdir()
    weights = {name: normal(9000, seed).reshape(90, 100) for seed, name in enumerate(("embed.w", "a.w", "b.w"))}
    safetensors.numpy.save_file({**weights, "a.bias": normal(90)}, "m.safetensors")
    return tmp_path


def configure(text: str, name: str = "klcal.toml") -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)


# --- which value holds

LAYERS = ("file", "file of the command", "KLCAL_JOBS", "KLCAL_CHECK_JOBS", "typed")


SUBSETS = [some for count in range(6) for some in itertools.combinations(LAYERS, count)]


@pytest.mark.parametrize("layers", SUBSETS, ids=str)
def test_the_last_layer_that_says_something_holds(layers):
    value = {layer: number for number, layer in enumerate(LAYERS, start=1)}
    values = {"jobs": value["file"]} if "file" in layers else {}
    values |= {"check": {"jobs": value["file of the command"]}} if "file of the command" in layers else {}
    environ = {name: str(value[name]) for name in layers if name.startswith("KLCAL")}
    typed = ["jobs"] if "typed" in layers else []
    found = settings_of("check", OPTIONS, File("f.toml", values=values), environ, typed)
    if not layers or typed:
        assert "jobs" not in found
    else:
        assert found["jobs"].value == value[layers[-1]]
        assert found["jobs"].place == (layers[-1] if layers[-1] in environ else "f.toml")


def test_what_is_typed_holds(here):
    configure('dtype = "int4"\n[calibrate]\nformat = "json"')
    assert klcal("calibrate", "m.safetensors").document["config"]["dtype"] == "int4"
    assert klcal("calibrate", "m.safetensors", "--dtype", "int8").document["config"]["dtype"] == "int8"


def test_a_configuration_is_as_if_it_was_typed_to_the_byte(here):
    configure("""
dtype = "int4"
per = "channel"
exclude = "b.*"
scheme = ["a.*=symmetric-full", "auto"]

[tensors."embed*"]
dtype = "int8"
method = "kl:bins=512"
weight = 1
per = "tensor"

[tensors."*.bias"]
skip = true
scale-format = "float16"
""")
    typed = ["--dtype", "embed*=int8", "--dtype", "int4", "--per", "embed*=tensor", "--per", "channel"]
    typed += ["--method", "embed*=kl:bins=512,weight=1", "--scheme", "a.*=symmetric-full", "--scheme", "auto"]
    typed += ["--scale-format", "*.bias=float16", "--exclude", "*.bias", "--exclude", "b.*"]
    configured = klcal("calibrate", "m.safetensors", "--format", "json")
    assert configured == klcal("calibrate", "m.safetensors", "--format", "json", "--no-config", *typed)
    assert configured.document["config"] == {
        "method": "embed*=kl:bins=512,weight=1; kl:bins=2048,weight=4",
        "dtype": "embed*=int8; int4",
        "scheme": "a.*=symmetric-full; auto",
        "per": "embed*=tensor; channel",
        "scale_format": "*.bias=float16; float32",
    }
    targets = {name: (row["target"], row["method"]) for name, row in configured.tensors.items()}
    assert targets == {"a.w": ("int4", "kl:bins=2048,weight=4"), "embed.w": ("int8", "kl:bins=512,weight=1")}


@pytest.mark.parametrize(
    ("variable", "typed"),
    [
        ({"KLCAL_DTYPE": "embed*=int8; int4"}, ["--dtype", "embed*=int8", "--dtype", "int4"]),
        ({"KLCAL_NONFINITE": "ignore"}, ["--nonfinite", "ignore"]),
        ({"KLCAL_CALIBRATE_TOP": "2"}, ["--top", "2"]),
        ({"KLCAL_CALIBRATE_UNITS": "yes", "KLCAL_PER": "channel"}, ["--units", "--per", "channel"]),
        ({"KLCAL_CALIBRATE_UNITS": "0"}, []),
        ({"KLCAL_DTYPE": ""}, []),
    ],
    ids=str,
)
def test_a_variable_is_as_if_it_was_typed(here, monkeypatch, variable, typed):
    expected = klcal("calibrate", "m.safetensors", *typed)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    assert klcal("calibrate", "m.safetensors") == expected


# --- which file


def named(start: Path) -> str:
    return find_file(start, OPTIONS).name


def test_the_nearest_file_up_to_the_root_of_the_repository_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "repository" / "a" / "b"
    inner.mkdir(parents=True)
    configure("jobs = 1", "klcal.toml")  # above the repository: of somebody else
    assert named(inner) == ""
    (tmp_path / "repository" / ".git").write_text("gitdir: elsewhere")  # of a worktree
    assert named(inner) == ""
    configure("[tool.klcal]\njobs = 2", "repository/pyproject.toml")
    assert named(inner) == "repository/pyproject.toml"
    configure("[project]\nname = 'klcal'", "repository/a/pyproject.toml")  # which has nothing to say
    assert named(inner) == "repository/pyproject.toml"
    configure("jobs = 3", "repository/klcal.toml")
    assert named(inner) == "repository/klcal.toml"
    configure("jobs = 4", "repository/a/klcal.toml")
    assert named(inner) == "repository/a/klcal.toml"


def test_outside_a_repository_the_directory_alone_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    configure("jobs = 1")
    assert named(tmp_path) == "klcal.toml"
    assert named(tmp_path / "a") == ""


def test_which_file_is_said_on_the_command_line_or_in_the_environment(here, monkeypatch):
    configure('dtype = "int4"')
    configure('[tool.klcal]\ndtype = "int8"', "other/pyproject.toml")

    def dtype(*options: str) -> str:
        return klcal("calibrate", "m.safetensors", "--format", "json", *options).document["config"]["dtype"]

    assert dtype() == "int4"
    assert dtype("--config", "other/pyproject.toml") == "int8"
    assert dtype("--no-config") == "uint8"
    monkeypatch.setenv("KLCAL_CONFIG", "other/pyproject.toml")
    assert dtype() == "int8"
    assert dtype("--config", "klcal.toml") == "int4"
    monkeypatch.setenv("KLCAL_CONFIG", "/dev/null")
    assert dtype() == "uint8"


def test_paths_of_a_file_are_relative_to_it_and_the_answer_is_the_same_from_everywhere(here, monkeypatch):
    configure("""
dtype = "int8"
[check]
paths = ["m.safetensors"]
baseline = "scales.json"
fail-on = ["d.scale > 1%"]
format = "json"
""")
    assert klcal("calibrate", "m.safetensors", "-o", "scales.json").code == 0
    safetensors.numpy.save_file({"a.w": 2 * normal(9000).reshape(90, 100)}, "m.safetensors")
    result = klcal("check")
    assert (result.code, result.document["config"]["rules"]) == (1, ["d.scale > 1%"])
    assert result.document["config"]["baseline"] == "scales.json"
    (here / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(here / "a" / "b")
    below = klcal("check")
    assert below.out.replace("../../", "") == result.out  # never an absolute path
    assert klcal("check", "../../m.safetensors", "--dtype", "int4").code == 2


# --- what a configuration must not do


def test_commands_that_calibrate_nothing_are_as_they_were(here):
    klcal("calibrate", "m.safetensors", "--dtype", "int8", "-o", "t.json")
    klcal("sketch", "m.safetensors", "-o", "s.safetensors")
    commands = [
        ["inspect", "m.safetensors"],
        ["inspect", "m.safetensors", "--stats"],
        ["diff", "t.json", "t.json"],
        ["compare", "m.safetensors", "--table", "t.json"],
        ["export", "t.json", "--to", "ort-cache"],
        ["merge", "s.safetensors", "-o", "merged.safetensors"],
    ]
    before = [klcal(*command) for command in commands]
    merged = Path("merged.safetensors").read_bytes()
    configure("""
include = "a.*"
exclude = "*.w"
dtype = "int4"
pool = "name"
nonfinite = "ignore"
range = "-1,1"
jobs = 1
[check]
fail-on = "extra"
[calibrate]
format = "csv"
""")
    assert [klcal(*command) for command in commands] == before
    assert Path("merged.safetensors").read_bytes() == merged


def test_a_table_that_is_named_leaves_the_configured_options_nothing_to_say(here):
    klcal("calibrate", "m.safetensors", "--dtype", "int8", "-o", "t.json")
    configure('dtype = "int4"\nper = "channel"\n[tensors."*.bias"]\nskip = true')
    assert klcal("apply", "m.safetensors", "--to", "safetensors", "-o", "q.safetensors").code == 0
    assert klcal("apply", "m.safetensors", "--table", "t.json", "--to", "safetensors", "-o", "r.safetensors").code == 0
    with safetensors.safe_open("r.safetensors", "np") as file:
        assert file.get_slice("a.w").get_dtype() == "I8"
        assert file.get_slice("a.bias").get_dtype() == "F32"
    refused = klcal("apply", "m.safetensors", "--table", "t.json", "--dtype", "int4", "--to", "npz", "-o", "s.npz")
    assert "--dtype is for calibration" in one_message(refused)


def test_a_check_of_another_configuration_than_its_baseline_s_is_an_error(here):
    klcal("calibrate", "m.safetensors", "--dtype", "int8", "-o", "t.json")
    configure('dtype = "int4"')
    assert one_message(klcal("check", "m.safetensors", "--baseline", "t.json")) == (
        "klcal: error: --dtype is int4, and int8 in the baseline; leave it out, or make another baseline with --update "
        "(dtype is from klcal.toml)"
    )
    assert klcal("check", "m.safetensors", "--baseline", "t.json", "--no-config").code == 0
    assert klcal("check", "m.safetensors", "--baseline", "t.json", "--update").code == 0
    assert json.loads(Path("t.json").read_text())["config"]["dtype"] == "int4"


def test_help_needs_no_configuration(here):
    configure("nonsense")
    assert klcal("check", "--help").code == 0
    assert klcal("--help").code == 0
    assert klcal("schema", "configuration").code == 0
    assert klcal("check", "m.safetensors", "--baseline", "t.json").code == 2


def test_a_run_without_a_file_loads_no_reader_of_files(here):
    program = "import atexit, sys; atexit.register(lambda: print('tomllib' in sys.modules))\n"
    program += "from klcal.__main__ import main; sys.argv[1:] = ['config']; main()"

    def run() -> str:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
        return done.stdout.splitlines()[-1]

    assert run() == "False"
    configure("")
    assert run() == "True"


# --- errors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dtyp = 'int8'", "unknown key dtyp; did you mean dtype? klcal schema configuration has all keys"),
        (
            "scale_format = 'e8m0'",
            "unknown key scale_format; did you mean scale-format? klcal schema configuration has all keys",
        ),
        ("[chek]", "unknown key chek; did you mean check? klcal schema configuration has all keys"),
        (
            "fail-on = 'missing'",
            "unknown key fail-on; write it in the table [calibrate], of the command that it is for",
        ),
        ("output = 'x.json'", "unknown key output; --output is of one run, and not configured"),
        ("[check]\nupdate = true", "unknown key check.update; --update is of one run, and not configured"),
        ("bins = 512", "unknown key bins; write it with the method, 'kl:bins=4096'"),
        (
            "[check]\nfail_on = ''",
            "unknown key check.fail_on; did you mean fail-on? klcal schema configuration has all keys",
        ),
        (
            "[tensors.'*.w']\ndtyp = 'int8'",
            "unknown key tensors.'*.w'.dtyp; did you mean dtype? klcal schema configuration has all keys",
        ),
        ("jobs = 0", "jobs is 0; it is a whole number from 1"),
        ("jobs = true", "jobs is True; it is a whole number from 1"),
        ("jobs = '4'", "jobs is '4'; it is a whole number from 1"),
        ("dtype = 8", "dtype is 8; it is a text, or a list of texts"),
        ("dtype = ['int8', 8]", "dtype is a list; it is a text, or a list of texts"),
        ("dequantize = 'yes'", "dequantize is 'yes'; it is true or false"),
        ("nonfinite = 'maybe'", "nonfinite is 'maybe'; it is one of fail, ignore"),
        ("pool = ['dir']", "pool is a list; it is a text"),
        ("check = 1", "check is no table; write [check]"),
        ("tensors = []", "tensors is no table; write [tensors.'GLOB']"),
        ("tensors.'a.b' = 1", "tensors.'a.b' is no table; write [tensors.'a.b']"),
        ("[tensors.w]\nskip = false", "tensors.w.skip is False; it is true, or not there"),
        ("[tensors.w]\nweight = -1", "tensors.w.weight is -1; it is a number above 0"),
        ("[tensors.w]\nweight = inf", "tensors.w.weight is inf; it is a number above 0"),
    ],
    ids=str,
)
def test_a_key_that_is_unknown_or_has_no_value_is_an_error_with_what_to_write(here, text, told):
    configure(text)
    result = klcal("inspect", "m.safetensors")
    assert (result.code, result.out) == (2, "")
    assert one_message(result) == f"klcal: error: klcal.toml: {told}"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"dtype = ", "klcal.toml: this is no TOML; mend it there"),
        (b"jobs = 1\njobs = 2\n", "klcal.toml, line 2: this is no TOML; mend it there"),
        (b"\xff", "klcal.toml is not in UTF-8; save it so"),
        (
            b"#" * (1 << 20) + b"#",
            "klcal.toml is no configuration: it has more than 1,048,576 bytes; name another file",
        ),
        (b"x = " + b"[" * 100_000, "klcal.toml: this is no TOML; mend it there"),
    ],
    ids=["cut", "twice", "bytes", "large", "deep"],
)
def test_a_file_that_is_no_configuration_is_an_error(here, data, told):
    Path("klcal.toml").write_bytes(data)
    assert one_message(klcal("inspect", "m.safetensors")) == f"klcal: error: {told}"


NAME = "name another file with --config"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--config", "absent.toml"], f"cannot read the configuration absent.toml: no such file or directory; {NAME}"),
        (["--config", "."], f"cannot read the configuration .: is a directory; {NAME}"),
        (["--config", "pyproject.toml"], "pyproject.toml has no table [tool.klcal]; add one, or name another file"),
        (["--config", "klcal.toml", "--no-config"], "--config and --no-config are both given; leave one of them out"),
    ],
    ids=["absent", "directory", "empty", "both"],
)
def test_a_file_that_is_named_has_to_be_there(here, options, told):
    configure("[tool.other]", "pyproject.toml")
    assert one_message(klcal("inspect", "m.safetensors", *options)) == f"klcal: error: {told}"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("KLCAL_JOBS", "many", "KLCAL_JOBS is 'many' in the environment; it is a whole number from 1, or unset"),
        ("KLCAL_DEQUANTIZE", "x", "KLCAL_DEQUANTIZE is 'x' in the environment; it is true or false, or unset"),
        ("KLCAL_NONFINITE", "no", "KLCAL_NONFINITE is 'no' in the environment; it is one of fail, ignore, or unset"),
    ],
)
def test_a_variable_without_a_value_of_its_option_is_an_error(here, monkeypatch, name, value, told):
    monkeypatch.setenv(name, value)
    assert one_message(klcal("calibrate", "m.safetensors")) == f"klcal: error: {told}"


def test_a_variable_that_is_misspelt_is_reported_and_one_of_somebody_else_is_not(here, monkeypatch):
    monkeypatch.setenv("KLCAL_DTYP", "int8")
    monkeypatch.setenv("KLCAL_VERSION", "0.2.0")
    monkeypatch.setenv("KLCAL_STATS", "1")  # an option of one command
    told = "klcal: warning: KLCAL_DTYP in the environment says nothing; did you mean KLCAL_DTYPE?"
    of_one = "klcal: warning: KLCAL_STATS in the environment says nothing; did you mean KLCAL_INSPECT_STATS?"
    assert klcal("inspect", "m.safetensors").messages == [told, of_one]
    assert klcal("inspect", "m.safetensors", "--quiet").messages == []


def test_an_error_of_a_combination_of_values_names_their_origins(here, monkeypatch):
    configure('dtype = "int1"')
    monkeypatch.setenv("KLCAL_PER", "channel")
    message = klcal("calibrate", "m.safetensors").messages[0]
    assert message.startswith("klcal: error: unknown dtype 'int1'; ")
    assert message.endswith(" (dtype is from klcal.toml; per is from KLCAL_PER)")


# --- klcal config


def test_the_command_shows_values_and_where_they_are_from(here, monkeypatch):
    configure('dtype = ["a=int4", "int8"]\njobs = 3\n[check]\njobs = 1\nbaseline = "t.json"')
    monkeypatch.setenv("KLCAL_PER", "channel")
    rows = [line.split("\t") for line in klcal("config").out.splitlines()]
    assert rows[0] == ["option", "value", "from", "commands"]
    calibrating = "calibrate, check, explain, report, apply"
    assert ["dtype", "a=int4; int8", "klcal.toml", calibrating] in rows
    assert ["per", "channel", "KLCAL_PER", f"{calibrating}, sketch"] in rows
    assert ["jobs", "1", "klcal.toml", "check"] in rows
    assert ["jobs", "3", "klcal.toml", "calibrate, compare, explain, report, apply, sketch, inspect"] in rows
    assert ["nonfinite", "fail", "default", calibrating] in rows
    document = klcal("config", "check", "--format", "json").document
    assert document["file"] == "klcal.toml"
    options = {each.pop("option"): each for each in document["options"]}
    assert options["baseline"] == {"value": "t.json", "from": "klcal.toml", "commands": ["check"]}
    assert options["dtype"]["value"] == ["a=int4", "int8"]
    assert options["top"] == {"value": None, "from": "default", "commands": ["check"]}
    assert one_message(klcal("config", "chek")).startswith("klcal: error: there is no command 'chek'; use one of cal")


def test_the_table_for_people_has_its_columns_below_each_other(here):
    configure(f'exclude = "{"x" * 90}"\n[check]\nfail-on = "missing"')
    head, *rows = klcal("config", "check", "--format", "table").out.splitlines()
    starts = [head.index(title) for title in ("option", "value", "from", "commands")]
    for row in rows:
        assert all(row[start - 1] == " " and row[start] != " " for start in (starts[2], starts[3])), row
    assert any("…" in row for row in rows)  # people see less of a long value
    assert "x" * 90 in klcal("config", "check").out


# --- the schema of the file and what the reader takes are the same

SAMPLES = ["", "int8", "fail", "auto", [], ["a"], ["a", 1], 0, 1, 2, -1, 1.5, True, False, {}, [[]], "json"]


@pytest.mark.parametrize("value", SAMPLES, ids=repr)
def test_the_schema_takes_what_the_reader_takes(value):
    schema = schemas(OPTIONS)["configuration"]
    for command, params in OPTIONS.items():
        for key, param in params.items():
            document = {command: {key: value}}
            is_right = jsonschema.Draft202012Validator(schema).is_valid(document)
            assert is_right == (not wanted(value, shape_of(param))), (command, key)


def test_the_schema_refuses_unknown_keys_as_the_reader_does():
    validator = jsonschema.Draft202012Validator(schemas(OPTIONS)["configuration"])
    assert validator.is_valid({"dtype": "int8", "tensors": {"*": {"skip": True, "weight": 2}}, "diff": {"top": 3}})
    for wrong in ({"dtyp": "int8"}, {"check": {"output": "x"}}, {"tensors": {"*": {"jobs": 1}}}, {"diff": {"jobs": 1}}):
        assert not validator.is_valid(wrong), wrong


def test_the_file_of_the_guide_is_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)
    configure(text)
    assert read_file(Path("klcal.toml"), OPTIONS).general["method"] == ["*embed*=kl:weight=1"]


def test_no_file_says_nothing():
    assert settings_of("calibrate", OPTIONS, NO_FILE, {}) == {}
