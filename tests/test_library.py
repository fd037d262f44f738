"""The library as it is used: files, tables, wrong arguments in its own words, types without ``Any``, short texts."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal
from klcal.errors import KlcalError, UsageError
from tests.support import tables
from tests.support.command import SAMPLES, environment, normal
from tests.support.command import klcal as command
from tests.support.lazy import torch

MODEL = SAMPLES / "mtcnn_pnet.pt"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    safetensors.numpy.save_file({"w": normal(600).reshape(20, 30), "b": normal(20)}, "m.safetensors")
    return tmp_path


# --- the same as the command


def test_files_are_calibrated_and_tables_written_as_the_command_does(here):
    rules = ("--dtype", "int8", "--per", "*.weight=channel", "--scheme", "*.bias=affine", "--include", "conv*")
    assert command("calibrate", MODEL, *rules, "-o", "command.json").code == 0
    given = {"dtype": "int8", "per": {"*.weight": "channel"}, "scheme": ["*.bias=affine"], "include": "conv*"}
    table = klcal.calibrate_files(MODEL, **given)
    table.write(Path("library.json"))
    assert Path("library.json").read_bytes() == Path("command.json").read_bytes()
    assert table.to_dict() == json.loads(Path("command.json").read_text())
    assert [row.to_dict() for row in table.rows] == table.to_dict()["tensors"]
    values = {"*.weight": klcal.PerChannel(), "*": klcal.PerTensor()}
    assert klcal.calibrate_files([str(MODEL)], **{**given, "per": values, "method": klcal.KL()}, jobs=2) == table


@pytest.mark.parametrize("name", ["t.json", "t.safetensors"])
def test_a_table_comes_back_and_is_compared_with(here, name):
    table = klcal.calibrate_files("m.safetensors", dtype="int4", per={"w": "group:10"})
    table.write(name)
    back = klcal.load_table(name)
    assert back.to_dict() == table.to_dict()
    by_object, by_path = klcal.compare("m.safetensors", table=back), klcal.compare("m.safetensors", table=name)
    assert by_object.rows == by_path.rows
    assert {row.name: row.mse for row in by_object.rows} == pytest.approx({row.name: row.mse for row in back.rows})
    document = command("compare", "m.safetensors", "--table", name, "--format", "json").document
    assert by_path.to_dict() == document
    assert klcal.compare("m.safetensors", Path("m.safetensors")).rows[0].mse == 0


@pytest.mark.parametrize("per", ["tensor", "channel", "channel:1", "group:10", "block:4,8"])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "nf4"])
def test_a_row_as_plain_values_quantizes_alike(per, dtype):
    values = normal(400).reshape(20, 20)
    row = klcal.calibrate(values, dtype=dtype, per=per)
    again = klcal.Row(**row.to_dict())
    assert np.array_equal(klcal.quantize(values, again), klcal.quantize(values, row))
    assert again.to_dict() == row.to_dict()


def test_a_bad_file_raises_no_exception(here):
    Path("bad.npy").write_text("text")
    table = klcal.calibrate_files(["bad.npy", "absent.npy", "m.safetensors"])
    assert [error.source for error in table.errors] == ["absent.npy", "bad.npy"]
    assert [row.status for row in table.rows] == ["ok", "ok"]


def test_divergence_is_there_without_an_import_of_its_own_and_costs_nothing_before():
    program = """
import sys, klcal
assert "numpy" not in sys.modules
assert klcal.divergence.kl([0.5, 0.5], [0.5, 0.5]) == 0
assert klcal.divergence.samples.mass_bins and klcal.divergence.densities.kl_normal
assert "scipy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)
    with pytest.raises(AttributeError, match="nothing"):
        klcal.divergence.nothing  # noqa: B018 - an attribute is asked for


# --- writing


def test_a_file_is_replaced_whole_or_not_at_all(here):
    table = klcal.calibrate_files("m.safetensors")
    table.write("t.json")
    before = Path("t.json").read_bytes()
    for wrong, told in (
        (("t.yaml",), "the suffix of 't.yaml' names no format"),
        (("t.json", "xml"), "unknown format 'xml'; use one of table, plain, json"),
        (("absent/t.json",), "cannot write 'absent/t.json'"),
        (("m.safetensors",), "'m.safetensors' would replace a tensor file; name another file"),
        (("t.pt",), "'t.pt' is the name of a tensor file"),
        ((3,), "the path is 3; give the path of a file"),
    ):
        with pytest.raises(UsageError, match=told):
            table.write(*wrong)
    with pytest.raises(UsageError, match="safetensors is for scales, not for comparisons"):
        klcal.compare("m.safetensors", "m.safetensors").write("c.safetensors")
    assert Path("t.json").read_bytes() == before
    table.write("t.out", "csv")
    assert Path("t.out").read_text().startswith("name,source")
    assert sorted(path.name for path in here.iterdir()) == ["m.safetensors", "t.json", "t.out"]


# --- for people


def test_texts_are_short(here):
    table = klcal.calibrate_files("m.safetensors", dtype="int8", per={"w": "group:10"})
    assert repr(table) == (
        "<Table: m.safetensors · kl:bins=2048,weight=4 · int8 symmetric · per w=group:10; tensor · 2 ok>"
    )
    bias, weight = table.rows
    assert repr(weight.units) == "<Units: 60, per='group', axis=1, size=10, shape=(20, 3)>"
    assert repr(weight).startswith("Row(name='w', status='ok', target='int8', units=<Units: 60")
    assert repr(bias).startswith("Row(name='b', status='ok', target='int8', scale=0.0")
    assert all(len(repr(each)) < 200 for each in (table, bias, weight))
    empty = klcal.calibrate(np.zeros(3))
    assert repr(empty) == "Row(status='zero', reason='every value is 0', target='uint8')"


class Page(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, _):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def page(text: str) -> Page:
    found = Page()
    found.feed(text)
    return found


def test_a_notebook_shows_a_table_in_which_names_are_text():
    found = page(tables.TABLE._repr_html_())
    assert found.tags == {"table", "tr", "th", "td", "p"}
    for name in ("<script>alert(1)</script>", "[red]layer[/red].weight", "a|b`c``d|", "integers are not calibrated"):
        assert name in found.text
    assert "\x1b" not in found.text
    assert page("<p><script>alert(1)</script></p>").tags == {"p", "script"}, "the check sees a name that acts"
    many = tables.named(*map(str, range(300)))._repr_html_()
    assert "… and 200 more" in many
    assert many.count("<tr>") == 101


# --- wrong arguments


X = np.eye(4, dtype=np.float32)
ROW = klcal.calibrate(X, dtype="int8")
WRONG = {
    "unknown dtype 8": lambda: klcal.calibrate(X, dtype=8),
    "unknown dtype None": lambda: klcal.calibrate(X, dtype=None),
    "unknown scheme": lambda: klcal.calibrate(X, scheme=None),
    "nf4 has no zero point": lambda: klcal.calibrate(X, dtype="nf4", scheme="affine"),
    r"unknown scale format \[\]": lambda: klcal.calibrate(X, scale_format=[]),
    "e8m0 has no negative": lambda: klcal.calibrate(X, dtype="int4", scheme="symmetric-signed", scale_format="e8m0"),
    "scales are relative": lambda: klcal.calibrate(X, scale_format="float8_e4m3fn"),
    "the method is None": lambda: klcal.calibrate(X, method=None),
    "the unit is 3": lambda: klcal.calibrate(X, per=3),
    "unknown unit": lambda: klcal.calibrate(X, per="chanel"),
    "per channel:9: the shape": lambda: klcal.calibrate(X, per="channel:9"),
    "the range 3 is not": lambda: klcal.calibrate(X, bounds=3),
    "nonfinite is": lambda: klcal.calibrate(X, nonfinite=["fail"]),
    "is text, not values": lambda: klcal.calibrate("model.pt"),
    "lengths differ": lambda: klcal.calibrate([[1.0], [1.0, 2.0]]),
    "percentile 99 is": lambda: klcal.Percentile("99"),
    "None is not a quantizer": lambda: klcal.quantize(X, None),
    "is not a quantizer": lambda: klcal.dequantize([1], {"scale": 1}),
    "str32 values are not numbers": lambda: klcal.quantize(["x"], ROW),
    "object values are not numbers": lambda: klcal.dequantize(None, ROW),
    "values are not an array": lambda: klcal.dequantize([[1], [1, 2]], ROW),
    "the scale is 'a'": lambda: klcal.quantize(X, klcal.Qparams("a", 0, 0, 255)),
    "the scale is 0": lambda: klcal.quantize(X, klcal.Qparams(0, 0, 0, 255)),
    "the path is 3": lambda: klcal.read(3),
    "path is None": lambda: klcal.load_table(None),
    "paths is 3": lambda: klcal.calibrate_files(3),
    "paths is 4": lambda: klcal.calibrate_files([4]),
    "include is 3": lambda: klcal.calibrate_files("x", include=[3]),
    "jobs is 0": lambda: klcal.calibrate_files("x", jobs=0),
    "device is 3": lambda: klcal.calibrate_files("x", device=3),
    "unknown dtype 3": lambda: klcal.calibrate_files("x", dtype=[3]),
    "the dtype is given twice": lambda: klcal.calibrate_files("x", dtype=["int8", "int4"]),
    "the unit of 3": lambda: klcal.calibrate_files("x", per={3: "channel"}),
    "the importance 'absent.npz'": lambda: klcal.calibrate_files("x", importance="absent.npz"),
    "q or table": lambda: klcal.compare("x"),
    "p is compared": lambda: klcal.compare("x", "y", table="z"),
    "unknown base": lambda: klcal.compare("x", "y", base=[]),
    "unknown field 'mean' to sort by": lambda: klcal.compare("x", "y", sort="mean"),
    "the table 'absent.json'": lambda: klcal.compare("x", table="absent.json"),
    "it is a comparison": lambda: klcal.compare("x", table=klcal.compare("x", "y")),
    "the status of a row": lambda: klcal.Row(status="fine"),
    "the units of a row": lambda: klcal.Row(status="ok", units={"per": "channel"}),
    "the units of a row do not have the fields": lambda: klcal.Row(status="ok", units=3),
    "a logarithm to base 'x'": lambda: klcal.divergence.kl([1.0], [1.0], base="x"),
}


@pytest.mark.parametrize("told", WRONG)
def test_a_wrong_argument_is_an_error_of_the_librarys_in_its_words(told):
    with pytest.raises(KlcalError, match=told) as caught:
        WRONG[told]()
    assert "--" not in str(caught.value), "no option of the command"
    assert caught.value.hint, "it says what to do"


def test_a_tensor_of_torch_gives_one_back():
    values = torch.linspace(-1, 1, 16).reshape(4, 4)
    row = klcal.calibrate(values, dtype="int8", per="channel")
    integers = klcal.quantize(values, row)
    assert (integers.dtype, klcal.dequantize(integers, row).dtype) == (torch.int64, torch.float32)
    assert np.array_equal(integers.numpy(), klcal.quantize(values.numpy(), row))


# --- types


def annotations_of(name: str, value: object) -> list[tuple[str, str]]:
    """The annotations of a public function, or of a class's public functions and fields, as they are written."""
    if inspect.isclass(value):
        members = {key: each for key, each in vars(value).items() if not key.startswith("_") or key == "__init__"}
        found = [(f"{name}.{key}", str(text)) for key, text in vars(value).get("__annotations__", {}).items()]
    else:
        members, found = {"": value}, []
    for key, member in members.items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
        if inspect.isfunction(function):
            found += [(f"{name}.{key}.{each}", str(text)) for each, text in function.__annotations__.items()]
    return found


def has_any(text: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(text, mode="eval")))


def test_no_public_type_is_any():
    assert has_any("Sequence[Any] | None")
    assert not has_any("Company | None")
    public = {name: getattr(klcal, name) for name in klcal.__all__ if name != "divergence"}
    found = [each for name, value in public.items() for each in annotations_of(name, value)]
    assert len(found) > 200
    assert not [place for place, text in found if has_any(text)]
