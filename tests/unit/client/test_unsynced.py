"""Writes that are kept until they are durable: what is sent again, and what is not any more."""

from __future__ import annotations

import pytest

from dataplatform.client.unsynced import Unsynced, Write

FILE, OTHER = (1, 2), (1, 3)


def _kept(*writes: tuple[int, bytes], verifier: bytes = b"v1") -> Unsynced:
    unsynced = Unsynced()
    for offset, data in writes:
        unsynced.add(FILE, offset, [data], verifier)
    return unsynced


def _bytes(writes: list[Write]) -> list[tuple[int, bytes]]:
    return [(write.offset, b"".join(write.parts)) for write in writes]


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [
        (0, None, []),
        (4, None, [(2, b"ab")]),
        (4, 5, [(2, b"ab"), (5, b"def")]),
        (0, 4, [(4, b"cdef")]),
        (0, 2, [(2, b"abcdef")]),
        (8, None, [(2, b"abcdef")]),
        (8, 9, [(2, b"abcdef")]),
    ],
)
def test_a_cut(start: int, end: int | None, left: list[tuple[int, bytes]]) -> None:
    unsynced = _kept((2, b"abcdef"))
    unsynced.add(OTHER, 0, [b"other"], b"v1")
    unsynced.cut(FILE, start, end)
    found = unsynced.written_before(b"v2")
    assert _bytes([write for write in found if write.file == FILE]) == left
    assert _bytes([write for write in found if write.file == OTHER]) == [(0, b"other")]
    assert unsynced.size_bytes == sum(write.length for write in found)


def test_what_is_being_cut_is_not_sent_again() -> None:
    """The server may have done it before it died: then its retry does nothing."""
    unsynced = _kept((0, b"abcdef"))
    with unsynced.cutting(FILE, 2):
        assert _bytes(unsynced.written_before(b"v1")) == []
        assert _bytes(unsynced.written_before(b"v2")) == [(0, b"ab")]
    with pytest.raises(OSError, match="no"), unsynced.cutting(FILE, 0):
        raise OSError("no")
    assert _bytes(unsynced.written_before(b"v2")) == [(0, b"ab")]


def test_an_older_write_does_not_come_to_lie_over_a_newer_one() -> None:
    unsynced = _kept((0, b"older"))
    unsynced.add(OTHER, 0, [b"other"], b"v2")
    unsynced.add(FILE, 0, [b"newer"], b"v2")
    mark = unsynced.mark()
    unsynced.add(FILE, 0, [b"newest"], b"v2")
    lost = unsynced.confirm(None, mark, b"v2")
    assert _bytes(lost) == [(0, b"older"), (0, b"newer"), (0, b"newest")]
    assert unsynced.files() == {FILE}
    for write in lost:
        unsynced.resent(write, b"v2")
    assert unsynced.confirm(FILE, unsynced.mark(), b"v2") == []
    assert unsynced.size_bytes == 0


def test_the_oldest() -> None:
    unsynced = _kept((0, b"a"), (1, b"b"))
    assert unsynced.oldest == 1
    assert unsynced.confirm(FILE, 1, b"v1") == []
    assert unsynced.oldest == 2
    assert unsynced.confirm(FILE, 2, b"v1") == []
    assert unsynced.oldest is None
