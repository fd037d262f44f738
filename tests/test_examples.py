"""The example says what it claims: forward KL covers the modes, reverse KL seeks one."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from klcal.divergence import cross_entropy, entropy, kl, reverse_kl

PATH = Path(__file__).parent.parent / "examples" / "forward_and_reverse_kl.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fits(example):
    return example.main()


def test_maximum_likelihood_covers_both_modes(example, fits):
    """The target's own mean and deviation, −0.4 and √(0.6² + 2² − 0.4²) = 2.05, are the least forward KL."""
    covering = fits[0]
    assert covering == pytest.approx((-0.4, 2.05), abs=0.05)
    target = example.target()
    forward = [kl(target, example.normal(fit)) for fit in fits]
    assert forward == pytest.approx([0.557, 8.15, 12.5], rel=0.03)
    grid = [example.normal(example.Normal(m, s)) for m in np.arange(-3, 3.1, 0.2) for s in np.arange(0.4, 3, 0.1)]
    assert forward[0] <= kl(target, np.stack(grid)).min() + 1e-3
    law = example.normal(covering)
    assert forward[0] == pytest.approx(cross_entropy(target, law) - entropy(target))


def test_the_policy_seeks_one_mode(example, fits):
    """At the price of −log of its weight; the heavier one is the least reverse KL of all normal laws."""
    left, right = fits[1:]
    assert left == pytest.approx((-2, 0.6), abs=0.03)
    assert right == pytest.approx((2, 0.6), abs=0.03)
    target = example.target()
    reverse = [reverse_kl(target, example.normal(fit)) for fit in fits]
    assert reverse == pytest.approx([1.27, -math.log(0.6), -math.log(0.4)], rel=0.02)
    grid = [example.normal(example.Normal(m, s)) for m in np.arange(-3, 3.1, 0.2) for s in np.arange(0.4, 3, 0.1)]
    assert reverse[1] <= reverse_kl(target, np.stack(grid)).min() + 1e-3


def test_it_prints_numbers_and_bars(example, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    example.main(str(tmp_path / "picture.png"))
    text = capsys.readouterr().out
    assert "forward: maximum likelihood        -0.42  2.04    0.557    1.269" in text
    assert text.count("█") > 6
    assert "The picture needs matplotlib: pip install 'klcal[plot]'" in text


def test_it_draws(example, tmp_path):
    pytest.importorskip("matplotlib")
    example.main(str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
