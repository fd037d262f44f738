"""Tensor files in: ``find`` says which, each source describes its tensors, their parts read the data.

A new format is a module with a function ``describe`` and a line in ``formats.py``.
"""

from klcal.readers.description import Chunk, Description, Part
from klcal.readers.find import Found, Source, find

__all__ = ["Chunk", "Description", "Found", "Part", "Source", "find"]
