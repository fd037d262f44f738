"""A GGUF model for llama.cpp: tensors become blocks of 32 codes, and all else is copied byte for byte.

    Q8_0   int8, symmetric      Q4_1   uint4, affine
    Q4_0   int4, symmetric      MXFP4  float4_e2m1fn, scales e8m0

Scales are float16, and may be negative. Q4_1 has no zero point: its offset is −zero_point · scale as the nearest
float16, so that a value may be off by up to 0.7 % of the scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from typing import Any, BinaryIO

from klcal.errors import UsageError
from klcal.quantizers.blocks import BLOCKS, VALUES, holds_offsets, holds_scales, packed_blocks
from klcal.quantizers.granularity import Grid
from klcal.quantizers.rules import Rules, rules_of
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import DTYPES, KINDS, Scheme
from klcal.readers.description import Description
from klcal.readers.gguf_header import Entry, Header, parse
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, open_regular
from klcal.tables.units import Units
from klcal.writers.codes import Codes
from klcal.writers.forms.form import Form, Model, TensorFile
from klcal.writers.gguf_file import number, write
from klcal.writers.safetensors_file import Stored

__all__ = ["FORM"]

SUFFIX = ".gguf"
UNIT = f"group:{VALUES}"
BLOCK_OF = {"int8": "Q8_0", "int4": "Q4_0", "uint4": "Q4_1", "float4_e2m1fn": "MXFP4"}
"""The type of blocks that hold a number format."""
SCHEMES = {"int8": "symmetric", "int4": "symmetric-signed", "uint4": "affine", "float4_e2m1fn": "symmetric"}
MADE = (
    f"--dtype int8 becomes Q8_0, int4 Q4_0, uint4 --scheme affine Q4_1, float4_e2m1fn MXFP4: with --per {UNIT} and "
    "--scale-format float16 (MXFP4: e8m0)"
)
FILE_TYPE, VERSION = "general.file_type", "general.quantization_version"
FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "MXFP4": 38}
"""What llama.cpp calls a file most of whose tensors are of a type."""
QUANTIZATION_VERSION = 2  # of the blocks, as llama.cpp has them since May 2023

EMBEDDINGS = ("output.weight", "token_embd.weight")
"""Matrices that keep 8 bits. Of the output, which may be the embedding, llama.cpp keeps Q6_K or Q8_0."""
# fmt: off
SPARED = (
    "*_norm.weight", "*ffn_gate_inp*", "*altup*", "*laurel*", "*per_layer_model_proj*", "*indexer.[kq]_proj.*",
    "*ssm_conv1d*", "*shortconv.conv.*", "*position_embd*", "*pos_embd*", "*token_types*", "*attn_rel_b.*",
    "*rel_pos*", "*patch_embd*", "*patch_merger*", "*sam.neck.*", "*sam.net_*", "*time_mix_[avwg][0-2].*",
    "*time_mix_decay_w[12].*", "*time_mix_first.*", "*time_mix_lerp_fused.*",
)
# fmt: on
"""Names of matrices that llama.cpp never quantizes: they are small, and matter."""


# --- defaults: which tensors are quantized, and how


def takes(tensor: Description, include: Sequence[str]) -> bool:
    """Whether a tensor is quantized: those that llama-quantize does, or any with two axes that is named."""
    return len(tensor.shape) > 1 and (bool(include) or (_is_usual(tensor) and _is_even(tensor)))


def _is_usual(tensor: Description) -> bool:
    """By its name, and by its axes: rows of experts may have a third one."""
    is_matrix = max(tensor.shape[:-1], default=1) > 1
    name = tensor.name
    return is_matrix and name.endswith(".weight") and not any(fnmatchcase(name, glob) for glob in SPARED)


def _is_even(tensor: Description) -> bool:
    return tensor.shape[-1] % VALUES == 0


def usual(_directory: str | None, tensors: Iterable[Description], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a calibration. Options that are not given follow from the number format.

    The default is int8. Embedding and output are int8 with any other format, too, unless a rule names them.

    Raises:
        UsageError: no type of blocks has the number format.
    """
    dtype = rules_of("dtype", given.get("dtype", ()), "int8", DTYPES, str)
    if other := [each for each in dtype.values if each not in BLOCK_OF]:
        raise UsageError(f"no block of GGUF holds {other[0]}", MADE)
    scheme, scale_format = dtype.each(SCHEMES.__getitem__), dtype.each(_scale_format)
    if "scheme" in given:
        scheme = rules_of("scheme", given["scheme"], "auto", ("auto", *KINDS), str)
    if "scale_format" in given:
        scale_format = rules_of("scale format", given["scale_format"], "float16", SCALE_FORMATS, str)
    own = [each.name for each in tensors if each.name in EMBEDDINGS and not _matches(dtype, each.name)]
    return {
        "per": UNIT,
        **given,
        "dtype": _with(dtype, own, "int8"),
        "scheme": _with(scheme, own, SCHEMES["int8"]),
        "scale_format": _with(scale_format, own, "float16"),
    }


def _scale_format(dtype: str) -> str:
    return "e8m0" if BLOCK_OF[dtype] == "MXFP4" else "float16"


def _matches(rules: Rules[str], name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in rules.globs)


def _with(rules: Rules[str], names: Iterable[str], value: str) -> dict[str, str]:
    """Rules, and a value for tensors of some names, unless a glob matches them."""
    *first, last = rules.pairs
    return dict([*first, *((name, value) for name in names if not _matches(rules, name)), last])


# --- checks before anything is written


def renamed(name: str) -> str:
    """The name of a file again.

    Raises:
        UsageError: it is of another format, and has no keys to carry along.
    """
    if not name.lower().endswith(SUFFIX):
        what = f"'{name}' is no {SUFFIX} file, whose keys the quantized one needs"
        raise UsageError(what, "convert the model with llama.cpp first: convert_hf_to_gguf.py --outtype bf16")
    return name


def check(model: Model) -> list[str]:
    """Checks that all tensors can be stored, and returns warnings.

    Raises:
        UsageError: a tensor cannot be stored in this form; the message names it.
    """
    for file in model.files:
        for each in file.tensors:
            try:
                _check(each.tensor, each.codes)
            except UsageError as error:
                raise UsageError(f"{file.source}: {quoted(each.tensor.name)}: {error.what}", error.hint) from None
    others = [each.tensor for file in model.files for each in file.tensors if each.codes is None]
    ragged = [quoted(each.name) for each in others if each.status == "ok" and _is_usual(each) and not _is_even(each)]
    many = "s" * (len(ragged) > 1)
    what = f"whose rows are no whole blocks of {VALUES}"
    return [f"{len(ragged)} tensor{many}, {what}, kept: {ragged[0]}{' and others' * bool(many)}"] if ragged else []


def _check(tensor: Description, codes: Codes | None) -> None:
    """Refuses a tensor that no blocks hold, or not its scales; or that cannot be copied, as its length is not known."""
    if codes is None:
        if tensor.status == "unsupported":
            raise UsageError(f"{tensor.dtype} of GGML cannot be copied", "use llama-quantize")
        return
    kind, scales = fits(tensor, codes.scheme, codes.row.units), codes.scales
    if not holds_scales(kind, scales):
        wanted = _scale_format(codes.scheme.dtype)
        what = f"its scales are no {wanted}, as {kind} has them: they would be rounded"
        raise UsageError(what, f"calibrate with --scale-format {wanted}")
    points = codes.zero_points if kind == "Q4_1" else None
    if points is not None and not holds_offsets(scales, points):
        raise UsageError("its offsets are beyond float16, as Q4_1 has them", "use --dtype int4")


def fits(tensor: Description, scheme: Scheme, units: Units | Grid | None) -> str:
    """The type of the blocks that hold a tensor.

    Raises:
        UsageError: no type of blocks can hold it.
    """
    kind, columns = BLOCK_OF.get(scheme.dtype, ""), tensor.shape[-1]
    if not kind or (scheme.kind == "affine") != (kind == "Q4_1"):
        raise UsageError(f"no block of GGUF holds {scheme.dtype} {scheme.kind}", MADE)
    if units is None or (units.axis, units.size) != (len(tensor.shape) - 1, VALUES):
        raise UsageError(f"a block of GGUF has one scale for {VALUES} values of a row", MADE)
    if columns % VALUES:
        raise UsageError(f"its rows of {columns} values are no whole blocks of {VALUES}", "leave it out: --exclude")
    return kind


# --- tensors


def _blocks(codes: Codes) -> Stored:
    """A tensor as blocks. Scales are made when they are written: a model may have many."""
    kind, shape = fits(codes.tensor, codes.scheme, codes.row.units), codes.tensor.shape
    nbytes = prod(shape) // VALUES * BLOCKS[kind].itemsize
    return Stored(codes.tensor.name, kind, shape, nbytes, partial(_pieces, codes, kind))


def _pieces(codes: Codes, kind: str) -> Iterator[Any]:
    """The bytes of some blocks at a time."""
    scales, position = codes.scales.ravel(), 0
    points = codes.zero_points if kind == "Q4_1" else None
    for rows in codes.in_rows(VALUES):
        some = slice(position, position + len(rows))
        yield packed_blocks(kind, rows, scales[some], 0 if points is None else points.ravel()[some]).data
        position = some.stop


def _kept(entry: Entry, file: RegularFile) -> Stored:
    """A tensor as it is."""
    return Stored(entry.name, entry.dtype, entry.shape, entry.nbytes, lambda: file.blocks(entry.offset, entry.nbytes))


# --- files


def write_gguf(file: TensorFile, out: BinaryIO) -> None:
    """A file again, some of its tensors as blocks; one without any as it is."""
    opened = open_regular(file.path)
    quantized = {each.tensor.name: each.codes for each in file.tensors if each.codes is not None}
    if not quantized:
        out.writelines(opened.blocks(0, opened.size))
        return
    header = parse(opened)
    tensors = [_blocks(quantized[e.name]) if e.name in quantized else _kept(e, opened) for e in header.entries]
    keys = [*_keys(header, opened, tensors)]
    write(tensors, out, version=header.version, alignment=header.alignment, keys=keys)


def _keys(header: Header, file: RegularFile, tensors: Iterable[Stored]) -> Iterator[Iterable[Any]]:
    """The bytes of each key: those that say how tensors are quantized are new, in their places or behind all others."""
    kinds = Counter(each.dtype for each in tensors if len(each.shape) > 1)
    most = kinds.most_common(1)[0][0]
    new = {VERSION: QUANTIZATION_VERSION} | ({FILE_TYPE: FILE_TYPES[most]} if most in FILE_TYPES else {})
    for key in header.keys:
        yield [number(key.name, new[key.name])] if key.name in new else file.blocks(key.begin, key.end - key.begin)
    there = {key.name for key in header.keys}
    yield from ([number(name, value)] for name, value in new.items() if name not in there)


FORM = Form(write_gguf, renamed, check, takes=takes, usual=usual, fits=fits)
