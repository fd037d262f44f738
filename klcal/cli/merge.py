"""`klcal merge`: adds sketch files up into one."""

from __future__ import annotations

from typing import Annotated

import typer

from klcal.cli import options
from klcal.cli.sketch import SketchOutput, checked_output, written

__all__ = ["EXAMPLES", "merge"]

EXAMPLES = """\
\b
Examples:
  What 64 machines have counted:
    klcal merge parts/ --output all.safetensors

\b
Exit codes are those of klcal calibrate. Nothing is written where a part cannot be used.
"""

Parts = Annotated[
    list[str],
    typer.Argument(metavar="PARTS...", show_default=False, help="Files of klcal sketch, directories, patterns."),
]
DuplicatesOption = Annotated[
    bool,
    typer.Option(
        "--allow-duplicates",
        rich_help_panel=options.INPUT,
        help="Count an input twice that two parts have. Inputs are told apart by what was counted of them, so two that "
        "hold the same values under the same names need this.",
    ),
]


def merge(parts: Parts, output: SketchOutput, allow_duplicates: DuplicatesOption = False) -> None:
    """Add up the sketches of each tensor in PARTS.

    Exact: the file is the same, byte by byte, in any order and grouping.
    """
    from klcal.cli.messages import capped, line, remark
    from klcal.kernels.library import library

    checked_output(output)
    library()  # refuses a kernel that is not there, before anything is read

    from klcal.pipeline.merge import merge_files

    found = merge_files(parts, output, allow_duplicates=allow_duplicates)
    remark(capped([line(kind="note", text=note) for note in found.notes]))
    remark([written(output, found.tensors)])
