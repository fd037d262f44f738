"""NumPy arrays in a checkpoint are tensors like others; what is no array of numbers is left alone."""

import ml_dtypes
import numpy as np
import pytest

from klcal.readers.pt.file import describe
from klcal.readers.pt.views import MAX_REREAD, MIN_REREAD_BYTES
from tests.support.checkpoints import saved, values
from tests.support.files import file_of
from tests.support.lazy import torch
from tests.support.pickles import array, checkpoint, dict_of, name, number, text, tuple_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", ">f8"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 3, 4)])
def test_an_array_is_read_as_a_tensor(folder, dtype, shape, legacy):
    made = np.random.default_rng(0).normal(size=shape).astype(dtype)
    (found, plain) = describe(file_of(folder, saved({"a": made, "w": torch.ones(2)}, legacy)), "x")
    assert (found.name, found.dtype, found.shape, found.status) == ("a", made.dtype.name, shape, "ok")
    native = made.astype(made.dtype.newbyteorder("="))
    np.testing.assert_array_equal(values(found), np.sort(native.ravel().view(f"u{native.itemsize}")))
    assert (plain.name, plain.warnings) == ("w", ())


def test_the_order_of_axes_is_the_array_s(folder):
    made = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    (found,) = describe(file_of(folder, saved({"a": made})), "x")
    assert (found.shape, found.order) == ((2, 3), (1, 0))
    (part,) = found.parts
    assert np.concatenate(list(part.chunks())).tolist() == made.ravel("F").tolist()


def test_an_array_alone_has_the_name_of_its_file(folder):
    (found,) = describe(file_of(folder, saved(np.ones(3, np.float32))), "x")
    assert (found.name, found.status) == ("x", "ok")


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_both_names_of_numpy_s_own_function_are_known(folder, module):
    value = array().replace(b"numpy._core.multiarray", module.encode())
    (found,) = describe(file_of(folder, checkpoint(dict_of(a=value))), "x")
    assert values(found).view("f4").tolist() == [1, 1, 1, 1]


def test_one_array_under_two_names_is_read_once(folder):
    made = np.ones(3)
    (found,) = describe(file_of(folder, saved({"a": made, "b": [made]})), "x")
    assert (found.name, found.aliases) == ("a", ("b.0",))


def test_integers_are_skipped_and_so_is_what_belongs_to_the_training(folder):
    state = {"model": {"w": np.ones(2)}, "rng_state": np.ones(2), "n": np.arange(3)}
    found = describe(file_of(folder, saved(state)), "x")
    assert {each.name: each.status for each in found} == {"model.w": "ok", "n": "skipped", "rng_state": "skipped"}
    assert all(each.parts == () for each in found if each.status == "skipped")


def test_an_array_that_lies_costs_only_itself(folder):
    bad, good = describe(file_of(folder, checkpoint(dict_of(bad=array(shape=(5,)), good=array()))), "x")
    assert (bad.status, good.status) == ("failed", "ok")
    assert bad.reason.startswith("the array needs 20 bytes and has 16; ")


def test_thousands_of_arrays_of_the_same_bytes_are_not_read(folder):
    """Each takes a few operations, and together they would take hours."""
    nbytes = 1 << 22
    data = name("_codecs.encode") + tuple_of(text("\0" * nbytes), text("latin1")) + b"Rq\1"
    kind = name("numpy.dtype") + tuple_of(text("f4"), b"\x89\x88") + b"R"
    kind += tuple_of(number(3), text("<"), b"NNN", number(-1), number(-1), number(0)) + b"bq\2"
    maker = name("numpy._core.multiarray._reconstruct") + b"q\3" + tuple_of(name("numpy.ndarray"), b"NN") + b"q\4R"
    again = b"h\3h\4R" + tuple_of(number(1), tuple_of(number(nbytes >> 2)), b"h\2\x89h\1") + b"b"
    first = maker + tuple_of(number(1), tuple_of(number(nbytes >> 2)), kind, b"\x89", data) + b"b"
    found = describe(file_of(folder, checkpoint(b"](" + first + again * 2000 + b"e")), "x")
    assert len(found) == 2001
    assert sum(each.status == "ok" for each in found) * nbytes <= MAX_REREAD * (MIN_REREAD_BYTES + nbytes) + nbytes
    assert {each.status for each in found} == {"ok", "unsupported"}


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_an_array_of_ml_dtypes_is_known_by_its_name(folder, name):
    made = np.arange(4).astype(getattr(ml_dtypes, name))
    (found,) = describe(file_of(folder, saved({"a": made})), "x")
    assert (found.dtype, found.status) == (name, "ok")
    assert values(found).tolist() == np.sort(made.view(f"u{made.itemsize}")).tolist()
