"""Run the benchmarks that are named, or all."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("startup", "search", "counting", "channels", "comparison", "quality", "memory")

if __name__ == "__main__":
    wanted = sys.argv[1:] or NAMES
    if unknown := set(wanted) - set(NAMES):
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in wanted:
        import_module(f"benchmarks.{name}").run()
