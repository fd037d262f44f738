"""What all commands have: ``--help`` as plain text under headings, nothing interpreted; and an environment to check."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["PanelCommand"]


class PanelCommand(TyperCommand):
    """A command whose options stand under the ``rich_help_panel`` they name, and whose environment is right."""

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
