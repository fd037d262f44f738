"""llama.cpp's importance matrix in GGUF: mean squares as llama-quantize computes them, refused where it is damaged."""

from __future__ import annotations

import gguf as library
import numpy as np
import pytest
from hypothesis import given

from klcal.errors import InputError
from klcal.readers import regular
from klcal.readers.imatrix_gguf import describe
from tests.support.files import check_words, damaged, file_of
from tests.support.gguf import Tensor, gguf, of
from tests.support.imatrix import SUMS, imatrix_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("imatrix_gguf")


def values(found) -> np.ndarray:
    chunks = [chunk.copy() for part in found.parts for chunk in part.chunks()]
    return np.concatenate(chunks or [np.empty(0, np.float32)]).reshape(found.shape)


def loaded(path: str) -> dict[str, np.ndarray]:
    """The entries as llama-quantize computes them from what llama.cpp's reader reads."""
    tensors = {tensor.name: tensor.data for tensor in library.GGUFReader(path).tensors}
    found = {}
    for name in tensors:
        if name.endswith(".in_sum2"):
            entry = name.removesuffix(".in_sum2")
            counts = tensors[f"{entry}.counts"].ravel()
            rows = tensors[name].reshape(counts.size, -1)
            found[entry] = np.float32(
                [row / count if count > 0 else np.ones_like(row) for row, count in zip(rows, counts, strict=True)]
            )
    return found


def test_the_mean_squares_are_those_of_llama_quantize(folder):
    file = file_of(folder, imatrix_gguf(more={"blk.0.attn_q.weight.in_sum": of(np.float32([1, 2, 3, 4]))}))
    found = {each.name: each for each in describe(file)}
    theirs = loaded(file.path)
    assert {name: (each.dtype, each.shape, each.status) for name, each in found.items()} == {
        "blk.0.attn_q.weight": ("float32", (4,), "ok"),
        "blk.0.ffn_up_exps.weight": ("float32", (3, 2), "ok"),
    }
    assert values(found["blk.0.ffn_up_exps.weight"]).tolist() == [[1.5, 0.625], [1, 1], [3, 2]]
    for name, each in found.items():
        np.testing.assert_array_equal(values(each), theirs[name].reshape(each.shape))


def test_where_the_sums_are_cut_changes_nothing(folder, monkeypatch):
    sums = np.exp(np.random.default_rng(0).normal(size=(5, 7))).astype(np.float32)
    file = file_of(folder, imatrix_gguf({"w": (sums, range(5))}))
    (whole,) = describe(file)
    monkeypatch.setattr(regular, "PART_BYTES", 12)
    (cut,) = describe(file)
    assert len(cut.parts) > 10
    np.testing.assert_array_equal(values(cut), values(whole))
    assert sum(part.nbytes for part in cut.parts) == sums.nbytes


ONE = of(np.float32([1, 2]))
COUNT = of(np.float32([3]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "it is a GGUF file, but not an importance matrix: it has no NAME.in_sum2"),
        ({"w": ONE}, "it is a GGUF file, but not an importance matrix: it has no NAME.in_sum2"),
        ({"w.in_sum2": ONE}, "'w' has sums without counts; make it again with llama-imatrix"),
        ({"w.counts": ONE}, "'w' has counts without sums; make it again with llama-imatrix"),
        ({"w.in_sum2": ONE, "w.counts": ONE}, r"'w' has sums of shape \[2\] and counts of shape \[2\]"),
        ({"w.in_sum2": of(np.float32(1)), "w.counts": COUNT}, r"'w' has sums of shape \[\] and counts of shape \[1\]"),
        ({"w.in_sum2": of(np.float16([1])), "w.counts": COUNT}, "sums and counts of 'w' are float16 and float32, not"),
        ({"w.in_sum2": Tensor(2, (32,), bytes(18)), "w.counts": COUNT}, "of 'w' are Q4_0 and float32, not float32"),
        ({"w.in_sum2": ONE, "w.counts": Tensor(99, (1,), bytes(4))}, "of 'w' are float32 and type 99, not float32"),
    ],
    ids=range(9),
)
def test_sums_without_counts_that_fit_are_refused(folder, tensors, message):
    with pytest.raises(InputError, match=message) as refused:
        describe(file_of(folder, gguf(tensors)))
    check_words(str(refused.value))


@pytest.mark.parametrize("count", [-1, 0.5, np.nan, np.inf, -np.inf])
def test_what_is_no_count_is_refused_when_it_is_read(folder, count):
    found = describe(file_of(folder, imatrix_gguf({"w": ([[1.0, 2.0]], [count]), "x": ([[4.0]], [2])})))
    with pytest.raises(InputError, match="the counts of 'w' are not whole numbers of 0 or more; make") as refused:
        values(found[0])
    check_words(str(refused.value))
    assert values(found[1]).tolist() == [2.0]


@given(damaged(imatrix_gguf(SUMS), b"\0\1\2\x20\xff"))
def test_damage_is_refused_or_yields_what_llama_quantize_would_compute(folder, data):
    file = file_of(folder, data)
    try:
        found = {each.name: values(each) for each in describe(file)}
    except InputError as error:
        check_words(str(error))
        return
    with np.errstate(all="ignore"):
        theirs = loaded(file.path)
    assert list(found) == list(theirs)
    for name, mine in found.items():
        np.testing.assert_array_equal(mine, theirs[name].reshape(mine.shape))
