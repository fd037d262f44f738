"""A GGUF in several files is one source, whichever of them is given."""

from pathlib import Path

import numpy as np
import pytest

import klcal
from klcal.readers.find import find
from klcal.readers.split_gguf import shards_of
from tests.support.command import klcal as command
from tests.support.gguf import gguf, of

TENSORS = {f"blk.{n}.weight": np.sqrt(np.arange(8, dtype=np.float32) + n) for n in range(3)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    for number, (name, values) in enumerate(TENSORS.items(), 1):
        shard(number).write_bytes(gguf({name: of(values)}))
    Path("w.gguf").write_bytes(gguf({name: of(values) for name, values in TENSORS.items()}))
    return tmp_path


def shard(number: int, count: int = 3) -> Path:
    return Path(f"m/w-{number:05}-of-{count:05}.gguf")


def test_any_shard_and_the_directory_are_one_source(here):
    whole = command("calibrate", "w.gguf", "--format", "json")
    for arguments in (["m"], [shard(1)], [shard(2)], [shard(3), "m", shard(1)], ["m/*.gguf"]):
        found = command("calibrate", *arguments, "--format", "json")
        assert (found.code, found.err) == (0, "")
        assert found.out == whole.out
    assert set(klcal.read(shard(3))) == set(TENSORS)
    assert [each.name for each in find(["m", "w.gguf"]).sources] == ["m/w.gguf", f"{here.name}/w.gguf"]


def test_the_whole_file_beside_its_shards_keeps_its_name(here):
    Path("w.gguf").rename("m/w.gguf")
    assert [each.name for each in find(["m"]).sources] == ["w-00001-of-00003.gguf", "w.gguf"]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_shard_that_is_missing_or_damaged_is_said_and_costs_itself(here, lost):
    for damage in (lambda: shard(lost).write_bytes(b"GGUF"), lambda: shard(lost).unlink()):
        damage()
        found = command("calibrate", shard(1 + lost % 3), "--format", "json")
        assert found.code == 4
        name = f"w-{lost:05}-of-00003.gguf"
        assert found.tensors[name]["status"] == "failed"
        assert "download all shards into one folder" in found.tensors[name]["reason"]
        assert f"w.gguf: {name}: this shard cannot be used, and neither can its tensors" in found.err
        assert sorted(each["status"] for each in found.tensors.values()) == ["failed", "ok", "ok"]


def test_a_tensor_that_no_shard_has_is_an_error_of_the_model(here):
    shard(1, 1).write_bytes(b"GGUF")
    found = command("calibrate", shard(1, 1))
    assert found.code == 3
    assert "the file ends inside its header" in found.err


def test_a_model_is_quantized_shard_by_shard(here):
    """As one: with the rows of the one source, by whichever shard it is given."""
    options = "--to", "fake", "--dtype", "int4"
    assert command("apply", "w.gguf", "-o", "whole.gguf", *options).code == 0
    expected = klcal.read("whole.gguf")
    for given, to in (("m", "a"), (shard(2), "b")):
        assert command("apply", given, "-o", to, *options).code == 0
        assert sorted(each.name for each in Path(to).iterdir()) == [shard(number).name for number in (1, 2, 3)]
        for name, found in klcal.read(to).items():
            values, same = ([chunk.copy() for part in each.parts for chunk in part.chunks()]
                            for each in (found, expected[name]))  # fmt: skip
            np.testing.assert_array_equal(values, same)
            assert (values != TENSORS[name]).any()


def test_two_shards_with_one_tensor_are_refused(here):
    shard(2).write_bytes(shard(1).read_bytes())
    assert "two of its shards hold 'blk.0.weight'" in command("calibrate", "m").err


@pytest.mark.parametrize(
    "name",
    [
        "w-00000-of-00003.gguf",
        "w-00004-of-00003.gguf",
        "w-1-of-3.gguf",
        "-00001-of-00003.gguf",
        "w-00001-of-99999.gguf",
        "w-00001-of-00003.safetensors",
        "w-00001-of-00003.gguf.gguf",
        "w-0000١-of-00003.gguf",
    ],
)
def test_other_names_are_those_of_whole_files(here, name):
    assert shards_of(f"m/{name}") == ()
    if name.endswith(".gguf"):
        Path(name).write_bytes(shard(1).read_bytes())
        assert set(klcal.read(name)) == {"blk.0.weight"}
