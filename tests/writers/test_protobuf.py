"""Messages written again: what is replaced is, all else is as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klcal.readers.protobuf import BYTES, Messages
from klcal.readers.regular import open_regular
from klcal.writers.protobuf import Edit, Piece, edited, field, integer, number, placed, size
from tests.support import protobuf


@given(st.integers(0, (1 << 64) - 1))
def test_an_integer_is_what_is_read(value):
    assert integer(value) == protobuf.integer(value)
    assert number(3 << 3, value) == protobuf.number(3, value)


def test_a_field_is_what_is_read():
    assert field(5 << 3 | BYTES, "é" * 200) == protobuf.held(5, "é" * 200)


def test_fields_are_replaced_inserted_and_left_out(tmp_path):
    """Fields of every kind, of which any may go; at both ends of the message, and between."""
    parts = [protobuf.number(1, 300), protobuf.held(2, "two"), b"\x1d1234", protobuf.held(4, ""), b"\x29" + bytes(8)]
    path = tmp_path / "m"
    path.write_bytes(b"".join(parts))
    file = open_regular(str(path))
    whole = Messages(file).whole()
    places = [(begin, each.end) for begin, each in placed(Messages(file), whole)]
    assert [path.read_bytes()[begin:end] for begin, end in places] == parts

    def written(edits: list[Edit]) -> bytes:
        pieces = [*edited(file, whole, edits)]
        data = b"".join(bytes(block) for piece in pieces for block in piece.data())
        assert len(data) == size(pieces)
        return data

    assert written([]) == b"".join(parts)
    for number_, (begin, end) in enumerate(places):
        rest = parts[:number_], parts[number_ + 1 :]
        assert written([Edit(begin, end)]) == b"".join([*rest[0], *rest[1]])
        assert written([Edit(begin, end, (Piece.of(b"new"),))]) == b"".join([*rest[0], b"new", *rest[1]])
        assert written([Edit(end, end, (Piece.of(b"new"),)), Edit(begin, begin, (Piece.of(b"old"),))]) == b"".join(
            [*rest[0], b"old", parts[number_], b"new", *rest[1]]
        )
