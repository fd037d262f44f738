"""The functions of the library for sketch files: what ``klcal sketch`` and ``klcal merge`` do, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from klcal.arguments import Path, count, globs, text
from klcal.arguments import path as path_of
from klcal.arguments import paths as paths_of

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
    resume: bool = False,
) -> Sketched:
    """Counts the tensors of some files, and keeps the counts alone, in a sketch file: as ``klcal sketch``.

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
        paths: files, directories, patterns; one, or several.
        output: the sketch file, all of it or nothing.
        per: what gets a scale of its own: as ``klcal.calibrate_files`` takes it.
        importance: a file of weights, by the names of tensors.
        include: globs, one of which a tensor's name has to match; none for all tensors.
        exclude: globs, none of which it may match.
        dequantize: whether codes that have a scale beside them are taken for what they stand for.
        pool: which tensors are batches of one: "dir", "stem", "name" or a pattern, as ``--pool`` has it.
        jobs: how many processes count; the file does not depend on it.
        resume: whether finished sketches are kept in the folder OUTPUT.part until all are there, and used again.

    Returns:
        How many ``tensors`` were written; the ``failures``, each with its source, name and reason; ``warnings``. Where
        there are no tensors, no file is written.

    Raises:
        UsageError: an argument is not understood, or a file of it cannot be used; two tensors have one name.
        OutputError: the file could not be written after all.
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
        resume=resume,
    )


def merge(parts: Path | Sequence[Path], output: Path, *, allow_duplicates: bool = False) -> Merged:
    """Adds up the sketches of each tensor in some sketch files: as ``klcal merge``. See ``klcal.sketch_files``.

    Exact: the file is the same, byte by byte, in any order and grouping.

    Args:
        parts: sketch files, directories of them, patterns; one, or several.
        output: the sketch file, all of it or nothing.
        allow_duplicates: whether the same input may be counted twice.

    Returns:
        How many ``tensors`` were written, and ``notes`` on those whose resolutions differed.

    Raises:
        InputError: a part is no sketch file, or damaged; two are of tensors that differ in dtype or units; an input is
            in two of them.
        UsageError: an argument is not understood, or the output cannot be written.
        OutputError: it could not be written after all.
    """
    from klcal.pipeline.merge import merge_files

    return merge_files(paths_of("parts", parts), path_of("output", output), allow_duplicates=allow_duplicates)


def save_sketches(path: Path, sketches: Mapping[str, Sketch], dtype: str | Mapping[str, str] = "float32") -> None:
    """Writes sketches to a file that ``klcal`` takes wherever it takes tensors, all of it or nothing.

    Args:
        path: the file; its name should end in .safetensors.
        sketches: of tensors, by their names.
        dtype: of the values that were counted; of each tensor, by its name, where they differ.

    Raises:
        UsageError: there can be no such file; a sketch has several units and no grid.
        OutputError: it could not be written after all.
    """
    from klcal.sketches.named import Named
    from klcal.writers.sketch_file import digest, fingerprint, save

    of = {} if isinstance(dtype, str) else dtype
    one = dtype if isinstance(dtype, str) else "float32"
    named = [Named(name, of.get(name, one), None, sketch) for name, sketch in sketches.items()]
    save(path_of("path", path), lambda _: named, lambda: [fingerprint(map(digest, named))])


def load_sketches(path: Path) -> dict[str, Sketch]:
    """The sketches of a file, by the names of their tensors; they are what was saved, to the bit.

    Raises:
        InputError: it is no sketch file, or damaged.
    """
    from klcal.readers.sketch_file import open_sketches

    file = open_sketches(path_of("path", path))
    return {name: file.load(name).sketch for name in file.tensors}
