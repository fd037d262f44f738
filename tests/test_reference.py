"""The reference is what the code says now: ``make reference`` writes it."""

import json
import re
from pathlib import Path

import pytest

import klcal
from docs.generate import COMMANDS, FOLDER, reference
from docs.markdown import documented, table
from klcal.errors import ExitCode
from klcal.search.methods import METHODS

PAGES = reference()


def stale(folder: Path) -> list[str]:
    """What is not there as it should be, and what should not be there."""
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    return sorted(name for name in {*found, *PAGES} if found.get(name) != PAGES.get(name))


def test_the_reference_is_not_stale():
    assert not stale(FOLDER), "run: make reference"


def test_stale_missing_and_surplus_pages_are_found(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert not stale(tmp_path)
    (tmp_path / "methods.md").write_text(PAGES["methods.md"].replace("2048", "1024"))
    (tmp_path / "json.md").unlink()
    (tmp_path / "more.md").write_text("")
    assert stale(tmp_path) == ["json.md", "methods.md", "more.md"]


def test_the_makefile_writes_it():
    assert "$(VENV)/python -m docs.generate" in (FOLDER.parent.parent / "Makefile").read_text()


def test_all_that_is_public_is_there():
    for name, command in COMMANDS.items():
        (section,) = re.findall(rf"^## klcal {name}\n(.*?)(?=^## |\Z)", PAGES["commands.md"], re.MULTILINE | re.DOTALL)
        assert all(f"| `{option.opts[0]}`" in section for option in command.params if option.opts[0].startswith("-"))
    for name in klcal.__all__:
        assert f"\n## {name}\n" in PAGES["library.md"] or f"| {name} |" in PAGES["exit-codes.md"], name
    assert re.findall(r"^## (.*)$", PAGES["methods.md"], re.MULTILINE) == list(METHODS)
    codes = re.findall(r"^\| ([0-9]+) \|", PAGES["exit-codes.md"], re.MULTILINE)
    assert list(map(int, codes)) == list(ExitCode)


def test_every_function_says_what_it_takes_and_raises():
    for name in klcal.__all__:
        owner = getattr(klcal, name)
        if (
            callable(owner)
            and not isinstance(owner, type)
            and owner.__code__.co_argcount + owner.__code__.co_kwonlyargcount > 1
        ):
            text = PAGES["library.md"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            assert "**Arguments**" in text, name
            assert "**Raises**" in text, name
            for argument in owner.__code__.co_varnames[: owner.__code__.co_argcount + owner.__code__.co_kwonlyargcount]:
                assert f"- `{argument}`: " in text, (name, argument)


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith(".md")])
def test_pages_are_whole(name):
    text = PAGES[name]
    assert not re.search(r"object at 0x|MISSING|\n\n\n", text)
    assert text.count("```") % 2 == 0
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for each in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in each.splitlines()}) == 1


def test_schemas_are_json():
    assert all(json.loads(text)["$schema"] for name, text in PAGES.items() if name.endswith(".json"))


def test_pieces_of_markdown():
    assert table(("a", "b"), [("x|y", "")]) == "| a | b |\n| --- | --- |\n| x\\|y |  |\n"

    def function():
        """Says ``x``.

        Args:
            one: first,
                and more.
            two: second.

        Returns:
            A thing.

        Raises:
            ValueError: wrong.
        """

    assert documented(function) == (
        "Says `x`.\n\n**Arguments**\n\n- `one`: first, and more.\n- `two`: second.\n\n**Returns** A thing.\n\n"
        "**Raises**\n\n- `ValueError`: wrong."
    )
