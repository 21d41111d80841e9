"""Torn or rotten: what a damaged write-ahead log of RocksDB means.

A power cut tears the end of the log: the last records, never synced, are partly on disk. That is
normal and costs nothing that was acknowledged. Damage with whole records after it is another
matter: acknowledged commits are lost. RocksDB has a recovery mode for neither:

- ``tolerate_corrupted_tail_records`` drops a record that the file ends in, and refuses every other
  damage, also a torn last record whose length is there but whose bytes are not;
- ``point_in_time`` opens on all of these, and silently drops everything after the damage.

So the engine opens with the first one, and where that refuses, this module decides: if no whole
record follows the damage, the tail was torn, and the second mode is right.

Log format: 32 KiB blocks of records, each ``crc32c (masked), length, type, payload``; see
https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .checksums import crc32c

BLOCK_BYTES = 32 * 1024
HEADER_BYTES = 7
STARTS = (1, 2)  # record types FULL and FIRST: something begins here, it is no torn remainder
ENDS = (1, 4)  # FULL and LAST
TYPE_LAST = 4
MASK_DELTA = 0xA282EAD8


def is_torn(directory: Path) -> bool:
    """Whether the only damage in the logs of a database is at their end."""
    damaged = False
    for path in sorted(directory.glob("*.log"), key=lambda path: int(path.stem)):
        for intact, starts in _records(path.read_bytes()):
            if damaged and intact and starts:
                return False
            damaged = damaged or not intact
    return damaged


def has_unknown_record(log: bytes) -> bool:
    """Whether the first record that is not whole is of no type that there is."""
    return any(not whole and record[6] > TYPE_LAST for record, whole in _until_damage(log))


def payloads(log: bytes) -> Iterator[bytes]:
    """What the log holds, up to the first record that is not whole."""
    parts: list[memoryview] = []
    for record, whole in _until_damage(log):
        if not whole:
            return
        kind = record[6]
        if kind in STARTS:
            parts = []
        parts.append(record[HEADER_BYTES:])
        if kind in ENDS:
            yield b"".join(parts)


def _until_damage(log: bytes) -> Iterator[tuple[memoryview, bool]]:
    """Each record and whether it is whole; one that is not is the last."""
    data = memoryview(log)
    for block_start in range(0, len(data), BLOCK_BYTES):
        block = data[block_start : block_start + BLOCK_BYTES]
        at = 0
        while at + HEADER_BYTES <= len(block) and any(block[at : at + HEADER_BYTES]):
            end = at + HEADER_BYTES + int.from_bytes(block[at + 4 : at + 6], "little")
            record = block[at:end]
            whole = end <= len(block) and _intact(record)
            yield record, whole
            if not whole:
                return
            at = end


def _records(log: bytes) -> Iterator[tuple[bool, bool]]:
    """For each record whether it is intact, and whether something starts with it."""
    data = memoryview(log)
    for block_start in range(0, len(data), BLOCK_BYTES):
        block = data[block_start : block_start + BLOCK_BYTES]
        at = 0
        while at + HEADER_BYTES <= len(block):
            if not any(block[at:]):
                break  # filled up, or allocated ahead
            length = int.from_bytes(block[at + 4 : at + 6], "little")
            end = at + HEADER_BYTES + length
            if end > len(block):
                yield False, False
                break  # the length is no use for finding the next record
            yield _intact(block[at:end]), block[at + 6] in STARTS
            at = end


def _intact(record: memoryview) -> bool:
    crc = crc32c(record[6:])
    masked = (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF
    return masked == int.from_bytes(record[:4], "little")
