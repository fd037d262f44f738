"""A pickle cut into its operations by `pickletools`, which runs none of them; and messages about refused ones."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any

from klcal.errors import InputError
from klcal.readers.pt.calls import is_known, refused_global
from klcal.readers.pt.values import Foreign

__all__ = ["DAMAGED", "DamagedPickle", "damaged", "full_name", "operations", "refusal"]

LOOK_AHEAD = 100_000  # operations after a refused one that are searched for the name it would call
DAMAGED = "download or save the file again"
PYTHON_2_MODULES = {"__builtin__": "builtins"}  # protocol 2 writes Python 2's names


class DamagedPickle(InputError):
    """The bytes are not a pickle, or one that no writer makes."""


def operations(stream: IO[bytes]) -> Iterator[tuple[str, Any, int]]:
    """Name, argument and position of each operation of the next pickle.

    Raises:
        DamagedPickle: If the bytes are not a pickle.
    """
    found = pickletools.genops(stream)
    while True:
        try:
            opcode, argument, position = next(found)
        except StopIteration:
            return
        except InputError:
            raise
        except Exception:  # genops lets ValueError, struct.error, IndexError, KeyError, … through
            raise damaged() from None
        yield opcode.name, argument, position or 0


def refusal(name: str, argument: Any, stream: IO[bytes], operands: Sequence[Any]) -> InputError:
    """The error for an operation that torch.save does not write, naming the function that it would call, if known.

    Args:
        name: The operation.
        argument: Its argument in the pickle.
        stream: The bytes after it.
        operands: The topmost values of the stack.
    """
    strings = [value for value in operands if type(value) is str]
    following = ((name, argument) for name, argument, _ in operations(stream))
    called = next((value.name for value in operands if type(value) is Foreign), "")
    for operation, value in chain([(name, argument)], islice(following, LOOK_AHEAD)):
        if operation in ("GLOBAL", "INST"):
            called = full_name(value)
        elif operation == "STACK_GLOBAL":
            called = ".".join(strings)
        elif type(value) is str:
            strings = [*strings[-1:], value]
        if called and not is_known(called):
            return refused_global(called)
    return InputError(
        f"its pickle uses the operation {name}, which torch.save does not write by default",
        "save it with torch.save and its default pickle_protocol",
    )


def full_name(argument: str) -> str:
    """The dotted name that GLOBAL and INST give in two lines."""
    module, _, name = argument.partition(" ")
    return f"{PYTHON_2_MODULES.get(module, module)}.{name}"


def damaged() -> DamagedPickle:
    """The error for bytes that make no sense."""
    return DamagedPickle("its pickle is damaged", DAMAGED)
