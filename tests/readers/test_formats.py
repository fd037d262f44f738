"""A file's first bytes choose its reader, whatever its name; what is no tensor file is told what it is."""

import gzip
import io
import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers import formats
from klcal.readers.formats import SUFFIXES, describe, stem
from tests.support import gguf
from tests.support.files import check_words, file_of, zipped
from tests.support.lazy import torch

ONES = np.ones(3, np.float32)
PICKLED = [".pt", ".pth", ".bin", ".ckpt"]
OTHER = [".npy", ".npz", ".safetensors", ".gguf", ".txt", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, ONES)
    return out.getvalue()


def npz(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def pt(legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save({"w": torch.ones(3)}, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def refusal(file) -> str:
    with pytest.raises(InputError) as caught:
        describe(file, "x")
    check_words(str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [*sorted(SUFFIXES), ".txt", ""])
def test_the_content_decides_where_it_can(folder, suffix):
    named = (npz(w=ONES), safetensors.numpy.save({"w": ONES}), gguf.gguf({"w": gguf.of(ONES)}))
    for data, name in ((npy(), "x"), *((data, "w") for data in named)):
        (found,) = describe(file_of(folder, data, suffix), "x.npy")
        assert (found.name, found.shape, found.status) == (name, (3,), "ok")


@pytest.mark.parametrize("suffix", PICKLED)
def test_pytorch_files_are_read_under_the_names_that_pytorch_gives(folder, suffix):
    for data in (pt(), pt(legacy=True)):
        (found,) = describe(file_of(folder, data, suffix), "x")
        assert (found.name, found.shape, found.status) == ("w", (3,), "ok")


@pytest.mark.parametrize("suffix", OTHER)
def test_a_pickle_is_interpreted_under_no_other_name(folder, suffix):
    says = "interpreted only in files called .pt, .pth, .bin or .ckpt; give it by such a name"
    for data in (pickle.dumps([1], protocol) for protocol in (2, 3, 4, 5)):
        assert says in refusal(file_of(folder, data, suffix))
    assert says in refusal(file_of(folder, pt(legacy=True), suffix))
    assert "give it by a name that ends in .npz or .pt" in refusal(file_of(folder, pt(), suffix))


@pytest.mark.parametrize("suffix", [*PICKLED, *OTHER])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE HTML><html>", "web page"),
        (b"<html><body>Not found", "web page"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (gzip.compress(b"x", mtime=0), "gzip; run gunzip"),
        (b"\x28\xb5\x2f\xfd\x04\0", "zstd; run unzstd"),
        (b"\xfd7zXZ\x00\0", "xz; run unxz"),
        (b"\x89HDF\r\n\x1a\n\0", "HDF5"),
        (b'{"error": "Repository not found"}', "it is a text file; klcal reads"),
        ("größer als 5 GB: siehe Ordner\n".encode(), "it is a text file; klcal reads"),
    ],
)
def test_files_that_are_often_mistaken_for_models_are_named(folder, data, says, suffix):
    with pytest.raises(InputError, match=f"(?s){says}"):
        describe(file_of(folder, data, suffix), "x")


def test_an_archive_of_no_arrays_is_known_by_its_suffix(folder):
    assert describe(file_of(folder, npz(), ".npz"), "x") == []
    assert "zip archive" in refusal(file_of(folder, npz(), ".zip"))
    assert "no data.pkl" in refusal(file_of(folder, zipped({"a": b"b"}), ".pt"))
    (found,) = describe(file_of(folder, zipped({"readme": b"b"}), ".npz"), "x")
    assert (found.name, found.status) == ("readme", "unsupported")


@given(
    data=st.binary(max_size=80), mark=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\1\0", b"\x80\2"])
)
def test_arbitrary_bytes_end_in_an_input_error_or_without_tensors(folder, data, mark):
    for suffix in (".pt", ".npz", ""):
        file = file_of(folder, mark + data, suffix)
        try:
            assert describe(file, "x") == []
        except InputError as error:
            check_words(str(error))


def test_a_reader_is_imported_when_it_reads(folder, monkeypatch):
    imported = []
    real = formats.import_module
    monkeypatch.setattr(formats, "import_module", lambda name: imported.append(name) or real(name))
    describe(file_of(folder, npy(), ".pt"), "x")
    assert imported == ["klcal.readers.npy_file"]


@given(st.text(max_size=10).filter(lambda name: "/" not in name), st.sampled_from(sorted(SUFFIXES)))
def test_a_source_loses_the_suffix_of_a_tensor_file_and_no_other(name, suffix):
    assert stem(f"a{name}{suffix}") == stem(f"a{name}{suffix.upper()}") == f"a{name}"
    assert stem(f"a{name}.x") == f"a{name}.x"
