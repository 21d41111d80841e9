"""What a seed chooses from: paths, contents, rows, batches; mostly such as can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from dataplatform.core import tables
from dataplatform.core.units import Unit
from dataplatform.keyspace.records import ROOT_VOLUME
from tests.streaming import build_batch

from .core_model import Draft
from .core_state import Node, Part, Refused
from .core_walk import Apply, Plan, Walk

NAMES = ["a", "b", "c", "d", "e", "ö"]
KEYS = [b"k1", b"k2", b"k3", b"\x00", b"\xff"]
COLUMNS = ["km", "model", "n"]
TOPICS = ["t", "u"]
GROUPS = ["g", "h"]
LARGE_BYTES = 70_000
"""Beyond the size from which bytes go to a segment."""

Calls = tuple[Callable[[Unit, int], Awaitable[Any]], Callable[[Draft, int], Any]]
"""A call on a table or stream, of the core and of the model."""


class Choices(Walk):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.sent: dict[tuple[int, int], list[Part]] = {}  # by volume and stream, for retries
        self.counter = 0

    @property
    def durable(self) -> bool:
        return self.rng.random() < 0.3

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def paths(self, *kinds: str) -> list[str]:
        """Of everything that there is, of these kinds if any are named."""
        found = []
        root = self.lines[ROOT_VOLUME].state
        for path, number in root.paths():
            node = root.nodes[number]
            if not kinds or node.kind in kinds:
                found.append(path)
            if node.volume:
                inner = self.lines[node.volume].state
                found += [
                    path + below
                    for below, n in inner.paths()
                    if not kinds or inner.nodes[n].kind in kinds
                ]
        return found

    def path(self, *kinds: str) -> str:
        """Mostly of such a thing; sometimes of anything, or of nothing."""
        wanted = self.paths(*kinds) if self.chance(0.93) else self.paths()
        if not wanted or self.chance(0.03):
            return self.new_path()
        return self.rng.choice(wanted)

    def new_path(self) -> str:
        """Mostly of nothing yet."""
        taken = set(self.paths())
        directory = self.rng.choice(["", *self.paths("directory")])
        free = [name for name in NAMES if f"{directory}/{name}" not in taken]
        name = self.rng.choice(free if free and self.chance(0.8) else NAMES)
        return f"{directory}/{name}"

    def content(self) -> bytes:
        self.counter += 1
        word = b"%d " % self.counter
        if self.chance(0.06):
            return word * (LARGE_BYTES // len(word))
        return (word * self.rng.choice([1, 5, 400]))[: self.rng.randrange(0, 5000)]

    def columns(self) -> dict[str, Any]:
        names = self.rng.sample(COLUMNS, self.rng.randrange(len(COLUMNS) + 1))
        return {n: self.rng.choice([1, 7, -3, "x", None, 1.5, b"\x00"]) for n in names}

    def on_node(
        self, path: str, apply: Callable[[Draft, int], Any], *, flush: bool = False
    ) -> Plan:
        """The plan of a call on what a path names."""

        def plan() -> tuple[int, list[int], Apply]:
            found = self.find(path)
            number = found.number or 0
            flushed = [number] if flush else []
            return found.volume, flushed, lambda draft: apply(draft, number)

        return plan

    def on_name(self, path: str, apply: Callable[[Draft, int, str], Any]) -> Plan:
        """The plan of a call on a name."""

        def plan() -> tuple[int, list[int], Apply]:
            at = self.find_name(path)
            return at.volume, [], lambda draft: apply(draft, at.directory, at.name)

        return plan

    def row_call(self) -> Calls:
        """A random one on a table."""
        key, columns, replace = self.rng.choice(KEYS), self.columns(), self.chance(0.3)
        packed = msgpack.packb(columns)
        how = self.rng.choice(["put", "put", "increment", "increment", "delete", "many"])
        version = self.rng.choice([None] * 6 + [0, self.any_version()])
        if how == "put":
            return (
                lambda u, n: tables.put(u, n, key, packed, if_version=version, replace=replace),
                lambda d, n: d.put(n, key, columns, if_version=version, replace=replace),
            )
        if how == "increment":
            column, amount = self.rng.choice(COLUMNS), self.rng.randrange(-3, 10)
            column = self.rng.choice([column, "n", "n"])
            return (
                lambda u, n: tables.increment(u, n, key, column, amount),
                lambda d, n: d.increment(n, key, column, amount),
            )
        if how == "delete":
            some = self.rng.choice([[], [], ["km"], ["n", "model"]])
            return (
                lambda u, n: tables.delete(u, n, key, some, if_version=version),
                lambda d, n: d.delete(n, key, some, version),
            )
        rows = [(self.rng.choice(KEYS), self.columns()) for _ in range(self.rng.randrange(5))]
        data = b"".join(msgpack.packb(k) + msgpack.packb(c) for k, c in rows)
        return (
            lambda u, n: tables.put_many(u, n, data, replace=replace),
            lambda d, n: d.put_many(n, rows, replace=replace),
        )

    def any_version(self) -> int:
        found = [
            row.version
            for line in self.lines.values()
            for node in line.state.nodes.values()
            for row in node.rows.values()
        ]
        return self.rng.choice(found) if found else 1

    def part(self, path: str) -> Part:
        """A batch for a partition of the stream: new, sent before, or out of order."""
        rng = self.rng
        topic = rng.choice(TOPICS)
        try:
            found = self.find(path)
        except Refused:
            return self.batch(topic, 0, None)
        place = found.volume, found.number or 0
        number = self.partition(found.state.nodes[place[1]], topic)
        sent = self.sent.setdefault(place, [])
        if sent and self.chance(0.2):
            return rng.choice(sent)
        given = found.state.next_producer
        if self.chance(0.3) or (given == 1 and self.chance(0.95)):
            return self.batch(topic, number, None)
        producer, epoch, first = (
            rng.randrange(max(1, given - 3), max(given, 2) + self.chance(0.03)),
            0,
            0,
        )
        known_topic = found.state.nodes[place[1]].topics.get(topic)
        if known_topic is not None and number < len(known_topic.partitions):
            known = known_topic.partitions[number].producers.get(producer)
            if known is not None:
                epoch, first = known.epoch, known.runs[-1].end
        if self.chance(0.1):
            epoch, first = rng.choice(
                [(epoch + 1, 0), (max(0, epoch - 1), first), (epoch, first + 2)]
            )
        part = self.batch(topic, number, (producer, epoch, first))
        sent.append(part)
        del sent[:-6]
        return part

    def partition(self, stream: Node, topic: str) -> int:
        """Mostly one that there is."""
        known = stream.topics.get(topic)
        count = len(known.partitions) if known else stream.settings.get("partitions", 1)
        return self.rng.randrange(count + self.chance(0.05))

    def batch(self, topic: str, number: int, producer: tuple[int, int, int] | None) -> Part:
        values = []
        for _ in range(self.rng.randrange(1, 4)):
            self.counter += 1
            values.append(b"%d" % self.counter)
        if self.chance(0.05):
            values[0] += bytes(LARGE_BYTES)
        data = build_batch(values, producer=producer)
        return Part(topic, number, tuple(values), data, producer)

    def commits(self, path: str) -> list[tuple[str, int, int]]:
        """Offsets for partitions of a stream, mostly of those that there are."""
        try:
            found = self.find(path)
        except Refused:
            return [("t", 0, 1)]
        topics = found.state.nodes[found.number or 0].topics
        known = [(name, n) for name, t in topics.items() for n in range(len(t.partitions))]
        if not known or self.chance(0.05):
            known.append((self.rng.choice(TOPICS), 1))
        count = self.rng.randrange(3)
        return [(*self.rng.choice(known), self.rng.randrange(20)) for _ in range(count)]
