"""Pooling on the command line: what is wrong with a batch is told, by its name, and costs the others nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.errors import ExitCode
from klcal.pipeline import calibrate as pipeline
from klcal.readers.regular import FileSpan
from tests.support.command import COMMAND, environment, klcal, klcal_process, normal, one_message, until

GOOD = {f"conv1/batch_{number:03}.npy": normal(64, number).reshape(4, 4, 4) for number in range(5)}
BATCHES = [*GOOD.values()]


@pytest.fixture(autouse=True)
def acts(tmp_path, monkeypatch) -> Path:
    """Five good batches of conv1, and one of another layer."""
    monkeypatch.chdir(tmp_path)
    for name, values in {**GOOD, "fc/batch_000.npy": normal(9)}.items():
        path = Path("acts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
    return Path("acts")


def pooled(*words: str | Path, pool: str = "dir"):
    return klcal("calibrate", *words, "--pool", pool, "--method", "mse", "--format", "json")


def without(*lost: int) -> float:
    """The scale of conv1, less some of its batches."""
    left = np.concatenate([values for number, values in enumerate(BATCHES) if number not in lost])
    return float(library.calibrate(left, method="mse").scale)


def test_a_row_for_each_directory(acts):
    result = pooled(acts)
    assert result.code == ExitCode.DONE
    assert not result.err
    assert {name: (row["source"], row["shape"], row["note"]) for name, row in result.tensors.items()} == {
        "conv1": ("conv1", [20, 4, 4], "5 batches"),
        "fc": ("fc", [9], "1 batch"),
    }
    assert result.tensors["conv1"]["scale"] == pytest.approx(without(), rel=1e-7)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


BAD = {
    "cut": (cut, "the array needs 384 bytes"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "half": (lambda path: np.save(path, BATCHES[2].astype(np.float16)), "its values are float16, those of 'conv1/"),
    "ints": (lambda path: np.save(path, np.arange(3)), "int64 values are not calibrated; save it as the others are"),
    "complex": (lambda path: np.save(path, np.ones(3, complex)), "complex numbers have no order"),
    "nan": (lambda path: np.save(path, np.float32([np.nan, 1])), "1 NaN among 2 values"),
    "inf": (lambda path: np.save(path, np.float32([np.inf, 1, -np.inf])), "1 -inf, 1 +inf among 3 values"),
    "objects": (lambda path: np.save(path, np.array([None]), allow_pickle=True), "an object array would need"),
}


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(("damage", "reason"), BAD.values(), ids=BAD)
def test_a_bad_batch_is_named_and_costs_the_others_nothing(acts, damage, reason, jobs):
    damage(acts / "conv1/batch_002.npy")
    result = pooled(acts, "--jobs", jobs)
    assert result.code == ExitCode.PARTIAL
    (error,) = result.document["errors"]
    assert error["source"] == "conv1/batch_002.npy"
    assert reason in error["reason"]
    assert one_message(result).startswith("klcal: error: conv1/batch_002.npy: ")
    row = result.tensors["conv1"]
    assert (row["status"], row["shape"]) == ("ok", [16, 4, 4])
    assert row["note"].startswith("4 batches, 1 left out")
    assert row["scale"] == pytest.approx(without(2), rel=1e-7)
    assert result.tensors["fc"]["status"] == "ok"


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("per", ["tensor", "channel:1"])
def test_a_batch_that_is_bad_inside_is_left_out_of_channels_too(acts, kind, per):
    values = BATCHES[3].copy()
    values[1, 2, 3] = {"nan": np.nan, "inf": np.inf}[kind]
    np.save(acts / "conv1/batch_003.npy", values)
    result = pooled(acts / "conv1", "--per", per)
    assert result.code == ExitCode.PARTIAL
    assert result.tensors["conv1"]["note"].startswith("4 batches, 1 left out")
    assert [error["source"] for error in result.document["errors"]] == ["batch_003.npy"]
    alone = pooled(acts / "conv1", "--per", per, "--exclude", "batch_003")
    assert alone.code == ExitCode.DONE
    again = {**alone.tensors["conv1"], "note": result.tensors["conv1"]["note"]}
    assert again == result.tensors["conv1"]


def test_values_that_are_not_finite_can_be_ignored(acts):
    np.save(acts / "conv1/batch_003.npy", np.append(BATCHES[3].ravel(), np.float32(np.nan)))
    result = pooled(acts / "conv1", "--nonfinite", "ignore")
    assert result.code == ExitCode.DONE
    assert result.tensors["conv1"]["scale"] == pytest.approx(without(), rel=1e-7)
    assert one_message(result) == "klcal: warning: conv1: conv1: 1 NaN of 321 values were left out"


def test_without_a_look_at_each_batch_one_spoils_the_rest(acts, monkeypatch):
    """The broken twin."""
    monkeypatch.setattr(pipeline, "BAD_BATCH", ())
    with pytest.raises((AssertionError, ValueError)):  # there is no error to be taken
        test_a_bad_batch_is_named_and_costs_the_others_nothing(acts, *BAD["nan"], "1")


def test_a_batch_that_is_damaged_inside_is_found_when_it_is_read(acts):
    """The checksum of an archive's member says so."""
    for number, values in enumerate(BATCHES):
        np.savez(acts / f"{number}.npz", x=values, y=values)
    data = bytearray((acts / "1.npz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        offset = archive.getinfo("x.npy").header_offset
    data[offset + 250] ^= 1
    (acts / "1.npz").write_bytes(data)
    result = pooled(acts, "--include", "[xy]", pool="name")
    assert result.code == ExitCode.PARTIAL
    assert [row["note"].split(";")[0] for row in result.tensors.values()] == ["4 batches, 1 left out", "5 batches"]
    (error,) = result.document["errors"]
    assert error["source"] == "1.npz"
    assert error["reason"].startswith("'x': ")


def test_a_bug_that_a_batch_meets_stays_one(acts, monkeypatch):
    chunks = FileSpan.chunks

    def fails(span):
        if span.file.path.endswith("batch_002.npy"):
            raise ZeroDivisionError
        return chunks(span)

    monkeypatch.setattr(FileSpan, "chunks", fails)
    result = pooled(acts)
    assert result.code == ExitCode.BUG
    assert result.tensors["conv1"]["note"].startswith("4 batches, 1 left out")
    assert [(error["source"], error["cause"]) for error in result.document["errors"]] == [
        ("conv1/batch_002.npy", "bug")
    ]


def test_where_all_are_bad_nothing_is_usable(acts):
    for name in GOOD:
        np.save(acts / name, np.float32([np.nan]))
    result = pooled(acts / "conv1")
    assert result.code == ExitCode.NOTHING_USABLE
    assert result.tensors["conv1"]["status"] == "nonfinite"
    assert len(result.document["errors"]) == 5


def test_two_dtypes_of_which_neither_is_that_of_most_are_a_conflict(acts):
    np.save(acts / "fc/batch_001.npy", normal(9).astype(np.float16))
    result = pooled(acts)
    assert result.code == ExitCode.PARTIAL
    row = result.tensors["fc"]
    assert (row["status"], row["dtype"], row["shape"], row["scale"]) == ("unsupported", None, None, None)
    assert row["reason"] == (
        "its values are float32 in 'fc/batch_000.npy' and float16 in 'fc/batch_001.npy'; save all in one dtype"
    )


def test_integers_alone_are_skipped_as_one(acts):
    for number in range(3):
        np.save(acts / f"steps_{number}.npy", np.arange(4))
    result = pooled(acts, "--include", "steps*", "--include", "*fc*", pool="stem")
    assert result.code == ExitCode.DONE
    row = result.tensors["steps"]
    assert (row["status"], row["dtype"], row["shape"], row["numel"]) == ("skipped", "int64", [12], 12)


def test_a_pooled_tensor_has_its_importance(acts):
    weights = np.linspace(0.1, 4, 4, dtype=np.float32)
    np.savez("energy.npz", conv1=weights)
    result = pooled(acts / "conv1", "--importance", "energy.npz")
    assert result.code == ExitCode.DONE
    assert not result.err
    row = result.tensors["conv1"]
    alone = library.calibrate(np.concatenate(BATCHES), method="mse", importance=weights)
    assert (row["importance"], row["zero_point"]) == (True, alone.zero_point)
    assert row["scale"] == pytest.approx(alone.scale, rel=1e-7)


def test_a_pattern_that_is_found_nowhere_is_reported(acts):
    result = pooled(acts, pool="(x)yz")
    assert one_message(result).endswith("--pool '(x)yz' is found in no source/name; the first is 'conv1/batch_000.npy'")
    assert len(result.tensors) == 6


def test_wrong_usage_reads_nothing(acts):
    result = pooled(acts, pool="(")
    assert result.code == ExitCode.USAGE
    assert "no regular expression" in one_message(result)
    assert "--pool" in klcal("calibrate", "--help").out


# --- standard input


def piped(data: bytes, *words: str):
    return klcal_process("calibrate", "-", "--format", "json", "--method", "mse", *words, input=data)


def test_arrays_behind_each_other_are_batches(acts):
    data = b"".join((acts / name).read_bytes() for name in GOOD)
    for pool in ("dir", "stem", "name", "(x)"):
        result = piped(data, "--pool", pool)
        assert result.code == ExitCode.DONE
        (row,) = result.document["tensors"]
        assert (row["name"], row["source"], row["shape"]) == ("stdin", "-", [20, 4, 4])
        assert row["note"].startswith("5 batches")
        assert row["scale"] == pytest.approx(without(), rel=1e-7)
    refused = piped(data)
    assert refused.code == ExitCode.NOTHING_USABLE
    assert one_message(refused).endswith("or take them for batches of one tensor: --pool name")


@pytest.mark.parametrize(
    ("behind", "what"),
    [
        (b"x", "array 2, at byte 384: it is not a .npy file"),
        (b"\x93NUMPY\1\0v\0{", "array 2, at byte 384: the header needs"),
        (b"\0" * 20_000, "array 2, at byte 384: it is not a .npy file"),
    ],
)
def test_other_bytes_behind_an_array_are_refused(acts, behind, what):
    result = piped((acts / "conv1/batch_000.npy").read_bytes() + behind, "--pool", "name")
    assert result.code == ExitCode.NOTHING_USABLE
    assert what in one_message(result)


def test_the_last_array_may_be_cut(acts):
    data = b"".join((acts / name).read_bytes() for name in GOOD)
    result = piped(data[:-1], "--pool", "name")
    assert result.code == ExitCode.NOTHING_USABLE
    assert "array 5, at byte 1,536: the array needs 384 bytes, the file has 383" in one_message(result)


def test_a_file_that_was_written_several_times_is_pooled_as_well(acts):
    with Path("all.npy").open("wb") as file:
        for values in BATCHES:
            np.save(file, values)
    assert pooled("all.npy", pool="stem").tensors["all"]["note"].startswith("5 batches")
    assert library.calibrate_files("all.npy", pool="stem", method="mse").rows[0].shape == (20, 4, 4)
    with pytest.raises(library.KlcalError, match="pool"):
        library.calibrate_files("all.npy", pool=3)  # type: ignore[arg-type]


# --- comparing


def test_both_sides_are_pooled(acts):
    for name, values in GOOD.items():
        path = Path("today", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values + np.float32(0.001))
    result = klcal("compare", acts / "conv1", "today/conv1", "--pool", "dir", "--format", "json")
    (row,) = result.document["tensors"]
    assert (row["name"], row["shape"], row["numel"]) == ("conv1", [20, 4, 4], 320)
    assert row["max_abs_diff"] == pytest.approx(0.001, rel=1e-3)


def test_a_pooled_table_quantizes_what_it_was_made_of(acts):
    klcal("calibrate", acts, "--pool", "dir", "--per", "conv1=channel:1", "--output", "scales.json")
    result = klcal("compare", acts, "--table", "scales.json", "--pool", "dir", "--format", "json")
    assert {name: row["status"] for name, row in result.tensors.items()} == {"conv1": "ok", "fc": "ok"}
    assert result.tensors["conv1"]["sqnr_db"] > 40


def test_a_bad_batch_of_one_side_is_reported(acts):
    np.save(acts / "conv1/batch_002.npy", BATCHES[2].astype(np.float16))
    result = klcal("compare", acts, acts, "--pool", "dir", "--format", "json")
    assert result.code == ExitCode.PARTIAL
    assert result.tensors["conv1"]["shape"] == [16, 4, 4]


def test_a_comparison_that_a_batch_spoils_names_it(acts):
    bad = BATCHES[3].copy()
    bad[0] = np.nan
    np.save(acts / "conv1/batch_003.npy", bad)
    result = klcal("compare", acts / "conv1", acts / "conv1", "--pool", "dir", "--format", "json")
    assert result.code == ExitCode.NOTHING_USABLE
    (row,) = result.document["tensors"]
    assert row["reason"] == "16 NaN in P; look at 'batch_003.npy', 'batch_003.npy'"


# --- patterns that take for ever


def test_a_pattern_that_takes_for_ever_can_be_interrupted(acts):
    np.save(acts / ("a" * 60), normal(4))
    command = [*COMMAND, "calibrate", str(acts), "--pool", "((a+)+)+z", "--include", "a*"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE)
    until(lambda: _cpu_seconds(process.pid) > 0.6, "the search")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"Traceback" not in err


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_names_with_newlines_do_not_act(tmp_path):
    for number in range(2):
        safetensors.numpy.save_file({"a\n\x1b[31mb": normal(8)}, f"{number}.safetensors")
    result = klcal("calibrate", "0.safetensors", "1.safetensors", "--pool", "name")
    assert len(result.out.splitlines()) == 2
    (row,) = pooled("0.safetensors", "1.safetensors", pool="name").document["tensors"]
    assert (row["name"], row["numel"]) == ("a\n\x1b[31mb", 16)
