"""What the README and the pages of docs/ say is so: blocks print what they show, and names are those of the code."""

from __future__ import annotations

import doctest
import importlib.util
import re
import tomllib
from collections.abc import Iterable
from dataclasses import fields

import pytest
from typer.main import get_command

import klcal
from benchmarks import __main__ as benchmarks
from benchmarks import quality
from klcal.cli.main import app
from klcal.divergence import DIVERGENCES
from klcal.errors import ExitCode
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import KINDS
from klcal.readers.formats import SUFFIXES as READ
from klcal.search.methods import METHODS
from klcal.tables.rows import Row
from klcal.tables.schema import DIFFERENCE_FIELDS, UNIT_FIELDS
from klcal.tables.status import FAILURES, STATUSES
from klcal.writers import SUFFIXES, WRITERS
from klcal.writers.forms import FORMS
from klcal.writers.runtimes import FORMATS
from tests.support.guides import DOCS, ROOT, blocks, rerun

README = ROOT / "README.md"
NEEDED = {"many-machines.md": {"distributed", "torch"}}  # by what a shell runs there
ELSEWHERE = {"onnxruntime.md", "torch.md"}  # need a runtime: tests/consumers/test_guides.py
RUN_HERE = [README, *sorted(page for page in DOCS.rglob("*.md") if page.name not in ELSEWHERE)]
PAGES = [README, *sorted(DOCS.rglob("*.md")), *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "klcal" / "README.md", ROOT / "sample_tensors" / "README.md"]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in LINKED}


def text(name: str) -> str:
    return TEXTS[f"docs/{name}"]


def in_first_column(page: str, header: str) -> list[str]:
    """What stands between backquotes in the first column of the table with this header."""
    (table,) = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-:| ]*\n((?:\|.*\n)*)", page, re.MULTILINE)
    return [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


# --- blocks


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_every_block_of_a_page_does_what_it_shows(page, tmp_path):
    needed = {"torch"} & set(re.findall(r"^import (\w+)", page.read_text(), re.MULTILINE))
    for name in needed | NEEDED.get(page.name, set()):
        pytest.importorskip(name, reason=f"{name} is not installed")
    assert rerun(page.read_text(), tmp_path) == page.read_text()


SHOWN = "```console\n$ echo 1\n2\n```\n\n```python\nx = 1\nprint(x)\n```\n\n```text\n2\n```\n\n```python\nx += 1\n```\n"


def test_a_page_that_shows_something_else_is_noticed(tmp_path):
    assert rerun(SHOWN, tmp_path) == SHOWN.replace("2\n", "1\n")


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```python\nprint(1)\n```\n", "does not show"),
        ("```python\nprint(1)\n```\n\nand so\n\n```text\n1\n```\n", "does not show"),
        ("```python\nprint(1)\n```\n\n```console\n$ true\n```\n", "does not show"),
        ("```rust\nfn main() {}\n```\n", "nobody runs"),
        ("```\n$ echo 1\n```\n", "nobody runs"),
    ],
)
def test_a_block_that_cannot_be_judged_fails(page, said, tmp_path):
    with pytest.raises(AssertionError, match=said):
        rerun(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_come_in_pairs(page):
    assert page.read_text().count("```") == 2 * len(blocks(page.read_text()))


# --- the README


def test_the_readme_is_read_in_one_sitting():
    assert len(README.read_text().splitlines()) <= 120


def test_the_makefile_has_the_commands_that_are_named():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {each for page in PAGES for each in re.findall(r"(?:`|    )make ([a-z-]+)", page.read_text())}
    assert {"demo", "test", "bench", "site"} <= named <= targets


# --- links


def anchors(page: str) -> set[str]:
    """What the headings of a page are called in links, as GitHub and the site make it."""
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings(name):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", TEXTS[name]):
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), f"{target}#{anchor}"


def test_every_page_is_on_the_index():
    listed = set(re.findall(r"\]\(([\w./-]+)", text("index.md")))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert pages <= listed, f"add a line to docs/index.md: {', '.join(sorted(pages - listed))}"


def test_the_site_lists_every_page_once():
    spec = importlib.util.spec_from_file_location("conf", DOCS / "site" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    contents = re.sub(r"^(```|:).*", "", conf.contents(text("index.md")), flags=re.MULTILINE)
    listed = re.findall(r"^[\w./-]+$", contents, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {f"{page.relative_to(DOCS)}"[:-3] for page in DOCS.rglob("*.md")} <= {*listed, "index"}
    assert doctest.testmod(conf).failed == 0


# --- names


def test_every_option_that_is_named_is_one():
    commands = [get_command(app), *get_command(app).commands.values()]
    known = {each for command in commands for option in command.params for each in option.opts}
    for name, page in TEXTS.items():
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?![\w-])", page)) if name != "CONTRIBUTING.md" else set()
        assert named <= known | OF_OTHERS, name


OF_OTHERS = {"--help", "--version", "--schemafile", "--output-format", "--standalone", "--nproc-per-node", "--nthreads"}
"""Of typer, check-jsonschema, llama-imatrix, torchrun, dask."""


def test_every_name_of_the_library_is_one():
    for name, page in TEXTS.items():
        named = set(re.findall(r"\bklcal\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?![\w/])", page))
        if name != "CHANGELOG.md":  # which tells of names that are gone
            for path in named - SUFFIXES_OF_FILES:
                found(path)


SUFFIXES_OF_FILES = {
    "sarif",
    "git",
    "toml",
    "schema.json",
    "fish",
}  # what follows "klcal." and is no name of the library


def found(path: str) -> object:
    """What a dotted name below klcal leads to."""
    first, *rest = path.split(".")
    value = getattr(klcal, first, None) or importlib.import_module(f"klcal.{first}")
    for part in rest:
        value = getattr(value, part)
    return value


def test_pages_have_all_methods_formats_schemes_and_divergences():
    assert [each.split(":")[0] for each in in_first_column(text("methods.md"), "`--method`")] == list(METHODS)
    assert set(FLOATS) <= set(in_first_column(text("schemes.md"), "`--dtype`"))
    assert set(in_first_column(text("schemes.md"), "`--scheme`")) == set(KINDS)
    assert set(in_first_column(text("schemes.md"), "`--scale-format`")) == set(SCALE_FORMATS)
    rows = [f"| `{name}` | {each.title} | {each.meaning} |" for name, each in DIVERGENCES.items()]
    assert "\n".join(rows) in text("divergences.md")


def test_pages_have_all_fields_statuses_and_exit_codes():
    page = text("output.md")
    told = in_first_column(page, "field")
    assert sorted(told) == sorted({each.name for each in fields(Row)} - {"unit", "explanation"})  # which tables lack
    units = next(row for row in page.splitlines() if row.startswith("| `units` |"))
    assert set(UNIT_FIELDS) <= set(re.findall(r"`(\w+)`", units))
    table = re.findall(r"^\| (`.*`) \| .* \| (yes|no) \|$", page, re.MULTILINE)
    failures = {name: failure == "yes" for names, failure in table for name in re.findall(r"`(\w+)`", names)}
    assert failures == {name: name in FAILURES for name in STATUSES if name not in ("missing", "extra")}
    codes = re.findall(r"^\| ([\d, ]+) \| ", page, re.MULTILINE)
    assert {int(code) for row in codes for code in row.split(",")} == set(ExitCode)
    assert set(in_first_column(text("comparing.md"), "column, field")) == set(DIFFERENCE_FIELDS) - {"numel"}


def test_pages_have_all_files_that_are_read_and_written():
    formats = in_first_column(text("output.md"), "`--format`")
    assert sorted(formats) == sorted(WRITERS)
    (table,) = re.findall(r"\| `--format` \|.*\n\|.*\n((?:\|.*\n)*)", text("output.md"))
    assert set(re.findall(r"`(\.\w+)`", table)) == set(SUFFIXES)
    assert set(READ) <= set(in_first_column(text("formats.md"), "format"))
    assert {*in_first_column(text("apply.md"), "`--to`")} == set(FORMS)
    assert {*in_first_column(text("export.md"), "`--to`")} == set(FORMATS)


def test_extras_and_variables_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = "\n".join(TEXTS.values())
    assert all(f"klcal[{name}]" in everything for name in project["optional-dependencies"])
    named = set(re.findall(r"klcal\[(\w+)\]", "\n".join(page.read_text() for page in PAGES)))
    assert named <= set(project["optional-dependencies"])
    code = "\n".join(path.read_text() for path in (ROOT / "klcal").rglob("*.py"))
    assert set(re.findall(r'"(KLCAL_[A-Z]+)"', code)) == set(re.findall(r"KLCAL_[A-Z]+", text("install.md")))


# --- figures


def test_the_benchmarks_that_figures_name_are_there():
    named = re.findall(r"\| `(\w+)` \|$", text("performance.md"), re.MULTILINE)
    assert set(named) <= set(benchmarks.NAMES)
    assert len(named) > 20


def test_the_measured_tables_are_what_the_benchmark_prints(capsys):
    found = quality.samples()
    for dtype in ("int8", "int4"):
        quality.print_methods(dtype, found)
        quality.print_units(dtype)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    shown = {*text("methods.md").splitlines(), *text("channels.md").splitlines()}
    assert len(printed) > 20
    assert set(printed) <= shown


def constants(page: str) -> Iterable[tuple[str, str]]:
    """The constants that a page tells of, and the files that they are in."""
    there = ""
    for names, where in re.findall(r"\| `([A-Za-z_]+)`, (`[\w./]+`|there) \|", page):
        there = where if where != "there" else there
        yield names, there.strip("`")


def test_the_constants_that_design_explains_are_where_it_says():
    told = list(constants(text("design.md")))
    assert len(told) > 10
    for name, path in told:
        assert re.search(rf"^(def )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)
