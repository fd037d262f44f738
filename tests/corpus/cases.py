"""A corpus of hostile, damaged, mistaken and merely odd files, and what has to become of each.

Deterministic, and nothing of it is committed: ``write`` makes it. Each case has a folder of its own, so that one run
over all folders tells them apart. Whatever runs out of a file leaves a canary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Case", "Content", "judged", "read", "refused", "write"]

Content = bytes | Callable[[Path], None]
"""What a file holds, or what makes something at its path that is no file."""

GOOD = "ok", "zero", "empty", "skipped"


@dataclass(frozen=True)
class Case:
    """Files that belong together, and what is expected of them."""

    name: str  # a sentence
    files: Mapping[str, Content] = field(repr=False)
    rows: Mapping[str, str] = field(default_factory=dict)  # tensor → status, or "status: part of the reason"
    error: str | None = None  # part of the reason why a file as a whole is refused
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a tensor that is read: numel, min, max, zeros
    loose: str = ""  # "no result": whatever is said, nothing is ok; "anything": but nothing that ends the run
    heavy: bool = False  # takes more than a moment to write or to read
    kind: str = ""  # hostile, damaged or values

    @property
    def code(self) -> int:
        """What a run over this case alone exits with; 3 or 4 where anything may be said."""
        statuses = [status.partition(":")[0] for status in self.rows.values()]
        if not {"ok", "zero"} & set(statuses):
            return 3
        return 4 if self.error is not None or not set(statuses) <= set(GOOD) else 0


def refused(name: str, file: str, content: Content, says: str = "", **options: Any) -> Case:
    """One file that is refused as a whole."""
    return Case(name, {file: content}, error=says, **options)


def read(name: str, file: str, content: Content, rows: Mapping[str, str] | None = None, **options: Any) -> Case:
    """One file, and the status of each of its tensors; a ``.npy`` has one, named like the file."""
    return Case(name, {file: content}, rows={file.rpartition(".")[0]: "ok"} if rows is None else rows, **options)


def later(content: Callable[[], bytes], wrap: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    """A large content, made when it is written."""

    def made(path: Path) -> None:
        path.write_bytes(wrap(content()))

    return made


def facts(values: np.ndarray) -> dict[str, Any]:
    """What the table says of an array of finite values, whatever its layout."""
    flat = values.astype(np.float32).ravel()
    return {"numel": flat.size, "min": float(flat.min()), "max": float(flat.max()), "zeros": int((flat == 0).sum())}


def cases(canaries: Path) -> Iterator[Case]:
    """All cases; code in them would leave a file in the folder of canaries."""
    from tests.corpus import archives as corpus_archives
    from tests.corpus import damaged as corpus_damaged
    from tests.corpus import headers as corpus_headers
    from tests.corpus import models as corpus_models
    from tests.corpus import names as corpus_names
    from tests.corpus import pickles as corpus_pickles
    from tests.corpus import values as corpus_values

    modules = (
        corpus_pickles,
        corpus_archives,
        corpus_headers,
        corpus_models,
        corpus_names,
        corpus_damaged,
        corpus_values,
    )
    for module in modules:
        yield from module.cases(canaries)


def write(folder: Path, canaries: Path, *, heavy: bool = False) -> list[dict[str, Any]]:
    """Makes the corpus, and returns the cases as JSON can hold them, each with its ``folder``."""
    written = []
    for number, case in enumerate(cases(canaries)):
        if case.heavy and not heavy:
            continue
        place = folder / f"{number:04}"
        place.mkdir(parents=True)
        for name, content in case.files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
        known = {key: value for key, value in asdict(case).items() if key != "files"}
        written.append({**known, "code": case.code, "folder": place.name})
    return written


# --- what came of it


def of_case(folder: str, document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The rows by name, and the errors, of one case in the document of a run over all."""
    front = f"{folder}/"
    rows = {
        row["name"].removeprefix(front): row
        for row in document["tensors"]
        if row["source"].startswith(front) or row["source"] == folder
    }
    errors = [
        error["reason"]
        for error in document["errors"]
        if error["source"].startswith(front) or error["source"] == folder
    ]
    return rows, errors


def judged(case: Mapping[str, Any], rows: Mapping[str, Any], errors: list[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with the answer: of which kind, and what."""
    yield from _reasons(rows, errors)
    for name, row in rows.items():
        yield from (("wrong accepts", f"{name!r}: {problem}") for problem in _implausible(row))
    if case["loose"]:
        if case["loose"] == "no result":
            found = [name for name, row in rows.items() if row["status"] in ("ok", "zero")]
            yield from (("wrong accepts", f"{name!r} is ok") for name in found)
        return
    if case["error"] is None:
        yield from (("wrong refusals", reason) for reason in errors)
    elif not errors:
        yield "wrong accepts", "the file is not refused"
    elif not all(case["error"] in reason for reason in errors):
        yield "wrong refusals", f"{errors} instead of {case['error']!r}"
    yield from (("lost results", f"{name!r} is missing") for name in case["rows"] if name not in rows)
    yield from (("wrong accepts", f"{name!r} is not expected") for name in rows if name not in case["rows"])
    for name, expected in case["rows"].items():
        if name in rows:
            yield from _compared(name, expected, rows[name])
    for name, wanted in case["facts"].items():
        found = {key: rows.get(name, {}).get(key) for key in wanted}
        if any(not _close(found[key], value) for key, value in wanted.items()):
            yield "wrong accepts", f"{name!r} was read as {found}, not {wanted}"


def _compared(name: str, expected: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    status, _, part = expected.partition(": ")
    if row["status"] != status:
        kind = "wrong accepts" if row["status"] in GOOD and status not in GOOD else "wrong refusals"
        yield kind, f"{name!r} is {row['status']} ({row['reason']}), not {expected}"
    elif part not in (row["reason"] or ""):
        yield "wrong refusals", f"{name!r} is {status} because {row['reason']!r}, not {part!r}"


def _close(found: float | None, wanted: float) -> bool:
    return found is not None and math.isclose(found, wanted, rel_tol=1e-6)  # the JSON is short


def _reasons(rows: Mapping[str, Any], errors: list[str]) -> Iterator[tuple[str, str]]:
    """Reasons have to be there, and to be ours."""
    reasons = [row["reason"] for row in rows.values() if row["status"] != "ok"]
    refusals = [row["reason"] for row in rows.values() if row["status"] in ("failed", "unsupported")]
    for reason in chain(refusals, errors):
        if "; " not in (reason or ""):
            yield "wrong refusals", f"no next step: {reason}"
    for reason in chain(reasons, errors):
        if not reason or not reason.isprintable():
            yield "raw escapes", ascii(reason)
        elif "bug in klcal" in reason:
            yield "tracebacks", reason
        elif "weights_only" in reason or "allow_pickle" in reason:
            yield "wrong refusals", f"unsafe advice: {reason}"


def _implausible(row: Mapping[str, Any]) -> Iterator[str]:
    """A scale where there is none, or one that is no scale."""
    if row["status"] != "ok":
        if row["scale"] is not None or row["zero_point"] is not None:
            yield "it has a scale and is not ok"
    elif not 0 < np.float32(row["scale"]) < np.inf or not row["qmin"] <= row["zero_point"] <= row["qmax"]:
        yield f"scale {row['scale']}, zero point {row['zero_point']}"
