"""Libraries of C that tests build: each once, by whichever process needs it first, and kept for later runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path

KEPT = Path(__file__).parents[2] / "build" / "tests"


def built(command: list[str], texts: Iterable[Path], folder: Path | None = None) -> Path:
    """What a compiler builds of some texts, called in a folder; its name is the hash of all that makes it so."""
    key = sha256(repr((command, [path.read_bytes() for path in sorted(texts)])).encode()).hexdigest()
    KEPT.mkdir(parents=True, exist_ok=True)
    library = KEPT / f"{key}.so"
    with library.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not library.exists():
            new = library.with_suffix(".new")
            subprocess.run([*command, "-o", new], cwd=folder, check=True)
            new.replace(library)
    return library
