"""The site: the pages of docs/ and their neighbours, as Sphinx and MyST make HTML of them. ``make site`` builds it.

Sphinx is used because it is old, kept and strict: a link that leads nowhere, a heading that is not there or a page that
no page lists stops the build. The pages stay plain Markdown. The table of contents, which Sphinx needs beyond that, is
read from the lists of docs/index.md.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
INDEX = "docs/index"

project = "klcal"
author = "the klcal maintainers"
copyright = f"{author}; Apache License 2.0"  # noqa: A001 - Sphinx's name
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser"]
root_doc = INDEX
include_patterns = ["*.md", "docs/**.md", "klcal/README.md", "sample_tensors/README.md"]
exclude_patterns = ["build", ".*", "docs/site"]
nitpicky = True
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"klcal {release}"
html_extra_path = ["index.html"]  # leads from the root of the site to the index
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def contents(index: str) -> str:
    """The table of contents of the lists in the index: a caption for each paragraph in bold, the pages linked below it.

    >>> print(contents("**Do**\\n\\n- [a](a.md), [b](../B.md#c)\\n\\n**Read**\\n\\n- [a](a.md)\\n"))
    ```{toctree}
    :hidden:
    :caption: Do
    <BLANKLINE>
    a
    ../B
    ```
    """
    listed: set[str] = set()
    trees = []
    for caption, body in re.findall(r"^\*\*(.+?)\*\*$(.*?)(?=^\*\*|\Z)", index, re.MULTILINE | re.DOTALL):
        pages = [page for page in re.findall(r"\]\(([\w./-]+)\.md", body) if not (page in listed or listed.add(page))]
        if pages:
            trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return "\n\n".join(trees)


def add_contents(app: Any, name: str, source: list[str]) -> None:
    """Append the table of contents to the index as Sphinx reads it."""
    del app
    if name == INDEX:
        source[0] += "\n" + contents(source[0])


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_contents)
