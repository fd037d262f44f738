"""`klcal schema`: the JSON Schemas of the files that klcal reads and writes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from klcal.cli.keys import Options
from klcal.cli.panels import configurable

__all__ = ["EXAMPLES", "schema", "schemas"]

EXAMPLES = """\
\b
Examples:
  Which there are:
    klcal schema
  For an editor that knows schemas of TOML files:
    klcal schema configuration > klcal.schema.json
  Whether a table is whole, by the package check-jsonschema:
    klcal schema table > table.schema.json
    check-jsonschema --schemafile table.schema.json scales.json

\b
Exit codes:
  0  done
  2  there is no such schema
"""

CONFIGURATION = "configuration"

NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Which one; all names without it.")
]


def schema(ctx: typer.Context, name: NameArgument = None) -> None:
    """Print the JSON Schema of an output, or of the configuration.

    Fields are only ever added, so schemas allow fields that they do not know;
    the one of the configuration does not.
    """
    import json

    from klcal.cli.output import destination
    from klcal.errors import UsageError
    from klcal.writers.file import write_text

    known = schemas(configurable(ctx))
    if name is not None and name not in known:
        raise UsageError(f"there is no schema {name!r}", f"use one of {', '.join(known)}")
    names = "".join(f"{each}\t{found['title']}\n" for each, found in known.items())
    text = names if name is None else json.dumps(known[name], indent=2) + "\n"
    with destination(None, ()) as deliver:
        deliver(partial(write_text, text), True)


def schemas(options: Options) -> dict[str, dict[str, Any]]:
    """All schemas, by name."""
    from klcal.cli.keys import json_schema as of_configuration
    from klcal.tables.json_schema import DIALECT, SCHEMAS, json_schema

    title = "klcal.toml, or the table [tool.klcal] of pyproject.toml"
    head = {"$schema": DIALECT, "$id": f"urn:klcal:{CONFIGURATION}", "title": title}
    return {CONFIGURATION: {**head, **of_configuration(options)}, **{name: json_schema(name) for name in SCHEMAS}}
