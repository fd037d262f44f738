"""A browser without a network, in which reports are opened as users open them: from a file."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VARIABLE = "KLCAL_BROWSER"  # the path of another one


def browser_path() -> str:
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, BROWSERS)), "")
    if not found:
        pytest.skip(f"there is no browser: install chromium, or set {VARIABLE} to the path of one")
    return found


@pytest.fixture(scope="session")
def browser():
    path = browser_path()
    api = pytest.importorskip("playwright.sync_api", reason="make test-browser installs playwright")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path)
        yield found
        found.close()


@dataclass
class Opened:
    """A page, and what went wrong or was asked for while it was open."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def opened(browser):
    """Opens a file; afterwards nothing was wrong in the console, and nothing but the file was asked for."""
    contexts, pages = [], []

    def open_file(path: Path, *, width: int = 1000, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        known = Opened(page)
        page.on("console", lambda said: known.problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: known.problems.append(str(error)))
        page.on("dialog", lambda dialog: (known.problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: known.requests.append(request.url))
        page.goto(path.as_uri())
        pages.append((known, path.as_uri()))
        return page

    yield open_file
    for context in contexts:
        context.close()
    for known, uri in pages:
        assert known.problems == []
        assert [url for url in known.requests if not url.startswith(("blob:", uri))] == []
