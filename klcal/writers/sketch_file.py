"""Sketch files: a .safetensors file of integers, specified in docs/sketch-format.md.

Sketches come one by one, and are laid aside beside the output, in a file without a name. When all are there, the header
is made, and they follow it in the order of their names. So memory is that of one sketch, and the bytes do not depend on
the order in which sketches came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from klcal.errors import OutputError, UsageError
from klcal.quantizers.granularity import Grid
from klcal.sketches.named import Named, arrays_of
from klcal.tables.schema import SKETCH
from klcal.writers.file import begin_to_store, is_special, reason, replacement
from klcal.writers.safetensors_file import Announced, header_of
from klcal.writers.spool import Spool

__all__ = ["Laid", "digest", "fingerprint", "lay", "save"]

DIGEST_BYTES = 16  # of a fingerprint: two of a billion inputs are alike with a chance below 1e-20
STORED_BYTES = 1 << 24  # after which the disk begins to store them: of 288 MB, copied in 75 ms, 80 more became 20
KINDS = {"<i8": "I64", "<f8": "F64", "<i4": "I32", "<u4": "U32"}


class Laid(NamedTuple):
    """A sketch that lies in a spool as its file will have it: whoever counted it may have laid it there."""

    name: str  # of the tensor
    document: str  # its JSON: whoever laid it made it, so the process that writes the file need not
    arrays: dict[str, tuple[str, tuple[int, ...], int]]  # dtype, shape and bytes of each; they lie in this order
    begin: int  # of the first of them

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(nbytes for _, _, nbytes in self.arrays.values())


Sketches: TypeAlias = Callable[[Spool], Iterable[Named | Laid]]


def save(path: str, sketches: Sketches, inputs: Callable[[], Iterable[str]], read: Iterable[str] = ()) -> int:
    """Writes a sketch file, all of it or nothing; none where there are no sketches.

    Args:
        path: the file.
        sketches: gives one of each name; may lay them in the spool.
        inputs: what was counted, a fingerprint each; asked when all sketches have come.
        read: the paths of what is read, which must not be written.

    Returns:
        How many sketches there were.

    Raises:
        UsageError: the file cannot be written, or two sketches have one name.
        OutputError: it could not be written after all.
    """
    if is_special(path):
        raise UsageError(f"cannot write '{path}': it is a pipe or a device", "name a file")
    with replacement(path, [*read]) as file, Spool(path) as spool:
        try:
            there = [each if isinstance(each, Laid) else lay(each, spool) for each in sketches(spool)]
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {reason(error)}", "make room") from error
        there.sort(key=attrgetter("name"))
        for one, other in pairwise(there):
            if one.name == other.name:
                raise UsageError(f"two sketches are called {one.name!r}", "give each a name of its own")
        if there:
            header = header_of(_announced(there), _metadata(there, inputs()))
            file.replace(lambda out: _write(header, there, spool, out.buffer))
    return len(there)


def fingerprint(digests: Iterable[bytes]) -> str:
    """The fingerprint of what was counted together, whatever its order: 32 hexadecimal digits.

    Args:
        digests: of the parts, 16 bytes each.
    """
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=DIGEST_BYTES).hexdigest()


def digest(one: Named) -> bytes:
    """The fingerprint of a tensor that was counted: of its name, dtype, shape and counts; 16 bytes."""
    found = hashlib.blake2b(json.dumps(_document(one), sort_keys=True).encode(), digest_size=DIGEST_BYTES)
    for array in arrays_of(one.sketch).values():
        found.update(array.tobytes())
    return found.digest()


def _document(one: Named) -> dict[str, Any]:
    resolution, grid = one.sketch.resolution, one.sketch.grid
    return {
        "name": one.name,
        "dtype": one.dtype,
        "shape": one.shape,
        "batches": one.batches,
        "aliases": sorted(one.aliases),
        "mantissa_bits": resolution.mantissa_bits,
        "least_bits": resolution.least_bits,
        "few": resolution.few,
        "grid": None if grid is None else _grid(grid),
    }


def _grid(grid: Grid) -> dict[str, Any]:
    return {"per": str(grid.per), "axis": grid.axis, "size": grid.size, "shape": grid.shape, "note": grid.note}


def lay(one: Named, spool: Spool) -> Laid:
    """Lays a sketch aside, as its file will have it.

    Args:
        one: the sketch, with its name.
        spool: where it is laid; several processes may lay sketches there.

    Raises:
        UsageError: it has several units and no grid.
        OSError: there is no room.
    """
    if one.sketch.grid is None and one.sketch.units != 1:
        what = f"{one.name!r} has {one.sketch.units} units without a grid"
        raise UsageError(what, "save them one by one: sketch[i:i+1]")
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays_of(one.sketch).items()}
    announced = {key: (KINDS[array.dtype.str], array.shape, array.nbytes) for key, array in arrays.items()}
    document = json.dumps(_document(one), separators=(",", ":"))
    return Laid(one.name, document, announced, spool.append([*arrays.values()]))


def _metadata(laid: Sequence[Laid], inputs: Iterable[str]) -> dict[str, str]:
    documents = f'{{"sketches":[{",".join(each.document for each in laid)}]}}'
    return {"schema": SKETCH, "inputs": " ".join(sorted(inputs)), "sketches": documents}


def _announced(laid: Iterable[Laid]) -> Iterator[Announced]:
    """The arrays of all sketches, those of each behind one another."""
    for number, each in enumerate(laid):
        for key, (kind, shape, nbytes) in each.arrays.items():
            yield Announced(f"{number}.{key}", kind, shape, nbytes)


def _write(header: bytes, laid: Iterable[Laid], spool: Spool, out: BinaryIO) -> None:
    """The file; while it is copied, the disk is busy with its front already."""
    out.write(header)
    begun, end = 0, len(header)
    for each in laid:
        out.writelines(spool.read(each.begin, each.nbytes))
        end += each.nbytes
        if end - begun >= STORED_BYTES:
            begin_to_store(out.fileno(), begun, end)
            begun = end
