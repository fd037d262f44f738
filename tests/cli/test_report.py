"""``klcal report`` without a browser: what is in the page, how it ends, and that nothing in it leads out or acts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from klcal.pipeline.report import bits_of
from klcal.quantizers.scheme import DTYPES
from tests.support.command import FULL, SAMPLES, klcal, klcal_process, normal, one_message, with_full
from tests.support.tables import NASTY


class Page(HTMLParser):
    """The elements of a page, in their order, and the text of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.texts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data

    def handle_endtag(self, _):
        self.inside = ""

    @property
    def data(self) -> dict:
        return json.loads(self.texts["data"])

    @property
    def policy(self) -> str:
        (found,) = [attrs["content"] for tag, attrs in self.elements if attrs.get("http-equiv")]
        return found or ""


@pytest.fixture
def model(tmp_path):
    arrays = {f"layers.{number}.w": normal(5000, number).reshape(50, 100) for number in range(11)}
    np.savez(tmp_path / "m.npz", **arrays, zero=np.zeros(5, np.float32))
    return tmp_path / "m.npz"


def page_of(*arguments) -> Page:
    result = klcal("report", *arguments)
    assert result.code in (0, 4)
    return Page(result.out)


def test_the_data_are_those_of_calibrate_and_of_explain(model):
    rows = page_of(model, "--dtype", "int8").data["rows"]
    table = klcal("calibrate", model, "--dtype", "int8", "--format", "json").tensors
    assert [row["name"] for row in rows] == sorted(
        table, key=lambda name: (table[name]["sqnr_db"] is None, table[name]["sqnr_db"])
    )
    for row in rows:
        for field, value in table[row["name"]].items():
            assert row.get(field) == value or value in (None, [], "", False), field
    worst = rows[0]["name"]
    alone = klcal("explain", model, worst, "--dtype", "int8", "--format", "json").document
    shown = rows[0]["explanation"]
    for field in ("nearby", "without", "levels", "objective", "weight"):
        assert shown[field] == alone[field]
    assert shown["methods"] == [each for each in alone["methods"] if not each["method"].startswith("kl-classic")]
    assert rows[0]["histogram"] == alone["histogram"]


def test_those_that_lose_most_are_explained(model):
    for most in (0, 3, 100):
        rows = page_of(model, "--plots", most).data["rows"]
        known = [row["name"] for row in rows if "explanation" in row]
        assert known == [row["name"] for row in rows if row["status"] == "ok"][:most]
        assert all("histogram" in row for row in rows)


def test_standard_input_and_pooled_tensors_are_explained_in_one_go(model, tmp_path):
    np.save(tmp_path / "x.npy", normal())
    result = klcal_process("report", "-", input=(tmp_path / "x.npy").read_bytes())
    assert "explanation" in Page(result.out).data["rows"][0]
    for number in range(3):
        np.save(tmp_path / f"conv_{number:03}.npy", normal(100, number))
    rows = page_of(*sorted(tmp_path.glob("conv_*.npy")), "--pool", "stem").data["rows"]
    assert [row["numel"] for row in rows if "explanation" in row] == [300]


def test_it_is_the_same_bytes_each_time(model):
    pages = {klcal("report", model, "--jobs", jobs).out for jobs in "112"}
    assert len(pages) == 1


def test_a_table_makes_a_page_and_has_no_options_left(model, tmp_path):
    table = tmp_path / "t.json"
    klcal("calibrate", model, "--dtype", "int8", "-o", table)
    found = page_of(table).data
    assert found["config"]["dtype"] == "int8"
    assert not any("histogram" in row for row in found["rows"])
    binary = tmp_path / "t.safetensors"
    klcal("calibrate", model, "--dtype", "int8", "-o", binary)
    assert page_of(binary).data["rows"] == found["rows"]
    result = klcal("report", table, "--dtype", "int4")
    assert result.code == 2
    assert "is a table of scales, which are chosen already" in one_message(result)


def test_a_baseline_stands_beside_it(model, tmp_path):
    table = tmp_path / "t.json"
    klcal("calibrate", model, "--method", "minmax", "-o", table)
    was = {each["name"]: each for each in json.loads(table.read_text())["tensors"]}
    for row in page_of(model, "--baseline", table).data["rows"]:
        change = row["change"]
        assert change["status"] == "changed", "by another method"
        if row["name"] != "zero":
            assert change["was"]["scale"] == was[row["name"]]["scale"]
            assert change["d"]["scale"] == pytest.approx(row["scale"] / was[row["name"]]["scale"] - 1, abs=1e-6)
    result = klcal("report", model, "--baseline", tmp_path / "no.json")
    assert result.code == 2
    one_message(result)


def test_sizes_count_codes_and_scales(model):
    for options, codes, scales in (
        (["--dtype", "int8"], 8, 11 * 32),
        (["--dtype", "uint8"], 8, 11 * (32 + 8)),
        (["--dtype", "int4", "--per", "channel", "--scale-format", "float16"], 4, 11 * 50 * 16),
    ):
        summary = page_of(model, *options).data["summary"]
        assert summary["values"] == 55_000
        assert summary["bits_before"] == 32 * 55_000
        assert summary["bits_after"] == codes * 55_000 + scales
    assert all(bits_of(dtype) == int(re.search(r"\d+", dtype)[0]) for dtype in DTYPES)


def test_very_many_units_are_a_strip_of_some(tmp_path):
    np.save(tmp_path / "w.npy", normal(40_000).reshape(1000, 40))
    (row,) = page_of(tmp_path / "w.npy", "--dtype", "int4", "--per", "channel").data["rows"]
    table = klcal("calibrate", tmp_path / "w.npy", "--dtype", "int4", "--per", "channel", "--format", "json")
    values = table.document["tensors"][0]["units"]["sqnr_db"]
    units = row["units"]
    assert (units["number"], units["each"], len(units["cells"])) == (1000, 16, 63)
    assert units["cells"] == [min(values[i : i + 16]) for i in range(0, 1000, 16)]
    assert units["low"] == min(values)


# --- nothing leads out, nothing acts


def test_one_style_and_one_script_are_allowed_and_nothing_is_fetched(model):
    page = page_of(model)
    assert [tag for tag, _ in page.elements].count("style") == 1
    assert [attrs.get("type") for tag, attrs in page.elements if tag == "script"] == ["application/json", None]
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy
    assert "unsafe" not in page.policy
    for tag, attrs in page.elements:
        assert not {"src", "srcset", "action", "style", "background"} & set(attrs), tag
        assert not [name for name in attrs if name.startswith("on")], tag
        assert attrs.get("href", "#").startswith("#")
    script = page.texts["script"]
    for acting in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert acting not in script
    assert set(re.findall(r"https?://[^\"' ]+", script)) == {"http://www.w3.org/2000/svg"}


ODD = [
    *NASTY,
    "</script><script>alert(1)</script>",
    "</title><b>",
    "{{data}}",
    "{{script}}",
    "<!--<script>",
    "&lt;",
    "'\"",
]


@pytest.mark.parametrize("name", ODD)
def test_names_end_no_element(name, tmp_path):
    document = json.loads(klcal("calibrate", SAMPLES / "minilm_l0_ffn_in.npy", "--format", "json").out)
    (tensor,) = document["tensors"]
    tensor.update(name=name, source=f"{name}.pt", note=name, reason=None)
    document["warnings"], document["errors"] = [name], [{"source": name, "reason": name, "cause": "data"}]
    (tmp_path / "t.json").write_text(json.dumps(document))
    plain = page_of(SAMPLES / "minilm_l0_ffn_in.npy")
    page = page_of(tmp_path / "t.json")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.policy == plain.policy
    assert page.data["rows"][0]["name"] == name
    assert page.data["warnings"] == [name]
    assert page.texts["script"] == plain.texts["script"]


def test_names_are_shown_with_printable_characters(tmp_path):
    document = json.loads(klcal("calibrate", SAMPLES / "minilm_l0_ffn_in.npy", "--format", "json").out)
    document["tensors"][0]["name"] = "a\x1b[31m\u202e"
    (tmp_path / "t.json").write_text(json.dumps(document))
    assert page_of(tmp_path / "t.json").data["rows"][0]["label"] == "a\\x1b[31m\\u202e"


# --- how it ends


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["no.npy"], 3, "no such file"),
        (["m.npz", "-o", "x.pdf"], 2, "the suffix of 'x.pdf' is not that of a page"),
        (["m.npz", "--dtype", "int99"], 2, "unknown dtype"),
        (["m.npz", "--plots", "-1"], 2, "plots"),
        (["m.npz", "-o", "no/x.html"], 2, "cannot write"),
        (["m.npz", "--include", "nothing"], 3, "matches no tensor"),
    ],
)
def test_impossible_requests_are_reported(model, monkeypatch, arguments, code, said):
    monkeypatch.chdir(model.parent)
    result = klcal("report", *arguments)
    assert result.code == code
    assert said in result.err


def test_one_bad_tensor_costs_the_others_nothing(tmp_path):
    np.savez(tmp_path / "m.npz", good=normal(), bad=np.float32([1, np.nan]))
    (tmp_path / "broken.npy").write_text("no array")
    result = klcal("report", tmp_path, "-o", tmp_path / "r.html")
    assert result.code == 4
    found = Page((tmp_path / "r.html").read_text()).data
    assert [row["status"] for row in found["rows"]] == ["nonfinite", "ok"]
    assert [error["source"] for error in found["errors"]] == ["broken.npy"]


def test_an_answer_without_a_scale_replaces_no_page(tmp_path):
    np.save(tmp_path / "bad.npy", np.float32([np.nan]))
    page = tmp_path / "r.html"
    page.write_text("old")
    assert klcal("report", tmp_path / "bad.npy", "-o", page).code == 3
    assert page.read_text() == "old"


@with_full
def test_a_full_disk_is_reported(model):
    with FULL.open("w") as full:
        result = klcal_process("report", model, stdout=full)
    assert result.code == 4
    assert "no space left" in one_message(result)


def test_settings_for_tensors_do_not_apply_to_tables(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "klcal.toml").write_text('dtype = "int4"\n')
    assert page_of(model).data["config"]["dtype"] == "int4"
    assert klcal("explain", model, "layers.3.w", "--format", "json").document["config"]["dtype"] == "int4"
    klcal("calibrate", model, "--dtype", "int8", "-o", "t.json")
    assert page_of("t.json").data["config"]["dtype"] == "int8"
    assert klcal("report", "t.json", "--dtype", "int4").code == 2
