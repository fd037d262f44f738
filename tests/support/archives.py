"""Zip archives with one thing wrong."""

import struct

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
# Where a field stands in a member's own header, and in the directory: APPNOTE.TXT 4.3.7 and 4.3.12.
FIELDS = {"flags": (6, 8), "method": (8, 10), "crc": (14, 16), "stored": (18, 20), "size": (22, 24), "name": (30, 46)}
SIZES = {"flags": "<H", "method": "<H", "crc": "<L", "stored": "<L", "size": "<L", "header": "<L", "attributes": "<L"}


def places(data: bytes, mark: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(mark, at)]


def altered(data: bytes, field: str, value: int | bytes, member: int = 0, where: str = "both") -> bytes:
    """The archive with one field of a member changed, in its own header, in the directory or in both."""
    result = bytearray(data)
    own, directory = FIELDS.get(field, (0, {"header": 42, "attributes": 38}.get(field)))
    for mark, offset, side in ((LOCAL, own, "own"), (CENTRAL, directory, "directory")):
        if where in (side, "both") and offset:
            at = places(data, mark)[member] + offset
            packed = value if isinstance(value, bytes) else struct.pack(SIZES[field], value)
            result[at : at + len(packed)] = packed
    return bytes(result)
