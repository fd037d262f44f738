"""``klcal report`` in a browser without a network: what it shows, how it is used, how fast, and that nothing acts."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.command import klcal, normal
from tests.support.tables import NASTY

ODD = [
    *NASTY,
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "{{data}}",
]
SIZES = [(400, 800), (1000, 900), (2000, 1200)]


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        f"layers.{layer}.{part}.weight": rng.standard_normal((24, 400)).astype(np.float32) * (1 + layer)
        for layer in range(12)
        for part in ("attn", "mlp")
    }
    found["layers.3.mlp.weight"][0, 0] = 500
    return found | {"zeros": np.zeros(9, np.float32), "broken": np.float32([1, np.nan]), "ids": np.arange(3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report")
    save_file(arrays(), path / "m.safetensors")
    older = {name: values for name, values in arrays().items() if name != "layers.0.attn.weight"}
    save_file({**older, "gone": normal(500)}, path / "old.safetensors")
    assert klcal("calibrate", path / "old.safetensors", "--dtype", "int8", "-o", path / "old.json").code == 4
    options = ["--dtype", "int8", "--per", "*attn*=channel", "--per", "tensor"]
    assert klcal("report", path / "m.safetensors", *options, "-o", path / "r.html").code == 4
    assert (
        klcal("report", path / "m.safetensors", *options, "--baseline", path / "old.json", "-o", path / "b.html").code
        == 4
    )
    return path


@pytest.fixture
def page(opened, folder):
    return opened(folder / "r.html")


def data(page) -> dict:
    return json.loads(page.locator("#data").text_content())


def names(page) -> list[str]:
    return page.locator("#rows tbody th button").all_inner_texts()


def column(page, title: str) -> list[str]:
    titles = page.locator("#rows thead th").all_inner_texts()
    return page.locator(f"#rows tbody tr[data-place] > :nth-child({titles.index(title) + 1})").all_inner_texts()


def row(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


# --- what it shows


def test_the_worst_comes_first_and_failures_are_named(page):
    known = data(page)
    numbers = [float(text) for text in column(page, "SQNR dB") if text]
    assert numbers == sorted(numbers)
    assert known["summary"]["worst"] == "layers.3.mlp.weight" == names(page)[0]
    assert len(names(page)) == len(known["rows"]) == 27
    assert page.locator("td.failed").all_inner_texts() == ["nonfinite"]
    summary = page.locator("#summary").inner_text()
    assert re.search(r"Tensors\s+27\s+1 nonfinite, 24 ok, 1 skipped, 1 zero", summary)
    values = 24 * 24 * 400
    assert known["summary"]["values"] == values
    assert known["summary"]["bits_before"] == 32 * values
    assert known["summary"]["bits_after"] == 8 * values + 32 * (12 * 24 + 12)
    bars = page.locator("#overview svg title").evaluate_all("all => all.map(each => Number(each.dataset.count))")
    assert bars == known["summary"]["sqnr_bins"]
    assert sum(bars) == 24


def test_figures_show_the_numbers_of_the_data(page):
    known = {each["name"]: each for each in data(page)["rows"]}
    found = known["layers.3.mlp.weight"]
    row(page, "layers.3.mlp.weight").click()
    details = page.locator("tr.details")
    bars = details.locator("svg title[data-count]").evaluate_all("all => all.map(each => Number(each.dataset.count))")
    assert bars == [count for count in found["histogram"]["counts"] if count]
    assert sum(bars) == found["numel"]
    curve = found["explanation"]["curve"]
    chosen = details.locator("title[data-loss]").evaluate("each => Number(each.dataset.loss)")
    assert chosen == curve["loss"][curve["chosen"]] == found["explanation"]["methods"][0]["loss"]
    assert curve["scale"][curve["chosen"]] == found["scale"]
    shown = details.locator(".grid").first.locator("tbody tr").first.locator("td").all_inner_texts()
    assert float(shown[0]) == pytest.approx(found["scale"], rel=1e-4)
    assert float(shown[3]) == pytest.approx(found["sqnr_db"], rel=1e-3)
    for said in found["words"]:
        assert said in details.inner_text()
    page.close()


def test_channels_are_a_strip_of_figures(page):
    known = {each["name"]: each for each in data(page)["rows"]}
    units = known["layers.0.attn.weight"]["units"]
    row(page, "layers.0.attn.weight").click()
    bars = page.locator("title[data-db]").evaluate_all("all => all.map(each => Number(each.dataset.db))")
    assert bars == units["cells"]
    assert len(bars) == units["number"] == 24
    assert min(bars) == units["low"]


def test_numbers_are_those_of_calibrate(page, folder):
    options = ["--dtype", "int8", "--per", "*attn*=channel", "--per", "tensor", "--format", "json"]
    table = klcal("calibrate", folder / "m.safetensors", *options).tensors
    for each in data(page)["rows"]:
        for field in ("scale", "zero_point", "sqnr_db", "kl", "clipped", "status", "numel", "reason"):
            assert each.get(field) == table[each["name"]][field], (each["name"], field)


# --- how it is used


def test_sorting(page):
    for title in ("scale", "clipped %", "name"):
        button = page.locator("#rows thead button", has_text=re.compile(f"^{title}$"))
        button.click()
        head = page.locator("#rows thead th", has_text=re.compile(f"^{title}$"))
        assert head.get_attribute("aria-sort") == "ascending"
        assert page.locator("#rows thead th[aria-sort]").count() == 1
        up = column(page, title)
        button.click()
        assert head.get_attribute("aria-sort") == "descending"
        known = [text for text in up if text]
        if title != "name":
            assert [float(text) for text in known] == sorted(float(text) for text in known)
        assert up[len(known) :] == [""] * (len(up) - len(known)), "what is not known comes last, in either direction"
        assert column(page, title)[len(known) :] == [""] * (len(up) - len(known))
        if len(set(known)) == len(known):
            assert column(page, title)[: len(known)] == known[::-1]
    assert page.locator("#count").inner_text() == "27 of 27 tensors, by name, greatest first."
    order = [name for name in names(page) if name.startswith("layers")]
    assert order[0] == "layers.11.mlp.weight", "numbers in names count"


def test_filtering(page):
    page.locator("#query").fill("LAYERS.1")
    assert all("layers.1" in name for name in names(page))
    assert page.locator("#count").inner_text().startswith("6 of 27 tensors")
    page.locator("#query").fill("")
    page.locator("#status").select_option("nonfinite")
    assert names(page) == ["broken"]
    page.locator("#status").select_option("")
    page.locator("#below").fill("20")
    assert names(page) == ["layers.3.mlp.weight"]
    page.locator("#below").fill("")
    page.locator("#query").fill("nothing that is there")
    assert page.locator("#count").inner_text().startswith("0 of 27")


def test_the_tree_narrows_the_table(page):
    page.locator("#tree summary").first.click()
    page.locator("#tree summary", has_text="layers.").first.click()
    page.locator("#tree li", has_text="3.").get_by_role("button", name="Show layers.3.", exact=True).click()
    assert sorted(names(page)) == ["layers.3.attn.weight", "layers.3.mlp.weight"]
    page.get_by_role("button", name="Only layers.3. ✕").click()
    assert len(names(page)) == 27


def test_rows_open_and_close_and_stay_open_when_sorted(page):
    button = row(page, "layers.5.mlp.weight")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert page.locator("tr.details").count() == 1
    page.locator("#rows thead button", has_text="name").click()
    assert page.locator("tr.details").count() == 1
    row(page, "layers.5.mlp.weight").click()
    assert page.locator("tr.details").count() == 0


def test_two_tables_side_by_side(opened, folder):
    page = opened(folder / "b.html", width=2000)
    assert "1 missing" in page.locator("#summary").inner_text()
    table = {each["name"]: each for each in json.loads((folder / "old.json").read_text())["tensors"]}
    known = {each["name"]: each for each in data(page)["rows"]}
    shown = dict(
        zip(
            names(page),
            zip(*(column(page, title) for title in ("SQNR dB", "was dB", "change dB")), strict=True),
            strict=True,
        )
    )
    now, was, change = shown["layers.4.mlp.weight"]
    assert float(was) == pytest.approx(table["layers.4.mlp.weight"]["sqnr_db"], rel=1e-3)
    assert float(now) == pytest.approx(known["layers.4.mlp.weight"]["sqnr_db"], rel=1e-3)
    assert known["layers.4.mlp.weight"]["change"]["status"] == "same"
    assert float(change) == 0
    assert shown["layers.0.attn.weight"][1] == ""
    assert known["gone"]["status"] == "missing"
    page.locator("#status").select_option("changed")
    assert {known[name]["change"]["status"] for name in names(page)} == {"changed"}
    row(page, names(page)[0]).click()
    assert "Against the baseline: changed" in page.locator("tr.details").inner_text()


def test_the_data_are_downloaded(page):
    with page.expect_download() as waiting:
        page.locator("#download").click()
    assert json.loads(Path(waiting.value.path()).read_text()) == data(page)
    assert waiting.value.suggested_filename == "report.json"


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#rows thead th").first.get_attribute("aria-sort") == "ascending"
    while page.evaluate("document.activeElement.closest('tbody') === null"):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert page.locator("tr.details").count() == 1
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "where the keyboard is can be seen"


def test_dark_and_light(opened, folder):
    def back(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = opened(folder / "r.html", color_scheme="dark")
    light = opened(folder / "r.html", color_scheme="light")
    assert back(dark) != back(light)
    assert dark.locator("#theme").inner_text() == "Colours: as the system"
    dark.locator("#theme").click()
    assert (dark.locator("#theme").inner_text(), back(dark)) == ("Colours: light", back(light))
    dark.locator("#theme").click()
    assert dark.locator("#theme").inner_text() == "Colours: dark"
    light.locator("#theme").click()
    light.locator("#theme").click()
    assert back(light) == back(dark)


def test_it_prints_without_its_controls(opened, folder):
    page = opened(folder / "r.html", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in ("#filter", "#theme", "#tree"):
        assert not page.locator(hidden).is_visible()
    assert page.locator("#rows").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_a_table_alone_has_a_page_too(opened, folder):
    assert klcal("report", folder / "old.json", "-o", folder / "t.html").code == 4
    page = opened(folder / "t.html")
    assert len(names(page)) == 27
    row(page, "layers.4.mlp.weight").click()
    assert "the report was made of a table" in page.locator("tr.details").inner_text()


# --- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_axe_finds_nothing(opened, folder, width, height, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make test-browser installs axe")
    page = opened(folder / "b.html", width=width, height=height, color_scheme=scheme, bypass_csp=True)
    page.locator("#tree summary").first.click()
    row(page, "layers.3.mlp.weight").click()
    row(page, "layers.0.attn.weight").click()
    found = axe.Axe().run(page)
    assert found.response["violations"] == []
    assert len(found.response["passes"]) > 20


def test_axe_finds_a_mistake(opened, folder):
    """The broken twin of the test before."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make test-browser installs axe")
    page = opened(folder / "r.html", bypass_csp=True)
    page.evaluate("document.getElementById('query').closest('label').replaceWith(document.getElementById('query'))")
    page.evaluate("document.getElementById('how').style.color = '#dddddd'")
    wrong = {each["id"] for each in axe.Axe().run(page).response["violations"]}
    assert {"label", "color-contrast"} <= wrong


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_sticks_out(opened, folder, width, height):
    page = opened(folder / "b.html", width=width, height=height)
    row(page, "layers.3.mlp.weight").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for each in page.locator("tr.details figure, tr.details p").all():
        box = each.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


# --- names are data


def hostile(path: Path) -> Path:
    """A file whose tensors are called so, and whose own name is no better."""
    value = np.ones(4, np.float32).tobytes()
    shown = [name for name in dict.fromkeys(ODD) if not any("\ud800" <= char <= "\udfff" for char in name)]
    header = {
        name: {"dtype": "F32", "shape": [4], "data_offsets": [16 * i, 16 * i + 16]} for i, name in enumerate(shown)
    }
    text = json.dumps(header).encode()
    file = path / "a<img src=x onerror=alert(2)>&.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + value * len(shown))
    return file


def test_names_do_not_act(opened, tmp_path):
    file = hostile(tmp_path)
    assert klcal("report", file, "--baseline", make_table(file, tmp_path), "-o", tmp_path / "r.html").code == 0
    page = opened(tmp_path / "r.html")
    known = data(page)
    assert {each["name"] for each in known["rows"]} == {name for name in ODD if "\udcff" not in name}
    assert page.locator("script").count() == 2
    assert page.locator("img, iframe, object, embed, link, base, form:not(#filter)").count() == 0
    for place in range(page.locator("#rows tbody th button").count()):
        page.locator("#rows tbody th button").nth(place).click()
    page.locator("#tree summary").first.click()
    for details in page.locator("#tree details").all():
        details.evaluate("each => each.open = true")
    shown = page.locator("#rows tbody th").all_inner_texts()
    assert all(char.isprintable() for text in shown for char in text)


def make_table(file: Path, folder: Path) -> Path:
    assert klcal("calibrate", file, "--method", "minmax", "-o", folder / "t.json").code == 0
    return folder / "t.json"


def test_the_policy_refuses_other_scripts_and_addresses(browser, folder):
    page = browser.new_context().new_page()
    page.goto((folder / "r.html").as_uri())
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    refused = """(make) => new Promise((resolve) => {
      document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
      const [tag, name, value] = make;
      const made = document.createElement(tag);
      try {
        if (name === "text") made.textContent = value;
        else made.setAttribute(name, value);
      } catch { resolve("trusted-types"); }
      document.body.append(made);
    })"""
    for made, directive in (
        (["img", "src", "https://example.org/x.png"], "img-src"),
        (["style", "text", "body { color: red }"], "style-src-elem"),
        (["p", "onclick", "alert(1)"], "require-trusted-types-for"),
        (["script", "text", "alert(1)"], "require-trusted-types-for"),
    ):
        assert page.evaluate(refused, made) in (directive, "trusted-types", "script-src-attr", "script-src-elem"), made
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
    page.context.close()
