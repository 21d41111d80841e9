"""Files of the read cache: whatever a disk does to them, they show what was stored, or nothing."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from dataplatform_clients.fuse import blockfiles
from dataplatform_clients.fuse.blockfiles import (
    BLOCK_PIECES,
    HEAD,
    PIECE_BYTES,
    SLOT_BYTES,
    BlockFiles,
    Place,
    place_of,
)

PLACE = Place(1, 0x2A, 3, 0x1F, 2**64 - 5)


@pytest.fixture
def files(tmp_path: Path) -> BlockFiles:
    files = BlockFiles(tmp_path / "cache", "aa")
    files.open()
    return files


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockfiles, "SETTLED_S", -1.0)


def _piece(number: int, length: int = PIECE_BYTES) -> bytes:
    return random.Random(number).randbytes(length)


def test_a_name_is_a_place() -> None:
    assert PLACE.name == "1-2a-3-1f-fffffffffffffffb"
    assert place_of(PLACE.name) == PLACE
    for name in (
        "",
        "1-2-3-4",
        "1-2-3-4-5-6",
        "1-2-3-4-G",
        "01-2-3-4-5",
        "1-2-3-4-+5",
        "1-2-3-4-A",
    ):
        assert place_of(name) is None


def test_what_was_stored_is_there(files: BlockFiles) -> None:
    assert files.read(PLACE, 0, [10], touch=False) is None
    files.write(PLACE, 2, [_piece(2), _piece(3, 100)])
    found = files.read(PLACE, 1, [PIECE_BYTES, PIECE_BYTES, 100], touch=False)
    assert found is not None
    assert found.missing == [1]
    assert not found.is_damaged
    assert found.data[PIECE_BYTES:] == _piece(2) + _piece(3, 100)
    whole = [_piece(n) for n in range(BLOCK_PIECES)]
    files.write(PLACE, 0, whole)
    found = files.read(PLACE, 0, [PIECE_BYTES] * BLOCK_PIECES, touch=False)
    assert found is not None
    assert not found.missing
    assert found.data == b"".join(whole)
    files.remove(PLACE)
    files.remove(PLACE)
    assert files.read(PLACE, 0, [1], touch=False) is None


def test_a_piece_of_another_length_is_not_taken(files: BlockFiles) -> None:
    files.write(PLACE, 0, [_piece(0, 100)])
    found = files.read(PLACE, 0, [99], touch=False)
    assert found is not None
    assert found.missing == [0]


def test_any_flipped_bit_and_any_torn_end_is_noticed(files: BlockFiles, seed: int) -> None:
    chosen = random.Random(seed)
    path = files.path(PLACE)
    for _ in range(200):
        files.write(PLACE, 0, [_piece(0, 3000)])
        whole = path.read_bytes()
        if chosen.random() < 0.5:
            damaged = bytearray(whole)
            damaged[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        else:
            damaged = bytearray(whole[: chosen.randrange(1, len(whole))])
        path.write_bytes(damaged)
        found = files.read(PLACE, 0, [3000], touch=False)
        assert found is not None
        assert found.missing == [0]
        assert found.is_damaged
        files.remove(PLACE)


def test_a_piece_that_is_being_stored_is_no_damage(
    files: BlockFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockfiles, "SETTLED_S", 5.0)
    files.write(PLACE, 0, [_piece(0)])
    os.truncate(files.path(PLACE), 3000)
    found = files.read(PLACE, 0, [PIECE_BYTES], touch=False)
    assert found is not None
    assert found.missing == [0]
    assert not found.is_damaged
    os.utime(files.path(PLACE), (100, 100))
    found = files.read(PLACE, 0, [PIECE_BYTES], touch=True)
    assert found is not None
    assert found.is_damaged


def test_what_stands_in_a_wrong_place_is_noticed(files: BlockFiles) -> None:
    files.write(PLACE, 0, [_piece(0), _piece(1)])
    other = PLACE._replace(inode=7)
    files.path(other).parent.mkdir(exist_ok=True)
    files.path(other).write_bytes(files.path(PLACE).read_bytes())
    found = files.read(other, 0, [PIECE_BYTES], touch=False)
    assert found is not None
    assert found.is_damaged
    with files.path(PLACE).open("r+b") as file:
        slot = file.read(SLOT_BYTES)
        file.seek(SLOT_BYTES)
        file.write(slot)
    found = files.read(PLACE, 0, [PIECE_BYTES] * 2, touch=False)
    assert found is not None
    assert found.missing == [1]


def test_two_stores_do_not_meet(files: BlockFiles, tmp_path: Path) -> None:
    other = BlockFiles(tmp_path / "cache", "bb")
    other.open()
    files.write(PLACE, 0, [b"aaa"])
    assert other.read(PLACE, 0, [3], touch=False) is None
    assert list(other.scan()) == []


def test_a_scan_finds_blocks_and_leaves_the_rest_alone(files: BlockFiles) -> None:
    places = [PLACE._replace(block=number) for number in range(20)]
    for place in places:
        files.write(place, 1, [_piece(place.block, 5000)])
    os.utime(files.path(places[3]), (100, 100))
    stranger = files.path(PLACE).with_name("holiday.jpg")
    stranger.write_bytes(b"x")
    found = {stored.place: stored for stored in files.scan()}
    assert set(found) == set(places)
    assert found[places[3]].used_s == 100
    assert all(4096 <= stored.size_bytes <= 20_000 for stored in found.values())
    files.read(places[3], 1, [5000], touch=True)
    assert {s.place: s.used_s for s in files.scan()}[places[3]] > 100
    assert stranger.exists()


def test_it_is_closed_to_others(files: BlockFiles) -> None:
    files.write(PLACE, 0, [b"secret"])
    assert files.directory.stat().st_mode & 0o777 == 0o700
    assert files.path(PLACE).stat().st_mode & 0o777 == 0o600


def test_a_disk_that_gets_full_within_a_block(
    files: BlockFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(descriptor: int, buffers: list[bytes], offset: int) -> int:
        return os.pwrite(descriptor, b"".join(buffers)[: HEAD.size + 5], offset)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    real = os.pwrite
    monkeypatch.setattr(os, "pwritev", short)
    files.write(PLACE, 0, [b"0123456789"])  # the rest went well
    found = files.read(PLACE, 0, [10], touch=False)
    assert found is not None
    assert found.data == b"0123456789"
    monkeypatch.setattr(os, "pwritev", lambda d, b, o: real(d, b"".join(b)[:20], o))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="no space"):
        files.write(PLACE, 0, [b"9876543210"])
