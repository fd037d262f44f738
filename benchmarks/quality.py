"""What the methods choose on real tensors, and that `kl` keeps its promises there.

Prints the tables of docs/methods.md and docs/channels.md: a test compares them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.side_by_side import report
from klcal.calibration.values import calibrate
from klcal.quantizers.rounding import dequantize, quantize
from klcal.quantizers.scheme import Scheme
from klcal.readers import Description, find
from klcal.search import units
from klcal.search.choices import NO_ERROR, Spans
from klcal.search.classic import classic_divergences
from klcal.search.divergences import divergences
from klcal.search.exact_costs import exact_costs
from klcal.search.methods import KL, MSE, KLClassic, MinMax, Percentile, sub_bins_per_cell
from klcal.sketches.counting import values_of
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch

SAMPLES = str(Path(__file__).parent.parent / "sample_tensors")
ENOUGH = 300  # values from which a histogram says something
METHODS = (MinMax(), Percentile(99.99), KLClassic(), MSE(), KL())
GAPS = {"int8": 0.05, "int4": 1.5}  # dB that `kl` may lose to `mse`
WEIGHTS = ("encoder.layer.0.attention.self.query.weight", "minilm_l0_ffn_in", "minilm_l3_gelu")
Sketches = dict[tuple[str, str], Sketch]
UNITS = ("tensor", "channel", "group:128", "group:32")
SHOWN = (
    "conv5.weight",
    "_blocks.11._project_conv.input",
    "_blocks.4._expand_conv.input",
    "minilm_l0_ffn_in",
    "minilm_l3_gelu",
    "encoder.layer.0.attention.self.query.weight",
    "conv2.weight",
    "conv3.weight",
)


def samples() -> Sketches:
    """The sketch of every sample tensor, by the name of its file and its own."""
    return {
        (source.name, each.name): sketch(each)
        for source in find([SAMPLES]).sources
        for each in source.describe()
        if each.status == "ok"
    }


def run() -> None:
    """Assert the bounds for every tensor of the samples, print the larger ones."""
    sketches = samples()
    for dtype in ("int8", "int4"):
        print_methods(dtype, sketches)
    for dtype in ("int8", "int4"):
        print_units(dtype)
    worst = {dtype: _worst_gap(dtype, sketches) for dtype in GAPS}
    for (source, name), found in sketches.items():
        for scheme in map(Scheme.parse, ("int8", "uint8", "int4", "uint4")):
            _check(f"{source}: {name}", Distribution.of(found), scheme)
    report(
        f"kl on {len(sketches)} sample tensors, int8, uint8, int4, uint4",
        [
            ("its squared error stays within 1 + 2·D/w of the least", "always"),
            ("kl-classic is nowhere above kl, mse and minmax", "always"),
            *(
                (f"{dtype}: most that kl loses to mse (at most {limit} dB)", f"{worst[dtype]:.3f} dB")
                for dtype, limit in GAPS.items()
            ),
        ],
    )


def print_methods(dtype: str, sketches: Sketches) -> None:
    """SQNR in dB, and in brackets the share of the range that is kept, in percent."""
    print(f"\n| {dtype}, symmetric | " + " | ".join(str(m).partition(":b")[0] for m in METHODS) + " |")
    print("| :--- |" + " ---: |" * len(METHODS))
    for (source, name), found in sketches.items():
        if name in SHOWN and found.numel[0] >= 10_000:
            full = calibrate(found, dtype=dtype, method="minmax").high
            rows = [calibrate(found, dtype=dtype, method=method) for method in METHODS]
            cells = [f"{row.sqnr_db:.2f} ({100 * row.high / full:.0f})" for row in rows]
            print(f"| `{name}` ({source.partition('_')[0]}) | " + " | ".join(cells) + " |")


def print_units(dtype: str) -> None:
    """SQNR of whole tensors with a scale for each channel or group; `kl` with D whatever the number of values."""
    tensors = {
        each.name: each
        for source in find([SAMPLES]).sources
        for each in source.describe()
        if each.name in WEIGHTS and each.status == "ok"
    }
    print(f"\n| {dtype}, symmetric | " + " | ".join(UNITS) + " |")
    print("| :--- |" + " ---: |" * len(UNITS))
    for name, tensor in tensors.items():
        cells = []
        for per in UNITS:
            found = [_sqnr(tensor, dtype, method, per) for method in ("minmax", "mse")]
            before, units.VALUES_PER_BIN = units.VALUES_PER_BIN, 0
            found.append(_sqnr(tensor, dtype, "kl", per))
            units.VALUES_PER_BIN = before
            cells.append(" / ".join(f"{each:.2f}" for each in found))
        print(f"| `{name}` | " + " | ".join(cells) + " |")


def _sqnr(tensor: Description, dtype: str, method: str, per: str) -> float:
    """Of the tensor as a whole, element by element."""
    row = calibrate(tensor, dtype=dtype, method=method, per=per)
    chunks = [values_of(chunk, tensor.dtype).copy() for part in tensor.parts for chunk in part.chunks()]
    values = np.concatenate(chunks).astype(np.float32).reshape(tensor.shape)
    error = values.astype(float) - dequantize(quantize(values, row), row)
    return float(10 * np.log10((values.astype(float) ** 2).sum() / (error**2).sum()))


def _worst_gap(dtype: str, sketches: Sketches) -> float:
    gaps = {}
    for key, found in sketches.items():
        if found.numel[0] >= ENOUGH:
            best, ours = (calibrate(found, dtype=dtype, method=method).sqnr_db for method in ("mse", "kl"))
            gaps[key] = best - ours
    assert max(gaps.values()) <= GAPS[dtype], gaps
    return max(gaps.values())


def _check(name: str, distribution: Distribution, scheme: Scheme) -> None:
    if not distribution.size[0]:
        return
    sub, spans = sub_bins_per_cell(2048, scheme.size), Spans.of(distribution, None)
    choices = {type(method): method(distribution, scheme, spans) for method in METHODS}
    errors = {each: exact_costs(distribution, scheme, *choice).squared_error[0] for each, choice in choices.items()}
    optimum = choices[MSE]
    nats = divergences(distribution, scheme, optimum.scale[:, None], optimum.below[:, None], sub)[0, 0]
    if errors[MSE] > NO_ERROR * distribution.energy[0]:
        bound = 1 + 2 * nats / KL().weight
        assert errors[KL] <= errors[MSE] * (bound + 1e-3), (name, scheme)
    scale, below = (np.concatenate(column) for column in zip(*choices.values(), strict=True))
    found = classic_divergences(distribution.prefix_sums(0), scheme, scale, below, sub)
    classic = dict(zip(choices, found, strict=True))
    others = [classic[method] for method in (KL, MSE, MinMax)]
    assert classic[KLClassic] <= min(others) * (1 + 1e-12), (name, scheme)
