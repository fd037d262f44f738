"""Progress on stderr: a moving bar in a terminal, elsewhere one line a minute."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from klcal.cli.messages import is_quiet, line, remark
from klcal.writers.text import escape, shorten

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

    from klcal.pipeline.workers import Tally

__all__ = ["Bar", "Lines", "Silent", "progress"]

NAME_WIDTH = 28  # of the tensor that was done last
BYTES_FROM, RATE_FROM, NAME_FROM = 50, 65, 100  # widths of a terminal that leave room for a bar beside them
MINUTE = 60.0  # seconds between two lines
LONG_BYTES = 1 << 26  # of a run that may take a minute: half of that is counted in a second at the slowest


class Silent(AbstractContextManager["Silent"]):
    """Tells nobody anything."""

    def watch(self) -> Callable[[int], None] | None:
        """The watch for bytes of unfinished tasks: none."""
        return None

    def start(self, tensors: int, nbytes: int) -> None:
        """The work begins: the number of tensors, and their bytes."""

    def advance(self, nbytes: int) -> None:
        """More bytes were read."""

    def finish(self, name: str) -> None:
        """One tensor is done."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave nothing behind."""


class _Counting(Silent):
    """Counts the work that is done, and the bytes that were read for tasks in progress."""

    def __init__(self) -> None:
        self._tally: Tally | None = None
        self.tensors = self.nbytes = self.done = self._read = self._most = 0

    def watch(self) -> Callable[[int], None] | None:
        """A number that workers add to, where they have it by being forked."""
        if sys.platform != "linux":
            return None
        from klcal.pipeline.workers import Tally

        self._tally = Tally()
        return self._tally

    def start(self, tensors: int, nbytes: int) -> None:
        """Begin to count new work."""
        self.tensors, self.nbytes = tensors, nbytes
        self.done = self._read = self._most = 0

    def advance(self, nbytes: int) -> None:
        """Count bytes that are done."""
        self._read += nbytes

    def finish(self, name: str) -> None:  # noqa: ARG002 - for a bar
        """Count a tensor."""
        self.done += 1

    @property
    def read(self) -> int:
        """Bytes that were read; a task that has just ended makes it no smaller."""
        under_way = 0 if self._tally is None else self._tally.total
        self._most = max(self._most, min(self.nbytes, self._read + max(0, under_way)))
        return self._most


class Bar(_Counting):
    """A bar with tensors, bytes, rate and the time left; gone when the work is done."""

    def __init__(self) -> None:
        super().__init__()
        self._task: TaskID | None = None
        from rich.console import Console

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = _progress_of(self.move)(*_columns(console.width), console=console, transient=True, expand=True)

    def start(self, tensors: int, nbytes: int) -> None:
        """Show the bar; that of the work before, if there was any, is gone."""
        before, self._task = self._task, None  # a redraw meanwhile must not use the removed bar
        if before is not None:
            self._progress.remove_task(before)
        super().start(tensors, nbytes)
        self._task = self._progress.add_task("", total=nbytes, tensors=tensors, done=0)
        self._progress.start()

    def move(self) -> None:
        """Move the bar to the present state, also in the middle of a large tensor."""
        if self._task is not None:
            self._progress.update(self._task, completed=self.read, done=self.done)

    def finish(self, name: str) -> None:
        """Count a tensor and show its name."""
        super().finish(name)
        if self._task is not None:
            self._progress.update(self._task, description=shorten(escape(name), NAME_WIDTH))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Take the bar away, whatever happened."""
        self._progress.stop()


def _progress_of(move: Callable[[], None]) -> Any:
    """Rich's bars, which ask how far the work is whenever they are drawn."""
    from rich.progress import Progress

    class Asking(Progress):
        def get_renderable(self) -> Any:
            move()
            return super().get_renderable()

    return Asking


class Lines(_Counting):
    """A line a minute, for a log: a run that takes no minute has none."""

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0

    def start(self, tensors: int, nbytes: int) -> None:
        """Begin to count, and where much is to be read, to tell."""
        super().start(tensors, nbytes)
        self._began = time.monotonic()
        if self._thread is None and nbytes >= LONG_BYTES:
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()

    def _tell(self) -> None:
        while not self._over.wait(MINUTE):
            remark([line(text=self.told(time.monotonic() - self._began))])

    def told(self, seconds: float) -> str:
        """The state of the work after ``seconds``, in words.

        >>> lines = Lines()
        >>> lines.start(3, 2_500_000)
        >>> lines.advance(1_250_000)
        >>> lines.finish("w")
        >>> lines.told(125)
        '1 of 3 tensors, 1.2 of 2.5 MB, 2 minutes'
        """
        minutes = int(seconds // MINUTE) if MINUTE else 0
        unit, size = next((pair for pair in UNITS if self.nbytes >= pair[1]), UNITS[-1])
        read = f"{self.read / size:.1f} of {self.nbytes / size:.1f} {unit}"
        return f"{self.done:,} of {self.tensors:,} tensors, {read}, {minutes} minute{'s' * (minutes != 1)}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Tell nothing more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()


UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6))


def _columns(width: int) -> list[ProgressColumn]:
    """The columns of the bar that fit on one line."""
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
    """The bar on a terminal that can move its cursor, lines in a log; silence where nobody listens or wants to know."""
    if is_quiet() or sys.stderr is None:
        return Silent()
    moves = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Bar() if moves else Lines()
