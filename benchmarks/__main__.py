"""Run the benchmarks that are named, or all; ``versions CHECKOUT`` measures another version against this one."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    *("startup", "search", "counting", "units", "kernels", "channels", "comparison", "quality", "memory", "tables"),
    *("pooling", "sketching", "recording", "explaining", "clusters", "cuda"),
)

if __name__ == "__main__":
    wanted = sys.argv[1:] or NAMES
    if wanted[0] == "versions":
        if len(wanted) == 1:
            sys.exit("versions of what? python -m benchmarks versions CHECKOUT [speed] [scales]")
        import_module("benchmarks.versions").run(*wanted[1:])
        sys.exit()
    if unknown := set(wanted) - set(NAMES):
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)} and versions")
    for name in wanted:
        import_module(f"benchmarks.{name}").run()
