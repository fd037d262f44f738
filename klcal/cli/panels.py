"""What all commands have: ``--help`` as plain text under headings, nothing interpreted; and an environment to check."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from klcal.errors import UsageError

__all__ = ["PanelCommand"]


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
