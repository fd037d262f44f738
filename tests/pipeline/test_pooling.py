"""A pooled tensor is what one file with all of its batches would hold: to the bit, however they are split."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.pipeline import batches as joining
from klcal.pipeline import pooling
from klcal.pipeline import tasks as pipeline
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.gathered import Asked
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.sketch import sketch_files
from klcal.tables.rows import Row
from tests.support.command import normal

DIR, STEM, NAME = (Pool.parse(word) for word in ("dir", "stem", "name"))
WHOLE = normal(24 * 6 * 5, 3).reshape(24, 6, 5) * np.float32([[[1], [2], [5], [0], [1e-3], [70]]])
PERS = ("tensor", "channel:1", "channel:2", "channel:-1")
LAYOUTS = {"C": np.ascontiguousarray, "F": np.asfortranarray}


def row_of(path: Path, per: str = "tensor", pool: Pool | None = DIR, **more) -> Row:
    (row,) = calibrate_files([str(path)], Request.parse(per=per, method="mse", **more), pool=pool).rows
    return row


def figures(row: Row) -> Row:
    """All of it but what it is called."""
    return replace(row, name="", source="", note=None)


def batches_of(row: Row) -> int:
    """How many a row says it has; a tensor that is not pooled says nothing of them, and is one."""
    found = re.match("([0-9]+) batch", row.note or "")
    return int(found[1]) if found else 1


def save_split(folder: Path, whole: np.ndarray, cuts: list[int], order: list[int], layouts: list[str]) -> None:
    batches = np.split(whole, sorted(cuts))
    for place, number in enumerate(order):
        np.save(folder / f"{place}.npy", LAYOUTS[layouts[number]](batches[number]))


def splits(parts: int):
    """Where a tensor of 24 is cut, in which order its batches are named, and how each lies in its file."""
    return st.tuples(
        st.lists(st.integers(0, 24), min_size=parts - 1, max_size=parts - 1),
        st.permutations(range(parts)),
        st.lists(st.sampled_from([*LAYOUTS]), min_size=parts, max_size=parts),
    )


def check_law(folder: Path, split, per: str, jobs: int = 1, dtype: str = "<f4") -> None:
    folder.mkdir()
    whole = WHOLE.astype(dtype)
    save_split(folder, whole, *split)
    (found,) = calibrate_files([str(folder)], Request.parse(per=per, method="mse"), pool=DIR, jobs=jobs).rows
    np.save(folder.with_suffix(".npy"), whole)
    assert figures(found) == figures(row_of(folder.with_suffix(".npy"), per, None))
    assert (found.name, found.source) == (folder.name, folder.name)


@given(splits(4), st.sampled_from(PERS), st.sampled_from(["<f4", ">f4", "<f2", ">f8"]))
def test_a_pool_of_splits_is_the_whole(tmp_path_factory, split, per, dtype):
    check_law(tmp_path_factory.mktemp("law") / "acts", split, per, dtype=dtype)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("per", PERS)
def test_a_pool_of_large_splits_is_the_whole(tmp_path, monkeypatch, per, jobs):
    """Counted in several tasks."""
    monkeypatch.setattr(pipeline, "PART_BYTES", 999)
    monkeypatch.setattr(pipeline, "SMALL_BYTES", 99)
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    check_law(tmp_path / "acts", ([1, 2, 3, 5, 9, 9, 20], range(8), "CFCCFCCC"), per, jobs)


@pytest.mark.parametrize("per", PERS)
def test_a_pool_that_takes_batches_as_they_lie_is_noticed(tmp_path, monkeypatch, per):
    """The broken twin. Of a single scale the order of the values is nothing."""
    monkeypatch.setattr(joining, "_parts_in", lambda _, description: description.parts)
    if per == "tensor":
        check_law(tmp_path / "acts", ([7, 9], range(3), "FFC"), per)
    else:
        with pytest.raises(AssertionError):
            check_law(tmp_path / "acts", ([7, 9], range(3), "FFC"), per)


@pytest.mark.parametrize("per", PERS)
def test_a_pool_that_lost_a_batch_is_noticed(tmp_path, monkeypatch, per):
    joined = pooling.joined
    monkeypatch.setattr(pooling, "joined", lambda *words: joined(*words[:2], words[2][1:], words[3]))
    with pytest.raises(AssertionError):
        check_law(tmp_path / "acts", ([7, 9], range(3), "CCC"), per)


def test_batches_of_one_order_stay_in_it(tmp_path):
    """As PyTorch's channels_last: axis 0 is the slowest, so that nothing has to be turned round."""
    torch = pytest.importorskip("torch")
    whole = torch.from_numpy(normal(6 * 4 * 5 * 3).reshape(6, 4, 5, 3))
    for number, batch in enumerate(whole.split([1, 2, 3])):
        torch.save({"x": batch.to(memory_format=torch.channels_last)}, tmp_path / f"{number}.pt")
    np.save(tmp_path / "whole.npy", whole.numpy())
    tensors = calibrate_files([str(tmp_path)], Request.parse(per="channel:1"), include=["x"], pool=NAME).rows
    assert [figures(row) for row in tensors] == [
        figures(calibrate_files([str(tmp_path / "whole.npy")], Request.parse(per="channel:1")).rows[0])
    ]


# --- what belongs together, and what it is called

NAMES = [
    ("dir", ["a/conv1/0.npy", "a/conv1/1.npy", "a/fc/0.npy"], {("conv1", "conv1"): 2, ("fc", "fc"): 1}),
    ("dir", ["a/x/conv1/0.npy", "a/y/conv1/0.npy"], {("x/conv1", "x/conv1"): 1, ("y/conv1", "y/conv1"): 1}),
    ("stem", ["a/conv1_000.npy", "a/conv1_1.npy", "a/conv2-0.npy", "a/conv2.7.npy", "a/conv3.npy", "a/001.npy"],
     {("conv1", "conv1"): 2, ("conv2", "conv2"): 2, ("conv3", "conv3"): 1, ("001", "001"): 1}),
    ("stem", ["a/x/c_0.npy", "a/y/c_0.npy", "a/y/c_1.npy"], {("x/c", "x/c"): 1, ("y/c", "y/c"): 2}),
    ("stem", ["a/p_0.npz", "a/p_1.npz"], {("p", "u"): 2, ("p", "v"): 2}),
    ("dir", ["a/r/0.npz", "a/s/0.npz"], {("r", "u"): 1, ("r", "v"): 1, ("s", "u"): 1, ("s", "v"): 1}),
    ("name", ["a/r/0.npz", "a/s/1.npz"], {("*", "u"): 2, ("*", "v"): 2}),
    ("name", ["a/s0/conv1.npy", "a/s1/conv1.npy", "a/s1/fc.npy"], {("*", "conv1"): 2, ("s1/fc.npy", "fc"): 1}),
    (r"(.*)/step[0-9]+", ["a/r/step0.npy", "a/r/step1.npy", "a/other.npy"], {("*", "r"): 2, ("other.npy", "other"): 1}),
    (r"(?P<name>[a-z]+)_[0-9]+_([a-z])", ["a/c_0_x.npy", "a/c_1_y.npy"], {("*", "c"): 2}),
    (r"(c)_[0-9]_([a-z])", ["a/c_0_x.npy", "a/c_1_x.npy", "a/c_1_y.npy"], {("*", "c/x"): 2, ("c_1_y.npy", "c/y"): 1}),
    (r"0\.npz/(.)", ["a/r/0.npz", "a/s/0.npz"], {("*", "u"): 2, ("*", "v"): 2}),
    ("(c)|d", ["a/c.npy", "a/d.npy"], {("c.npy", "c"): 1, ("d.npy", "d"): 1}),
    ("(.*)_", ["a/new\nline_0.npy", "a/new\nline_1.npy"], {("*", "new\nline"): 2}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("pool", "files", "expected"), NAMES, ids=[f"{n}-{pool}" for n, (pool, *_) in enumerate(NAMES)]
)
def test_a_pooled_tensor_has_the_name_of_its_pool(tmp_path, pool, files, expected):
    for number, file in enumerate(files):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, normal(8, number))
        else:
            np.savez(path, u=normal(8, number), v=normal(9, number))
    rows = calibrate_files([str(tmp_path / "a")], Request.parse(), pool=Pool.parse(pool)).rows
    assert {(row.source, row.name): batches_of(row) for row in rows} == expected
    given = [str(each) for each in (tmp_path / "a").rglob("*.np*")]
    singly = calibrate_files(given, Request.parse(), pool=Pool.parse(pool)).rows
    if pool in ("dir", "stem", "name"):  # a pattern sees what sources are called
        assert [figures(row) for row in singly] == [figures(row) for row in rows]


def test_files_given_one_by_one_are_pooled_by_where_they_lie(tmp_path):
    """Though only those are called by their folders that would have one name else."""
    for file in ("c1/0.npy", "c1/1.npy", "c2/0.npy"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        np.save(tmp_path / file, normal(8))
    rows = calibrate_files([str(each) for each in tmp_path.rglob("*.npy")], Request.parse(), pool=DIR).rows
    assert [(row.name, row.note.split(";")[0]) for row in rows] == [("c1", "2 batches"), ("c2", "1 batch")]


def test_rules_hold_for_what_is_pooled(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"conv_{number}.npy", normal(8, number))
        np.save(tmp_path / f"fc_{number}.npy", normal(8, number))
    rules = Request.parse(dtype=["conv=int4", "int8"], scheme=["fc_0=affine", "symmetric"])
    table = calibrate_files([str(tmp_path)], rules, pool=STEM, exclude=["fc_2"])
    assert [(row.name, row.target, row.numel) for row in table.rows] == [("conv", "int4", 24), ("fc", "int8", 16)]
    assert [warning.split(";")[0] for warning in table.warnings] == ["--scheme 'fc_0' matches no tensor"]


@pytest.mark.parametrize(
    "text",
    ["(", "dirs", "a+", "(?P<name>", "(?P<name>a)(?P<name>b)", "(a){99999999999999}", "(" * 50_000 + ")" * 50_000],
)
def test_a_rule_that_cannot_be_read_is_wrong_usage(text):
    with pytest.raises(UsageError, match="pool"):
        Pool.parse(text)


# --- shapes


SHAPES = [
    ([(2, 3, 4), (1, 3, 4)], (3, 3, 4)),
    ([(2, 3, 7), (1, 3, 5)], (1, 1, 57)),
    ([(2, 7, 3), (1, 9, 3)], (1, 23, 3)),
    ([(2, 3), (2, 3, 1)], (12,)),
    ([(), ()], (2,)),
    ([(4,), (3,)], (7,)),
    ([(0, 5, 9), (2, 3), (1, 3)], (3, 3)),
    ([(0, 3), (0, 5)], (0, 3)),
]


@pytest.mark.parametrize(("shapes", "expected"), SHAPES, ids=str)
def test_shapes_are_joined_along_the_last_axis_that_differs(tmp_path, shapes, expected):
    for number, shape in enumerate(shapes):
        np.save(tmp_path / f"x_{number}.npy", np.full(shape, 2, np.float32))
    row = row_of(tmp_path, pool=STEM)
    assert row.shape == expected
    assert row.numel == np.prod(expected)


def test_sequences_of_different_lengths_have_channels(tmp_path):
    long, short = normal(2 * 7 * 3).reshape(2, 7, 3), normal(9 * 3, 1).reshape(1, 9, 3)
    for name, batch in (("x_0", long), ("x_1", short), ("whole", np.concatenate([long.reshape(1, 14, 3), short], 1))):
        np.save(tmp_path / name, batch)
    found = calibrate_files([str(tmp_path)], Request.parse(per="channel:2"), pool=STEM, include=["x_*"]).rows[0]
    whole = calibrate_files([str(tmp_path / "whole.npy")], Request.parse(per="channel:2")).rows[0]
    assert figures(found) == figures(whole)


@pytest.mark.parametrize("jobs", [1, 2])
def test_images_of_different_sizes_have_channels(tmp_path, monkeypatch, jobs):
    """[N, C, H, W], in different orders of memory; one has no images."""
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    images = [normal(2 * 3 * 5 * 4).reshape(2, 3, 5, 4), normal(3 * 7 * 2, 1).reshape(1, 3, 7, 2)]
    images += [normal(2 * 3 * 4, 2).reshape(2, 3, 2, 2), np.empty((0, 3, 9, 9), np.float32)]
    for number, batch in enumerate(images):
        np.save(tmp_path / f"x_{number}.npy", np.asfortranarray(batch) if number == 1 else batch)
    np.save(tmp_path / "whole.npy", np.concatenate([np.moveaxis(each, 1, 0).reshape(3, -1) for each in images], 1))
    request, asked = Request.parse(per="channel:1"), {"pool": STEM, "include": ["x*"], "jobs": jobs}
    (found,) = calibrate_files([str(tmp_path)], request, **asked).rows
    (whole,) = calibrate_files([str(tmp_path / "whole.npy")], Request.parse(per="channel:0")).rows
    alike = {"units": None, "shape": None, "per": ""}
    assert replace(figures(found), **alike) == replace(figures(whole), **alike)
    assert np.array_equal(found.units.scale, whole.units.scale)
    assert (found.units.axis, found.shape) == (1, None)
    assert found.note.startswith("4 batches; ")
    part, output = str(tmp_path / "s.safetensors"), {"per": request.per, "jobs": jobs}
    sketch_files([str(tmp_path)], part, Asked(include=["x*"], pool=STEM), **output)
    (again,) = calibrate_files([part], request).rows
    assert np.array_equal(again.units.scale, whole.units.scale)
    assert again.numel == whole.numel


@pytest.mark.parametrize("shapes", [[(2, 4, 5), (1, 3, 5)], [(2, 4, 5), (2, 4)]], ids=str)
def test_other_channels_are_no_batch_of_the_same(tmp_path, shapes):
    for number, shape in enumerate(shapes):
        np.save(tmp_path / f"x_{number}.npy", np.ones(shape, np.float32))
    np.save(tmp_path / "y_0.npy", np.ones((2, 2), np.float32))
    rows = calibrate_files([str(tmp_path)], Request.parse(per="channel:1"), pool=STEM).rows
    assert [row.status for row in rows] == ["unsupported", "ok"]
    reason = rows[0].reason
    assert "'x_0.npy'" in reason
    assert "'x_1.npy'" in reason
    assert all(str([*shape]) in reason for shape in shapes)


@pytest.mark.parametrize("per", ["channel", "channel:0", "channel:-2", "group:2", "block:1,2"])
def test_the_axis_of_the_batches_has_no_units(tmp_path, per):
    np.save(tmp_path / "x_0.npy", np.ones((3, 4), np.float32))
    with pytest.raises(UsageError, match=r"^x: x: per .*axis 0 of a pooled tensor"):
        row_of(tmp_path, per, STEM)


def test_an_axis_that_no_batch_has_is_wrong_usage(tmp_path):
    np.save(tmp_path / "x_0.npy", np.ones((3, 4), np.float32))
    with pytest.raises(UsageError, match="the axes 0 to 1"):
        row_of(tmp_path, "channel:2", STEM)
