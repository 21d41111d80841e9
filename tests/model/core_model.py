"""The whole core as plain Python values: what a volume must look like after each of its commits.

A volume is a line of `State`s, one for each commit. An operation works on a `Draft` of the newest
one: if it is refused (`Refused`), nothing happened; if it changed something, the draft is the next
state. Old states are never changed, so that any of them can be gone back to after a crash. Several
operations on one draft are a transaction.

Nothing of the core is used here: the rules are POSIX's, Kafka's, and those of the promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .core_state import (
    CONFLICT,
    EXISTS,
    INVALID,
    NOT_FOUND,
    ONE_NAME,
    ROOT,
    STALE,
    Batch,
    Node,
    Part,
    Partition,
    Producer,
    Refused,
    Row,
    Run,
    State,
    Topic,
    Write,
)

RUNS_MAX = 5
"""Appends of a producer that are recognised when they come again."""


class Draft:
    """What becomes the next state, or nothing."""

    def __init__(self, state: State, now_ns: int) -> None:
        self.nodes = dict(state.nodes)
        self.quotas = dict(state.quotas)
        self.next_node = state.next_node
        self.next_producer = state.next_producer
        self.commit = state.commit + 1
        self.now_ns = now_ns
        self.changed = False
        self._own: set[int] = set()

    @property
    def now_ms(self) -> int:
        return self.now_ns // 1_000_000

    def state(self) -> State:
        return State(self.commit, self.nodes, self.next_node, self.next_producer, self.quotas)

    def change(self, number: int) -> Node:
        """The draft's own copy of a node, without any mark that it was changed."""
        self.changed = True
        if number not in self._own:
            self.nodes[number] = self.nodes[number].copied()
            self._own.add(number)
        return self.nodes[number]

    def save(self, number: int) -> Node:
        """To change what the node is."""
        node = self.change(number)
        node.version = self.commit
        return node

    def save_times(self, number: int) -> Node:
        """To change what it holds: its times tell."""
        node = self.save(number)
        node.mtime_ns = node.ctime_ns = self.now_ns
        return node

    def account(self, number: int) -> Node:
        """To change what a table or stream holds."""
        node = self.save(number)
        node.mtime_ns = self.now_ns
        return node

    def of_kind(self, number: int, kind: str) -> Node:
        if self.nodes[number].kind != kind:
            raise Refused(INVALID)
        return self.nodes[number]

    # ---- names

    def create(self, directory: int, name: str, kind: str, mode: int, **fields: Any) -> int:
        if name in self.nodes[directory].entries:
            raise Refused(EXISTS)
        number, self.next_node = self.next_node, self.next_node + 1
        self.nodes[number] = Node(kind, mode, self.now_ns, self.now_ns, self.commit, **fields)
        self.nodes[number].first = directory, name
        self._own.add(number)
        self.save_times(directory).entries[name] = number
        return number

    def link(self, number: int, directory: int, name: str) -> int:
        if name in self.nodes[directory].entries:
            raise Refused(EXISTS)
        if self.nodes[number].kind in ONE_NAME:
            raise Refused(INVALID)
        self.save_times(directory).entries[name] = number
        node = self.save(number)
        node.links += 1
        node.ctime_ns = self.now_ns
        return number

    def remove(
        self, directory: int, name: str, *, directories: bool = True, others: bool = True
    ) -> None:
        number = self.nodes[directory].entries.get(name)
        if number is None:
            raise Refused(NOT_FOUND)
        node = self.nodes[number]
        is_directory = node.kind == "directory"
        if node.volume or node.entries or not (directories if is_directory else others):
            raise Refused(INVALID)
        self._drop(directory, name)

    def _drop(self, directory: int, name: str) -> None:
        number = self.save_times(directory).entries.pop(name)
        node = self.save(number)
        node.links -= 1
        node.ctime_ns = self.now_ns
        if not node.links:
            del self.nodes[number]
            self.quotas.pop(number, None)
        elif node.first == (directory, name):
            names = [
                (above, other.encode())
                for above, holder in self.nodes.items()
                for other, held in holder.entries.items()
                if held == number
            ]
            above, other = min(names)
            node.first = above, other.decode()

    def rename(
        self,
        old_directory: int,
        old_name: str,
        directory: int,
        name: str,
        *,
        no_replace: bool = False,
        exchange: bool = False,
    ) -> None:
        source = self.nodes[old_directory].entries.get(old_name)
        target = self.nodes[directory].entries.get(name)
        if source is None or (exchange and target is None):
            raise Refused(NOT_FOUND)
        if target is not None and no_replace:
            raise Refused(EXISTS)
        if source == target:
            return
        if self._is_within(directory, source):
            raise Refused(INVALID)
        if target is not None and self._is_within(old_directory, target):
            raise Refused(INVALID)
        if exchange:
            assert target is not None
            self.save_times(old_directory).entries[old_name] = target
            node = self.save(target)
            node.ctime_ns = self.now_ns
            if node.first == (directory, name):
                node.first = old_directory, old_name
        else:
            if target is not None:
                self._make_room(self.nodes[source], self.nodes[target])
                self._drop(directory, name)
            del self.save_times(old_directory).entries[old_name]
        self.save_times(directory).entries[name] = source
        node = self.save(source)
        node.ctime_ns = self.now_ns
        if node.first == (old_directory, old_name):
            node.first = directory, name

    def _is_within(self, directory: int, number: int) -> bool:
        if directory == number:
            return True
        return any(self._is_within(directory, n) for n in self.nodes[number].entries.values())

    def _make_room(self, source: Node, target: Node) -> None:
        """rename(2): a directory replaces an empty one, a table or stream only its like."""
        kinds = {source.kind, target.kind}
        if target.volume or target.entries or (len(kinds) > 1 and kinds & set(ONE_NAME)):
            raise Refused(INVALID)

    # ---- quotas

    def set_quota(self, number: int, limits: dict[str, int]) -> None:
        if self.nodes[number].kind != "directory" or number == ROOT:
            raise Refused(INVALID)
        self.changed = True
        self.quotas[number] = {**self.quotas.get(number, {}), **limits}

    def remove_quota(self, number: int) -> None:
        if number not in self.quotas:
            raise Refused(NOT_FOUND)
        self.changed = True
        del self.quotas[number]

    # ---- attributes

    def set_attributes(
        self, number: int, mode: int | None = None, settings: dict[str, int] | None = None
    ) -> None:
        if settings and self.nodes[number].kind not in ("table", "stream"):
            raise Refused(INVALID)
        node = self.save(number)
        node.ctime_ns = self.now_ns
        node.mode = node.mode if mode is None else mode
        node.settings.update(settings or {})

    def set_xattr(
        self, number: int, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        exists = name in self.nodes[number].xattrs
        if exists and create:
            raise Refused(EXISTS)
        if not exists and replace:
            raise Refused(NOT_FOUND)
        node = self.save(number)
        node.xattrs[name] = value
        node.ctime_ns = self.now_ns

    def remove_xattr(self, number: int, name: str) -> None:
        if name not in self.nodes[number].xattrs:
            raise Refused(NOT_FOUND)
        node = self.save(number)
        del node.xattrs[name]
        node.ctime_ns = self.now_ns

    # ---- bytes

    def write_file(self, directory: int, name: str, data: bytes, *, no_replace: bool) -> int:
        number = self.nodes[directory].entries.get(name)
        if number is not None and no_replace:
            raise Refused(EXISTS)
        if number is not None:
            if self.nodes[number].kind not in ("file", "symlink"):
                raise Refused(INVALID)
            self._drop(directory, name)
        written = b"\x01" * len(data)
        return self.create(directory, name, "file", 0o644, data=data, written=written)

    def append_bytes(self, number: int, data: bytes) -> int:
        offset = len(self.of_kind(number, "file").data)
        node = self.save_times(number)
        node.data += data
        node.written += b"\x01" * len(data)
        return offset

    def truncate(self, number: int, size: int) -> None:
        self.of_kind(number, "file")
        node = self.save_times(number)
        node.data = node.data[:size].ljust(size, b"\x00")
        node.written = node.written[:size].ljust(size, b"\x00")

    def punch(self, number: int, offset: int, length: int) -> None:
        self.of_kind(number, "file")
        node = self.save_times(number)
        hole = bytes(max(0, min(length, len(node.data) - offset)))
        node.data = overwritten(node.data, offset, hole)
        node.written = overwritten(node.written, offset, hole)

    def flush(self, number: int, writes: Sequence[Write]) -> None:
        """Buffered writes come into the file, with the times of then."""
        node = self.save(number)
        for offset, data, _ in writes:
            node.data = overwritten(node.data, offset, data)
            node.written = overwritten(node.written, offset, b"\x01" * len(data))
        node.mtime_ns = max(node.mtime_ns, writes[-1].time_ns)
        node.ctime_ns = max(node.ctime_ns, writes[-1].time_ns)

    # ---- tables

    def put(
        self,
        table: int,
        key: bytes,
        columns: dict[str, Any],
        *,
        if_version: int | None = None,
        replace: bool = False,
    ) -> int:
        old = self._row(table, key, if_version)
        merge = old is not None and not replace
        self._store(table, key, {**old.columns, **columns} if merge and old else columns)
        return self.commit

    def put_many(
        self, table: int, rows: Sequence[tuple[bytes, dict[str, Any]]], *, replace: bool
    ) -> int:
        self.of_kind(table, "table")
        for key, columns in rows:
            self.put(table, key, columns, replace=replace)
        return self.commit if rows else 0

    def delete(
        self, table: int, key: bytes, columns: Sequence[str], if_version: int | None
    ) -> bool:
        old = self._row(table, key, if_version)
        if old is None or (columns and not old.columns.keys() & set(columns)):
            return False
        if columns:
            left = {name: v for name, v in old.columns.items() if name not in columns}
            self._store(table, key, left)
        else:
            del self.account(table).rows[key]
        return True

    def increment(
        self, table: int, key: bytes, column: str, amount: int
    ) -> tuple[int, int | float]:
        old = self._row(table, key, None)
        columns = dict(old.columns) if old is not None else {}
        value = columns.get(column)
        if type(value) not in (int, float, type(None)):
            raise Refused(INVALID)
        columns[column] = total = (value or 0) + amount
        self._store(table, key, columns)
        return self.commit, total

    def expect_row(self, table: int, key: bytes, version: int) -> None:
        self._row(table, key, version)

    def _row(self, table: int, key: bytes, if_version: int | None) -> Row | None:
        row = self.of_kind(table, "table").alive(self.now_ms).get(key)
        if if_version is not None and if_version != (row.version if row is not None else 0):
            raise Refused(CONFLICT)
        return row

    def _store(self, table: int, key: bytes, columns: dict[str, Any]) -> None:
        node = self.account(table)
        ttl_ms = node.settings.get("ttl_ms", 0)
        node.rows[key] = Row(self.commit, self.now_ms + ttl_ms if ttl_ms else 0, columns)

    def expire_rows(self, table: int) -> int:
        """What the sweep does; how many rows it removes."""
        node = self.account(table)
        alive = node.alive(self.now_ms)
        gone = len(node.rows) - len(alive)
        node.rows = {key: row for key, row in node.rows.items() if key in alive}
        return gone

    # ---- streams

    def create_topic(self, stream: int, name: str, partitions: int, *, exist_ok: bool) -> list[int]:
        node = self.of_kind(stream, "stream")
        topic = node.topics.get(name)
        if topic is None:
            self._add_topic(stream, name, partitions or node.settings["partitions"])
        elif partitions > len(topic.partitions):
            topic = self.save(stream).topics[name]
            topic.partitions += [Partition() for _ in range(partitions - len(topic.partitions))]
        elif not exist_ok:
            raise Refused(EXISTS)
        topic = self.nodes[stream].topics[name]
        return [topic.id, len(topic.partitions)]

    def _add_topic(self, stream: int, name: str, partitions: int) -> None:
        node = self.save(stream)
        node.topics_made += 1
        node.topics[name] = Topic(node.topics_made, [Partition() for _ in range(partitions)])

    def delete_topic(self, stream: int, name: str) -> None:
        if name not in self.of_kind(stream, "stream").topics:
            raise Refused(NOT_FOUND)
        node = self.account(stream)
        topic = node.topics.pop(name)
        records = sum(p.end - p.start for p in topic.partitions)
        node.dropped[topic.id] = records, sum(p.size_bytes for p in topic.partitions)

    def sweep_dropped(self, stream: int) -> None:
        """Deleted topics no longer count, nor their groups' offsets."""
        node = self.save(stream)
        if any(records for records, _ in node.dropped.values()):
            self.account(stream)
        node.offsets = {k: o for k, o in node.offsets.items() if k[1] not in node.dropped}
        node.dropped = {}

    def init_producer(self, stream: int) -> list[int]:
        self.of_kind(stream, "stream")
        self.changed = True
        number, self.next_producer = self.next_producer, self.next_producer + 1
        return [number, 0]

    def append(self, stream: int, parts: Sequence[Part]) -> list[list[int | bool]]:
        node = self.of_kind(stream, "stream")
        for part in parts:
            topic = self.nodes[stream].topics.get(part.topic)
            count = len(topic.partitions) if topic is not None else node.settings["partitions"]
            if part.partition >= count:
                raise Refused(NOT_FOUND)
            if topic is None:
                self._add_topic(stream, part.topic, count)
        if any(part.producer and part.producer[0] >= self.next_producer for part in parts):
            raise Refused(INVALID)
        return [self._append(stream, part) for part in parts]

    def _append(self, stream: int, part: Part) -> list[int | bool]:
        partition = self.nodes[stream].topics[part.topic].partitions[part.partition]
        if part.producer is not None:
            producer, epoch, first = part.producer
            known = partition.producers.get(producer)
            run = _known_run(known, epoch, first, len(part.values))
            if run is not None:
                return [run.base + first - run.first, run.time_ms, True]
        partition = self.account(stream).topics[part.topic].partitions[part.partition]
        base = partition.end
        if part.producer is not None:
            run = Run(first, first + len(part.values), base, self.now_ms)
            runs = known.runs if known is not None and known.epoch == epoch else ()
            latest = (*runs, run)[-RUNS_MAX:]
            partition.producers[producer] = Producer(epoch, latest, self.now_ns)
        partition.batches.append(Batch(base, part.values, len(part.data), self.now_ms))
        partition.end += len(part.values)
        return [base, self.now_ms, False]

    def expire_records(self, stream: int, topic: str, number: int, start: int) -> None:
        """Retention removed what lies before `start`: whole batches, and only what may go."""
        node = self.account(stream)
        assert topic in node.topics, f"records went from a topic that is not there: {topic}"
        partition = node.topics[topic].partitions[number]
        ttl_ms = node.settings["ttl_ms"]
        while partition.start < start:
            assert partition.batches, f"there never was an offset {start}"
            batch = partition.batches.pop(0)
            assert ttl_ms, "records went although the stream keeps them for ever"
            assert batch.appended_ms < self.now_ms - ttl_ms, f"went too early: {batch.base}"
            partition.start = batch.end
        assert partition.start == start

    def commit_offsets(
        self, stream: int, group: str, commits: Sequence[tuple[str, int, int]]
    ) -> None:
        node = self.of_kind(stream, "stream")
        for name, partition, offset in commits:
            topic = node.topics.get(name)
            if topic is None or partition >= len(topic.partitions):
                raise Refused(NOT_FOUND)
            node = self.change(stream)
            node.offsets[group, topic.id, partition] = offset

    def delete_group(self, stream: int, group: str) -> None:
        if not any(key[0] == group for key in self.of_kind(stream, "stream").offsets):
            raise Refused(NOT_FOUND)
        node = self.change(stream)
        node.offsets = {key: o for key, o in node.offsets.items() if key[0] != group}


def _known_run(known: Producer | None, epoch: int, first: int, count: int) -> Run | None:
    """The append that these sequences came with before; None if they are the next."""
    if known is not None and epoch < known.epoch:
        raise Refused(STALE)
    expected = 0
    if known is not None and epoch == known.epoch:
        for run in known.runs:
            if run.first <= first and first + count <= run.end:
                return run
        expected = known.runs[-1].end
    if first != expected:
        raise Refused(CONFLICT)
    return None


def overwritten(old: bytes, offset: int, data: bytes) -> bytes:
    if not data:
        return old
    return old[:offset].ljust(offset, b"\x00") + data + old[offset + len(data) :]


class Line:
    """One volume: its states since the last one that is known to be durable, and what is buffered
    beside them and may vanish."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.durable = state.commit
        self.states = {state.commit: state}
        self.buffered: dict[int, list[Write]] = {}  # by file, in the order of its first write
        self.ghosts: set[int] = set()  # files without a name that are still there to be flushed

    def add(self, draft: Draft) -> None:
        self.state = self.states[draft.commit] = draft.state()

    def acknowledge(self, commit: int) -> None:
        """Whatever happens, this commit is there."""
        if commit > self.durable:
            self.durable = commit
            self.states = {c: s for c, s in self.states.items() if c >= commit}

    def go_back(self, commit: int) -> None:
        """After a crash this is the last commit that is there."""
        assert self.durable <= commit, f"acknowledged {self.durable}, and there is {commit}"
        assert commit in self.states, f"nobody made commit {commit}"
        self.state = self.states[commit]
        self.states = {commit: self.state}
        self.durable = commit
        self.buffered.clear()
        self.ghosts.clear()

    def flush(self, number: int, now_ns: int) -> None:
        """One commit, if anything is buffered that is still wanted."""
        writes = self.buffered.pop(number, None)
        if writes is None:
            return
        draft = Draft(self.state, now_ns)
        if number in draft.nodes:
            draft.flush(number, writes)
        elif number not in self.ghosts:
            return
        self.add(draft)

    def seen(self, number: int) -> Node:
        """The node as a reader sees it: with what is buffered."""
        writes = self.buffered.get(number)
        if not writes:
            return self.state.nodes[number]
        draft = Draft(self.state, 0)
        version = self.state.nodes[number].version
        draft.flush(number, writes)
        draft.nodes[number].version = version
        return draft.nodes[number]
