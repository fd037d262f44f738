"""Rules by name: each tensor is calibrated as if what holds for it had been asked for alone, and its row says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
from tests.support.command import klcal, normal, one_message

RULES = {
    "dtype": ["int4", "*embed*=int8", "head=float8_e4m3fn"],
    "scheme": ["*norm=affine", "*.w=symmetric-full"],
    "method": ["*norm=percentile:99.9", "mse", "*.0.*=kl:weight=1,bins=512"],
    "scale_format": ["*.w=float16", "embed=bfloat16"],
    "per": ["tensor", "*.w=group:16", "embed=channel"],
}
HELD = {  # by hand: the first rule that matches, else the one without a glob, else the default
    "embed": ("int8", "auto", "mse", "bfloat16", "channel"),
    "layers.0.w": ("int4", "symmetric-full", "kl:weight=1,bins=512", "float16", "group:16"),
    "layers.10.w": ("int4", "symmetric-full", "mse", "float16", "group:16"),
    "layers.0.norm": ("int4", "affine", "percentile:99.9", "float32", "tensor"),
    "layers.0.bias": ("int4", "auto", "kl:weight=1,bins=512", "float32", "tensor"),
    "head": ("float8_e4m3fn", "auto", "mse", "float32", "tensor"),
}


@pytest.fixture
def model(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    monkeypatch.chdir(tmp_path)
    arrays = {name: normal(8 * 32, number).reshape(8, 32) for number, name in enumerate(HELD)}
    safetensors.numpy.save_file(arrays, "m.safetensors")
    return arrays


def options(rules: dict[str, list[str]]) -> list[str]:
    return [word for name, texts in rules.items() for text in texts for word in (f"--{name.replace('_', '-')}", text)]


def alone(values: np.ndarray, name: str) -> library.Row:
    dtype, scheme, method, scale_format, per = HELD[name]
    row = library.calibrate(values, dtype=dtype, scheme=scheme, method=method, scale_format=scale_format, per=per)
    return replace(row, name=name, source="m.safetensors", dtype="float32", shape=values.shape)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_tensor_is_calibrated_as_if_its_own_rules_were_the_only_ones(model, monkeypatch, jobs):
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    found = {row.name: row for row in calibrate_files(["."], Request.parse(**RULES), jobs=jobs).rows}
    assert found == {name: alone(values, name) for name, values in model.items()}
    assert len({(row.target, row.scheme, row.method, row.per, row.scale_format) for row in found.values()}) == 6


def test_tensors_that_are_all_calibrated_by_the_first_ones_rules_are_noticed(model, monkeypatch):
    """The broken twin: small tensors travel together, and are searched as the first of them."""
    one = Request.parse(**RULES).settings(["head"])
    monkeypatch.setattr(Request, "settings", lambda *_: one)
    with pytest.raises(AssertionError):
        test_every_tensor_is_calibrated_as_if_its_own_rules_were_the_only_ones(model, monkeypatch, 1)


def test_the_row_says_what_held_and_config_what_was_asked(model):
    result = klcal("calibrate", "m.safetensors", *options(RULES), "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert result.document["config"] == {
        "method": "*norm=percentile:99.9; *.0.*=kl:bins=512,weight=1; mse",
        "dtype": "*embed*=int8; head=float8_e4m3fn; int4",
        "scheme": "*norm=affine; *.w=symmetric-full; auto",
        "per": "*.w=group:16; embed=channel; tensor",
        "scale_format": "*.w=float16; embed=bfloat16; float32",
    }
    found = [result.tensors["layers.0.w"][name] for name in ("target", "scheme", "method", "per", "scale_format")]
    assert found == ["int4", "symmetric-full", "kl:bins=512,weight=1", "group:16,1", "float16"]
    schemes = klcal("calibrate", "m.safetensors", "--scheme", "head=symmetric", "--format", "json").document["config"]
    assert schemes["scheme"] == "head=symmetric; affine", "one number format for all: nothing is auto"


def test_a_rule_that_no_tensor_matches_is_warned_of_by_its_option(model):
    for option, rule in (("--dtype", "hed=int8"), ("--scale-format", "hed=float16"), ("--method", "hed=kl:weight=1")):
        message = one_message(klcal("calibrate", "m.safetensors", option, rule))
        assert message.startswith(f"klcal: warning: {option} 'hed' matches no tensor; the nearest names are 'head'")


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"dtype": ["int8", "int4"]}, "the dtype is given twice for all tensors, as int8 and int4; give it once"),
        ({"dtype": ["*embed*=int99"]}, "unknown dtype 'int99'"),
        ({"method": ["*embed*=klx:weight=1"]}, "unknown method 'klx'; did you mean kl?"),
        ({"scale_format": ["*embed*=half"]}, "unknown scale format 'half'"),
        ({"scheme": ["embed=wide"]}, "unknown scheme 'wide'"),
        (
            {"dtype": ["head=nf4"], "scheme": ["affine"]},
            "m.safetensors: head: nf4 has no zero point to search; use the scheme symmetric",
        ),
        ({"dtype": ["nf4"], "scheme": ["absent=affine"]}, "nf4 has no zero point to search; use the scheme symmetric"),
        ({"scale_format": ["head=float8_e4m3fn"]}, "float8_e4m3fn scales are relative to a global scale"),
        ({"method": ["kl", "head=minmax:bins=3"]}, "method minmax has no parameter 'bins'"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error_before_anything_is_counted(model, monkeypatch, rules, told):
    monkeypatch.setattr("klcal.pipeline.mapping.Processes.joined", None)
    result = klcal("calibrate", "m.safetensors", *options(rules), "-o", "scales.json")
    assert result.code == 2
    assert told in one_message(result)
    assert not Path("scales.json").exists()


def test_importance_is_refused_for_a_tensor_whose_method_has_no_cost(model):
    np.savez("energy.npz", head=np.ones(32))
    asked = ("calibrate", "m.safetensors", "--importance", "energy.npz", "--method")
    result = klcal(*asked, "head=minmax")
    assert (result.code, "m.safetensors: head: importance changes nothing for the method minmax" in result.err) == (
        2,
        True,
    )
    assert klcal(*asked, "embed=minmax").code == 0
    assert "klcal: error: importance changes nothing" in one_message(klcal(*asked, "minmax"))
