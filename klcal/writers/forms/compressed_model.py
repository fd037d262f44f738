"""The tensors of a model to write as compressed-tensors, and the defaults for them, both by its config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from klcal.errors import InputError, UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.rules import rules_of
from klcal.quantizers.scheme import DTYPES
from klcal.readers.addresses import is_remote
from klcal.readers.description import Description
from klcal.readers.regular import open_regular
from klcal.readers.strict_json import unique

__all__ = ["CONFIG", "KEY", "WEIGHT", "config_in", "scale_dtype", "takes", "usual"]

CONFIG, KEY = "config.json", "quantization_config"
AGAIN = "download or save it again"
MOST_BYTES = 1 << 24  # of a config.json: those of large models have a few thousand
WEIGHT = ".weight"  # the end of the name of a Linear's weight
EMBEDDINGS = ("*embed*", "*wte.*", "*wpe.*", "*shared.weight", "*attention_bias*")
ROUTERS = ("*.gate.weight", "*expert_gate.weight", "*router*")
SPARED = (*EMBEDDINGS, *ROUTERS, "*lm_head*")
"""Names of weights with two axes that are left as they are."""
CONV1D = ("clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt")
"""Models whose weights are [in, out], and no Linear's."""
FLOAT4 = "float4_e2m1fn"
NV_UNIT, MX_UNIT = "group:16", "group:32"


# --- defaults: which tensors are quantized, and how


def takes(tensor: Description, include: Sequence[str]) -> bool:
    """Whether a tensor may be the weight of a Linear: by its axes and all of its names, as there is no model to ask."""
    names = tensor.name, *tensor.aliases
    spared = (fnmatchcase(name, glob) for name in names for glob in SPARED if not include)
    return len(tensor.shape) == 2 and all(name.endswith(WEIGHT) for name in names) and not any(spared)


def usual(directory: str | None, tensors: Iterable[Description], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a calibration. Options that are not given follow from the number format.

    int4 has groups of 128, 8-bit integers and float8 have channels, float4 becomes MXFP4. Integers have all levels
    around the zero point 0. Scales have the dtype of the model.

    Raises:
        UsageError: the model has no usable config.json, or is of a kind that this form does not support.
    """
    config = config_in(directory)
    own = next((scale_dtype(config, tensor) for tensor in tensors), "float32")
    dtype = rules_of("dtype", given.get("dtype", ()), "int4", DTYPES, str)
    is_nvfp4 = NV_UNIT in str(given.get("per", ""))
    scale_format = dtype.each(lambda each: ("float8_e4m3fn" if is_nvfp4 else "e8m0") if each == FLOAT4 else own)
    return {
        "dtype": dict(dtype.pairs),
        "scheme": dict(dtype.each(lambda each: "auto" if each in FLOATS else "symmetric-full").pairs),
        "per": dict(dtype.each(_usual_unit).pairs),
        "scale_format": dict(scale_format.pairs),
        **{name: value for name, value in given.items() if name != "dtype"},
    }


def _usual_unit(dtype: str) -> str:
    if dtype == FLOAT4:
        return MX_UNIT
    return "channel" if dtype.endswith("int8") or dtype.startswith("float8") else "group:128"


# --- the model's config.json


def config_in(directory: str | None) -> dict[str, Any]:
    """The config.json of a model.

    Raises:
        UsageError: there is none, or it describes a model that this form does not support.
    """
    if directory is None:
        raise UsageError("compressed-tensors is a directory with a config.json", "give the directory of the model")
    path = os.path.join(directory, CONFIG)  # noqa: PTH118 - as files are named elsewhere
    if not is_remote(path) and not os.path.lexists(path):
        what = f"there is no {CONFIG} beside the tensors, in which it is said how they are quantized"
        raise UsageError(what, "give the directory of the model, or use --to safetensors")
    try:
        file = open_regular(path)
        if file.size > MOST_BYTES:
            raise UsageError(f"the {CONFIG} has {file.size:,} bytes; {MOST_BYTES:,} are allowed", AGAIN)
        found = json.loads(file.read(0, file.size), object_pairs_hook=unique)
    except (InputError, ValueError, RecursionError):
        raise UsageError(f"the {CONFIG} cannot be read", AGAIN) from None
    if not isinstance(found, dict):
        raise UsageError(f"the {CONFIG} is no object", AGAIN)
    if KEY in found:
        raise UsageError(f"the {CONFIG} has a {KEY}: the model is quantized", "give the one that it was made from")
    if found.get("model_type") in CONV1D:
        what = f"weights of {found['model_type']} are no Linear's: consumers would not quantize them"
        raise UsageError(what, "use --to safetensors")
    return cast(dict[str, Any], found)


def scale_dtype(config: Mapping[str, Any], tensor: Description) -> str:
    """The dtype of scales: the one in which the model is loaded, or else that of the weight."""
    texts = config, config.get("text_config") or {}
    said = (each.get(key) for each in texts if isinstance(each, dict) for key in ("dtype", "torch_dtype"))
    found = next((each for each in said if isinstance(each, str)), tensor.dtype)
    return found if found in ("bfloat16", "float16") else "float32"
