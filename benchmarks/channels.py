"""Channels of a weight: counting, the search, and a peer's observer; a checkpoint of 1.3 billion parameters.

The weight is resampled from a real one, row by row: its distributions, scales and outliers are those of a real network.
"""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import klcal
from benchmarks.side_by_side import PYTHON, in_turns, one_core, ratio, report, seconds
from klcal.quantizers.granularity import PerChannel
from klcal.quantizers.layout import layout
from klcal.quantizers.scheme import Scheme
from klcal.search.chosen import outcomes_of
from klcal.search.methods import KL, MSE, Method
from klcal.search.settings import Settings
from klcal.sketches.by_unit import unit_sketches
from klcal.tables.table import Config, Table
from klcal.writers import WRITERS

SIDE = 4096
SAMPLE = Path(__file__).parent.parent / "sample_tensors" / "minilm_query_fp16.safetensors"
CHANNELS = 10**6
CHUNK = 1 << 20  # values, as a reader gives them
LAYERS, HIDDEN, INNER, VOCABULARY = 24, 2048, 5504, 32_000  # of a language model of 1.3 billion parameters
SHARDS = 4
ASKED_OF_CHECKPOINT = (
    ("minmax", "int8", "tensor"),
    ("mse", "int8", "channel"),
    ("kl", "int8", "channel"),
    ("mse", "int4", "group:128"),
)
LIMIT_MB = 1000
MEASURE = """
import json, resource, sys
import klcal.pipeline.calibrate, klcal.pipeline.workers, klcal.readers.safetensors_file, klcal.calibration.values
def own():  # getrusage's counts what this process was before it became Python as well
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = own()
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
request = Request.parse(method=sys.argv[3], dtype=sys.argv[4], per=sys.argv[5])
table = calibrate_files([sys.argv[1]], request, jobs=int(sys.argv[2]))
units = sum(1 if row.units is None else len(row.units) for row in table.rows)
workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([before, own(), workers, units,
                  sum(row.numel for row in table.rows), sorted({row.status for row in table.rows})]))
"""


def run() -> None:
    """All of it."""
    weight = real_weight()
    with one_core():
        _counting_and_search(weight)
        _peer(weight)
    _json()
    _checkpoint()


def real_weight(rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """Each row draws its values from a row of the real weight."""
    (sample,) = klcal.read(SAMPLE).values()
    (part,) = sample.parts
    real = np.concatenate([chunk.copy() for chunk in part.chunks()]).reshape(sample.shape).astype(np.float32)
    rng = np.random.default_rng(0)
    jitter = 1 + rng.random((rows, columns), np.float32) / 1024  # as wide as a step of float16
    return real[rng.integers(0, len(real), rows)[:, None], rng.integers(0, real.shape[1], (rows, columns))] * jitter


def _counting_and_search(weight: np.ndarray) -> None:
    import torch

    tensor, flat = torch.from_numpy(weight), weight.ravel()
    place = layout(PerChannel(0), weight.shape)
    assert place is not None

    def count() -> list[object]:
        chunks = (flat[i : i + CHUNK] for i in range(0, flat.size, CHUNK))
        return list(unit_sketches(chunks, "float32", place))

    sketches = count()

    def search(method: Method, dtype: str) -> Callable[[], object]:
        settings = Settings(method, Scheme.parse(dtype))
        return lambda: [outcomes_of(each, settings) for each in sketches]

    candidates: dict[str, Callable[[], object]] = {
        "torch.aminmax per channel": lambda: torch.aminmax(tensor, dim=1),
        "numpy min + max per channel": lambda: (weight.min(axis=1), weight.max(axis=1)),
        "counting": count,
    }
    candidates |= {
        f"search, {method} {dtype}": search(chosen, dtype)
        for method, chosen in (("mse", MSE()), ("kl", KL()))
        for dtype in ("int8", "int4", "uint8")
    }
    times = in_turns(candidates, rounds=3)
    rows = [(name, seconds(each)) for name, each in times.items()]
    for peer in ("torch.aminmax per channel", "numpy min + max per channel"):
        rows.append((f"counting / {peer}", f"{ratio(times, 'counting', peer):.1f}"))
    for name in candidates:
        if name.startswith("search"):
            rows.append((f"{name} / counting", f"{ratio(times, name, 'counting'):.1f}"))
    report(
        f"Channels of [{SIDE}, {SIDE}] float32, one core (counting at most 15 aminmax, int8 at most 4 counting)", rows
    )


def _peer(weight: np.ndarray) -> None:
    """torchao's MSE observer, symmetric int8 per row, on the same tensor."""
    try:
        import torch
        from torchao.quantization import MappingType, PerRow
        from torchao.quantization.observer import AffineQuantizedMSEObserver
    except ImportError:
        print("torchao is not installed: pip install --group bench")
        return
    part = weight[: SIDE // 4]
    tensor = torch.from_numpy(part)

    def observe() -> np.ndarray:
        observer = AffineQuantizedMSEObserver(MappingType.SYMMETRIC, torch.int8, PerRow(), eps=1e-9)
        observer(tensor)
        return observer.calculate_qparams()[0].numpy().ravel()

    def ours() -> np.ndarray:
        return klcal.calibrate(part, dtype="int8", method="mse", per="channel").units.scale

    def error(scale: np.ndarray, least: int) -> float:
        steps = np.clip(np.rint(part / scale[:, None].astype(np.float32)), least, 127)
        return float(((part - steps * scale[:, None]) ** 2).sum(dtype=np.float64))

    errors = {"torchao": error(observe(), -128), "klcal": error(ours(), -127)}
    assert errors["klcal"] <= errors["torchao"]
    times = in_turns({"torchao AffineQuantizedMSEObserver": observe, "klcal mse": ours}, rounds=3)
    rows = [(name, seconds(each)) for name, each in times.items()]
    rows.append(("torchao / klcal, time", f"{ratio(times, 'torchao AffineQuantizedMSEObserver', 'klcal mse'):.1f}"))
    rows.append(("torchao / klcal, squared error", f"{errors['torchao'] / errors['klcal']:.3f}"))
    report(f"[{len(part)}, {SIDE}] float32 per channel to int8, one core", rows)


def _json() -> None:
    """A million channels of 16 values."""
    values = real_weight(1000, 16 * CHANNELS // 1000).reshape(CHANNELS, 16)
    start = time.perf_counter()
    row = klcal.calibrate(values, dtype="int8", method="minmax", per="channel")
    calibrated = time.perf_counter()
    out = io.StringIO()
    WRITERS["json"](Table.of(Config("minmax", "int8", "symmetric", "channel"), [row]), out)
    written = time.perf_counter()
    document = json.loads(out.getvalue())
    assert np.array_equal(np.float32(document["tensors"][0]["units"]["scale"]), np.float32(row.units.scale))
    rows = [
        ("calibrated by minmax", f"{calibrated - start:.1f} s"),
        ("written as JSON", f"{written - calibrated:.1f} s"),
        ("the document", f"{len(out.getvalue()) / 1e6:.0f} MB"),
    ]
    report(f"{CHANNELS:,} channels", rows)


def _checkpoint() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parameters = _write_checkpoint(Path(folder))
        rows, scanned = [], 0.0
        for method, dtype, per in ASKED_OF_CHECKPOINT:
            for jobs in (1, 2) if per == "channel" else (2,):
                start = time.perf_counter()
                arguments = (folder, str(jobs), method, dtype, per)
                found = subprocess.run([PYTHON, "-c", MEASURE, *arguments], check=True, stdout=subprocess.PIPE)
                took = time.perf_counter() - start
                before, own, worker, units, numel, statuses = json.loads(found.stdout)
                assert (numel, statuses) == (parameters, ["ok"])
                above = [own - before, worker - before][:jobs]
                assert max(above) <= LIMIT_MB, above
                memory = " + ".join(f"{mb:.0f} MB" for mb in above)
                scanned = scanned or took
                times = f"{took:.2f} s, {took / scanned:.1f} x minmax"
                rows.append((f"{method} {dtype} {per}, --jobs {jobs}, {units:,} scales, {times}", memory))
        report(f"{parameters:,} parameters, bfloat16, {SHARDS} shards: peak memory above the imports", rows)


def _write_checkpoint(folder: Path) -> int:
    """Shards with an index. The values of each tensor begin elsewhere in one real stretch of them."""
    shapes = {"embed.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.{name}.weight": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "o")}
        shapes |= {f"layers.{layer}.{name}.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"layers.{layer}.down.weight": (HIDDEN, INNER), f"layers.{layer}.norm.weight": (HIDDEN,)}
    bits = real_weight(HIDDEN, HIDDEN).view(np.uint32) >> 16
    stretch = np.tile(bits.astype(np.uint16).ravel(), 2).tobytes()
    weight_map = {}
    for shard in range(SHARDS):
        names = list(shapes)[shard::SHARDS]
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        sizes = [2 * int(np.prod(shapes[name])) for name in names]
        ends = np.cumsum(sizes)
        header = {
            name: {"dtype": "BF16", "shape": shapes[name], "data_offsets": [int(end - size), int(end)]}
            for name, size, end in zip(names, sizes, ends, strict=True)
        }
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for number, size in enumerate(sizes):
                whole = stretch[2 * number :] * (size // len(stretch) + 2)
                out.write(whole[:size])
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(int(np.prod(shape)) for shape in shapes.values())
