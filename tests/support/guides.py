"""The README and the pages of docs/: what they show of a shell and of Python, run again.

A page is run from top to bottom in one empty folder, beside the sample tensors: its sessions in a shell, its programs
in one Python namespace. ``rerun`` gives the page as it would read if all of it were true; a page is true where that is
the page itself.

    python -m tests.support.guides [PAGE…]    writes into pages what their blocks print now; review the diff
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMANDS = {"klcal": "-m klcal", "python": ""}
BESIDE = ("sample_tensors", "docs", "examples")  # what a page's commands find beside them
RUN = (
    "console",
    "python",
    "text",
    "yaml",
    "make",
)  # the last two: recipes of docs/ci.md, run by tests/test_ci_guide.py
PARSED = {"json": json.loads, "toml": tomllib.loads}  # languages of blocks that need only be well formed


class Block(NamedTuple):
    """A fenced block of a page."""

    start: int  # where its body begins in the page
    end: int
    indent: str
    language: str
    body: str  # without the indent


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(
            found.start(3), found.end(3), found[1], found[2], re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE)
        )
        for found in BLOCK.finditer(text)
    ]


def sessions(text: str) -> list[str]:
    """The blocks that show a shell, commands and output."""
    return [each.body for each in blocks(text) if each.language == "console"]


def programs(name: str) -> list[str]:
    """The Python blocks of a page of docs/."""
    return [each.body for each in blocks((DOCS / name).read_text()) if each.language == "python"]


def replayed(session: str, folder: Path) -> str:
    """A session as it goes now: its commands, and what they print in a folder beside the sample tensors."""
    script = "".join(f'{name}() {{ {shlex.quote(sys.executable)} {how} "$@"; }}\n' for name, how in COMMANDS.items())
    for command in re.findall(r"^\$ (.*(?:\n> .*)*)$", session, re.MULTILINE):
        told = shlex.quote("$ " + command)
        command = command.replace("\n> ", "\n")
        script += f"code=$?; printf '%s\\n' {told}; (exit $code)\n{command}\n"
    furnish(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return run.stdout


def furnish(folder: Path) -> None:
    """Put what pages use into a folder."""
    for name in BESIDE:
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)


def printed(program: str, names: dict[str, Any], folder: Path) -> str:
    """What a program prints in a folder; its names stay in ``names``."""
    furnish(folder)
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        exec(compile(program, "<page>", "exec"), names)
    return out.getvalue()


def rerun(text: str, folder: Path) -> str:
    """A page with the output that its blocks have now.

    A block of ``text`` that comes right after one of ``python`` is the output of it; a program without such a block
    prints nothing. Other blocks of text are pictures, and stay.

    Raises:
        AssertionError: A block is in a language that nobody runs or reads.
    """
    names: dict[str, Any] = {"__name__": "page"}
    pieces, position, output = [], 0, None
    for block in blocks(text):
        before, body = text[position : block.start], block.body
        if block.language == "console":
            body = replayed(body, folder)
        elif block.language == "text" and output is not None and re.fullmatch(r" *```\n\n? *```text\n", before):
            body, output = output, None
        elif block.language in PARSED:
            PARSED[block.language](body)
        assert not output, f"a program prints what the page does not show:\n{output}"
        output = printed(body, names, folder) if block.language == "python" else None
        assert block.language in RUN or block.language in PARSED, f"nobody runs blocks of {block.language!r}"
        pieces += [before, textwrap.indent(body, block.indent)]
        position = block.end
    assert not output, f"a program prints what the page does not show:\n{output}"
    return "".join([*pieces, text[position:]])


def main(pages: list[str]) -> None:
    """Write into pages what their blocks print now."""
    for page in map(Path, pages or [str(ROOT / "README.md"), *map(str, sorted(DOCS.rglob("*.md")))]):
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(rerun(page.read_text(), Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
