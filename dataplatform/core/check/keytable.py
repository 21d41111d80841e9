"""Every row belongs to the key table: known prefixes, keys of the right form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import (
    ROOT_VOLUME,
    AuditCursor,
    ClusterRecord,
    GatherCursor,
    GatherRecord,
    VolumePhase,
    VolumeRecord,
    VolumeSettings,
    VolumeState,
)
from .picture import read_record

if TYPE_CHECKING:
    from .context import Check

_ANY = 1 << 30

_LENGTHS: dict[bytes, tuple[int, int]] = {
    keys.META: (1, _ANY),
    keys.VOLUME: (9, 9),
    keys.USER: (2, _ANY),
    keys.GROUP: (2, _ANY),
    keys.TOKEN: (5, _ANY),
    keys.INODE: (9, 9),
    keys.ENTRY: (10, _ANY),
    keys.LINK: (18, _ANY),
    keys.XATTR: (10, _ANY),
    keys.PIECE: (17, 17),
    keys.ORPHAN: (9, 9),
    keys.STATISTICS: (9, 9),
    keys.ROW: (10, _ANY),
    keys.TOPIC: (10, _ANY),
    keys.PARTITION: (17, 17),
    keys.BATCH: (25, 25),
    keys.PRODUCER: (25, 25),
    keys.GROUP_OFFSET: (19, _ANY),
    keys.SEGMENT: (9, 9),
    keys.REFERENCE: (10, _ANY),
    keys.REPLY: (21, 21),
    keys.CHANGE: (9, 9),
    keys.AUDIT_CURSOR: (9, 9),
    keys.QUOTA: (9, 9),
    keys.PUBLICATION: (2, _ANY),
    keys.CLUSTER: (1, _ANY),
    keys.GATHER: (2, _ANY),
    keys.SNAPSHOT: (10, _ANY),
    keys.DEAD_SEGMENT: (9, 9),
    keys.MIRROR: (2, _ANY),
    keys.MIRRORED: (18, 26),
}
"""Least and most bytes of a key, by prefix."""

NOUNS: dict[bytes, tuple[str, bool]] = {
    keys.META: ("the volume's counters or settings", False),
    keys.VOLUME: ("records of volumes", False),
    keys.USER: ("records of users", False),
    keys.GROUP: ("records of groups of users", False),
    keys.TOKEN: ("records of tokens", False),
    keys.INODE: ("records of files and directories", True),
    keys.ENTRY: ("names in the directory", True),
    keys.LINK: ("further names of the file", True),
    keys.XATTR: ("extended attributes", True),
    keys.PIECE: ("bytes of the file", True),
    keys.ORPHAN: ("marks of removed files", False),
    keys.STATISTICS: ("counts of the table or stream", True),
    keys.ROW: ("rows of the table", True),
    keys.TOPIC: ("topics of the stream", True),
    keys.PARTITION: ("partitions of the stream", True),
    keys.BATCH: ("record batches of the stream", True),
    keys.PRODUCER: ("producers of the stream", True),
    keys.GROUP_OFFSET: ("committed offsets of the stream", True),
    keys.SEGMENT: ("accounts of segments", False),
    keys.REFERENCE: ("lists of what refers to segments", False),
    keys.REPLY: ("stored replies", False),
    keys.CHANGE: ("rows of the change log", False),
    keys.AUDIT_CURSOR: ("positions of the audit", False),
    keys.QUOTA: ("quotas of directories", False),
    keys.PUBLICATION: ("publications of the change feed", False),
    keys.CLUSTER: ("records of clusters", False),
    keys.GATHER: ("records of gatherings", False),
    keys.SNAPSHOT: ("records of snapshots", False),
    keys.DEAD_SEGMENT: ("marks of dead segments", False),
    keys.MIRROR: ("positions of the mirror", False),
    keys.MIRRORED: ("extents of the mirror's source", False),
}
"""What rows of a prefix are to a user, and whether their key begins with an inode."""


def is_key(key: bytes) -> bool:
    """Whether a key with a known prefix has its form."""
    shortest, longest = _LENGTHS[key[:1]]
    return shortest <= len(key) <= longest and (
        key[:1] != keys.GROUP_OFFSET or (key[-9:-8] == b"\x00" and b"\x00" not in key[9:-9])
    )


async def check_unknown(check: Check) -> None:
    """Whatever lies between the known prefixes."""
    at = b""
    for prefix in [*sorted(_LENGTHS), b"\xff" * 16]:
        async for page in check.picture.pages(at, prefix):
            for key, _ in page:
                check.unknown_row(key)
        at = keys.after_prefix(prefix) if prefix in _LENGTHS else prefix


async def read_state(check: Check) -> None:
    """The volume's counters and settings."""
    found = set()
    async for page in check.pages(keys.META, "counters"):
        for key, value in page:
            found.add(key)
            if key == keys.STATE_KEY:
                _read_state(check, value)
            elif key == keys.SETTINGS_KEY:
                _read_settings(check, value)
            else:
                check.unknown_row(key)
    for key, noun in ((keys.STATE_KEY, "counters"), (keys.SETTINGS_KEY, "settings")):
        if key not in found and not check.picture.is_unreadable(key):
            check.add("/", f"the volume's {noun} are missing")


def _read_state(check: Check, value: bytes) -> None:
    try:
        check.state = read_record(VolumeState, value)
    except Corrupt:
        check.add("/", "the volume's counters cannot be read")


def _read_settings(check: Check, value: bytes) -> None:
    try:
        read_record(VolumeSettings, value)
    except Corrupt:
        check.add("/", "the volume's settings cannot be read")


async def check_volume_records(check: Check) -> int:
    """The list of volumes; the highest number in it."""
    highest = 0
    async for page in check.pages(keys.VOLUME, "volumes"):
        for key, value in page:
            number = keys.number_of(key)
            highest = max(highest, number)
            check.counts["volumes"] += 1
            if check.volume.home.id != ROOT_VOLUME:
                check.add("/", f"a record of volume {number} stands outside of the root volume")
                continue
            try:
                record = read_record(VolumeRecord, value)
                VolumePhase(record.phase)
            except (Corrupt, ValueError):
                check.add("/", f"the record of volume {number} cannot be read")
                continue
            if record.volume != number:
                check.add("/", f"the record of volume {number} is that of another one")
    return highest


async def check_clusters(check: Check) -> None:
    """Known clusters: in the root volume only, readable, each with a slot of its own."""
    slots: dict[int, str] = {}
    highest = 0
    async for page in check.pages(keys.CLUSTER, "clusters"):
        for key, value in page:
            name = key[len(keys.CLUSTER) :].decode("utf-8", "replace")
            if check.volume.home.id != ROOT_VOLUME:
                check.add("/", f"the cluster {name} stands outside of the root volume")
                continue
            try:
                slot = read_record(ClusterRecord, value).slot
            except Corrupt:
                check.add("/", f"the record of the cluster {name or '(slots)'} cannot be read")
                continue
            if not name:
                highest = slot
            elif slot in slots or slot > highest:
                check.add("/", f"the cluster {name} has a slot that is not its own")
            else:
                slots[slot] = name


async def check_gathers(check: Check) -> None:
    """What flows together: in the root volume only, and readable; so are its cursors."""
    async for page in check.pages(keys.GATHER, "gatherings"):
        for key, value in page:
            name, _, source = key[1:].decode("utf-8", "replace").partition("\0")
            what = f"the cursor of {source} in the gathering" if source else "the gathering"
            if check.volume.id != ROOT_VOLUME and not source:
                check.add("/", f"the gathering {name} stands outside of the root volume")
                continue
            try:
                read_record(GatherCursor if source else GatherRecord, value)
            except Corrupt:
                check.add("/", f"{what} {name} cannot be read")


async def check_audit_cursors(check: Check) -> None:
    """How far the audit has come with each volume: in the root volume only, and readable."""
    async for page in check.pages(keys.AUDIT_CURSOR, "audit"):
        for key, value in page:
            number = keys.number_of(key)
            if check.volume.home.id != ROOT_VOLUME:
                check.add(
                    "/", f"an audit cursor of volume {number} stands outside of the root volume"
                )
                continue
            try:
                read_record(AuditCursor, value)
            except Corrupt:
                check.add("/", f"the audit cursor of volume {number} cannot be read")
