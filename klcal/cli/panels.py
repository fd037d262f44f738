"""`--help` as plain text under headings, and checks of the environment: the same for all commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from klcal.cli.configuration import NO_FILE, VARIABLE, File, find_file, read_file
from klcal.cli.keys import Options, key_of, options_of
from klcal.cli.messages import line, quietly, remark
from klcal.cli.settings import Setting, misspelt, settings_of
from klcal.errors import UsageError

__all__ = ["ConfiguredCommand", "PanelCommand", "configurable", "file_of"]

FILE = "klcal.file"  # the key of the configuration file in the context
SETTINGS = "klcal.settings"  # the key of the configured options of the command
QUIET = "klcal.quiet"


class PanelCommand(TyperCommand):
    """A command whose options stand under the ``rich_help_panel`` they name, and whose environment is right.

    An option that takes one value is given once.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # private types
        """Refuse an option that takes one value and is given twice: the first would be lost in silence."""
        given = self.make_parser(ctx).parse_args(args=list(args))[2]
        once = [param for param in given if isinstance(param, TyperOption) and not (param.multiple or param.is_flag)]
        twice = next((param.opts[0] for param in once if once.count(param) > 1), None)
        if twice and not ctx.resilient_parsing:
            raise UsageError(f"{twice} takes one value and is given twice", "give it once")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # private types
        """Refuse an unusable ``KLCAL_KERNEL`` before anything is read; help needs none."""
        from klcal.kernels.library import library

        library()
        return super().invoke(ctx)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # private types
        """Write each panel in the order in which its first parameter was declared."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _remember(ctx: typer.Context, _: Any, value: bool) -> bool:
    ctx.meta[QUIET] = value
    return value


def _common() -> list[TyperOption]:
    """The options of every command that works."""
    return [
        TyperOption(
            param_decls=["--quiet", "-q"],
            is_flag=True,
            default=False,
            expose_value=False,
            callback=_remember,
            help="Nothing on stderr but errors and findings: no progress, no warnings, no notes.",
        ),
        TyperOption(
            param_decls=["--config"],
            metavar="FILE",
            show_default="klcal.toml, or [tool.klcal] of pyproject.toml, from here upwards to the repository's root",
            expose_value=False,
            help="Options that are not given are as this file has them; klcal config shows them.",
        ),
        TyperOption(
            param_decls=["--no-config"], is_flag=True, default=False, expose_value=False, help="Read no such file."
        ),
    ]


class ConfiguredCommand(PanelCommand):
    """A command whose options may be in a configuration file or in the environment."""

    def __init__(self, *args: Any, params: list[Any] | None = None, **others: Any) -> None:
        super().__init__(*args, params=[*(params or ()), *_common()], **others)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # private types
        """Put configured values in the place of defaults."""
        given = self.make_parser(ctx).parse_args(args=list(args))[0]
        if ctx.resilient_parsing:
            from klcal.cli.completion import offer

            offer(self.name or "", self.params, key_of)
        elif "help" not in given:
            args = self._configure(ctx, {name: each for name, each in given.items() if each not in (None, ())}, args)
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> list[Any]:  # type: ignore[override]  # private types
        """The completions of an option, with short help texts, which shells show beside them."""
        from klcal.cli.completion import shortened

        found = super().shell_complete(ctx, incomplete)
        for each in found:
            each.help = shortened(each.help)
        return found

    def _configure(self, ctx: typer.Context, given: dict[str, Any], args: list[str]) -> list[str]:
        options = configurable(ctx)
        file = _file(given, options)
        typed = [key_of(param) for param in self.params if param.name in given]
        settings = settings_of(self.name or "", options, file, os.environ, typed)
        ctx.meta[FILE], ctx.meta[SETTINGS] = file, settings
        own = options.get(self.name or "", {})
        ctx.default_map = {own[key].name: setting.value for key, setting in settings.items()}
        paths = ctx.default_map.pop("paths", ())
        return [*args, "--", *paths] if paths else args

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # private types
        """Add to an error the options that were configured, since these were not typed."""
        settings: dict[str, Setting] = ctx.meta.get(SETTINGS, {})
        with quietly(ctx.meta.get(QUIET, False)):
            remark([line(kind="warning", text=text) for text in _misspelt(ctx)])
            try:
                return super().invoke(ctx)
            except UsageError as error:
                if not settings:
                    raise
                raise UsageError(error.what, f"{error.hint} ({_origins(settings)})".lstrip()) from error


def configurable(ctx: typer.Context) -> Options:
    """The options of all commands that may be configured."""
    commands = getattr(ctx.find_root().command, "commands", {})
    return options_of({name: each for name, each in commands.items() if isinstance(each, ConfiguredCommand)})


def file_of(ctx: typer.Context) -> File:
    """The configuration file of a run."""
    found: File = ctx.meta.get(FILE, NO_FILE)
    return found


def _file(given: dict[str, Any], options: Options) -> File:
    """The file that is named, or the one that is found."""
    named = given.get("config")
    if given.get("no_config"):
        if named:
            raise UsageError("--config and --no-config are both given", "leave one of them out")
        return NO_FILE
    if named := named or os.environ.get(VARIABLE):
        return read_file(Path(named), options) or NO_FILE
    try:
        return find_file(Path.cwd(), options)
    except FileNotFoundError:  # the working directory is gone
        return NO_FILE


def _misspelt(ctx: typer.Context) -> list[str]:
    """Variables that say nothing, although they look like it."""
    if not any(name.startswith("KLCAL_") for name in os.environ):
        return []
    return [
        f"{name} in the environment says nothing; did you mean {near}?"
        for name, near in misspelt(os.environ, configurable(ctx))
    ]


def _origins(settings: dict[str, Setting]) -> str:
    """The origins of options, in a few words.

    >>> _origins({"dtype": Setting(["int8"], "klcal.toml"), "per": Setting(["channel"], "klcal.toml")})
    'dtype and per are from klcal.toml'
    """
    keys: dict[str, list[str]] = {}
    for key, setting in settings.items():
        keys.setdefault(setting.place, []).append(key)
    return "; ".join(f"{_listed(some)} from {place}" for place, some in keys.items())


def _listed(keys: list[str]) -> str:
    return f"{keys[0]} is" if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]} are"
