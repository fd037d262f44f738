"""Writes the corpus, in a process of its own: what it imports must not count as the command's memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from tests.corpus import cases as corpus

    folder, canaries = map(Path, sys.argv[1:3])
    cases = corpus.write(folder, canaries, heavy=True)
    print(json.dumps(cases))
