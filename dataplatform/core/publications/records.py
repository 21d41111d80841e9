"""What a publication writes: a change as JSON, keyed by its path, so that what happened to a file
stays in one partition, in order."""

from __future__ import annotations

from ...base.partitioner import partition_of
from .. import change_texts
from ..changes import Change
from ..encoding import KeyedLine

LOST = "changes lost"
"""The event of a record that says: the publication was restarted, and these were trimmed before."""


def line(change: Change, above: str) -> KeyedLine:
    """`above`: where the volume is mounted."""
    told = change_texts.tell(change, above)
    headers = (
        ("commit", str(told.commit).encode()),
        ("event", told.event.encode()),
        ("kind", told.kind.encode()),
    )
    return told.time_ns // 10**6, _bytes(told.json()), _bytes(told.path), headers


def lost_line(first: int, last: int, path: str, now_ns: int) -> KeyedLine:
    """Of commits that can no longer be told."""
    told = change_texts.Told(
        last, now_ns, LOST, "volume", path, "system", {"first": str(first), "last": str(last)}
    )
    headers = (
        ("commit", str(last).encode()),
        ("event", LOST.encode()),
        ("kind", b"volume"),
    )
    return now_ns // 10**6, _bytes(told.json()), _bytes(path), headers


def spread(lines: list[KeyedLine], partitions: int) -> dict[int, list[KeyedLine]]:
    """By partition, as Kafka's default partitioner has it."""
    found: dict[int, list[KeyedLine]] = {}
    for each in lines:
        found.setdefault(partition_of(each[2], partitions), []).append(each)
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
