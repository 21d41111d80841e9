"""Everything that a volume shows, against the model's state: equal, to the byte."""

from __future__ import annotations

import msgpack

from dataplatform.base.clock import Clock
from dataplatform.core import changes, group_offsets, listing, streams, tables
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ChangeRow, Inode, Kind
from tests.streaming import read_all

from .core_model import Line
from .core_state import ROOT, Node, State
from .platform_driver import Driver, Handle


class Comparison:
    """What `driver` reads. AssertionError, with the path, for what differs."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self.driver = driver
        self.clock = clock

    async def volume(self, volume: Volume, line: Line) -> None:
        state, found = line.state, volume.state
        assert found.commit == state.commit, f"{found.commit} commits"
        assert found.next_inode == state.next_node
        assert found.next_producer == state.next_producer
        assert found.entries == len(state.nodes) - 1
        async with self.driver.node(Handle(volume.id, ROOT)) as node:
            await self.node(volume, line, state.nodes[ROOT], node.inode)
        await self._directory(volume, line, ROOT, "")
        assert found.used_bytes == state.used_bytes, f"{found.used_bytes} {state.used_bytes}"
        quotas = {n: (q.used_bytes, q.entries) for n, q in volume.quotas.directories.items()}
        assert quotas == {n: state.held_below(n) for n in state.quotas}, "quotas"
        for number, limits in state.quotas.items():
            for name, limit in limits.items():
                assert getattr(volume.quotas.directories[number], name) == limit
        await self._feed(volume, line)

    async def _directory(self, volume: Volume, line: Line, directory: int, above: str) -> None:
        entries = line.state.nodes[directory].entries
        at = Handle(volume.id, directory)
        async with self.driver.node(at) as node:
            page = await listing.page(node, "", 0)
        names = {n.inode.name.decode(): n.inode for n in page.nodes}
        assert list(names) == sorted(entries), f"{above}: {list(names)}, not {sorted(entries)}"
        for name, inode in names.items():
            path, number = f"{above}/{name}", entries[name]
            try:
                assert inode.number == number, f"{inode.number}, not {number}"
                await self.node(volume, line, line.seen(number), inode)
            except AssertionError as error:
                error.args = (f"{path}: {error}",)
                raise
            if inode.kind == Kind.DIRECTORY and not inode.volume:
                await self._directory(volume, line, number, path)

    async def node(self, volume: Volume, line: Line, node: Node, inode: Inode) -> None:
        found = (Kind(inode.kind).word, inode.mode)
        assert found == (node.kind, node.mode)
        times = inode.mtime_ns, inode.ctime_ns
        assert times == (node.mtime_ns, node.ctime_ns), f"{times} {node}"
        assert inode.version == node.version, f"version {inode.version}, not {node.version}"
        assert inode.links == _links(line.state, node), f"{inode.links} links"
        handle = Handle(volume.id, inode.number)
        async with self.driver.node(handle, follow=False) as held:
            names = await listing.xattr_names(held)
            assert {n: await listing.xattr(held, n) for n in names} == node.xattrs
        if node.kind == "file":
            data = await self.driver.read(handle)
            assert data == node.data, f"{data[:50]!r} ({len(data)}), not {node.data[:50]!r}"
            assert inode.size == len(data)
            if not line.buffered.get(inode.number):
                assert inode.used_bytes == node.used_bytes, "bytes that are used"
        elif node.kind == "symlink":
            assert inode.symlink.decode() == node.target
        elif node.kind == "table":
            await self._table(volume, inode.number, node)
            counts = inode.size, inode.used_bytes
            assert counts == (node.count, node.used_bytes), f"{counts}: {node}"
        elif node.kind == "stream":
            counts = inode.size, inode.used_bytes
            assert counts == (node.count, node.used_bytes), f"{counts}: {node}"
            await self._stream(volume, line, inode.number)

    async def _table(self, volume: Volume, number: int, node: Node) -> None:
        page = await tables.scan(volume, number)
        assert page.end
        unpacker = msgpack.Unpacker()
        unpacker.feed(page.data)
        flat = list(unpacker)
        rows = {k: tuple(row) for k, row in zip(flat[::2], flat[1::2], strict=True)}
        expected = node.alive(self.clock.now_ns() // 1_000_000)
        assert list(rows.items()) == [(k, tuple(row)) for k, row in expected.items()]

    async def _stream(self, volume: Volume, line: Line, number: int) -> None:
        """What is shown is durable; so from now on it must stay."""
        shown = volume.lane.durable_commit
        assert line.durable <= shown <= line.state.commit, f"{shown} is durable"
        line.acknowledge(shown)
        node, durable = line.state.nodes[number], line.states[shown].nodes.get(number)
        found = await streams.topics(volume, number)
        names = [(topic.name, topic.id) for topic in found]
        expected = sorted((name, topic.id) for name, topic in node.topics.items())
        assert names == expected, f"topics {names}, not {expected}"
        for topic in found:
            known = durable.topics.get(topic.name) if durable is not None else None
            stored = known.partitions if known is not None and known.id == topic.id else []
            partitions = node.topics[topic.name].partitions
            assert len(topic.partitions) == len(partitions)
            for index, (ends, partition) in enumerate(
                zip(topic.partitions, partitions, strict=True)
            ):
                end = stored[index].end if index < len(stored) else 0
                assert ends[1:] == (partition.start, end, partition.size_bytes), f"{ends} {end}"
                values = await read_all(volume, number, topic.name, index)
                assert values == partition.values(end), f"records of {topic.name}/{index}"
        groups = {
            view.name: [(o.topic, o.partition, o.offset) for o in view.offsets]
            for view in await group_offsets.describe(volume, number)
        }
        assert groups == node.groups(), f"group offsets: {groups}, not {node.groups()}"

    async def _feed(self, volume: Volume, line: Line) -> None:
        """A row for each commit; the feed shows those that are durable, and all of them."""
        start, end = keys.prefix_range(keys.CHANGE)
        rows = {
            keys.number_of(key): ChangeRow.unpack(value)
            async for key, value in scan_all(volume.storage.engine, start, end)
        }
        oldest = volume.state.oldest_change
        assert list(rows) == list(range(oldest, line.state.commit + 1)), "the changes have a gap"
        seen, following = await changes.read(volume, "/", oldest - 1, 0, 0)
        line.acknowledge(following)
        expected = [
            commit for commit, row in rows.items() if commit <= following for _ in row.events
        ]
        assert [change.commit for change in seen] == expected, "the feed has a gap"
        assert following >= line.durable, "the feed hides what is durable"


def _links(state: State, node: Node) -> int:
    if node.kind != "directory":
        return node.links
    return 2 + sum(state.nodes[n].kind == "directory" for n in node.entries.values())
