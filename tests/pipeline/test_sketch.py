"""Sketching files: pooled, weighed, in portions, on several workers, cut off and taken up again: the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import klcal
from klcal.errors import InputError, UsageError
from klcal.pipeline import pieces, tasks
from klcal.pipeline.gathered import Asked
from klcal.pipeline.merge import merge_files
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.sketch import sketch_files

RNG = np.random.default_rng(0)
PER_TENSOR, PER_CHANNEL = Request.parse().per, Request.parse(per="channel:1").per
DEADLINE = 20.0  # seconds, for a machine that is busy


def sketched(folder, *paths, name="s.safetensors", per=PER_TENSOR, pool=None, **options):
    asked = Asked(pool=pool and Pool.parse(pool))
    found = sketch_files([str(folder / path) for path in paths], str(folder / name), asked, per=per, **options)
    return found, folder / name


@pytest.fixture
def batches(tmp_path):
    """Six batches of one activation, of different lengths."""
    arrays = [RNG.standard_normal((rows, 8, 5)).astype(np.float32) for rows in (4, 1, 7, 4, 4, 2)]
    for number, each in enumerate(arrays):
        np.save(tmp_path / f"act_{number}.npy", each)
    return arrays


@pytest.mark.parametrize("per", [PER_TENSOR, PER_CHANNEL], ids=["tensor", "channel"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_pooled_parts_merge_to_what_all_give(batches, tmp_path, per, jobs):
    asked = {"per": per, "pool": "stem"}
    _, whole = sketched(tmp_path, "act_*.npy", **asked, name="whole.safetensors", jobs=jobs)
    names = [f"act_{number}.npy" for number in range(6)]
    parts = [
        sketched(tmp_path, *some, **asked, name=f"part{number}.safetensors")[1]
        for number, some in enumerate((names[3:], names[:3]))
    ]
    merge_files([str(part) for part in parts], str(tmp_path / "merged.safetensors"))
    assert (tmp_path / "merged.safetensors").read_bytes() == whole.read_bytes()
    (found,) = klcal.load_sketches(whole).values()
    assert found == klcal.sketch(np.concatenate(batches), per="tensor" if per is PER_TENSOR else "channel:1")
    with pytest.raises(InputError, match="have counted the same input"):
        merge_files([str(whole), str(parts[0])], str(tmp_path / "twice.safetensors"))


def test_masks_are_no_duplicates(tmp_path):
    for number in range(2):
        np.save(tmp_path / f"mask_{number}.npy", np.ones((3, 4), np.float32))
        sketched(
            tmp_path,
            f"mask_{number}.npy",
            pool="stem",
            name=f"{number}.safetensors",
        )
    merge_files([str(tmp_path / f"{number}.safetensors") for number in range(2)], str(tmp_path / "m.safetensors"))
    assert klcal.load_sketches(tmp_path / "m.safetensors")["mask"].numel.tolist() == [24]


def test_a_large_tensor_is_counted_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr("klcal.readers.regular.PART_BYTES", 1 << 12)
    monkeypatch.setattr(tasks, "PART_BYTES", 1 << 12)
    values = RNG.standard_normal(20_000).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    _, path = sketched(tmp_path, "x.npy")
    assert klcal.load_sketches(path) == {"x": klcal.sketch(values)}


def test_a_batch_that_is_damaged_is_named_and_left_out(batches, tmp_path):
    whole = (tmp_path / "act_2.npy").read_bytes()
    np.savez(tmp_path / "act_2.npz", x=batches[2])  # whose checksum is found wrong when it is read
    archive = bytearray((tmp_path / "act_2.npz").read_bytes())
    archive[len(archive) // 2] ^= 1
    (tmp_path / "act_2.npz").write_bytes(archive)
    assert whole
    np.savez(tmp_path / "act_3.npz", x=batches[3])
    found, path = sketched(tmp_path, "act_2.npz", "act_3.npz", pool="name")
    assert [(failure.source, failure.name) for failure in found.failures] == [("act_2.npz", "x")]
    assert klcal.load_sketches(path) == {"x": klcal.sketch(batches[3])}


def test_an_importance_goes_into_the_sketch(tmp_path):
    weight = RNG.standard_normal((32, 64)).astype(np.float32)
    np.savez(tmp_path / "model.npz", w=weight)
    np.savez(tmp_path / "energy.npz", w=RNG.random(64))
    importance = str(tmp_path / "energy.npz")
    _, path = sketched(tmp_path, "model.npz", per=Request.parse(per="channel").per, importance=importance)
    by_values = klcal.calibrate_files(tmp_path / "model.npz", dtype="int4", per="channel", importance=importance)
    by_sketch = klcal.calibrate_files(path, dtype="int4", per="channel")
    assert by_sketch.rows[0].importance
    assert np.array_equal(by_sketch.rows[0].units.scale, by_values.rows[0].units.scale)
    plain = klcal.calibrate_files(tmp_path / "model.npz", dtype="int4", per="channel")
    assert not np.array_equal(by_sketch.rows[0].units.scale, plain.rows[0].units.scale)


# --- cut off


class CutOff(BaseException):
    """As a signal that comes between two tensors."""


@pytest.fixture
def cut_off(monkeypatch):
    """Stops a run before the tensor of a name is counted; gives the names of those that were."""
    counted: list[str] = []
    real = pieces._counted

    def stopping(stop):
        def count(piece, spool):
            if piece.description.name == stop:
                raise CutOff
            counted.append(piece.description.name)
            return real(piece, spool)

        monkeypatch.setattr(pieces, "_counted", count)
        return counted

    return stopping


def resumed(folder, per=PER_TENSOR):
    return sketched(folder, "act_*.npy", name="r.safetensors", per=per, resume=True)


def test_what_was_done_is_not_counted_again(batches, tmp_path, cut_off, monkeypatch):
    monkeypatch.setattr(pieces, "TOGETHER", 1)
    _, whole = sketched(tmp_path, "act_*.npy")
    cut_off("act_4")
    with pytest.raises(CutOff):
        resumed(tmp_path)
    assert not (tmp_path / "r.safetensors").exists()
    counted = cut_off(None)
    counted.clear()
    _, path = resumed(tmp_path)
    assert counted == ["act_4", "act_5"]
    assert path.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "r.safetensors.part").exists()


@pytest.mark.parametrize("change", ["file", "option", "damage"])
def test_what_has_changed_since_is_refused(batches, tmp_path, cut_off, monkeypatch, change):
    monkeypatch.setattr(pieces, "TOGETHER", 1)
    cut_off("act_4")
    with pytest.raises(CutOff):
        resumed(tmp_path)
    cut_off(None)
    per = PER_TENSOR
    if change == "file":
        np.save(tmp_path / "act_1.npy", batches[1] + 1)
    elif change == "option":
        per = PER_CHANNEL
    else:
        done = min((tmp_path / "r.safetensors.part").glob("*.sketch"))
        done.write_bytes(done.read_bytes()[:-1])
    with pytest.raises(UsageError, match="is damaged" if change == "damage" else "was left by a run"):
        resumed(tmp_path, per)
    assert not (tmp_path / "r.safetensors").exists()


def test_a_killed_run_leaves_no_output_and_goes_on(batches, tmp_path):
    with (tmp_path / "z_huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 33,)})
        file.truncate(file.tell() + (1 << 35))
    command = [sys.executable, "-m", "klcal", "sketch", ".", "-o", "r.safetensors", "--resume", "--jobs", "1"]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    done = tmp_path / "r.safetensors.part"
    end = time.monotonic() + DEADLINE
    while len(list(done.glob("*.sketch"))) < len(batches) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert len(list(done.glob("*.sketch"))) == len(batches)
    assert not (tmp_path / "r.safetensors").exists()
    (tmp_path / "z_huge.npy").unlink()
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    assert sorted(klcal.load_sketches(tmp_path / "r.safetensors")) == [f"act_{number}" for number in range(6)]
