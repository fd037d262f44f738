"""Sketch files as bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import klcal

__all__ = ["sketch_file"]


def sketch_file(sketches: Mapping[str, klcal.Sketch]) -> bytes:
    """What ``klcal.save_sketches`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        klcal.save_sketches(path := Path(folder, "s.safetensors"), sketches)
        return path.read_bytes()
