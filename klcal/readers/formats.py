"""The reader of a file, found by its first bytes; by its suffix only if they do not tell.

Pickles are the exception: a pickle is interpreted only in a file with a suffix that PyTorch uses.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from importlib import import_module

from klcal.errors import InputError
from klcal.readers.addresses import shown
from klcal.readers.description import Description
from klcal.readers.regular import HEAD_BYTES, RegularFile

__all__ = [
    "GGUF",
    "HEAD_BYTES",
    "KNOWN",
    "ONNX",
    "READERS",
    "SUFFIXES",
    "Reader",
    "check_format",
    "describe",
    "is_text",
    "reader_of",
    "stem",
]

Reader = Callable[[RegularFile, str], list[Description]]
"""From a file, and the name for a tensor that has none of its own, to the file's tensors."""


def reader_of(module: str, function: str = "describe") -> Reader:
    """The reader of a module, imported when it reads: most runs need one."""

    def describe(file: RegularFile, name: str) -> list[Description]:
        reader: Reader = getattr(import_module(f"klcal.readers.{module}"), function)
        return reader(file, name)

    return describe


ONNX = ".onnx"
"""The suffix of models whose values may lie in files beside them."""

READERS: dict[str, Reader] = {
    ".npy": reader_of("npy_file"),
    ".npz": reader_of("npz_file"),
    ".safetensors": reader_of("safetensors_file"),
    ONNX: reader_of("onnx_file"),
    ".gguf": reader_of("gguf_file"),
    ".pt": reader_of("pt.file"),
    ".pth": reader_of("pt.file"),
    ".bin": reader_of("pt.file"),
    ".ckpt": reader_of("pt.file"),
}
NPY_BATCHES = reader_of("npy_file", "describe_batches")
SUFFIXES = frozenset(READERS)
PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt"})

ZIP_NAME = slice(26, 28)  # of a zip's first header: the length of the first member's name
ZIP_HEADER_BYTES = 30  # before that name
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # the protocols that torch has written
DOWNLOAD = "download the file itself"
CONVERT = "save its tensors as .safetensors or .npz"

FOREIGN = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file", "run 'git lfs pull'"),
    (b"<!doctype html", "it is a web page that was saved as a model", DOWNLOAD),
    (b"<html", "it is a web page that was saved as a model", DOWNLOAD),
    (b"<?xml", "it is an XML document, such as a server's error message", DOWNLOAD),
    (b"\x1f\x8b", "it is compressed with gzip", "run gunzip"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd", "run unzstd"),
    (b"\xfd7zxz\x00", "it is compressed with xz", "run unxz"),
    (b"\x89hdf\r\n\x1a\n", "it is an HDF5 file", CONVERT),
)
"""Beginnings, in lower case, of files that are not tensor files: what they are, and what to do."""
GGUF = (b"GGUF", b"FUGG")  # the second is big endian, which its reader refuses
KNOWN = "klcal reads .npy, .npz, .safetensors, .onnx, .gguf and PyTorch's .pt, .pth, .bin and .ckpt"


def describe(file: RegularFile, source: str, *, batches: bool = False) -> list[Description]:
    """The tensors of a file that is not an index.

    Args:
        file: The file.
        source: Its name in the table; a tensor without a name of its own is called so, less the suffix.
        batches: Whether a .npy may hold several arrays, one behind the other: tensors of one name.

    Raises:
        InputError: If its format is not known, or nothing of it can be used.
    """
    head = file.beginning(HEAD_BYTES)
    if not head:
        raise InputError("the file is empty", "download or save it again")
    suffix = posixpath.splitext(shown(file.path))[1].lower()
    reader = _reader(head, suffix)
    return (NPY_BATCHES if batches and reader is READERS[".npy"] else reader)(file, stem(source))


def check_format(head: bytes) -> None:
    """Raises InputError if a file without a name that begins with these bytes cannot be a tensor file."""
    _reader(head, "")


def stem(source: str) -> str:
    """A source without the suffix of a tensor file; "stdin" for standard input.

    >>> stem("layer.0/x.npy"), stem("layer.0"), stem("-")
    ('layer.0/x', 'layer.0', 'stdin')
    """
    if source == "-":
        return "stdin"
    root, suffix = posixpath.splitext(source)
    return root if suffix.lower() in SUFFIXES else source


def _reader(head: bytes, suffix: str) -> Reader:
    if _begins_as_safetensors(head):  # first: its length may look like the mark of another format
        return READERS[".safetensors"]
    whole = head.lower()
    text = whole.lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, what, hint in FOREIGN:
        if text.startswith(start) or whole.startswith(start):
            raise InputError(what, hint)
    if head.startswith(b"\x93NUMPY"):
        return READERS[".npy"]
    if head.startswith(GGUF):
        return READERS[".gguf"]
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_reader(head, suffix)
    if suffix in PICKLED:
        return READERS[suffix]
    if head.startswith(PICKLE):
        what = "it is a pickle, which is interpreted only in files called .pt, .pth, .bin or .ckpt"
        raise InputError(what, "give it by such a name if torch.save wrote it")
    if is_text(head):
        raise InputError("it is a text file", KNOWN)
    if suffix in SUFFIXES:
        return READERS[suffix]  # its reader gives the best error message
    raise InputError("its format is not known", KNOWN)


def _zip_reader(head: bytes, suffix: str) -> Reader:
    """NumPy's archives hold .npy files, PyTorch's a pickle."""
    length = int.from_bytes(head[ZIP_NAME], "little")
    first = head[ZIP_HEADER_BYTES : ZIP_HEADER_BYTES + length]
    if first.endswith(b".npy"):
        return READERS[".npz"]
    if suffix in PICKLED or (suffix == ".npz" and not first.endswith(b"/data.pkl")):
        return READERS[suffix]
    if suffix == ".pt2":  # its reader explains the format
        return READERS[".pt"]
    hint = "give it by a name that ends in .npz or .pt, if NumPy or PyTorch wrote it"
    raise InputError("it is a zip archive whose name does not say what it holds", hint)


def _begins_as_safetensors(head: bytes) -> bool:
    """A length that a header can have (100,000,000 bytes at most), then the header's first character."""
    return head[4:9] == b"\0\0\0\0{"


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text."""
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in head)  # other bytes may be UTF-8
