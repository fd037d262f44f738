"""``klcal apply --to fake``: the input again, only its values rounded to what their codes stand for."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.writers.forms import fake
from tests.support import gguf, protobuf
from tests.support.command import klcal
from tests.support.lazy import torch

VALUES = np.random.default_rng(1).normal(size=(24, 256)).astype(np.float32)
GROUPS = ("--dtype", "int4", "--per", "group:64")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def faked(path: str, *options: str) -> str:
    """What is written for a file; and that the table says the same of it."""
    output = f"fake{Path(path).suffix}"
    assert klcal("calibrate", path, *options, "-o", "t.json").code == 0
    found = klcal("apply", path, "--table", "t.json", "--to", "fake", "-o", output)
    assert found.code == 0, found.err
    return output


def expected(name: str, values: np.ndarray) -> np.ndarray:
    (row,) = [row for row in library.load_table("t.json").rows if name in (row.name, *row.aliases)]
    return library.dequantize(library.quantize(values.astype(np.float32), row), row)


def changed(one: bytes, other: bytes) -> int:
    """How many bytes differ in two files of one size."""
    assert len(one) == len(other)
    return int((np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)).sum())


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
)
def test_values_are_rounded_to_the_dtype_that_they_had(dtype):
    values = VALUES.astype(dtype)
    path = "m.safetensors"
    kinds = {np.dtype(ml_dtypes.float8_e4m3fn): torch.float8_e4m3fn, np.dtype(ml_dtypes.float8_e5m2): torch.float8_e5m2}
    tensors = {"w": values, "ids": np.arange(3)}
    if values.dtype in kinds:
        from safetensors.torch import save_file

        shown = torch.from_numpy(values.view(np.uint8)).view(kinds[values.dtype])
        save_file({"w": shown, "ids": torch.arange(3)}, path)
    else:
        safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    output = faked(path, *GROUPS, "--include", "w")
    before, after = Path(path).read_bytes(), Path(output).read_bytes()
    want = expected("w", values).astype(dtype)
    assert after == before.replace(values.tobytes(), want.tobytes())
    assert changed(before, after)


def test_npy_and_npz_are_what_numpy_reads():
    np.save("f.npy", np.asfortranarray(VALUES))
    found = np.load(faked("f.npy", "--per", "channel:1"))
    assert found.flags.f_contiguous
    np.testing.assert_array_equal(found, expected("f", VALUES))
    big = VALUES.astype(">f4")
    np.savez("a.npz", w=big, v=VALUES[0], ids=np.arange(3))
    output = faked("a.npz", *GROUPS, "--include", "w")
    assert zipfile.ZipFile(output).testzip() is None
    found = np.load(output)
    assert found["w"].dtype == big.dtype
    np.testing.assert_array_equal(found["w"], expected("w", VALUES))
    np.testing.assert_array_equal(found["v"], VALUES[0])
    np.testing.assert_array_equal(found["ids"], np.arange(3))


@pytest.mark.parametrize("legacy", [False, True])
def test_pt_is_what_torch_reads(legacy):
    weight = torch.from_numpy(VALUES.copy())
    half = weight.to(torch.bfloat16).T.contiguous().T
    state = {"a": weight, "tied": weight, "t": half, "step": torch.tensor(3), "args": {"lr": 0.1}}
    torch.save(state, "m.pt", _use_new_zipfile_serialization=not legacy)
    output = faked("m.pt", *GROUPS)
    if not legacy:
        assert zipfile.ZipFile(output).testzip() is None
    found = torch.load(output, weights_only=True)
    np.testing.assert_array_equal(found["a"].numpy(), expected("a", VALUES))
    assert found["a"].data_ptr() == found["tied"].data_ptr()
    want = torch.from_numpy(expected("t", half.float().numpy())).to(torch.bfloat16)
    assert torch.equal(found["t"], want)
    assert found["t"].stride() == half.stride()
    assert (found["step"], found["args"]) == (3, {"lr": 0.1})


def test_torch_s_fake_quantize_gives_the_same():
    safetensors.numpy.save_file({"w": VALUES}, "m.safetensors")
    output = faked("m.safetensors", "--dtype", "int8", "--per", "channel")
    (row,) = library.load_table("t.json").rows
    scale = torch.from_numpy(row.units.scale.astype(np.float32))
    points = torch.zeros(len(scale), dtype=torch.int32)
    want = torch.fake_quantize_per_channel_affine(torch.from_numpy(VALUES), scale, points, 0, -127, 127).numpy()
    np.testing.assert_array_equal(safetensors.numpy.load_file(output)["w"], want)


def test_compare_measures_what_calibration_promised():
    safetensors.numpy.save_file({"w": VALUES}, "m.safetensors")
    output = faked("m.safetensors", *GROUPS)
    (promised,) = library.load_table("t.json").rows
    found = klcal("compare", "m.safetensors", output, "--format", "json").tensors["w"]
    assert found["sqnr_db"] == pytest.approx(promised.sqnr_db, abs=1e-4)


# --- what cannot be replaced in place is refused


def refused(path: str, words: str) -> None:
    before = sorted(Path().iterdir())
    found = klcal("apply", path, "--dtype", "int8", "--to", "fake", "-o", f"out{Path(path).suffix}")
    assert found.code == 4, found.err
    assert words in found.err
    assert sorted(Path().iterdir()) == before


def test_compressed_strided_and_shared_values_are_refused():
    np.savez_compressed("a.npz", w=VALUES)
    refused("a.npz", "compressed")
    weight = torch.from_numpy(VALUES.copy())
    torch.save({"w": weight[:, ::2]}, "strided.pt")
    refused("strided.pt", "'w'")
    torch.save({"w": weight, "part": weight[:3]}, "shared.pt")
    refused("shared.pt", "shares values")


def test_an_expanded_tensor_with_one_scale_is_rounded_once():
    torch.save({"w": torch.from_numpy(VALUES[0].copy()).expand(5, -1)}, "m.pt")
    output = faked("m.pt")
    found = torch.load(output, weights_only=True)["w"]
    np.testing.assert_array_equal(found.numpy(), expected("w", np.broadcast_to(VALUES[0], (5, 256))))


def test_a_directory_keeps_its_index_to_the_byte(tmp_path):
    from tests.cli.test_apply import checkpoint

    checkpoint("m")
    options = ("--dtype", "int8", "--include", "*.weight", "--to", "fake", "-o", "q")
    assert klcal("apply", "m", *options).code == 0
    names = sorted(path.relative_to("m") for path in Path("m").rglob("*"))
    assert sorted(path.relative_to("q") for path in Path("q").rglob("*")) == names
    index = "model.safetensors.index.json"
    assert Path("q", index).read_bytes() == Path("m", index).read_bytes()
    assert klcal("compare", "m", "q", "--include", "*.weight", "--fail-on", "sqnr_db < 30").code == 0


def test_a_file_of_zip_entries_with_comments_and_descriptors_is_sound():
    """A writer that cannot seek puts the CRC-32 behind the data."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        array = io.BytesIO()
        np.save(array, VALUES)
        for name in ("w.npy", "v.npy"):
            archive.writestr(name, array.getvalue())
    Path("a.npz").write_bytes(pipe.data)
    output = faked("a.npz", "--dtype", "int8", "--include", "w")
    assert zipfile.ZipFile(output).testzip() is None
    np.testing.assert_array_equal(np.load(output)["w"], expected("w", VALUES))


def test_gguf_and_onnx_are_what_their_libraries_read():
    from gguf import GGUFReader

    Path("m.gguf").write_bytes(gguf.gguf({"w": gguf.of(VALUES), "h": gguf.of(VALUES.astype(np.float16))}))
    output = faked("m.gguf", *GROUPS)
    found = {each.name: np.array(each.data) for each in GGUFReader(output).tensors}
    np.testing.assert_array_equal(found["w"], expected("w", VALUES))
    half = expected("h", VALUES.astype(np.float16)).astype(np.float16)
    np.testing.assert_array_equal(found["h"], half)
    raw = protobuf.held(9, VALUES.tobytes())
    Path("m.onnx").write_bytes(protobuf.model(protobuf.tensor("w", VALUES.shape, more=raw)))
    output = faked("m.onnx", *GROUPS)
    want = Path("m.onnx").read_bytes().replace(VALUES.tobytes(), expected("w", VALUES).tobytes())
    assert Path(output).read_bytes() == want
    Path("data").write_bytes(VALUES.tobytes())
    beside = protobuf.external(length=VALUES.nbytes, location="data")
    Path("m.onnx").write_bytes(protobuf.model(protobuf.tensor("w", VALUES.shape, more=beside)))
    refused("m.onnx", "in another file")


def test_a_checksum_that_was_not_renewed_is_noticed(monkeypatch):
    """The twin: what reads archives says so."""
    np.savez("a.npz", w=VALUES)
    monkeypatch.setattr(fake, "_renew", lambda *_: None)
    assert zipfile.ZipFile(faked("a.npz", "--dtype", "int8")).testzip() == "w.npy"
