"""What torch.save wrote is described as torch.load(weights_only=True) loads it, and nothing is run."""

import io
import pickle
import re
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.readers.pt.file import describe
from klcal.readers.regular import open_regular
from tests.support import checkpoints
from tests.support.checkpoints import bits, check_agreement, loaded, refusal, saved, values
from tests.support.files import file_of, unzipped, zipped
from tests.support.lazy import torch
from tests.support.pickles import checkpoint

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOAT8 = [getattr(torch, f"float8_{kind}") for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")]
EXACT = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
NEW_EXACT = [torch.uint16, torch.uint32, torch.uint64]  # the zip form only, as the float8 types


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pt")


def ramp(*shape: int) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


@st.composite
def storages(draw, dtypes):
    """A flat tensor of random bits: NaN, infinities and subnormals among them."""
    dtype = draw(st.sampled_from(dtypes))
    count = draw(st.integers(0, 40))
    if dtype == torch.bool:
        return torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=dtype)
    data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


@st.composite
def views(draw, flat):
    """Any view of a storage: sliced, transposed, expanded, overlapping, of no values, of no dimensions."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if 0 not in shape and reach > len(flat):
        return flat
    room = max(0, len(flat) - (0 if 0 in shape else reach))
    return torch.as_strided(flat, shape, strides, draw(st.integers(0, room)))


@st.composite
def checkpoints_with(draw, dtypes):
    """Nested containers of views of a few storages, some of them tied, and of plain values."""
    flats = draw(st.lists(storages(dtypes), min_size=1, max_size=3))
    pool = [draw(views(draw(st.sampled_from(flats)))) for _ in range(draw(st.integers(1, 4)))]
    pool += [torch.nn.Parameter(each) for each in pool if each.dtype in FLOATS]
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(b"bytes")
    keys = st.text("abc_é", max_size=3) | st.integers(0, 3)

    def containers(children):
        dicts = st.dictionaries(keys, children, max_size=3).filter(distinct)
        return st.lists(children, max_size=3) | st.tuples(children, children) | dicts | dicts.map(OrderedDict)

    return draw(st.recursive(st.sampled_from(pool) | plain, containers, max_leaves=8))


def distinct(items: dict) -> bool:
    return "" not in items and len({str(key) for key in items}) == len(items)  # names are as in the oracle


@given(value=checkpoints_with(FLOATS + FLOAT8 + EXACT + NEW_EXACT))
def test_any_zip_checkpoint_is_described_as_torch_loads_it(folder, value):
    check_is_whole(file_of(folder, saved(value)))


@given(value=checkpoints_with(FLOATS + EXACT))
def test_any_checkpoint_from_before_torch_1_6_is_described_as_torch_loads_it(folder, value):
    check_is_whole(file_of(folder, saved(value, legacy=True)))


def check_is_whole(file):
    assert check_agreement(file) or not describe(file, "x")
    assert {found.status for found in describe(file, "x")} <= {"ok", "skipped"}


def test_the_agreement_checker_can_fail(folder, monkeypatch):
    good = {"w": ramp(4), "n": torch.tensor(1)}
    assert check_agreement(file_of(folder, saved(good)))
    with pytest.raises(AssertionError):
        check_agreement(file_of(folder, saved(good)), lambda found: values(found) + 1)
    with pytest.raises(AssertionError):
        check_agreement(file_of(folder, saved(good)), lambda found: values(found)[1:])
    monkeypatch.setattr(checkpoints, "loaded", lambda _: ValueError("its refusal"))
    with pytest.raises(AssertionError, match="its refusal"):
        check_agreement(file_of(folder, saved(good)))
    assert not check_agreement(file_of(folder, saved(good)), torch_may_refuse="refusal")


def test_an_expanded_tensor_is_read_once_and_counted_often(folder):
    (found,) = describe(file_of(folder, saved({"w": ramp(3, 1).expand(3, 1000)})), "x")
    assert (found.shape, sum(part.nbytes for part in found.parts if list(part.chunks()))) == ((3, 1000), 12)
    assert Counter(values(found).view("f4").tolist()) == {0.0: 1000, 1.0: 1000, 2.0: 1000}


@pytest.mark.parametrize("legacy", [False, True])
def test_tied_weights_have_one_row_and_all_their_names(folder, legacy):
    weight = ramp(4, 3)
    state = {"embed.weight": weight, "head.weight": weight, "transposed": weight.T, "copy": weight.clone()}
    found = describe(file_of(folder, saved(state, legacy)), "x")
    assert [(each.name, each.aliases) for each in found] == [
        ("embed.weight", ("head.weight",)),
        ("transposed", ()),
        ("copy", ()),
    ]


def test_a_single_tensor_has_the_name_of_its_file(folder):
    (found,) = describe(file_of(folder, saved(torch.nn.Parameter(ramp(2)))), "layer.0")
    assert (found.name, found.dtype, found.shape, found.status) == ("layer.0", "float32", (2,), "ok")


@pytest.mark.parametrize("legacy", [False, True])
def test_the_tensors_of_an_optimizer_are_skipped_visibly(folder, legacy):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "model": model.state_dict(), "epoch": 3}
    found = describe(file_of(folder, saved(state, legacy)), "x")
    assert [(each.name, each.status) for each in found[:2]] == [("model.weight", "ok"), ("model.bias", "ok")]
    assert {each.reason for each in found[2:]} == {"optimizer state is not calibrated"}
    assert {each.name for each in found[2:]} >= {"optimizer.state.0.exp_avg", "optimizer.state.1.exp_avg_sq"}


# --- what has no scale is listed, and says why


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


UNSUPPORTED = {
    "complex": (lambda: torch.ones(2, 2, dtype=torch.complex64), "complex64 values cannot be calibrated"),
    "negated": (lambda: torch.zeros(2, 2, dtype=torch.complex64).conj().imag, "save tensor.clone"),
    "coo": (lambda: torch.eye(2).to_sparse(), "save tensor.to_dense"),
    "csr": (lambda: torch.eye(2).to_sparse_csr(), "save tensor.to_dense"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "quantized already"),
    "channels": (
        lambda: torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8),
        "quantized already",
    ),
    "meta": (lambda: torch.empty(2, 2, device="meta"), "without values"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(3)]), "save its tensors one by one"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_an_object_without_a_scale_does_not_affect_the_others(folder, kind):
    make, says = UNSUPPORTED[kind]
    for legacy in (False, True):
        odd, good = describe(file_of(folder, saved({"odd": quietly(make), "good": ramp(3)}, legacy)), "x")
        assert (odd.name, odd.status, odd.parts, good.status) == ("odd", "unsupported", (), "ok")
        assert odd.shape in ((2, 2), (4,))
        assert says in odd.reason


def test_plain_values_of_all_kinds_do_not_matter(folder):
    plain = [{1, 2}, b"bytes", bytearray(b"x"), 1j, torch.device("cpu"), torch.float32, torch.Size([1]), torch.strided]
    state = {"plain": plain, "counter": Counter("aab"), "big": 1 << 1000, ("a", 1): None, "w": ramp(3)}
    for legacy in (False, True):
        assert check_agreement(file_of(folder, saved(state, legacy)))


@pytest.mark.parametrize("empty", [{}, [], None, 3, {"epoch": 3}])
def test_a_file_without_tensors_has_none(folder, empty):
    assert describe(file_of(folder, saved(empty)), "x") == describe(file_of(folder, saved(empty, True)), "x") == []


# --- what is no state_dict says what it is


def torchscript() -> bytes:
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), out)
    return out.getvalue()


def exported() -> bytes:
    out = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2),)), out)
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    return out.getvalue()


def protocol_4() -> bytes:
    out = io.BytesIO()
    torch.save({"w": ramp(2)}, out, pickle_protocol=4)
    return out.getvalue()


OTHERS = {
    "torchscript": (torchscript, "TorchScript program, .*torch.jit.load"),
    "export": (exported, "torch.export, .*torch.export.load"),
    "module": (lambda: saved(torch.nn.Linear(2, 2)), r"needs torch\.nn\.modules\.linear\.Linear.*model.state_dict()"),
    "legacy module": (lambda: saved(torch.nn.ReLU(), True), r"needs torch\.nn\.modules\.activation\.ReLU"),
    "numpy scalar": (lambda: saved({"best": np.float32(3)}), "numpy object .*plain numbers"),
    "tar": (tar, r"\.tar form"),
    "pickle": (lambda: pickle.dumps({"a": 1}, 2), "torch.save did not write"),
    "protocol 4": (protocol_4, "default pickle_protocol"),
    "another zip": (lambda: zipped({"a/b": b"c"}), "no data.pkl"),
    "float8 in the old form": (lambda: saved(torch.ones(2).to(torch.float8_e5m2), True), "_use_new_zipfile"),
    "another version": (lambda: checkpoint(b"}", **{".data/version": b"99"}), "format version is 99; 1 to 10"),
    "no byte order": (lambda: checkpoint(b"}", byteorder=b"middle"), "neither little nor big"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_not_a_state_dict_is_named(folder, kind):
    make, says = OTHERS[kind]
    assert re.search(says, refusal(file_of(folder, quietly(make))))


# --- how torch has written them


def test_a_checkpoint_from_a_big_endian_machine(folder):
    members = unzipped(saved({"f": ramp(3).double(), "b": ramp(5).bfloat16(), "f8": ramp(5).to(FLOAT8[0])}))
    members["archive/byteorder"] = b"big"
    for key, width in (("0", 8), ("1", 2)):
        data = members[f"archive/data/{key}"]
        members[f"archive/data/{key}"] = np.frombuffer(data, f"u{width}").byteswap().tobytes()
    assert check_agreement(file_of(folder, zipped(members)))


def test_the_byte_order_of_a_type_without_a_storage_type_is_not_guessed(folder):
    members = unzipped(saved({"n": torch.ones(3, dtype=torch.uint16), "w": ramp(3)}))
    members["archive/byteorder"] = b"big"
    data = members["archive/data.pkl"].replace(b"ctorch\nuint16\n", b"ctorch\nfloat16\n")
    members["archive/data.pkl"] = data
    odd, good = describe(file_of(folder, zipped(members)), "x")
    assert (odd.status, odd.reason.partition(";")[0], good.status) == (
        "unsupported",
        "its byte order is not known",
        "ok",
    )


def test_compressed_archives_are_read_where_a_view_is_contiguous(folder):
    members = unzipped(saved({"w": ramp(30), "slice": ramp(9)[2:5], "column": ramp(4, 4)[:, 1]}))
    file = file_of(folder, zipped(members, zipfile.ZIP_DEFLATED))
    whole, piece, column = describe(file, "x")
    np.testing.assert_array_equal(values(whole).view("f4"), ramp(30))
    np.testing.assert_array_equal(values(piece).view("f4"), [2, 3, 4])
    assert (column.status, column.reason) == (
        "unsupported",
        "it is a strided view of compressed data; save tensor.contiguous()",
    )


def test_a_float8_tensor_that_wants_a_gradient_is_read_though_torch_cannot_load_it(folder):
    data = saved({"w": ramp(5).to(FLOAT8[0]).requires_grad_()})
    (found,) = describe(file_of(folder, data), "x")
    np.testing.assert_array_equal(values(found), bits(ramp(5).to(FLOAT8[0])))
    assert "a leaf Variable that requires grad" in str(loaded(data))


@pytest.mark.parametrize("compute", [True, False])
def test_a_checkpoint_without_checksums_is_read(folder, compute):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(compute)
    data = saved({"w": ramp(30)})
    torch.serialization.set_crc32_options(before)
    assert check_agreement(file_of(folder, data))


def test_describing_imports_no_torch(folder):
    file = file_of(folder, saved({"w": ramp(3)}))
    code = (
        "import sys; from klcal.readers import regular; from klcal.readers.pt import file;"
        f"assert file.describe(regular.open_regular({file.path!r}), 'x'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_state_of_an_optimizer_is_known_by_its_shape(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    both = {"net": layer.state_dict(), "opt": optimizer.state_dict()}
    for content, calibrated in ((both, {"net.weight", "net.bias"}), (optimizer.state_dict(), set())):
        torch.save(content, tmp_path / "c.pt")
        found = describe(open_regular(str(tmp_path / "c.pt")), "c")
        assert {each.name for each in found if each.status == "ok"} == calibrated
        assert sum("optimizer" in (each.reason or "") for each in found) == 6
