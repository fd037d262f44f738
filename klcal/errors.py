"""Every error that klcal raises on purpose, and the exit codes of the commands.

    KlcalError
    ├── UsageError     the command line or a function's arguments are wrong; nothing was read
    ├── InputError     a file, or one of its tensors, cannot be used; the others can
    └── OutputError    the answer cannot be written

Any other exception is a bug in klcal.
"""

from __future__ import annotations

import re
from enum import IntEnum

__all__ = ["ExitCode", "InputError", "KlcalError", "OutputError", "UsageError", "redacted"]

ADDRESS = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]+://)(?:[^\s/'\"@]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?")


class ExitCode(IntEnum):
    """The exit codes of the commands.

    >>> ExitCode.FINDINGS.meaning
    'something met a rule of --fail-on'
    """

    DONE = 0
    FINDINGS = 1
    USAGE = 2
    NOTHING_USABLE = 3
    PARTIAL = 4
    BUG = 5
    HUNG_UP = 129  # 128 + SIGHUP
    INTERRUPTED = 130  # 128 + SIGINT
    READER_GONE = 141  # 128 + SIGPIPE
    TERMINATED = 143  # 128 + SIGTERM

    @property
    def meaning(self) -> str:
        """What the exit code means, in words."""
        return MEANINGS[self]


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FINDINGS: "something met a rule of --fail-on",
    ExitCode.USAGE: "wrong usage; nothing was read",
    ExitCode.NOTHING_USABLE: "nothing usable in the input: no tensor has an answer, or nothing could be judged",
    ExitCode.PARTIAL: "some tensors or files failed, the rest was delivered; or the answer could not be written",
    ExitCode.BUG: "a bug in klcal; KLCAL_DEBUG=1 shows where",
    ExitCode.HUNG_UP: "the terminal was closed",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.READER_GONE: "the reader of stdout went away; nothing is said",
    ExitCode.TERMINATED: "terminated",
}


class KlcalError(Exception):
    """An error of klcal: what is wrong (``what``), and what to do about it (``hint``).

    >>> str(KlcalError("the file is empty", "download it again"))
    'the file is empty; download it again'
    """

    def __init__(self, what: str, hint: str = "") -> None:
        what, hint = redacted(what), redacted(hint)
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


class UsageError(KlcalError):
    """The request itself is wrong: exit code 2."""


class InputError(KlcalError):
    """A file, or one tensor of it, cannot be used: exit code 4, or 3 if nothing was left."""


class OutputError(KlcalError):
    """The answer cannot be written: exit code 2 before the work, 4 after it."""


def redacted(text: str) -> str:
    """The text without the secrets that addresses may have: user, password, and everything after a question mark.

    >>> redacted("'https://me:secret@host/m.npz?signature=abc' is absent; see s3://bucket/m.npz")
    "'https://host/m.npz' is absent; see s3://bucket/m.npz"
    """
    return ADDRESS.sub(r"\1\2", text) if "://" in text else text
