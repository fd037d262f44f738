"""Imports go strictly down, as klcal/README.md says; heavy modules are imported where they are said to be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "klcal"
MARK = "Imports go strictly down:"
TORCH_MODULES = (
    "kernels.cuda",
    "kernels.cuda_counting",
    "kernels.cuda_energy",
    "kernels.cuda_units",
    "sketches.device_counting",
    "search.device_arrays",
    "search.device_place",
    "search.device_weighed",
    "search.device_work",
    "sketches.device_feeding",
    "sketches.device_reading",
    "sketches.device_units",
    "sketches.energy",
    "sketches.modules",
    "sketches.processes",
    "sketches.recorder",
    "sketches.arrays",
    "sketches.values",
    "quantizers.rounding",
)
TERMINAL = ("typer", "rich")
TERMINAL_MODULES = ("cli", "writers.rich_table")


class Import(NamedTuple):
    """That a module imports another one."""

    by: str  # below klcal: "pipeline", "readers.find"
    what: str  # as it is written: "klcal.tables.table.Row", "torch"
    at_top: bool  # not in a function
    for_types: bool  # under `if TYPE_CHECKING`

    @property
    def outside(self) -> str:
        return self.what.partition(".")[0]

    def within(self, *places: str) -> bool:
        return any(self.by == place or self.by.startswith(f"{place}.") for place in places)


def imports(text: str, by: str) -> Iterator[Import]:
    def visit(node: ast.AST, at_top: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(by, alias.name, at_top, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{by}: a relative import"
            yield from (Import(by, f"{node.module}.{alias.name}", at_top, for_types) for alias in node.names)
        at_top = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = for_types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top, for_types)

    return visit(ast.parse(text), True, False)


def all_imports() -> list[Import]:
    found: list[Import] = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found += imports(path.read_text(), ".".join(part for part in parts if part != "__init__") or "__init__")
    return found


# --- levels: of the rooms, and of the modules within a room


def levels(sentence: str) -> dict[str, int]:
    """The level of each name: the higher, the more it may import."""
    named = [[name.strip(" `") for name in level.split(",")] for level in reversed(sentence.split("→"))]
    found = {name: number for number, level in enumerate(named) for name in level}
    assert len(found) == sum(map(len, named)), "a module has one level"
    return found


def rooms(text: str) -> dict[str, int]:
    """The levels of the rooms."""
    (line,) = [line for line in text.splitlines() if line.startswith(MARK)]
    return levels(line.removeprefix(MARK).partition(".")[0])


def within_rooms(text: str) -> dict[str, dict[str, int]]:
    """The levels of the modules of each room that says them."""
    lines = re.findall(r"^- in `(\w+)`: (.*)$", text, re.MULTILINE)
    return {room: levels(sentence) for room, sentence in lines}


def upward(found: list[Import], text: str) -> list[str]:
    """The imports of klcal's own modules that do not go down, as a map says it."""
    level, inner, wrong = rooms(text), within_rooms(text), []
    for each in found:
        if each.outside != "klcal" or each.by == "__init__":  # which gives all that is public
            continue
        source, _, module = each.by.partition(".")
        target, *rest = each.what.split(".")[1:]
        if source != target:
            goes_down = level[source] > level[target]
        elif source in inner and module and rest[0] in inner[source]:
            goes_down = inner[source][module] > inner[source][rest[0]]
        else:
            goes_down = True
        if not goes_down:
            wrong.append(f"{each.by} imports {each.what}")
    return wrong


SPEC = f"""
{MARK} `__main__` → `cli` → `readers`, `writers` → `tables`. A test reads this line.
- in `tables`: `status` → `rows`
"""


@pytest.mark.parametrize(
    ("by", "text", "is_wrong"),
    [
        ("cli.main", "from klcal.readers.find import find", False),
        ("cli.main", "from klcal.cli import options", False),
        ("readers", "from klcal.readers.find import find", False),
        ("readers.find", "from klcal.tables.table import Row", False),
        ("tables.table", "from klcal.readers import find", True),
        ("readers.find", "from klcal import writers", True),  # sideways
        ("readers.find", "import klcal.cli.main", True),
        ("tables.table", "def f():\n    from klcal.cli import main", True),
        ("tables.table", "if TYPE_CHECKING:\n    from klcal.cli import main", True),
        ("tables.table", "try:\n    pass\nfinally:\n    import klcal.writers", True),
        ("tables.table", "import_module('klcal.writers')", False),  # as registries do
        ("__main__", "from klcal.cli.main import run", False),
        ("tables.status", "from klcal.tables.rows import Row", False),
        ("tables.rows", "from klcal.tables.status import zero", True),
        ("tables.rows", "from klcal.tables import status", True),
    ],
)
def test_the_check_of_levels_finds_what_is_wrong(by, text, is_wrong):
    assert bool(upward(list(imports(text, by)), SPEC)) == is_wrong


def test_imports_go_strictly_down():
    assert not upward(all_imports(), (ROOT / "README.md").read_text())


def test_every_module_has_a_level():
    modules = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(rooms((ROOT / "README.md").read_text())) == modules - {"__init__"}


@pytest.mark.parametrize("room", within_rooms((ROOT / "README.md").read_text()))
def test_every_module_of_a_room_that_says_its_levels_has_one(room):
    modules = {path.stem for path in (ROOT / room).glob("*.py")}
    assert set(within_rooms((ROOT / "README.md").read_text())[room]) == modules - {"__init__"}


# --- what may be imported where


def misplaced(found: list[Import]) -> list[str]:
    """Imports of modules that are slow, or unsafe, where they do not belong."""
    wrong = []
    for each in found:
        if each.outside == "torch":
            right = each.within(*TORCH_MODULES) and (each.for_types or not each.at_top)
        elif each.outside in TERMINAL:
            right = each.within(*TERMINAL_MODULES)
        else:
            right = each.outside not in ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve")
        if not right:
            wrong.append(f"{each.by} imports {each.what}")
    return wrong


@pytest.mark.parametrize(
    ("by", "text", "is_wrong"),
    [
        ("sketches.device_counting", "def f():\n    import torch", False),
        ("sketches.device_counting", "if TYPE_CHECKING:\n    import torch", False),
        ("sketches.device_counting", "import torch", True),
        ("sketches.device_counting", "try:\n    from torch import nn\nexcept ImportError:\n    pass", True),
        ("readers.pt.file", "def f():\n    import torch.serialization", True),
        ("tables.table", "if TYPE_CHECKING:\n    import torch", True),
        ("cli.main", "import typer", False),
        ("writers.rich_table", "from rich.text import Text", False),
        ("writers.people", "def f():\n    from rich.text import Text", True),
        ("pipeline.calibrate", "import typer", True),
        ("readers.pt.file", "import pickletools", False),
        ("readers.pt.file", "import pickle", True),
        ("readers.pt.file", "def f():\n    from pickle import loads", True),
    ],
)
def test_the_check_of_places_finds_what_is_misplaced(by, text, is_wrong):
    assert bool(misplaced(list(imports(text, by)))) == is_wrong


def test_torch_and_the_terminal_are_imported_where_they_belong_and_pickle_nowhere():
    assert not misplaced(all_imports())


def test_no_test_needs_torch_before_it_runs():
    """Without torch, what needs none runs: tests take it from ``tests.support.lazy``."""

    def at_top(text: str) -> bool:
        return any(each.outside == "torch" and each.at_top for each in imports(text, ""))

    assert at_top("from torch import nn")
    assert not at_top("from tests.support.lazy import torch\ndef f():\n    import torch")
    assert not [path.name for path in Path(__file__).parent.rglob("*.py") if at_top(path.read_text())]


def loads(text: str) -> list[str]:
    """Calls that run what a file says."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    unsafe = ("torch.load", "np.load", "numpy.load", "eval", "exec", "pickle.loads", "pickle.load", "__import__")
    return [call for call in calls if call in unsafe]


def test_nothing_is_loaded_that_could_run():
    assert loads("def f(x):\n    return torch.load(x, weights_only=True)") == ["torch.load"]
    assert loads("np.load(x)") == ["np.load"]
    assert not {path.name: found for path in ROOT.rglob("*.py") if (found := loads(path.read_text()))}
