"""``klcal diff``: what changed between two tables of scales, without the tensors."""

from __future__ import annotations

from typing import Annotated

import typer

from klcal.cli import options

__all__ = ["EXAMPLES", "RULES", "diff"]

RULES = """\
\b
Rules, for --fail-on:
  missing, extra        only the baseline, or only what is compared with it, has the tensor
  changed               it has another dtype, shape, target, scheme, method, per, scale_format or
                        importance; each of these is a rule, too
  status                it had a scale and has none, or the other way round
  d.FIELD OP NUMBER     how far a number moved from the baseline: relative for scale and mse, such as
                        'd.scale > 2%'; in the field's own units for all others, such as
                        'd.sqnr_db < -0.5'; of the unit that moved most, 'd.unit.sqnr_db < -1'
  |d.FIELD| OP NUMBER   the same in either direction
  FIELD OP NUMBER       what it is now, as in klcal calibrate
The rules that hold without any are for tensors that are to be the same; activations recorded anew
want wider ones.
"""

EXAMPLES = f"""\
\b
Examples:
  What a new release of a model does to its scales:
    klcal diff old.json new.json
  Whether a runtime has the scales that were committed:
    klcal diff scales.json model.encodings
  Nothing but what is worse than half a decibel, or gone:
    klcal diff old.json new.json --fail-on 'd.sqnr_db < -0.5' --fail-on missing

{RULES}

\b
Exit codes:
  0  nothing met a rule
  1  something did
  2  wrong usage, or a file is no table of scales
  3  no tensor with a scale is in both tables: nothing could be judged
  5  a bug in klcal (KLCAL_DEBUG=1 shows where)
  130 interrupted, 143 terminated, 129 hung up, 141 the reader of stdout went away
"""

FORMS = "A table of klcal calibrate, .json or .safetensors, or what klcal export wrote."
A = Annotated[str, typer.Argument(metavar="A", show_default=False, help=f"The baseline. {FORMS}")]
B = Annotated[str, typer.Argument(metavar="B", show_default=False, help="What is compared with it, in any of these.")]


def diff(
    a: A,
    b: B,
    top: options.TopOption = None,
    format_: options.FormatOption = "auto",
    output: options.OutputOption = None,
    fail_on: options.RulesOption = None,
) -> None:
    """Say what changed between two tables of scales, A and B.

    A row for each tensor that is not the same: how far scale, zero point and
    figures moved, and what else differs. No tensor is read, so it takes no
    time; klcal check compares a table with the tensors themselves.
    """
    from klcal.cli.drift import TEXTS_ONLY, shown_as, told_of_drift
    from klcal.cli.output import choose_outputs, destinations
    from klcal.pipeline.rules import asked_rules, drifted

    rules = asked_rules(fail_on)
    outputs = choose_outputs(format_, output, texts_only=TEXTS_ONLY)

    from klcal.pipeline.scales import read_any
    from klcal.tables.diff import diff as changes_of

    with destinations(outputs, [a, b]) as deliver:
        found = drifted(changes_of(read_any(a), read_any(b), a, b), rules)
        deliver(shown_as(found, top), found.usable)
    raise typer.Exit(told_of_drift(found))
