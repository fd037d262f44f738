"""The forms in which a quantized model is written: a module with a ``FORM``, and a line here."""

from __future__ import annotations

from importlib import import_module

from klcal.errors import UsageError
from klcal.writers.forms.form import Form

__all__ = ["FORMS", "form_of"]

FORMS = {
    "compressed-tensors": "compressed_tensors",
    "gguf": "gguf",
    "onnx": "onnx",
    "fake": "fake",
    "safetensors": "plain",
    "npz": "npz",
}
"""The module of each form, imported when it is asked for."""


def form_of(name: str) -> Form:
    """A form by its name.

    Raises:
        UsageError: there is no form of that name.
    """
    if name not in FORMS:
        raise UsageError(f"there is no form {name!r}", f"use --to with one of {', '.join(FORMS)}")
    found: Form = import_module(f"{__name__}.{FORMS[name]}").FORM
    return found
