"""What a volume is at one commit, as plain Python values. Never changed: a draft copies (see
`core_model`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from dataplatform.base.errors import ErrorKind

ROOT = 1
"""The root directory of every volume."""

ROW_HEAD_BYTES = 19
"""What a stored row has in front of its columns: its version and its expiry."""

ONE_NAME = ("directory", "table", "stream")


class Refused(Exception):
    """What the core must answer with an error of this kind."""

    def __init__(self, kind: ErrorKind) -> None:
        super().__init__(kind.name)
        self.kind = kind


NOT_FOUND = ErrorKind.NOT_FOUND
EXISTS = ErrorKind.EXISTS
INVALID = ErrorKind.INVALID
CONFLICT = ErrorKind.CONFLICT
STALE = ErrorKind.STALE


class Row(NamedTuple):
    version: int
    expires_ms: int  # 0: never
    columns: dict[str, Any]

    def size_bytes(self, key: bytes) -> int:
        return len(key) + ROW_HEAD_BYTES + len(msgpack.packb(self.columns))


class Batch(NamedTuple):
    base: int
    values: tuple[bytes, ...]
    size_bytes: int
    appended_ms: int

    @property
    def end(self) -> int:
        return self.base + len(self.values)


class Run(NamedTuple):
    """An append of a producer: its sequences, and what it was answered."""

    first: int
    end: int
    base: int
    time_ms: int


class Producer(NamedTuple):
    epoch: int
    runs: tuple[Run, ...]
    time_ns: int


@dataclass
class Partition:
    start: int = 0
    end: int = 0
    batches: list[Batch] = field(default_factory=list)
    producers: dict[int, Producer] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(batch.size_bytes for batch in self.batches)

    def values(self, end: int) -> list[bytes]:
        """The records before `end`, from the start on."""
        return [v for b in self.batches for v in b.values][: end - self.start]


@dataclass
class Topic:
    id: int
    partitions: list[Partition]


@dataclass
class Node:
    """Anything that has a name. Which fields mean something depends on its kind."""

    kind: str
    mode: int
    mtime_ns: int
    ctime_ns: int
    version: int = 0
    links: int = 1  # names of what is no directory
    first: tuple[int, str] = (0, "")  # the name where it counts: directory, name
    xattrs: dict[str, bytes] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    volume: int = 0  # of a directory where that volume is mounted
    data: bytes = b""
    written: bytes = b""  # for each byte of the data 1, or 0 where it lies in a hole
    target: str = ""
    settings: dict[str, int] = field(default_factory=dict)
    rows: dict[bytes, Row] = field(default_factory=dict)  # the expired, too, until they are swept
    topics: dict[str, Topic] = field(default_factory=dict)
    topics_made: int = 0
    dropped: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Deleted topics that are still counted, by id: (records, bytes)."""
    offsets: dict[tuple[str, int, int], int] = field(default_factory=dict)
    """By group, topic id and partition."""

    def copied(self) -> Node:
        mine = copy.copy(self)
        for name in ("xattrs", "entries", "settings", "rows", "dropped", "offsets"):
            setattr(mine, name, dict(getattr(self, name)))
        if self.kind == "stream":
            mine.topics = {n: Topic(t.id, _copied(t.partitions)) for n, t in self.topics.items()}
        return mine

    @property
    def count(self) -> int:
        """Rows or records that are counted."""
        if self.kind == "table":
            return len(self.rows)
        parts = [p for topic in self.topics.values() for p in topic.partitions]
        return sum(p.end - p.start for p in parts) + sum(n for n, _ in self.dropped.values())

    @property
    def used_bytes(self) -> int:
        if self.kind == "file":
            return self.written.count(1)
        if self.kind == "table":
            return sum(row.size_bytes(key) for key, row in self.rows.items())
        parts = [p for topic in self.topics.values() for p in topic.partitions]
        return sum(p.size_bytes for p in parts) + sum(size for _, size in self.dropped.values())

    def alive(self, now_ms: int) -> dict[bytes, Row]:
        """The rows that are seen, in order."""
        rows = sorted(self.rows.items())
        return {k: r for k, r in rows if not r.expires_ms or r.expires_ms > now_ms}

    def groups(self) -> dict[str, list[tuple[str, int, int]]]:
        """(topic, partition, offset) by group; what belongs to deleted topics is not seen."""
        names = {topic.id: name for name, topic in self.topics.items()}
        found: dict[str, list[tuple[str, int, int]]] = {}
        for (group, topic, partition), offset in self.offsets.items():
            if topic in names:
                found.setdefault(group, []).append((names[topic], partition, offset))
        return {group: sorted(offsets) for group, offsets in found.items()}


def _copied(partitions: list[Partition]) -> list[Partition]:
    return [Partition(p.start, p.end, list(p.batches), dict(p.producers)) for p in partitions]


@dataclass
class State:
    """A volume after one of its commits. Never changed."""

    commit: int
    nodes: dict[int, Node]
    next_node: int
    next_producer: int
    quotas: dict[int, dict[str, int]] = field(default_factory=dict)  # limits, by directory

    def held_below(self, directory: int) -> tuple[int, int]:
        """What counts for the quota of a directory: bytes, entries."""
        below = [node for node in self.nodes.values() if self._is_below(node, directory)]
        return sum(node.used_bytes for node in below), len(below)

    def _is_below(self, node: Node, directory: int) -> bool:
        while node.first[0]:
            if node.first[0] == directory:
                return True
            node = self.nodes[node.first[0]]
        return False

    @property
    def used_bytes(self) -> int:
        return sum(node.used_bytes for node in self.nodes.values())

    def find(self, path: str) -> int | None:
        """The node of a path in the volume, without following anything."""
        number: int | None = ROOT
        for name in path.split("/"):
            if name and number is not None:
                number = self.nodes[number].entries.get(name)
        return number

    def paths(self, number: int = ROOT, above: str = "") -> Iterator[tuple[str, int]]:
        """Every name, from the volume's root on."""
        for name, child in self.nodes[number].entries.items():
            yield f"{above}/{name}", child
            yield from self.paths(child, f"{above}/{name}")


class Write(NamedTuple):
    """A buffered write."""

    offset: int
    data: bytes
    time_ns: int


class Part(NamedTuple):
    """A batch for one partition; `producer`: its id, epoch and first sequence."""

    topic: str
    partition: int
    values: tuple[bytes, ...]
    data: bytes
    producer: tuple[int, int, int] | None = None
