"""The command line as a whole, and the one place where errors become text and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from klcal.cli.apply import EXAMPLES as apply_examples
from klcal.cli.apply import apply
from klcal.cli.calibrate import EXAMPLES as calibrate_examples
from klcal.cli.calibrate import calibrate
from klcal.cli.check import EXAMPLES as check_examples
from klcal.cli.check import check
from klcal.cli.compare import EXAMPLES as compare_examples
from klcal.cli.compare import compare
from klcal.cli.config import EXAMPLES as config_examples
from klcal.cli.config import config
from klcal.cli.diff import EXAMPLES as diff_examples
from klcal.cli.diff import diff
from klcal.cli.explain import EXAMPLES as explain_examples
from klcal.cli.explain import explain
from klcal.cli.export import EXAMPLES as export_examples
from klcal.cli.export import export
from klcal.cli.inspect import EXAMPLES as inspect_examples
from klcal.cli.inspect import inspect
from klcal.cli.merge import EXAMPLES as merge_examples
from klcal.cli.merge import merge
from klcal.cli.messages import line, say, silence
from klcal.cli.output import ReaderGone, to_stdout
from klcal.cli.panels import ConfiguredCommand, PanelCommand
from klcal.cli.schema import EXAMPLES as schema_examples
from klcal.cli.schema import schema
from klcal.cli.sketch import EXAMPLES as sketch_examples
from klcal.cli.sketch import sketch
from klcal.errors import ExitCode, InputError, KlcalError, OutputError, UsageError

__all__ = ["app", "run"]

PRINTING = {"-h", "--help", "-V", "--version"}  # options whose answer goes to stdout and nowhere else

app = typer.Typer(
    name="klcal",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # nothing in a help text or a message is markup
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=ConfiguredCommand, epilog=calibrate_examples)(calibrate)
app.command(cls=ConfiguredCommand, epilog=compare_examples)(compare)
app.command(cls=ConfiguredCommand, epilog=check_examples)(check)
app.command(cls=ConfiguredCommand, epilog=diff_examples)(diff)
app.command(cls=ConfiguredCommand, epilog=explain_examples)(explain)
app.command(cls=ConfiguredCommand, epilog=apply_examples)(apply)
app.command(cls=ConfiguredCommand, epilog=export_examples)(export)
app.command(cls=ConfiguredCommand, epilog=sketch_examples)(sketch)
app.command(cls=ConfiguredCommand, epilog=merge_examples)(merge)
app.command(cls=ConfiguredCommand, epilog=inspect_examples)(inspect)
app.command(cls=ConfiguredCommand, epilog=config_examples)(config)
app.command(cls=PanelCommand, epilog=schema_examples)(schema)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from klcal.kernels import library

        typer.echo(f"klcal {version('klcal')}, {library.name()} kernel")
        raise typer.Exit


@app.callback()
def klcal(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Show the version and the kernel, and exit.",
        ),
    ] = False,
) -> None:
    """Scales and zero points for post-training quantization, straight from tensor files."""


def run(arguments: Sequence[str]) -> int:
    """Run a command line to its exit code. Nothing escapes but a signal."""
    _never_fail_to_encode()
    if sys.stdout is None and not PRINTING.isdisjoint(arguments):  # typer would print it nowhere and be content
        return _explain(OutputError("stdout is closed", "redirect it"))
    try:
        code = get_command(app)(list(arguments), prog_name="klcal", standalone_mode=False)
        if sys.stdout is not None:
            to_stdout()  # help and version, too, are written to the last byte
    except SystemExit as stop:  # typer's, when the reader of its help went away, and after a completion
        if isinstance(stop.__context__, BrokenPipeError):
            silence(sys.stdout)
            return ExitCode.READER_GONE
        return stop.code if isinstance(stop.code, int) else ExitCode.DONE
    except Exception as error:
        return _explain(error)
    return code if isinstance(code, int) else ExitCode.DONE


def _explain(error: Exception) -> int:
    """Tell the user, in one line, and say how to exit."""
    if os.environ.get("KLCAL_DEBUG") == "1":
        say("".join(traceback.format_exception(error)).splitlines())
    code, text = _verdict(error)
    if text:
        say([line(kind="error", text=text)])
    return code


def _verdict(error: Exception) -> tuple[ExitCode, str]:
    match error:
        case ReaderGone():
            return ExitCode.READER_GONE, ""
        case typer.TyperException():
            return ExitCode.USAGE, f"{_sentence(error.format_message())}; see {_command(error)} --help"
        case UsageError():
            return ExitCode.USAGE, str(error)
        case InputError():
            return ExitCode.NOTHING_USABLE, str(error)
        case OutputError() | KlcalError():
            return ExitCode.PARTIAL, str(error)
        case MemoryError():
            return ExitCode.PARTIAL, "there is not enough memory; the answer is incomplete: give this process more"
        case OSError(errno=errno.ENOSPC):  # typer writes its help itself
            silence(sys.stdout)
            return ExitCode.PARTIAL, "cannot write to stdout: no space left on device"
    return ExitCode.BUG, f"this is a bug in klcal: {_origin(error)}; please report it with the output of KLCAL_DEBUG=1"


def _sentence(message: str) -> str:
    """A message of typer's in the form of ours."""
    message = " ".join(message.replace("Value error, ", "").split()).rstrip(".,")
    return message[:1].lower() + message[1:]


def _command(error: typer.TyperException) -> str:
    return getattr(getattr(error, "ctx", None), "command_path", "klcal")


def _origin(error: Exception) -> str:
    """Which exception and where, but not its text: a library's advice is not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}klcal{os.sep}" in frame.filename] or frames
    place = f" in {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


def _never_fail_to_encode() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
