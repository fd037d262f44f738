"""Files to a table: the same bytes however the work is cut, ordered, shared out and repeated."""

import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from klcal.errors import ExitCode, InputError
from klcal.pipeline import calibrate, worked, workers
from klcal.pipeline import tasks as pipeline
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
from klcal.readers import Source, regular
from tests.support.command import SAMPLES, environment, klcal, klcal_process, normal
from tests.support.lazy import torch

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning"
)  # of a process that other tests gave threads
REQUEST = Request.parse()
VALUES = normal(50_000) * np.exp(normal(50_000, 1))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_parts(monkeypatch):
    """Tensors of more than 4 KiB are cut, and any work at all starts workers."""
    monkeypatch.setattr(regular, "PART_BYTES", 4096)
    monkeypatch.setattr(pipeline, "PART_BYTES", 4096)
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)


def json_of(*arguments) -> str:
    result = klcal("calibrate", *arguments, "--format", "json")
    assert (result.code, result.err) == (0, "")
    return result.out


# --- the same bytes


@pytest.fixture(scope="module")
def expected() -> str:
    return json_of(SAMPLES, "--jobs", "1")


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_number_of_workers_and_of_parts_does_not_matter(small_parts, monkeypatch, expected, jobs):
    started = []
    monkeypatch.setattr(workers, "_outcomes", spied(started, workers._outcomes))
    assert json_of(SAMPLES, "--jobs", jobs) == expected
    assert started == [jobs] * (jobs > 1)


def spied(started, outcomes):
    def outcomes_of(pipes, *arguments):
        started.append(len(pipes))
        return outcomes(pipes, *arguments)

    return outcomes_of


def test_small_tensors_that_travel_together_come_back_in_order(here, monkeypatch):
    tensors = {f"t{number}": normal(64, number) for number in range(300)}
    safetensors.numpy.save_file(tensors, "x.safetensors")
    alone = json_of("x.safetensors", "--method", "minmax", "--jobs", "1")
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    assert pipeline.TOGETHER * 2 < 300
    assert json_of("x.safetensors", "--method", "minmax", "--jobs", "2") == alone


def small_tensors() -> dict[str, np.ndarray]:
    """Two tasks of them, and a few that have no scale among them."""
    tensors = {f"t{number:03}": normal(5 + 7 * number, number) for number in range(2 * pipeline.TOGETHER)}
    tensors["t010"][3], tensors["t020"] = np.nan, np.zeros(9, np.float32)
    return tensors | {"t030": np.zeros((0, 3), np.float32), "t040": np.float32([1e-45]), "t050": np.full(3, 3e38)}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "request_", [REQUEST, Request.parse(method="mse", dtype="int4"), Request.parse(method="mse", dtype="nf4")]
)
def test_small_tensors_have_the_rows_of_each_alone_to_the_bit(here, monkeypatch, jobs, request_):
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    safetensors.numpy.save_file(small_tensors(), "x.safetensors")
    rows = calibrate_files(["x.safetensors"], request_, jobs=jobs).rows
    alone = [calibrate_files(["x.safetensors"], request_, include=[name]).rows[0] for name in sorted(small_tensors())]
    assert list(rows) == alone
    assert {row.status for row in rows} >= {"ok", "nonfinite", "zero", "empty"}


def test_rows_of_small_tensors_that_see_one_another_are_noticed(here, monkeypatch):
    """The broken twin: each is given the scale of the greatest of its task."""
    calibrate_tensors = worked.calibrate_tensors

    def shared(found, settings):
        rows = calibrate_tensors(found, settings)
        return [replace(row, scale=row.scale and max(each.scale or 0.0 for each in rows)) for row in rows]

    monkeypatch.setattr(worked, "calibrate_tensors", shared)
    with pytest.raises(AssertionError):
        test_small_tensors_have_the_rows_of_each_alone_to_the_bit(here, monkeypatch, 1, REQUEST)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError()], ids=lambda error: type(error).__name__)
def test_a_small_tensor_that_cannot_be_searched_costs_none_that_travels_with_it(here, monkeypatch, jobs, error):
    safetensors.numpy.save_file(small_tensors(), "x.safetensors")
    expected = calibrate_files(["x.safetensors"], REQUEST).rows
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    for name in ("calibrate_tensors", "calibrate_sketch"):
        monkeypatch.setattr(worked, name, fails_on(7 * 12 + 5, error, getattr(worked, name)))
    rows = calibrate_files(["x.safetensors"], REQUEST, jobs=jobs).rows
    assert [row.name for row in rows if row.status == "failed"] == ["t012"]
    assert [row for row in rows if row.name != "t012"] == [row for row in expected if row.name != "t012"]


def fails_on(numel: int, error, calibrate):
    """Wherever a tensor of so many values is among those that are calibrated."""

    def replaced(found, settings):
        if numel in found.numel:
            raise error
        return calibrate(found, settings)

    return replaced


def test_the_order_of_the_arguments_does_not_matter(expected):
    files = [path for path in SAMPLES.iterdir() if path.suffix in (".npy", ".pt", ".safetensors")]
    for seed in range(2):
        random.Random(seed).shuffle(files)
        assert json_of(*files) == expected


@pytest.mark.parametrize("seed", ["0", "1"])
def test_neither_the_hash_seed_nor_the_directory_nor_the_process_matters(here, expected, seed):
    env = environment(PYTHONHASHSEED=seed)
    arguments = ("calibrate", SAMPLES, "--format", "json", "--jobs", "2")
    result = klcal_process(*arguments, env=env, cwd=here)
    assert (result.code, result.err) == (0, "")
    assert result.out == expected


def test_a_different_value_is_a_different_answer(here):
    """The broken twin: these comparisons can fail."""
    np.save("x.npy", VALUES)
    before = json_of("x.npy")
    np.save("x.npy", np.append(VALUES, 2 * VALUES.max()))
    assert json_of("x.npy") != before


def with_nan(seed: int) -> np.ndarray:
    values = normal(100, seed)
    values[seed] = np.nan
    return values


def test_shards_are_as_one_file_in_every_field(here):
    """Warnings too, whose order is not that in which the tensors lie in the files."""
    tensors = {name: with_nan(seed) for seed, name in enumerate("bacd")}
    safetensors.numpy.save_file(tensors, "model.safetensors")
    whole = json_of_nonfinite("model.safetensors")
    (here / "m").mkdir()
    shards = {"1.safetensors": "dc", "2.safetensors": "ba"}
    for shard, names in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in names}, f"m/{shard}")
    weights = {name: shard for shard, names in shards.items() for name in names}
    (here / "m/model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert json_of_nonfinite("m") == whole
    assert json_of_nonfinite("m/model.safetensors.index.json") == whole


def json_of_nonfinite(path: str) -> str:
    result = klcal("calibrate", path, "--nonfinite", "ignore", "--format", "json")
    assert result.code == 0
    assert len(result.document["warnings"]) == 4
    return result.out


# --- parts


def test_a_tensor_in_many_parts_is_the_tensor(here, small_parts, monkeypatch):
    np.save("x.npy", VALUES)
    (cut,) = calibrate_files(["x.npy"], REQUEST).rows
    monkeypatch.setattr(pipeline, "PART_BYTES", 1 << 30)
    (whole,) = calibrate_files(["x.npy"], REQUEST).rows
    assert cut == whole == calibrate_files(["x.npy"], REQUEST, jobs=2).rows[0]
    assert cut.numel == VALUES.size


class Recorder:
    """A progress that remembers."""

    def __init__(self):
        self.total, self.read, self.names = (0, 0), 0, []

    def watch(self):
        return None

    def start(self, tensors, nbytes):
        self.total = (tensors, nbytes)

    def advance(self, nbytes):
        self.read += nbytes

    def finish(self, name):
        self.names.append(name)


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_counts_every_byte_and_every_tensor(here, small_parts, jobs):
    safetensors.numpy.save_file({"a": VALUES, "b": normal(10), "c": np.arange(5)}, "x.safetensors")
    progress = Recorder()
    calibrate_files(["x.safetensors"], REQUEST, jobs=jobs, progress=progress)
    assert progress.total == (2, VALUES.nbytes + 40)
    assert progress.read == VALUES.nbytes + 40
    assert progress.names == ["a", "b"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_part_that_is_lost_costs_its_tensor_and_no_other(here, small_parts, monkeypatch, jobs):
    for name in "abc":
        np.save(f"{name}.npy", VALUES)
    tasks = pipeline.tasks_of

    def after_a_cut(*arguments):
        """The file is cut once it has been described."""
        os.truncate("b.npy", 100_000)
        return tasks(*arguments)

    monkeypatch.setattr(calibrate, "tasks_of", after_a_cut)
    rows = calibrate_files(["a.npy", "b.npy", "c.npy"], REQUEST, jobs=jobs).rows
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert rows[1].reason.startswith("the file changed while it was read")
    assert rows[0].scale == rows[2].scale


# --- selection


@pytest.fixture
def tied(here):
    shared = torch.from_numpy(normal(64))
    torch.save({"embed.weight": shared, "head.weight": shared, "fc.bias": torch.from_numpy(normal(8))}, here / "m.pt")
    return "m.pt"


@pytest.mark.parametrize(
    ("include", "exclude", "selected"),
    [
        ([], [], ["embed.weight", "fc.bias"]),
        (["head.*"], [], ["head.weight"]),
        (["embed.*"], [], ["embed.weight"]),
        (["*.bias", "head*"], [], ["fc.bias", "head.weight"]),
        ([], ["embed*"], ["fc.bias", "head.weight"]),  # it is the head still
        ([], ["embed*", "head*"], ["fc.bias"]),
        (["*.weight"], ["*.weight"], []),
        (["EMBED*"], [], []),
    ],
)
def test_a_tied_tensor_is_selected_by_any_of_its_names(tied, include, exclude, selected):
    rows = calibrate_files([tied], REQUEST, include=include, exclude=exclude).rows
    assert [row.name for row in rows] == selected
    both = {"embed.weight", "head.weight"}
    assert all({row.name, *row.aliases} == both for row in rows if row.name != "fc.bias"), "the others are aliases"


# --- what goes wrong


def fails_for(name, error, work):
    def replaced(*arguments, **options):
        if name in str(arguments):
            raise error
        return work(*arguments, **options)

    return replaced


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (KeyError("secret"), ExitCode.BUG, "this is a bug in klcal: KeyError"),
        (RecursionError(), ExitCode.BUG, "this is a bug in klcal: RecursionError"),
        (MemoryError(), ExitCode.PARTIAL, "there is not enough memory for it"),
        (InputError("it is damaged"), ExitCode.PARTIAL, "it is damaged"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_tensor_costs_another_its_result(here, small_parts, monkeypatch, jobs, error, code, reason):
    for name in ("bad", "good", "cut"):
        np.save(f"{name}.npy", normal(8000 if name == "cut" else 100))
    for name in ("_counted", "_values"):
        monkeypatch.setattr(worked, name, fails_for("bad.npy", error, getattr(worked, name)))
    result = klcal("calibrate", *here.iterdir(), "--format", "json", "--jobs", jobs)
    assert result.code == code
    assert [(tensor["name"], tensor["status"]) for tensor in result.document["tensors"]] == [
        ("bad", "failed"),
        ("cut", "ok"),
        ("good", "ok"),
    ]
    assert result.tensors["bad"]["reason"].startswith(reason)
    assert reason in result.err
    assert "secret" not in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError()])
def test_a_tensor_that_fails_when_its_parts_come_together_costs_only_itself(here, small_parts, monkeypatch, error):
    np.save("cut.npy", VALUES)
    np.save("good.npy", normal(100))
    calibrate_sketch = worked.calibrate_sketch

    def broken(found, settings):
        if found.numel == VALUES.size:
            raise error
        return calibrate_sketch(found, settings)

    monkeypatch.setattr(calibrate, "calibrate_sketch", broken)
    assert [row.status for row in calibrate_files(["cut.npy", "good.npy"], REQUEST).rows] == ["failed", "ok"]


def test_a_file_that_no_reader_understands_costs_only_itself(here, monkeypatch):
    for name in ("bad", "good"):
        np.save(f"{name}.npy", normal(100))
    source = Source
    monkeypatch.setattr(source, "describe", fails_for("bad.npy", IndexError(), source.describe))
    result = klcal("calibrate", here, "--format", "json")
    assert result.code == ExitCode.BUG
    assert [error["source"] for error in result.document["errors"]] == ["bad.npy"]
    assert result.tensors["good"]["status"] == "ok"


def test_a_bug_is_shown_where_it_is_asked_for(here, monkeypatch):
    np.save("bad.npy", normal(100))
    monkeypatch.setattr(worked, "_counted", fails_for("bad.npy", KeyError("where"), None))
    monkeypatch.setenv("KLCAL_DEBUG", "1")
    result = klcal("calibrate", "bad.npy")
    assert result.code == ExitCode.BUG
    assert "Traceback" in result.err
    assert "KeyError: 'where'" in result.err
