"""The clients of the simulation: each works on things of its own and knows what may be there.

After a crash `verify` looks at what survived, then sends the write that was under way (or the last
one, whose reply may have been lost) again under its old id, and looks again: it must have happened
exactly once.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import msgpack

from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import NotFound, Unavailable
from dataplatform.core import change_trims, compaction, files, namespace, orphans, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.transactions import Operation, resolve
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, Kind

from ..model.platform_driver import Driver
from .versions import Versions

SIZES = (0, 1, 100, 4095, 4096, 5000, 65535, 65536, 70_000, 131_073, 200_000)


class Client(ABC):
    """One client; `directory` is its own, if it has one."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.directory = f"/{name}"
        self.session = name.encode().ljust(16, b".")
        self.driver: Driver
        self.steps = 0

    def connect(self, platform: Platform) -> None:
        """To a new platform, or to the same one after a crash: the session goes on."""
        if self.steps:
            self.driver.reconnect(platform)
        else:
            self.driver = Driver(platform, self.session)

    async def run(self) -> None:
        while True:
            self.steps += 1
            await self.step()

    def content(self, size: int | None = None) -> bytes:
        """Bytes that are not found anywhere else."""
        size = self.rng.choice(SIZES) if size is None else size
        return (self.rng.randbytes(16) * (size // 16 + 1))[:size]

    @abstractmethod
    async def step(self) -> None: ...

    @abstractmethod
    async def verify(self) -> object:
        """After a crash; what was found, for the trace."""

    async def read(self, path: str) -> bytes | None:
        try:
            return await self.driver.read(path)
        except NotFound:
            return None


class FileClient(Client):
    """One file, changed in every way that there is."""

    def __init__(self, name: str, rng: random.Random) -> None:
        super().__init__(name, rng)
        self.versions: Versions[bytes | None] = Versions(None)
        self.path = f"/{name}"
        self.change: Callable[[bytes | None], bytes | None] | None = None

    async def step(self) -> None:
        if self.versions.last is None:
            await self._put()
            return
        how = self.rng.choice(
            [
                *(self._write, self._write, self._append, self._truncate, self._punch),
                *(self._sync, self._sync, self._put, self._rename, self._unlink, self._look),
            ]
        )
        await how()

    async def _do(
        self,
        change: Callable[[bytes | None], bytes | None],
        call: Awaitable[object],
        *,
        durable: bool,
        again: bool = True,
    ) -> None:
        """`again`: sent again, it does to any state what it did to the last one."""
        self.change = change if again else None
        self.versions.attempt(change(self.versions.last))
        await call
        if durable:
            self.versions.acknowledge()

    async def _write(self) -> None:
        data, durable = self.content(), self.rng.random() < 0.2
        offset = self.rng.choice(SIZES)

        def change(old: bytes | None) -> bytes | None:
            if not data:
                return old
            assert old is not None
            return old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]

        call = self.driver.write(self.path, offset, data, durable=durable)
        await self._do(change, call, durable=durable)

    async def _append(self) -> None:
        data, durable = self.content(), self.rng.random() < 0.3
        call = self.driver.append(self.path, data, durable=durable)
        await self._do(lambda old: (old or b"") + data, call, durable=durable)

    async def _truncate(self) -> None:
        size, durable = self.rng.choice(SIZES), self.rng.random() < 0.3
        call = self.driver.truncate(self.path, size, durable=durable)
        await self._do(lambda old: (old or b"")[:size].ljust(size, b"\0"), call, durable=durable)

    async def _punch(self) -> None:
        offset, length = self.rng.choice(SIZES), self.rng.choice(SIZES) or 1

        def change(old: bytes | None) -> bytes | None:
            assert old is not None
            end = min(offset + length, len(old))
            return old[:offset] + bytes(max(0, end - offset)) + old[max(offset, end) :]

        await self._do(change, self.driver.punch(self.path, offset, length), durable=False)

    async def _sync(self) -> None:
        await self.driver.sync(self.path)
        self.versions.acknowledge()

    async def _look(self) -> None:
        """What was acknowledged is seen at once, durable or not."""
        expected = self.versions.last
        assert expected is not None
        assert await self.driver.read(self.path) == expected
        assert (await self.driver.stat(self.path)).size == len(expected)

    async def _put(self) -> None:
        data, durable = self.content(), self.rng.random() < 0.3
        call = self.driver.write_file(self.path, data, durable=durable)
        await self._do(lambda old: data, call, durable=durable)

    async def _rename(self) -> None:
        """Replace as programs do: write beside, perhaps sync, rename over."""
        data, durable, beside = self.content(), self.rng.random() < 0.3, self.path + ".new"
        self.change = None
        await self.driver.write_file(beside, b"")
        await self.driver.write(beside, 0, data)
        if self.rng.random() < 0.5:
            await self.driver.sync(beside)
        call = self.driver.rename(beside, self.path, durable=durable)
        await self._do(lambda old: data, call, durable=durable, again=False)

    async def _unlink(self) -> None:
        durable = self.rng.random() < 0.3
        call = self.driver.unlink(self.path, durable=durable)
        await self._do(lambda old: None, call, durable=durable)

    async def verify(self) -> object:
        old = self.versions.last
        found = await self.read(self.path)
        is_last = self.versions.survive(found)
        if self.change is None or not self.driver.may_send_again:
            return found
        expected = old if is_last else self.change(found) if found is not None else None
        try:
            await self.driver.send_again()
        except NotFound:
            assert found is None
        else:
            self.versions.attempt(await self.read(self.path))
            if found is not None or is_last:
                assert self.versions.last == expected, "sent again, it did not happen exactly once"
        self.change = None
        return found


class TransactionClient(Client):
    """Everything of the n-th transaction says n, and so does a counter that only ever adds."""

    def __init__(self, name: str, rng: random.Random) -> None:
        super().__init__(name, rng)
        self.versions: Versions[int] = Versions(0)

    async def prepare(self) -> None:
        """What the first transaction stands on."""
        await self.driver.mkdir(self.directory)
        await self.driver.table(f"{self.directory}/table")
        await self.driver.write_file(f"{self.directory}/marker 0", b"", durable=True)

    async def step(self) -> None:
        number = self.versions.last + 1
        if number == 1:
            await self.prepare()
        size = self.rng.choice((10, 5000, 70_000))
        await self.transact(number, size)

    async def transact(self, number: int, size: int) -> None:
        durable = self.rng.random() < 0.7
        self.versions.attempt(number)
        await self.driver.transaction(
            self.directory, lambda volume: self._operations(volume, number, size), durable=durable
        )
        if durable:
            self.versions.acknowledge()

    async def _operations(self, volume: Volume, number: int, size: int) -> Sequence[Operation]:
        data = b"%d " % number * size
        contents = [await files.prepare(volume, data) for _ in range(2)]

        async def put(unit: Unit) -> None:
            base = (await resolve(unit, ROOT_INODE, self.directory)).number
            for name, content in zip(("first", "second"), contents, strict=True):
                await files.put(unit, base, name, content, len(data), Attributes(Kind.FILE))

        async def row(unit: Unit) -> None:
            table = (await resolve(unit, ROOT_INODE, f"{self.directory}/table")).number
            await tables.put(unit, table, b"number", msgpack.packb({"n": number}))
            await tables.increment(unit, table, b"count", "n", 1)

        async def rename(unit: Unit) -> None:
            base = (await resolve(unit, ROOT_INODE, self.directory)).number
            old, new = f"marker {number - 1}", f"marker {number}"
            await namespace.rename(unit, base, old.encode(), base, new)

        return [put, row, rename]

    async def found(self) -> int:
        """The number that everything agrees on."""
        try:
            names = await self.driver.names(self.directory)
        except NotFound:
            return 0
        markers = [int(n.removeprefix("marker ")) for n in names if n.startswith("marker ")]
        if not markers:
            return 0  # not even prepared
        (number,) = markers
        if number == 0:
            assert set(names) == {"table", "marker 0"}
            return 0
        for name in ("first", "second"):
            data = await self.driver.read(f"{self.directory}/{name}")
            assert data.startswith(b"%d " % number)
            assert len(set(data.split())) == 1
            assert (await self.driver.stat(f"{self.directory}/{name}")).size == len(data)
        async with self.driver.node(f"{self.directory}/table") as node:
            page = await tables.get_many(node.volume, node.inode.number, [b"number", b"count"])
        unpacker = msgpack.Unpacker()
        unpacker.feed(page)
        rows = list(unpacker)
        assert [row[2]["n"] for row in rows[1::2]] == [number, number], rows
        return number

    async def verify(self) -> object:
        old = self.versions.last
        found = await self.found()
        is_last = self.versions.survive(found)
        if old and (is_last or found == old - 1) and self.driver.may_send_again:
            await self.driver.send_again()
            assert await self.found() == old
            self.versions.attempt(old)
        if not self.versions.last:
            await self._clear()
        return found

    async def _clear(self) -> None:
        """The preparation was cut short, or nothing came of it yet: begin it anew."""
        for name in await self._names():
            await self.driver.unlink(f"{self.directory}/{name}")
        if self.directory.strip("/") in await self.driver.names("/"):
            await self.driver.rmdir(self.directory)

    async def _names(self) -> list[str]:
        try:
            return await self.driver.names(self.directory)
        except NotFound:
            return []


class LogClient(Client):
    """Several of them append records to one file; each record is there once, or not at all."""

    PATH = "/log"
    RECORD = 64

    def __init__(self, name: str, rng: random.Random) -> None:
        super().__init__(name, rng)
        self.acknowledged: dict[bytes, int] = {}  # records that are durable, and where
        self.attempted: set[bytes] = set()
        self.last = b""

    async def step(self) -> None:
        if not self.last:
            await self.driver.make(self.PATH, Attributes(Kind.FILE), exist_ok=True, durable=True)
        count = self.rng.choice((1, 1, 1, 3, 1200))
        head = f"{self.name} {self.steps} {count} ".encode()
        record = self.last = head.ljust(self.RECORD * count, b"+")
        self.attempted.add(record)
        durable = self.rng.random() < 0.5
        offset = await self.driver.append(self.PATH, record, durable=durable)
        if durable:
            self.acknowledged[record] = offset

    async def verify(self) -> object:
        found = await self.records()
        for record, offset in self.acknowledged.items():
            assert found.get(record) == offset, f"lost: {record[:30]!r}, was at {offset}"
        mine = {r for r in found if r.startswith(self.name.encode() + b" ")}
        assert mine <= self.attempted
        if self.last and self.driver.may_send_again:
            offset = await self.driver.send_again()
            found = await self.records()
            assert found[self.last] == offset
        self.acknowledged = {r: o for r, o in found.items() if r in mine}
        return sorted(found.values())

    async def records(self) -> dict[bytes, int]:
        """Where each record lies; none is there twice, and between them is nothing."""
        data = await self.read(self.PATH) or b""
        found: dict[bytes, int] = {}
        at = 0
        while at < len(data):
            count = int(data[at : at + self.RECORD].split(b" ")[2])
            record = data[at : at + count * self.RECORD]
            assert len(record) == count * self.RECORD, "a part of a record"
            assert set(record[-1:]) <= {ord("+")}
            assert record not in found, "appended twice"
            found[record] = at
            at += len(record)
        return found


class VolumeClient(Client):
    """A volume comes, gets a file, and goes with it: wholly there or not at all."""

    def __init__(self, name: str, rng: random.Random) -> None:
        super().__init__(name, rng)
        self.versions: Versions[tuple[bytes, ...] | None] = Versions(None)
        self.made = 0
        self.path = ""

    async def step(self) -> None:
        if self.versions.last is None:
            self.made += 1
            self.path = f"{self.directory}/sub/{self.made % 3}"
            self.versions.attempt(())
            await self.driver.create_volume(self.path)
            self.versions.acknowledge()
        elif self.rng.random() < 0.6:
            data, durable = self.content(), self.rng.random() < 0.6
            self.versions.attempt((data,))
            await self.driver.write_file(f"{self.path}/file", data, durable=durable)
            if durable:
                self.versions.acknowledge()
        else:
            async with self.driver.node(self.path) as node:
                volume_id = node.volume.id
            self.versions.attempt(None)
            await self.remove(volume_id)
            self.versions.acknowledge()

    async def remove(self, volume_id: int) -> None:
        while True:
            try:
                await self.driver.remove_volume(volume_id, recursive=True)
                return
            except Unavailable as error:
                if error.message != "the volume is in use":
                    raise
                await asyncio.sleep(0)  # background work is at it

    async def found(self) -> tuple[bytes, ...] | None:
        if not self.path:
            return None
        try:
            nodes = await self.driver.list(self.path)
        except NotFound:
            return None
        return tuple([await self.driver.read(f"{self.path}/{n.name.decode()}") for n in nodes])

    async def verify(self) -> object:
        old = self.versions.last
        found = await self.found()
        is_last = self.versions.survive(found)
        if self.path and (old is None or not is_last) and self.driver.may_send_again:
            # A creation, a put or a removal was cut short: complete it.
            try:
                await self.driver.send_again()
            except NotFound:
                assert found is None
            else:
                self.versions.attempt(await self.found())
                assert self.versions.last == old, (found, self.versions.last, old)
        return found


class Background(Client):
    """What a server does by itself, in any order and all the time."""

    def __init__(self, name: str, rng: random.Random, clock: ManualClock) -> None:
        super().__init__(name, rng)
        self.clock = clock

    async def step(self) -> None:
        self.clock.advance(self.rng.choice((0.01, 0.3, 1.0, 30.0)))
        for _ in range(self.rng.randrange(20)):
            await asyncio.sleep(0)
        platform = self.driver.platform
        if self.rng.random() < 0.05:
            self.clock.advance(1000)
            await platform.close_idle()
        for volume in platform.volumes:
            if volume not in platform.volumes or volume.lane.broken is not None:
                continue
            volume.users += 1
            try:
                await self._work(volume)
            finally:
                platform.release(volume)

    async def _work(self, volume: Volume) -> None:
        how = self.rng.choice(
            ["writeback", "writeback", "lane", "compaction", "compaction", "orphans", "rest"]
        )
        if how == "writeback":
            await volume.writeback.run_once()
        elif how == "lane":
            await volume.lane.run_once()
        elif how == "compaction":
            await compaction.run_once(volume)
        elif how == "orphans":
            await orphans.run_once(volume)
        else:
            await volume.replies.run_once(volume)
            await change_trims.trim(volume)

    async def verify(self) -> object:
        return None
