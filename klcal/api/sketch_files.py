"""The functions of the library for sketch files: the commands ``klcal sketch`` and ``klcal merge``, as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from klcal.api.arguments import Path, count, globs, text
from klcal.api.arguments import path as path_of
from klcal.api.arguments import paths as paths_of

if TYPE_CHECKING:
    from klcal.pipeline.merge import Merged
    from klcal.pipeline.request import ByName
    from klcal.pipeline.sketch import Sketched
    from klcal.quantizers.granularity import Per
    from klcal.sketches.sketch import Sketch

__all__ = ["load_sketches", "merge", "save_sketches", "sketch_files"]


def sketch_files(
    paths: Path | Sequence[Path],
    output: Path,
    *,
    per: ByName[Per] = "tensor",
    importance: Path | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    dequantize: bool = False,
    pool: str | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
) -> Sketched:
    """Count the values of tensors in files, and write the counts to a sketch file: as ``klcal sketch``.

    >>> import tempfile, numpy as np, klcal
    >>> folder = tempfile.mkdtemp()
    >>> np.savez(f"{folder}/batch_0.npz", x=np.float32([1, 2])); np.savez(f"{folder}/batch_1.npz", x=np.float32([2]))
    >>> for number in range(2):
    ...     print(klcal.sketch_files(f"{folder}/batch_{number}.npz", f"{folder}/{number}.safetensors").tensors)
    1
    1
    >>> klcal.merge([f"{folder}/{number}.safetensors" for number in range(2)], f"{folder}/all.safetensors").tensors
    1
    >>> klcal.load_sketches(f"{folder}/all.safetensors")["x"].counts.tolist()
    [1, 2]

    Args:
        paths: one path or several: files, directories, patterns.
        output: the sketch file. It is written as a whole or not at all.
        per: the units that get a scale, as for ``klcal.calibrate_files``.
        importance: a file with the importance of each tensor, under the name of the tensor.
        include: globs: only tensors whose name matches one of them are used; empty for all tensors.
        exclude: globs: tensors whose name matches one of them are left out.
        dequantize: whether codes with a scale in the same file are restored to their values.
        pool: which tensors count as batches of one tensor: "dir", "stem", "name" or a pattern, as for ``--pool``.
        jobs: the number of processes that count. The file does not depend on it.
        scheduler: the address of a Dask cluster that counts instead, or "local": as for ``--scheduler``.
        resume: whether finished sketches are kept in the folder OUTPUT.part until all are there, and used again.

    Returns:
        The number of ``tensors`` that were written; the ``failures``, each with its source, name and reason; and
        ``warnings``. Without any tensor, no file is written.

    Raises:
        UsageError: an argument is invalid, or one of the files cannot be used, or two tensors have the same name.
        OutputError: writing failed.
    """
    from klcal.pipeline import sketch
    from klcal.pipeline.gathered import Asked
    from klcal.pipeline.pooling import Pool
    from klcal.pipeline.request import Request

    batches = None if pool is None else Pool.parse(text("pool", pool))
    return sketch.sketch_files(
        paths_of("paths", paths),
        path_of("output", output),
        Asked(globs("include", include), globs("exclude", exclude), dequantize, batches),
        per=Request.parse(per=per).per,
        importance=None if importance is None else path_of("importance", importance),
        jobs=count("jobs", jobs),
        scheduler=None if scheduler is None else text("scheduler", scheduler),
        resume=resume,
    )


def merge(parts: Path | Sequence[Path], output: Path, *, allow_duplicates: bool = False) -> Merged:
    """Add up the sketches of each tensor in sketch files: as ``klcal merge``. See ``klcal.sketch_files``.

    Addition is exact: the file has the same bytes for any order and grouping of the parts.

    Args:
        parts: one path or several: sketch files, directories of them, patterns.
        output: the sketch file. It is written as a whole or not at all.
        allow_duplicates: whether the same input may be counted twice.

    Returns:
        The number of ``tensors`` that were written, and ``notes`` on those whose resolutions differed.

    Raises:
        InputError: a part is not a sketch file or is damaged, or a tensor has another dtype or other units in two
            parts, or two parts have counted the same input.
        UsageError: an argument is invalid, or the output cannot be written.
        OutputError: writing failed.
    """
    from klcal.pipeline.merge import merge_files

    return merge_files(paths_of("parts", parts), path_of("output", output), allow_duplicates=allow_duplicates)


def save_sketches(path: Path, sketches: Mapping[str, Sketch], dtype: str | Mapping[str, str] = "float32") -> None:
    """Write sketches to a file, as a whole or not at all. All functions for files take it in place of the tensors.

    Args:
        path: the file; its name should end in .safetensors.
        sketches: of tensors, by their names.
        dtype: of the values that were counted: one for all tensors, or a mapping from names to dtypes.

    Raises:
        UsageError: the path cannot be written to, or a sketch has several units and no grid.
        OutputError: writing failed.
    """
    from klcal.sketches.named import Named
    from klcal.writers.sketch_file import digest, fingerprint, save

    of = {} if isinstance(dtype, str) else dtype
    one = dtype if isinstance(dtype, str) else "float32"
    named = [Named(name, of.get(name, one), None, sketch) for name, sketch in sketches.items()]
    save(path_of("path", path), lambda _: named, lambda: [fingerprint(map(digest, named))])


def load_sketches(path: Path) -> dict[str, Sketch]:
    """Read the sketches of a file, by the names of their tensors. They equal the saved ones, to the bit.

    Raises:
        InputError: the file is not a sketch file, or is damaged.
    """
    from klcal.readers.sketch_file import open_sketches

    file = open_sketches(path_of("path", path))
    return {name: file.load(name).sketch for name in file.tensors}
