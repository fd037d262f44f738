"""Another version of klcal against this one: ``python -m benchmarks versions CHECKOUT [speed] [scales]``.

The same cases run in two processes in turns, one with each version's package, by nothing but the functions that both
have. Then every scale that the two choose for the sample tensors is compared, and what it costs is measured on the
values themselves. Prints Markdown.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from benchmarks.channels import real_weight
from benchmarks.side_by_side import ENVIRONMENT, PYTHON, one_core
from klcal.quantizers.code_points import nearest
from klcal.quantizers.granularity import parse_per
from klcal.quantizers.layout import layout
from klcal.readers import Description, find
from klcal.sketches.counting import values_of

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_tensors"
PARTS = ("speed", "scales")
ROUNDS = 5
LENGTHS = (4096, 8192, 16384)  # of a channel
VALUES = 1 << 20  # of the weight; what takes longest has fewer
SMALL_TENSORS, SMALL = 1000, (32, 32)  # of one file
PERS = ("tensor", "channel", "group:32")
KINDS = {
    "int8, int4": ("int8", "int4"),
    "uint8, uint4 (affine)": ("uint8", "uint4"),
    "e4m3, e2m1": ("float8_e4m3fn", "float4_e2m1fn"),
}
METHODS = ("kl", "mse", "percentile:99.99", "minmax", "kl-classic")
METHODS_OF_UNITS = METHODS[:-1]  # kl-classic took 0.1.0 milliseconds for each
MOVED_FAR = 0.01  # of the scale
EQUAL = 1e-6  # relative difference of two squared errors that are the same
WIDER = 1e-6  # relative, by which a scale is above the one of the full range

Key = tuple[str, str]
"""The source and the name of a tensor."""

WORKER = """
import json, os, subprocess, sys, time
checkout, folder, samples = sys.argv[1:]
import numpy as np
import klcal
assert os.path.dirname(klcal.__file__) == os.path.join(checkout, "klcal"), klcal.__file__
held = {}

def values(shape):
    name = f"/weight{shape[1]}.npy"
    if name not in held:
        held[name] = np.load(folder + name)
    return held[name][: shape[0]]

def sketched(name):
    if name not in held:
        held[name] = klcal.sketch(np.load(folder + "/" + name + ".npy"))
    return held[name]

def seconds(case):
    options = case["options"]
    if case["what"] == "command":
        arguments = [sys.executable, "-m", "klcal", "calibrate", folder + "/small.safetensors", *case["arguments"]]
        start = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start
    if case["what"] == "count":
        found = values(case["shape"])
        start = time.perf_counter()
        klcal.sketch(found)
        return time.perf_counter() - start
    found = sketched(case["sketch"]) if case["what"] == "sketch" else values(case["shape"])
    start = time.perf_counter()
    for _ in range(case["repeats"]):
        row = klcal.calibrate(found, **options)
    took = time.perf_counter() - start
    assert row.status == "ok", row
    return took / case["repeats"]

def scales(options):
    answer = []
    for path in sorted(os.listdir(samples)):
        if not path.endswith((".pt", ".npy", ".safetensors")):
            continue
        for name, tensor in klcal.read(os.path.join(samples, path)).items():
            if tensor.status != "ok":
                continue
            try:
                row = klcal.calibrate(tensor, **options)
            except klcal.UsageError:  # a group longer than the axis
                continue
            units = row if getattr(row, "units", None) is None or callable(row.units) else row.units
            lists = [np.ravel(np.array([each] if np.isscalar(each) or each is None else list(each), float)).tolist()
                     for each in (units.scale, units.zero_point)]
            answer.append([path, name, row.qmin, row.qmax, *lists])
    return answer

for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(seconds(asked) if "what" in asked else scales(asked)), flush=True)
"""


class Version:
    """A process that has one version's package."""

    def __init__(self, checkout: Path, folder: str) -> None:
        environment = {**ENVIRONMENT, "PYTHONPATH": str(checkout)}
        self.process = subprocess.Popen(
            [PYTHON, "-c", WORKER, str(checkout), folder, str(SAMPLES)],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: Mapping[str, object]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args}: {question}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run(checkout: str, *parts: str) -> None:
    """Both parts, or those that are named."""
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder, one_core():  # the processes of both versions too
        _write_inputs(Path(folder))
        versions = [Version(Path(each).resolve(), folder) for each in (checkout, ROOT)]
        try:
            if "speed" in (parts or PARTS):
                _speed(*versions)
            if "scales" in (parts or PARTS):
                _scales(*versions)
        finally:
            for version in versions:
                version.close()


def _write_inputs(folder: Path) -> None:
    for length in LENGTHS:
        np.save(folder / f"weight{length}.npy", real_weight(VALUES // length, length))
    rng = np.random.default_rng(1)
    np.save(folder / "laplace.npy", rng.laplace(size=10**6).astype(np.float32))
    few = {f"layers.{i}.weight": rng.standard_normal(SMALL, np.float32) for i in range(SMALL_TENSORS)}
    safetensors.numpy.save_file(few, folder / "small.safetensors")


# --- speed


def cases() -> Iterator[tuple[str, dict[str, object]]]:
    """What is timed: a name, and what a worker is asked."""
    for length in LENGTHS:
        yield _units(f"channels of {length:,}, kl, int8", length, "int8", "channel", "kl")
    yield _units("channels of 4,096, mse, int8", 4096, "int8", "channel", "mse")
    yield _units("channels of 4,096, kl, uint8 (affine)", 4096, "uint8", "channel", "kl", VALUES >> 2)
    yield _units("channels of 4,096, kl, e4m3", 4096, "float8_e4m3fn", "channel", "kl", VALUES >> 2)
    for size in (128, 32):
        yield _units(f"groups of {size}, mse, int4", 4096, "int4", f"group:{size}", "mse", VALUES >> 2)
    yield _units("groups of 128, mse, uint4 (affine)", 4096, "uint4", "group:128", "mse", VALUES >> 4)
    yield _units("groups of 32, mse, e2m1", 4096, "float4_e2m1fn", "group:32", "mse", VALUES >> 4)
    yield _units("channels of 4,096, minmax, int8", 4096, "int8", "channel", "minmax")
    for method in ("mse", "kl", "kl-classic"):
        for dtype in ("int8", "uint8", "int4"):
            options = {"dtype": dtype, "method": method}
            repeats = 3 if method == "kl-classic" else 20
            yield (
                f"a tensor from its sketch, {method}, {dtype}",
                {"what": "sketch", "sketch": "laplace", "options": options, "repeats": repeats},
            )
    yield "the sketch of a tensor", {"what": "count", "shape": [VALUES // LENGTHS[0], LENGTHS[0]], "options": {}}
    command = {"what": "command", "options": {}, "arguments": ["--dtype", "int8", "--jobs", "1"]}
    yield f"{SMALL_TENSORS:,} tensors of {np.prod(SMALL):,}, whole command", command


def _units(
    name: str, length: int, dtype: str, per: str, method: str, values: int = VALUES
) -> tuple[str, dict[str, object]]:
    options = {"dtype": dtype, "per": per, "method": method}
    return name, {"what": "values", "shape": [values // length, length], "options": options, "repeats": 1}


def _speed(old: Version, new: Version) -> None:
    print("\n| time on one core, in turns | before | now | before / now |\n| :--- | ---: | ---: | ---: |")
    for name, case in cases():
        times = [(old.ask(case), new.ask(case)) for _ in range(ROUNDS + 1)][1:]
        before, now = (statistics.median(each) for each in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(f"| {name} | {before * 1e3:.1f} ms | {now * 1e3:.1f} ms | {ratio:.2f} |", flush=True)


# --- scales


class Answer(NamedTuple):
    """What a version chose for a tensor."""

    ends: tuple[int, int] | None  # the lowest and the highest integer
    scale: np.ndarray  # (units,), as the next one; NaN where there is none
    zero_point: np.ndarray


class Moves(NamedTuple):
    """What became of the scales of some tensors: (units,), of those that have one."""

    moved: np.ndarray  # the scale or the zero point
    by: np.ndarray  # relative change of the scale
    wider: np.ndarray  # the new scale is above the one of the full range
    before: np.ndarray  # Σ(x − x̂)² over the unit's values, in float64
    now: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Moves]) -> Moves:
        return Moves(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _scales(old: Version, new: Version) -> None:
    tensors = {
        (source.name, each.name): each
        for source in find([str(SAMPLES)]).sources
        for each in source.describe()
        if each.status == "ok"
    }
    columns = ("scales", "moved", "over 1 %", "wider than the range", "better", "worse")
    ratios = ("median", "best", "worst", "of all")
    print(f"\n| per, method | formats | {' | '.join(columns)} | squared error now / before: {' | '.join(ratios)} |")
    print("| :--- | :--- |" + " ---: |" * (len(columns) + len(ratios)))
    for per in PERS:
        for method in METHODS if per == "tensor" else METHODS_OF_UNITS:
            for title, dtypes in KINDS.items():
                asked = [{"dtype": dtype, "method": method, "per": per} for dtype in dtypes]
                moves = Moves.joined([_moves(tensors, old, new, each) for each in asked])
                print(f"| {per}, {method} | {title} | {_told(moves)} |", flush=True)


def _told(moves: Moves) -> str:
    """The columns of a line. Ratios are of the units that moved; the last one is of the sums over all units."""
    change = moves.moved & (np.abs(moves.now - moves.before) > EQUAL * moves.before)
    numbers = (
        moves.moved.size,
        np.count_nonzero(moves.moved),
        np.count_nonzero(moves.by > MOVED_FAR),
        np.count_nonzero(moves.moved & moves.wider),
        np.count_nonzero(change & (moves.now < moves.before)),
        np.count_nonzero(change & (moves.now > moves.before)),
    )
    some = change & (moves.before > 0)
    ratio = moves.now[some] / moves.before[some] if some.any() else np.ones(1)
    ratios = np.median(ratio), ratio.min(), ratio.max(), moves.now.sum() / moves.before.sum()
    return " | ".join([*(f"{each:,}" for each in numbers), *(f"{each:.4f}" for each in ratios)])


def _moves(tensors: Mapping[Key, Description], old: Version, new: Version, asked: Mapping[str, object]) -> Moves:
    before, now = (_answers(version.ask(asked)) for version in (old, new))
    full = _answers(new.ask({**asked, "method": "minmax"}))
    assert before.keys() == now.keys()
    parts = [
        _moves_of(tensors[key], str(asked["dtype"]), str(asked["per"]), before[key], now[key], full[key].scale)
        for key in now
    ]
    return Moves.joined(parts)


def _answers(lines: Sequence[Sequence[Any]]) -> dict[Key, Answer]:
    return {
        (source, name): Answer(None if low is None else (low, high), np.array(scale, float), np.array(point, float))
        for source, name, low, high, scale, point in lines
    }


def _moves_of(tensor: Description, dtype: str, per: str, before: Answer, now: Answer, full: np.ndarray) -> Moves:
    has_scale = np.isfinite(now.scale)
    assert np.array_equal(has_scale, np.isfinite(before.scale)), tensor.name
    values, unit = _values(tensor), _unit_of_each_value(tensor, per)
    errors = [_squared_errors(values, unit, dtype, each) for each in (before, now)]
    shifted = np.zeros(has_scale.size, bool) if now.ends is None else before.zero_point != now.zero_point
    moved = (before.scale != now.scale) | shifted
    columns = moved, np.abs(now.scale / before.scale - 1), now.scale > full * (1 + WIDER), *errors
    return Moves(*(each[has_scale] for each in columns))


def _squared_errors(values: np.ndarray, unit: np.ndarray, dtype: str, answer: Answer) -> np.ndarray:
    """Σ(x − x̂)² of each unit; NaN where it has no scale."""
    scale = answer.scale[unit]
    steps = values / scale
    if answer.ends is None:
        levels = nearest(steps, dtype)
    else:
        point = answer.zero_point[unit]
        levels = np.clip(np.rint(steps) + point, *answer.ends) - point
    return np.bincount(unit, (values - levels * scale) ** 2, answer.scale.size)


def _values(tensor: Description) -> np.ndarray:
    chunks = [values_of(chunk, tensor.dtype).copy() for part in tensor.parts for chunk in part.chunks()]
    return np.concatenate(chunks).astype(np.float32).astype(np.float64)


def _unit_of_each_value(tensor: Description, per: str) -> np.ndarray:
    """The number of the unit that each value, as they lie in the file, belongs to."""
    place = layout(parse_per(per), tensor.shape, tensor.order or ())
    size = int(np.prod(tensor.shape))
    if place is None:
        return np.zeros(size, np.int64)
    begins, unit = place.runs(0, size)
    number = np.empty(place.rows, np.int64)
    number[place.in_own_order(np.arange(place.rows))] = np.arange(place.rows)
    return np.repeat(number[unit], np.diff(begins, append=size))
