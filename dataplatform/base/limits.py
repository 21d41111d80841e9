"""Named limits. Each says why it exists; the one place to look when something is refused."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

NAME_BYTES_MAX = 255
"""One directory entry, as NAME_MAX of Linux: programs behind the mount rely on it."""

PATH_DEPTH_MAX = 256
"""Names in one path. Bounds the walk of a single request; PATH_MAX / 2 names would be 2048."""

PATH_BYTES_MAX = 4096
"""One path in bytes, as PATH_MAX of Linux."""

SYMLINK_FOLLOW_MAX = 40
"""Symbolic links followed in one walk, as Linux does, before ELOOP."""

LINK_COUNT_MAX = 65_000
"""Hard links of one inode, as ext4: EMLINK beyond."""

XATTR_NAME_BYTES_MAX = 255
XATTR_VALUE_BYTES_MAX = 64 * KIB
"""As XATTR_SIZE_MAX of Linux."""

FILE_BYTES_MAX = 2**63 - 1
"""Offsets are signed 64-bit in POSIX (off_t)."""

BLOCK_BYTES = 4 * KIB
"""The unit of the file map for small writes: a smaller write rewrites its block."""

EXTENT_BYTES_MIN = 64 * KIB
"""File writes and record batches from here on go to a segment, smaller ones to the engine.
Measured: docs/decisions/0002-extent-threshold.md."""

IO_BYTES_MAX = 8 * MIB
"""File bytes in one read or write request. Clients split larger ones."""

ROW_KEY_BYTES_MAX = 4 * KIB
"""A row key stands in every index block and every change row."""

ROW_BYTES_MAX = 4 * MIB
"""All columns of one row, packed: a row is read and rewritten as a whole."""

COLUMNS_MAX = 10_000
"""Columns of one row."""

TOPIC_NAME_BYTES_MAX = 249
"""As Kafka, so that any Kafka client can be served."""

PARTITIONS_MAX = 10_000
"""Partitions of one topic: consumers list them in one reply."""

BATCH_BYTES_MAX = 8 * MIB
"""One record batch: it is checked, stored and fetched as a whole."""

GROUP_NAME_BYTES_MAX = 255

UNIT_BYTES_MAX = 32 * MIB
"""Keys and values of one unit of work: it is held in memory and logged as one engine batch."""

PAGE_BYTES = 1 * MIB
"""What a listing, scan or fetch aims at per reply when the caller names no size."""

PAGE_ENTRIES_MAX = 10_000
"""Entries, rows or changes in one reply."""

FRAME_BYTES_MAX = 16 * MIB
"""One frame on a socket. Above IO_BYTES_MAX and BATCH_BYTES_MAX with room for a put_many."""

CONNECTION_REQUESTS_MAX = 256
"""Requests of one connection that are worked on at a time; further ones wait in the socket."""

EXPRESSION_BYTES_MAX = 64 * KIB
"""One access expression: it stands in the inode, which every change of it writes again."""

EXPRESSION_DEPTH_MAX = 200
"""Parentheses within each other in an access expression; nobody can follow more."""

USER_NAME_CHARACTERS_MAX = 128
"""The name of a user or group."""

SNAPSHOT_NAME_CHARACTERS_MAX = 128

SNAPSHOTS_MAX = 4096
"""Of one volume. Each is a directory of hard links on the disk, and a record in memory."""

SNAPSHOT_SCHEDULES_MAX = 32
"""Of one volume."""

SLOTS_MAX = 1024
"""Writes that one client session may have under way (RFC 8881 §2.10.6: session slots)."""
