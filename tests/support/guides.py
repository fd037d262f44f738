"""The guides in docs/: their programs and sessions, as tests run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"


def sessions(text: str) -> list[str]:
    """What is shown of a shell, commands and output."""
    return [textwrap.dedent(each) for each in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]


def programs(name: str) -> list[str]:
    """The programs of a guide."""
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def replayed(session: str, folder: Path) -> str:
    """The commands of a session and what they print, run by a shell beside the sample tensors and the guides."""
    script = "".join(f'{name}() {{ {shlex.quote(sys.executable)} {how} "$@"; }}\n' for name, how in COMMANDS.items())
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        script += f"code=$?; printf '%s\\n' {shlex.quote('$ ' + command)}; (exit $code)\n{command}\n"
    for name in ("sample_tensors", "docs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return run.stdout


COMMANDS = {"klcal": "-m klcal", "python": ""}
