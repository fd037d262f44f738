"""What each field of the answers means, in a sentence: for the JSON Schemas and the reference, which are made of it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MEANINGS", "meaning"]

COMMON = {
    "name": "The tensor's own name; of a .npy file, the file's name without its suffix.",
    "source": "The file: its name, or its path below the directory that was given. - is standard input.",
    "dtype": "The number format of the values, as the file names it.",
    "shape": "The extents of the axes.",
    "status": "One word: whether there is an answer, and if not, why not.",
    "reason": "Why there is no answer.",
    "cause": "What a failure is to be blamed on: the data, or a bug of klcal's.",
    "note": "What was done otherwise than asked for, and why; several notes are joined by '; '.",
    "aliases": "Further names of the same data (tied weights).",
    "numel": "The number of values.",
    "min": "The least finite value.",
    "max": "The greatest finite value.",
    "zeros": "The number of exact zeros.",
    "nan": "The number of NaN.",
    "neg_inf": "The number of negative infinities.",
    "pos_inf": "The number of positive infinities.",
    "scale": "The step: a value is (code - zero_point) * scale. The shortest text that reads back to the same float32.",
    "zero_point": "The code that stands for 0; null for floating-point formats.",
    "low": "The least value that a code stands for.",
    "high": "The greatest value that a code stands for.",
    "kl": "D(P||Q) on the sub-bins of the chosen scale, in nats, over the nonzero values; null where no cell is cut.",
    "mse": "The mean squared error of the quantized copy, over all finite values, zeros included.",
    "sqnr_db": "The signal-to-noise ratio of the quantized copy, in decibels; null where it is infinite.",
    "clipped": "The share of values that round beyond qmin or qmax, from 0 to 1.",
    "rounded_to_zero": "The share of nonzero values that become 0, from 0 to 1.",
}

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "Row": {
        "target": "The number format that values are quantized to.",
        "scheme": "Which codes are used, around which zero point; never auto.",
        "method": "How the range was chosen, with all parameters.",
        "per": "What has a scale of its own, with the axis that it is.",
        "scale_format": "The number format of the scale.",
        "importance": "Whether the choice weighed some values more than others. Figures never do.",
        "global_scale": "A float32 of the whole tensor; every scale is a multiple of it by a float8.",
        "qmin": "The least code.",
        "qmax": "The greatest code.",
        "unit": "The number of the unit that the row stands for (only with --units, in place of units).",
        "units": "The scales of channels, groups or blocks; then scale, zero_point, low and high of the row are null.",
        "kl": f"{COMMON['kl'][:-1]}. Of several units, the mean of theirs, each by its number of nonzero values.",
    },
    "Units": {
        "per": "What a unit is: a channel, a group or a block.",
        "axis": "The axis along which units lie; of a block, both axes.",
        "size": "The number of values along the axis that make a unit; null for channels.",
        "shape": "The shape of the arrays below, which are flat here, the last axis fastest.",
        "scale": "The scale of each unit; null where it has none.",
        "zero_point": "The zero point of each unit; null for floating-point formats.",
        "low": "The least value that a code stands for, of each unit.",
        "high": "The greatest value that a code stands for, of each unit.",
        "status": "The status of each unit; null where all have that of the tensor.",
        "kl": "D(P||Q) of each unit, in nats; null where no cell is cut.",
        "mse": "The mean squared error of each unit.",
        "sqnr_db": "The signal-to-noise ratio of each unit, in decibels; null where it is infinite.",
        "clipped": "The share of clipped values of each unit, from 0 to 1.",
    },
    "Config": {
        "method": "How ranges were chosen; rules by names are joined by '; '.",
        "dtype": "The number formats that were asked for.",
        "scheme": "The schemes; resolved where there is one number format for all.",
        "per": "What was to have a scale of its own.",
        "scale_format": "The number formats of scales.",
    },
    "Difference": {
        "source": "The file of P.",
        "other_source": "The file of Q.",
        "dtype": "The number format of P.",
        "other_dtype": "The number format of Q.",
        "shape": "The shape of P.",
        "other_shape": "The shape of Q.",
        "note": "What the figures are, or why there are none of a kind; several notes are joined by '; '.",
        "numel": "The number of values of P.",
        "kl": "D(P||Q) on common bins, in the unit of the base; of a table's copy, on the quantizers' cells.",
        "kl_common": "D(P||Q) on common bins: cross_entropy - entropy.",
        "reverse_kl": "D(Q||P) on common bins.",
        "js": "The Jensen-Shannon divergence on common bins.",
        "cross_entropy": "H(P, Q) on common bins.",
        "entropy": "H(P) on common bins.",
        "other_entropy": "H(Q) on common bins.",
        "wasserstein": "The Wasserstein-1 distance, in the unit of the values.",
        "cosine": "The cosine between the two tensors, element by element.",
        "max_abs_diff": "The greatest absolute difference of two elements.",
        "mse": "The mean squared difference, element by element.",
        "sqnr_db": "The signal-to-noise ratio of Q as a copy of P, in decibels; null where it is infinite.",
    },
    "Comparison": {
        "base": "The base of the logarithms: e (nats), 2 (bits) or 10 (bans).",
        "bins": "The number of common bins, at most.",
        "quantized_by": "The table by which Q was made of P; null where Q is a file.",
    },
    "Change": {
        "status": "What became of the tensor: changed, missing (only in the baseline) or extra (only in the other).",
        "reason": "Why there is no row of it, or why it has no scale any more.",
        "changed": "The names of the fields that differ.",
        "unit": "The number of the unit whose scale moved most.",
        "units_changed": "The number of units whose scale, zero point or status differs; null without units.",
        "was": "The fields that differ, as they are in the baseline; null where it has no such tensor.",
        "is": "The same now.",
        "d.scale": "The change of the scale, relative; of the unit that moved most.",
        "d.zero_point": "The change of the zero point, in steps; of the unit that moved most.",
        "d.low": "The change of low; of the unit that moved most.",
        "d.high": "The change of high; of the unit that moved most.",
        "d.kl": "The change of kl, in nats.",
        "d.mse": "The change of mse, relative.",
        "d.sqnr_db": "The change of sqnr_db, in decibels.",
        "d.clipped": "The change of the clipped share.",
        "d.rounded_to_zero": "The change of the share that is rounded to zero.",
    },
    "Changes": {
        "baseline": "What the baseline is called.",
        "compared": "What was compared with it.",
        "same": "The number of tensors that are the same; they have no row.",
        "changed": "The number of tensors that are not.",
        "missing": "The number of tensors that only the baseline has.",
        "extra": "The number of tensors that only the other side has.",
        "rules": "The rules by which findings were found.",
    },
    "Finding": {
        "rule": "The rule that was met, as it was given.",
        "text": "What met it, in words.",
        "was": "What the rule looked at in the baseline, a number or words.",
        "is": "The same now.",
        "unit": "The number of the worst unit that met it; null without units.",
        "units": "The number of units that met it.",
    },
    "Content": {
        "status": "ok; skipped (it is no weight); or why it cannot be read.",
        "shape": "The extents of the axes; null where several tensors differ in it.",
        "tensors": "The number of tensors that the row stands for.",
        "nbytes": "The size of the values, in bytes, where the size of one is known.",
        "outlier": "The largest magnitude, relative to that which 0.1 % of the nonzero values exceed.",
        "histogram": "The number of values in each of some bins of one width, from min to max.",
    },
    "Contents": {
        "stats": "Whether the values were read.",
        "depth": "The number of first parts of their names by which tensors share a row; null for a row each.",
    },
    "FileError": {
        "source": "The file.",
        "reason": "Why nothing of it could be used.",
    },
    "Document": {
        "schema": "The name and the version of what the fields mean.",
        "tool": "What wrote it.",
        "config": "What was asked for.",
        "findings": "What met a rule, the worst first.",
        "tensors": "A row for each tensor, sorted by source and then name, numbers in names by their value.",
        "errors": "The files of which nothing could be used.",
        "warnings": "What has to be said beside the rows.",
    },
    "Option": {
        "option": "The name of the option, without its dashes.",
        "value": "Its value; null where nobody gave one.",
        "from": "Where the value is from: a file, a variable of the environment, or default.",
        "commands": "The commands in which it is so.",
    },
    "Sketch": {
        "name": "The name of the tensor.",
        "dtype": "The number format of the values that were counted.",
        "shape": "The shape of a batch; null if batches differ.",
        "batches": "The number of batches that were added; null where they are not known.",
        "aliases": "Further names of the same data.",
        "mantissa_bits": "The mantissa bits of a key, where there are too many values to keep each one.",
        "least_bits": "The same in the octaves far below a unit's largest magnitude.",
        "few": "The number of distinct values up to which a unit keeps each one.",
        "grid": "Where the units lie in the tensor; null for one unit.",
    },
}
"""By the class that has the fields; names that are not there have the meaning that they have everywhere."""


def meaning(of: str, field: str) -> str:
    """What a field of a class means.

    >>> meaning("Row", "nan"), meaning("Units", "per")
    ('The number of NaN.', 'What a unit is: a channel, a group or a block.')
    """
    return {**COMMON, **MEANINGS[of]}[field]
