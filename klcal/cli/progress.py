"""How far the work is, on stderr, and only where a person can see it move."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from klcal.cli.messages import is_quiet
from klcal.writers.text import escape, shorten

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

__all__ = ["Bar", "Silent", "progress"]

NAME_WIDTH = 28  # of the tensor that was done last
BYTES_FROM, RATE_FROM, NAME_FROM = 50, 65, 100  # widths of a terminal that leave room for a bar beside them


class Silent(AbstractContextManager["Silent"]):
    """Tells nobody anything: stderr is a file, a pipe or closed."""

    def start(self, tensors: int, nbytes: int) -> None:
        """This many tensors, of so many bytes, are about to be read."""

    def advance(self, nbytes: int) -> None:
        """So many further bytes were read."""

    def finish(self, name: str) -> None:
        """One tensor is done."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave nothing behind."""


class Bar(Silent):
    """A bar with tensors, bytes, rate and the time left; gone when the work is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(*_columns(console.width), console=console, transient=True, expand=True)
        self._task: TaskID | None = None
        self._done = 0

    def start(self, tensors: int, nbytes: int) -> None:
        """Show the bar; that of the work before, if there was any, is gone."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._done = 0
        self._task = self._progress.add_task("", total=nbytes, tensors=tensors, done=0)
        self._progress.start()

    def advance(self, nbytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, nbytes)

    def finish(self, name: str) -> None:
        """Count a tensor and show its name."""
        self._done += 1
        if self._task is not None:
            self._progress.update(self._task, done=self._done, description=shorten(escape(name), NAME_WIDTH))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Take the bar away, whatever happened."""
        self._progress.stop()


def _columns(width: int) -> list[ProgressColumn]:
    """What there is room for, on one line."""
    from rich import progress as rich
    from rich.table import Column

    columns: list[tuple[int, ProgressColumn]] = [
        (0, rich.TextColumn("{task.fields[done]}/{task.fields[tensors]} tensors", table_column=Column(no_wrap=True))),
        (0, rich.BarColumn(bar_width=None)),
        (BYTES_FROM, rich.DownloadColumn(table_column=Column(no_wrap=True))),
        (RATE_FROM, rich.TransferSpeedColumn(table_column=Column(no_wrap=True))),
        (0, rich.TimeRemainingColumn(table_column=Column(no_wrap=True))),
        (
            NAME_FROM,
            rich.TextColumn("{task.description}", style="dim", markup=False, table_column=Column(no_wrap=True)),
        ),
    ]
    return [column for least, column in columns if width >= least]


def progress() -> Silent:
    """The bar on a terminal that can move its cursor, silence elsewhere."""
    moves = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Bar() if moves and not is_quiet() else Silent()
