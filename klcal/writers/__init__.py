"""A table to text, or to bytes, one module per format.

Writers are deterministic: the same table gives the same bytes. A new format is a module with a function
``write``, a line here and a golden file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TextIO

from klcal.tables.table import Table

__all__ = ["BINARY", "REPORTS", "SUFFIXES", "WRITERS", "Writer"]

Writer = Callable[[Table, TextIO], None]


def _from(module: str) -> Writer:
    """The writer of a module, imported when it writes: most runs need one, and none needs all."""

    def write(table: Table, out: TextIO) -> None:
        import_module(f"klcal.writers.{module}").write(table, out)

    return write


WRITERS: dict[str, Writer] = {
    "table": _from("rich_table"),
    "plain": _from("plain"),
    "json": _from("json_table"),
    "jsonl": _from("jsonl"),
    "csv": _from("csv_table"),
    "md": _from("markdown"),
    "safetensors": _from("safetensors_table"),
    "github": _from("github"),
    "junit": _from("junit"),
    "sarif": _from("sarif"),
}

BINARY = frozenset({"safetensors"})
"""Formats that are not text, for tables of scales alone: they go to a stream's ``buffer``."""

REPORTS = frozenset({"github", "junit", "sarif"})
"""Formats that have findings and failures, and no numbers."""

SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".md": "md",
    ".tsv": "plain",
    ".txt": "plain",
    ".safetensors": "safetensors",
    ".xml": "junit",
    ".sarif": "sarif",
}
"""The format of each suffix of a file's name."""
