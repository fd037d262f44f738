"""Sketch files stand for the tensors that they were made of."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import klcal

RNG = np.random.default_rng(0)
VALUES = {
    "fc.weight": RNG.normal(size=(32, 128)).astype(np.float32),
    "zeros": np.zeros(100, np.float32),
    "long": RNG.normal(size=40_000).astype(np.float32),
}


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "klcal", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def rows(table):
    """What is not where the tensor lies."""
    return [{**row.to_dict(), "source": "", "shape": None} for row in table.rows]


def comparable(row):
    return json.dumps(row, default=str, sort_keys=True)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "values.npz", **VALUES)
    return tmp_path


@pytest.mark.parametrize("method", ["kl", "mse", "percentile:99.9"])
def test_rows_are_those_of_the_values(folder, method):
    klcal.save_sketches(folder / "s.safetensors", {name: klcal.sketch(each) for name, each in VALUES.items()})
    of_values, of_sketches = (
        rows(klcal.calibrate_files(folder / name, method=method)) for name in ("values.npz", "s.safetensors")
    )
    assert list(map(comparable, of_sketches)) == list(map(comparable, of_values))


def test_channels_are_those_of_the_values(folder):
    klcal.save_sketches(
        folder / "s.safetensors", {"fc.weight": klcal.sketch(VALUES["fc.weight"], per="channel:1")}, "float32"
    )
    of_values, of_sketches = (
        rows(klcal.calibrate_files(folder / name, per="channel:1", include="fc*"))
        for name in ("values.npz", "s.safetensors")
    )
    assert list(map(comparable, of_sketches)) == list(map(comparable, of_values))


def test_other_units_than_were_sketched_are_an_error(folder):
    klcal.save_sketches(folder / "s.safetensors", {"x": klcal.sketch(VALUES["fc.weight"], per="channel:1")})
    done = run("calibrate", folder / "s.safetensors")
    assert done.returncode == 3
    assert "x: it was sketched per channel:1, not per tensor; use --per channel:1" in done.stderr


def test_comparing_gives_divergences_and_no_figures_of_elements(folder):
    klcal.save_sketches(folder / "s.safetensors", {name: klcal.sketch(each) for name, each in VALUES.items()})
    of_values = {row.name: row for row in klcal.compare(folder / "values.npz", folder / "values.npz").rows}
    for p, q in (("values.npz", "s.safetensors"), ("s.safetensors", "s.safetensors")):
        found = {row.name: row for row in klcal.compare(folder / p, folder / q).rows}
        for name, row in found.items():
            assert (row.js, row.entropy, row.wasserstein) == (
                of_values[name].js,
                of_values[name].entropy,
                of_values[name].wasserstein,
            )
            assert row.cosine is None
            assert "no figures element by element" in row.note
            assert row.numel == VALUES[name].size


def test_the_library_takes_them(folder):
    klcal.save_sketches(folder / "s.safetensors", {"fc.weight": klcal.sketch(VALUES["fc.weight"])})
    stored = klcal.read(folder / "s.safetensors")["fc.weight"]
    assert klcal.sketch(stored) == klcal.sketch(VALUES["fc.weight"])
    assert klcal.calibrate(stored).scale == klcal.calibrate(VALUES["fc.weight"]).scale
    with pytest.raises(klcal.InputError, match="sketched per tensor, not per channel:0"):
        klcal.calibrate(stored, per="channel:0")
