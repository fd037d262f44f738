"""Merging is adding: exact, in any order and grouping, to the byte; and what does not belong together is refused."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

import klcal
from klcal.errors import InputError
from klcal.pipeline.merge import merge_files
from klcal.readers.sketch_file import open_sketches

RNG = np.random.default_rng(0)


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "klcal", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def batch(rows):
    return {
        "x": RNG.normal(size=(rows, 64)).astype(np.float32),
        "half": RNG.normal(size=9000).astype(np.float16),
        f"only{rows}": np.zeros(rows, np.float32),
    }


@pytest.fixture
def parts(tmp_path):
    """Four batches, and a sketch file of each, one of them coarser."""
    batches = [batch(rows) for rows in (100, 30, 100, 7)]
    for number, values in enumerate(batches):
        sketches = {name: klcal.sketch(each) for name, each in values.items()}
        sketches["x"] = sketches["x"].coarsen(8) if number == 2 else sketches["x"]
        klcal.save_sketches(tmp_path / f"p{number}.safetensors", sketches)
    return [str(tmp_path / f"p{number}.safetensors") for number in range(4)]


def merged(parts, folder, name):
    merge_files([*map(str, parts)], str(folder / name))
    return folder / name


def test_any_order_and_grouping_gives_the_same_bytes(parts, tmp_path):
    whole = merged(parts, tmp_path, "whole.safetensors").read_bytes()
    for seed in range(6):
        waiting = list(parts)
        order = random.Random(seed)
        for step in range(3):
            order.shuffle(waiting)
            two = [waiting.pop(), waiting.pop()]
            waiting.append(merged(two, tmp_path, f"{seed}-{step}.safetensors"))
        assert waiting[0].read_bytes() == whole


def test_a_grouping_that_loses_a_part_is_noticed(parts, tmp_path):
    whole = merged(parts, tmp_path, "whole.safetensors").read_bytes()
    assert merged(parts[1:], tmp_path, "less.safetensors").read_bytes() != whole


def test_the_sum_is_the_sketch_of_all_values(tmp_path):
    batches = [batch(5), batch(6)]
    for number, values in enumerate(batches):
        np.savez(tmp_path / f"{number}.npz", **values)
        assert run("sketch", f"{number}.npz", "-o", f"s{number}.safetensors", cwd=tmp_path).returncode == 0
    assert run("merge", "s0.safetensors", "s1.safetensors", "-o", "all.safetensors", cwd=tmp_path).returncode == 0
    found = klcal.load_sketches(tmp_path / "all.safetensors")
    for name in ("x", "half"):
        together = np.concatenate([values[name].reshape(-1) for values in batches])
        assert found[name] == klcal.sketch(together)
        row = klcal.calibrate_files(tmp_path / "all.safetensors", include=name).rows[0]
        assert (row.scale, row.zero_point) == (
            klcal.calibrate(together).scale,
            klcal.calibrate(together).zero_point,
        )


def test_counts_beyond_a_float64_add_up(tmp_path):
    many = (1 << 53) + 1
    for name, times in (("a", many), ("b", 1)):
        klcal.save_sketches(tmp_path / f"{name}.safetensors", {"x": klcal.sketch([0.5, 0.0]).repeat(times)})
    found = klcal.load_sketches(merged(tmp_path.glob("?.safetensors"), tmp_path, "all.safetensors"))["x"]
    assert (found.counts.tolist(), found.zeros.tolist()) == ([many + 1], [many + 1])


def test_resolutions_that_differ_are_reported(parts, tmp_path):
    done = run("merge", *parts, "-o", tmp_path / "all.safetensors")
    assert done.returncode == 0
    assert "note: x: its resolutions differ in" in done.stderr
    assert "all now have 8 mantissa bits" in done.stderr


def test_no_input_is_counted_twice_unasked(parts, tmp_path):
    merged(parts[:2], tmp_path, "two.safetensors")
    output = tmp_path / "all.safetensors"
    done = run("merge", parts[0], tmp_path / "two.safetensors", "-o", output)
    assert done.returncode == 3
    assert "'p0.safetensors' and 'two.safetensors' have counted the same input" in done.stderr
    assert not output.exists()
    done = run("merge", parts[0], tmp_path / "two.safetensors", "-o", output, "--allow-duplicates")
    assert done.returncode == 0
    assert len(open_sketches(str(output)).inputs) == 3


def test_an_input_that_was_allowed_twice_is_not_counted_a_third_time(tmp_path):
    for name in ("a", "b"):
        klcal.save_sketches(tmp_path / f"{name}.safetensors", {"x": klcal.sketch([1.0, 2.0])})
    two = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    merge_files(two, str(tmp_path / "two.safetensors"), allow_duplicates=True)
    with pytest.raises(InputError, match="have counted the same input"):
        merged([tmp_path / "two.safetensors", tmp_path / "a.safetensors"], tmp_path, "three.safetensors")


def test_a_sum_beyond_64_bits_is_refused(tmp_path):
    for name, times in (("a", (1 << 61) + 1), ("b", 1 << 61)):
        klcal.save_sketches(tmp_path / f"{name}.safetensors", {"x": klcal.sketch([1.0]).repeat(times)})
    with pytest.raises(InputError, match="more values than 64 bits can"):
        merged([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path, "all.safetensors")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"dtype": "float16"}, "one is float32, the other float16"),
        ({"per": "channel:1"}, "cannot be added"),
        ({"importance": np.arange(4.0)}, "a sketch with weights and one without"),
    ],
)
def test_what_does_not_belong_together_names_both_sides(tmp_path, other, why):
    values = np.ones((3, 4), np.float32)
    dtype = other.pop("dtype", "float32")
    klcal.save_sketches(tmp_path / "a.safetensors", {"x": klcal.sketch(values)})
    klcal.save_sketches(tmp_path / "b.safetensors", {"x": klcal.sketch(values, **other)}, dtype)
    with pytest.raises(InputError, match=f"x: 'a.safetensors' and 'b.safetensors' cannot be merged: .*{why}"):
        merged([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path, "all.safetensors")
    assert not (tmp_path / "all.safetensors").exists()


def test_a_part_that_is_no_sketch_file_is_named(parts, tmp_path):
    np.save(tmp_path / "values.npy", np.ones(3, np.float32))
    with pytest.raises(InputError, match=r"values\.npy"):
        merged([*parts, tmp_path / "values.npy"], tmp_path, "all.safetensors")
    assert not (tmp_path / "all.safetensors").exists()


# --- klcal sketch


def test_sketching_depends_on_neither_jobs_nor_order(tmp_path):
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", RNG.normal(size=300_000).astype(np.float32))
    names = [f"{number}.npy" for number in range(6)]
    for jobs, given in ((1, names), (2, names[::-1])):
        assert run("sketch", *given, "-o", f"s{jobs}.safetensors", "--jobs", jobs, cwd=tmp_path).returncode == 0
    assert (tmp_path / "s1.safetensors").read_bytes() == (tmp_path / "s2.safetensors").read_bytes()


def test_a_tensor_that_fails_is_reported_and_left_out(tmp_path):
    np.save(tmp_path / "good.npy", np.ones(3, np.float32))
    (tmp_path / "bad.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-1])
    done = run("sketch", "good.npy", "bad.npy", "-o", "s.safetensors", cwd=tmp_path)
    assert done.returncode == 4
    assert "klcal: error: bad.npy" in done.stderr
    assert [*klcal.load_sketches(tmp_path / "s.safetensors")] == ["good"]
    done = run("sketch", "bad.npy", "-o", "none.safetensors", cwd=tmp_path)
    assert done.returncode == 3
    assert not (tmp_path / "none.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a.npz", "b.npz", "-o", "s.safetensors"], "a.npz and b.npz both have a tensor called 'x'"),
        (["a.npz", "-o", "s.json"], "a sketch file is a .safetensors file"),
        (["a.npz", "--per", "channel:7", "-o", "s.safetensors"], "a.npz: x: "),
        (["a.npz", "-o", "a.npz"], "a sketch file is a .safetensors file"),
        (["a.npz", "-o", "nowhere/s.safetensors"], "cannot write"),
        (["done.safetensors", "-o", "s.safetensors"], "done.safetensors is a sketch file already"),
    ],
)
def test_wrong_usage_writes_nothing(tmp_path, arguments, why):
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", x=np.ones((2, 3), np.float32))
    klcal.save_sketches(tmp_path / "done.safetensors", {"x": klcal.sketch([1.0])})
    before = sorted(tmp_path.iterdir())
    done = run("sketch", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert why in done.stderr
    assert sorted(tmp_path.iterdir()) == before
