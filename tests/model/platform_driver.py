"""The core, driven as the handlers drive it: by paths, each call finding, working and letting go.

What the model and simulation tests share. A `Driver` is one client: it has a session, gives every
write a request id, and, if told so, sends some writes twice, as after a lost reply: the second must
answer as the first did and change nothing. `Place` is where a platform's data lies while the
platform comes and goes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Invalid, NotFound, PlatformError
from dataplatform.core import (
    clones,
    files,
    listing,
    namespace,
    quota_directories,
    restore,
    restore_paths,
    streams,
    transactions,
)
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import NewName, Node, Platform
from dataplatform.core.replies import SESSION_AGE_NS
from dataplatform.core.transactions import Operation
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import Storages
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import Faults, FaultyStorages
from dataplatform.keyspace.records import ROOT_VOLUME, Inode, Kind, VolumeSettings
from tests.principals import admin

from .accounts import assert_accounts

T = TypeVar("T")

SEGMENT_BYTES = 1 << 20
"""Small, so that segments fill up, die and are compacted within a test."""


def engines() -> list[str]:
    """Those that are there."""
    found = ["memory", "rocks"]
    if importlib.util.find_spec("dataplatform.engine.slate") is not None:
        found.append("slate")
    return found


async def assert_clean(platform: Platform) -> None:
    """What ends every stateful test: the accounts, and the platform's own check."""
    for volume_id in [ROOT_VOLUME, *(r.volume for r in await platform.catalog.records())]:
        volume = await platform.acquire(volume_id)
        try:
            await volume.writeback.flush_all()
            await assert_accounts(volume)
        finally:
            platform.release(volume)
    if importlib.util.find_spec("tests.checking") is not None:
        checking = importlib.import_module("tests.checking")
        await checking.assert_clean(platform)


class Handle(NamedTuple):
    """An open file."""

    volume: int
    inode: int


Target = str | Handle


class Place:
    """The data of one platform, on one engine; `open` and `close` as often as you like."""

    def __init__(self, engine: str, path: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.engine = engine
        self.path = path
        self.segment_bytes = segment_bytes
        self.disk = MemoryDisk()
        self.memory: MemoryStorages
        self.clock = ManualClock()
        self.faults = Faults()
        self.opened = 0

    async def storages(self) -> Storages:
        if self.engine == "memory":
            self.memory = MemoryStorages(self.disk, segment_bytes=self.segment_bytes)
            return FaultyStorages(self.memory, self.faults)
        if self.engine == "rocks":
            from dataplatform.engine.rocks import RocksStorages

            return await RocksStorages.at(self.path, segment_bytes=self.segment_bytes)
        from dataplatform.engine.slate import SlateStorages

        return await SlateStorages.at(self.path.as_uri(), segment_bytes=self.segment_bytes)

    async def crash(self) -> None:
        """The power goes, on the memory engine: what was not synced is lost, locks are free."""
        self.memory.crash()
        await self.memory.close()
        self.faults.clear()

    async def open(self) -> Platform:
        self.opened += 1
        return await Platform.start(
            await self.storages(), clock=self.clock, entropy=SeededEntropy(self.opened)
        )


@contextlib.asynccontextmanager
async def at_work(place: Place) -> AsyncIterator[tuple[Driver, Volume]]:
    """A client and the root volume of a platform, which is clean in the end."""
    platform = await place.open()
    volume = await platform.acquire(ROOT_VOLUME)
    yield Driver(platform, b"client %09d" % place.opened), volume
    await assert_clean(platform)
    platform.release(volume)
    await platform.close()


class Driver:
    """One client of a platform. With `rng`, a share of `repeat` of its writes is sent twice."""

    def __init__(
        self,
        platform: Platform,
        session: bytes = b"s" * 16,
        *,
        rng: random.Random | None = None,
        repeat: float = 0.0,
    ) -> None:
        self.platform = platform
        self.session = session
        self.sequence = 0
        self.repeats = 0
        self._busy: set[int] = set()
        self._last: tuple[Callable[[Request], Awaitable[Any]], Request] | None = None
        self._sent_ns = 0
        self._rng = rng
        self._repeat = repeat

    # ---- calls

    @contextlib.contextmanager
    def request(self) -> Iterator[Request]:
        """A request id; its slot is taken until the call ends."""
        slot = next(n for n in itertools.count() if n not in self._busy)
        self._busy.add(slot)
        self.sequence += 1
        try:
            yield Request(admin("tester"), self.session, slot, self.sequence, caller=self.session)
        finally:
            self._busy.remove(slot)

    async def _write(self, call: Callable[[Request], Awaitable[T]]) -> T:
        again = self._rng is not None and self._rng.random() < self._repeat
        with self.request() as request:
            self._last = call, request
            self._sent_ns = self.platform.clock.now_ns()
            try:
                result = await call(request)
            except PlatformError as error:
                if again:
                    await self._fails_again(call, request, error)
                raise
            if again:
                self.repeats += 1
                second = await call(request)
                assert second == result, f"sent twice: {result!r}, then {second!r}"
            return result

    def reconnect(self, platform: Platform) -> None:
        """To the server's next life. The session and its numbers go on."""
        self.platform = platform
        self._busy.clear()

    def forget_last(self) -> None:
        """There is nothing to send again: the last write's reply has come."""
        self._last = None

    @property
    def may_send_again(self) -> bool:
        """There is a last write, and its reply is not old enough to be forgotten."""
        age_ns = self.platform.clock.now_ns() - self._sent_ns
        return self._last is not None and age_ns < SESSION_AGE_NS

    async def send_again(self) -> Any:
        """The last write once more, under its old id: its reply was lost, or its server."""
        assert self._last is not None
        call, request = self._last
        return await call(request)

    async def _fails_again(
        self, call: Callable[[Request], Awaitable[T]], request: Request, first: PlatformError
    ) -> None:
        with pytest.raises(PlatformError) as second:
            await call(request)
        assert second.value.os_errno == first.os_errno, f"{first!r}, then {second.value!r}"

    @contextlib.asynccontextmanager
    async def node(self, target: Target, *, follow: bool = True) -> AsyncIterator[Node]:
        if isinstance(target, Handle):
            node = await self.platform.locate("", target.volume, target.inode)
        else:
            node = await self.platform.locate(target, follow=follow)
        try:
            yield node
        finally:
            self.platform.release(node.volume)

    @contextlib.asynccontextmanager
    async def reference(self, target: Target) -> AsyncIterator[tuple[Volume, int]]:
        if isinstance(target, Handle):
            volume = await self.platform.acquire(target.volume)
            try:
                yield volume, target.inode
            finally:
                self.platform.release(volume)
        else:
            async with self.node(target) as node:
                yield node.volume, node.inode.number

    @contextlib.asynccontextmanager
    async def new_name(self, path: str, *, parents: bool = False) -> AsyncIterator[NewName]:
        at = await self.platform.locate_name(path)
        try:
            if at.missing and not parents:
                raise NotFound("no such directory", path=path)
            yield at
        finally:
            self.platform.release(at.volume)

    # ---- names

    async def make(
        self,
        path: str,
        new: Attributes,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        durable: bool = False,
    ) -> Handle:
        async def call(request: Request) -> Handle:
            async with self.new_name(path, parents=parents) as at:

                async def work(unit: Unit) -> int:
                    directory = await namespace.make_parents(unit, at.directory, at.missing, new)
                    return await namespace.create(unit, directory, at.name, new, exist_ok=exist_ok)

                number = await at.volume.run(request, work, durable=durable)
                return Handle(at.volume.id, number)

        return await self._write(call)

    async def create(self, path: str, mode: int = 0o644, *, durable: bool = False) -> Handle:
        """open(2) with O_CREAT and O_EXCL."""
        return await self.make(path, Attributes(Kind.FILE, mode), durable=durable)

    async def mkdir(self, path: str, mode: int = 0o755, *, parents: bool = False) -> Handle:
        return await self.make(path, Attributes(Kind.DIRECTORY, mode), parents=parents)

    async def mkfifo(self, path: str, mode: int = 0o644) -> Handle:
        return await self.make(path, Attributes(Kind.FIFO, mode))

    async def table(self, path: str) -> Handle:
        return await self.make(path, Attributes(Kind.TABLE), durable=True)

    async def symlink(self, target: str, path: str) -> Handle:
        return await self.make(path, Attributes(Kind.SYMLINK, symlink=target))

    async def link(self, existing: str, path: str) -> None:
        async def call(request: Request) -> int:
            async with self.node(existing, follow=False) as node, self.new_name(path) as at:
                if node.volume is not at.volume:
                    raise Invalid("another volume", errno=18)
                await node.volume.writeback.flush(node.inode.number)

                async def work(unit: Unit) -> int:
                    return await namespace.link(unit, node.inode.number, at.directory, at.name)

                return await at.volume.run(request, work, durable=False)

        await self._write(call)

    async def unlink(self, path: str, *, durable: bool = False) -> None:
        await self._remove(path, directories=False, durable=durable)

    async def rmdir(self, path: str) -> None:
        await self._remove(path, others=False)

    async def _remove(
        self, path: str, *, directories: bool = True, others: bool = True, durable: bool = False
    ) -> None:
        async def call(request: Request) -> None:
            async with self.new_name(path) as at:

                async def work(unit: Unit) -> None:
                    await namespace.remove(
                        unit,
                        at.directory,
                        at.name.encode(),
                        directories=directories,
                        others=others,
                    )

                await at.volume.run(request, work, durable=durable)

        await self._write(call)

    async def rename(
        self,
        old: str,
        new: str,
        *,
        no_replace: bool = False,
        exchange: bool = False,
        durable: bool = False,
    ) -> None:
        async def call(request: Request) -> None:
            async with self.new_name(old) as source, self.new_name(new) as target:
                if source.volume is not target.volume:
                    raise Invalid("another volume", errno=18)
                if source.inode:
                    await source.volume.writeback.flush(source.inode)

                async def work(unit: Unit) -> None:
                    await namespace.rename(
                        unit,
                        source.directory,
                        source.name.encode(),
                        target.directory,
                        target.name,
                        no_replace=no_replace,
                        exchange=exchange,
                    )

                await source.volume.run(request, work, durable=durable)

        await self._write(call)

    # ---- attributes

    async def set_attributes(self, target: Target, **attributes: Any) -> None:
        async def call(request: Request) -> None:
            async with self.node(target) as node:
                await node.volume.writeback.flush(node.inode.number)

                async def work(unit: Unit) -> None:
                    await namespace.set_attributes(unit, node.inode.number, **attributes)  # type: ignore[arg-type]

                await node.volume.run(request, work, durable=False)

        await self._write(call)

    async def chmod(self, target: Target, mode: int) -> None:
        await self.set_attributes(target, mode=mode)

    async def utime(self, target: Target, atime_ns: int, mtime_ns: int) -> None:
        await self.set_attributes(target, atime_ns=atime_ns, mtime_ns=mtime_ns)

    async def set_xattr(
        self, path: str, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        async def call(request: Request) -> None:
            async with self.node(path) as node:

                async def work(unit: Unit) -> None:
                    await namespace.set_xattr(
                        unit,
                        node.inode.number,
                        name,
                        value,
                        create_only=create,
                        replace_only=replace,
                    )

                await node.volume.run(request, work, durable=False)

        await self._write(call)

    async def remove_xattr(self, path: str, name: str) -> None:
        async def call(request: Request) -> None:
            async with self.node(path) as node:

                async def work(unit: Unit) -> None:
                    await namespace.remove_xattr(unit, node.inode.number, name)

                await node.volume.run(request, work, durable=False)

        await self._write(call)

    async def xattr(self, path: str, name: str) -> bytes:
        async with self.node(path) as node:
            return await listing.xattr(node, name)

    async def xattrs(self, path: str) -> dict[str, bytes]:
        async with self.node(path) as node:
            names = await listing.xattr_names(node)
            return {name: await listing.xattr(node, name) for name in names}

    # ---- looking

    async def stat(self, target: Target, *, follow: bool = True) -> Inode:
        async with self.node(target, follow=follow) as node:
            return node.inode

    async def list(self, path: str, *, limit: int = 0) -> list[Inode]:
        """All entries in order, in pages of `limit`."""
        found: list[Inode] = []
        after = ""
        while True:
            async with self.node(path) as node:
                page = await listing.page(node, after, limit)
            found += [n.inode for n in page.nodes]
            if page.end:
                return found
            assert page.nodes, "a page that is empty and not the last leads nowhere"
            after = found[-1].name.decode()

    async def names(self, path: str) -> list[str]:
        return [inode.name.decode() for inode in await self.list(path)]

    # ---- bytes

    async def open(self, target: Target) -> Handle:
        async with self.node(target) as node:
            await files.file_inode(node.volume, node.inode.number)
            self.platform.opens.open(self.session, node.volume, node.inode.number)
            return Handle(node.volume.id, node.inode.number)

    async def close(self, handle: Handle) -> None:
        async with self.reference(handle) as (volume, number):
            self.platform.opens.close(self.session, volume, number)

    async def read(self, target: Target, offset: int = 0, length: int = 8 << 20) -> bytes:
        async with self.reference(target) as (volume, number):
            return b"".join((await files.read(volume, number, offset, length)).parts)

    async def write(
        self, target: Target, offset: int, data: bytes, *, durable: bool = False
    ) -> int:
        async def call(request: Request) -> int:
            async with self.reference(target) as (volume, number):
                return await files.write(volume, request, number, offset, data, durable=durable)

        return await self._write(call)

    async def append(self, target: Target, data: bytes, *, durable: bool = False) -> int:
        """Where the bytes went."""

        async def call(request: Request) -> int:
            async with self.reference(target) as (volume, number):
                offset, _ = await files.append(volume, request, number, data, durable=durable)
                return offset

        return await self._write(call)

    async def truncate(self, target: Target, size: int, *, durable: bool = False) -> None:
        async def call(request: Request) -> None:
            async with self.node(target) as node:
                await files.truncate(node.volume, request, node.inode.number, size, durable=durable)

        await self._write(call)

    async def punch(self, target: Target, offset: int, length: int) -> None:
        async def call(request: Request) -> None:
            async with self.node(target) as node:
                await files.punch(
                    node.volume, request, node.inode.number, offset, length, durable=False
                )

        await self._write(call)

    async def reserve(self, target: Target, offset: int, length: int) -> None:
        async def call(request: Request) -> None:
            async with self.node(target) as node:
                await files.reserve(
                    node.volume, request, node.inode.number, offset, length, durable=False
                )

        await self._write(call)

    async def data_ranges(self, target: Target, offset: int = 0) -> list[tuple[int, int]]:
        async with self.reference(target) as (volume, number):
            found: list[tuple[int, int]] = []
            end = False
            while not end:
                ranges, end = await files.data_ranges(volume, number, offset, 20)
                found += ranges
                offset = sum(found[-1]) if found else 0
            return found

    async def sync(self, target: Target | None = None) -> None:
        if target is None:
            for volume in self.platform.volumes:
                await volume.sync()
            return
        async with self.reference(target) as (volume, number):
            await files.sync(volume, number)

    async def write_file(
        self,
        path: str,
        data: bytes,
        *,
        no_replace: bool = False,
        parents: bool = False,
        durable: bool = False,
    ) -> Handle:
        async def call(request: Request) -> Handle:
            new = Attributes(Kind.FILE)
            async with self.new_name(path, parents=parents) as at:
                with at.volume.holds.append():
                    content = await files.prepare(at.volume, data)

                    async def work(unit: Unit) -> int:
                        directory = await namespace.make_parents(
                            unit, at.directory, at.missing, new
                        )
                        return await files.put(
                            unit, directory, at.name, content, len(data), new, no_replace=no_replace
                        )

                    number = await at.volume.run(request, work, durable=durable)
                return Handle(at.volume.id, number)

        return await self._write(call)

    async def copy_range(
        self, source: Target, target: Target, source_offset: int, target_offset: int, length: int
    ) -> int:
        async def call(request: Request) -> int:
            async with self.node(source) as a, self.node(target) as b:
                if a.volume is not b.volume:
                    raise Invalid("another volume", errno=18)
                return await files.copy_range(
                    a.volume,
                    request,
                    a.inode.number,
                    b.inode.number,
                    source_offset,
                    target_offset,
                    length,
                    durable=False,
                )

        return await self._write(call)

    # ---- the rest

    async def unit(
        self, path: str, work: Callable[[Unit, int], Awaitable[T]], *, durable: bool = False
    ) -> T:
        """One unit on what a path names: a call on a table or a stream."""

        async def call(request: Request) -> T:
            async with self.node(path) as node:
                number = node.inode.number
                return await node.volume.run(
                    request, lambda unit: work(unit, number), durable=durable
                )

        return await self._write(call)

    async def append_records(
        self, path: str, parts: Sequence[streams.Part], *, durable: bool, extent_bytes_min: int
    ) -> list[list[int | bool]]:
        """Batches to partitions of a stream; for each its offset, its time, and whether it was
        there already."""

        async def call(request: Request) -> list[list[int | bool]]:
            async with self.node(path) as node:
                volume, number = node.volume, node.inode.number
                with volume.holds.append():
                    prepared = await streams.prepare(
                        volume, parts, extent_bytes_min=extent_bytes_min
                    )
                    return await volume.run(
                        request,
                        lambda unit: streams.append(unit, number, prepared),
                        durable=durable,
                    )

        return await self._write(call)

    async def transaction(
        self,
        base: str,
        prepare: Callable[[Volume], Awaitable[Sequence[Operation]]],
        *,
        durable: bool = True,
    ) -> int:
        """The number of its commit. `prepare` writes bulk bytes and makes the operations."""

        async def call(request: Request) -> int:
            async with self.node(base) as node:
                with node.volume.holds.append():
                    operations = await prepare(node.volume)
                    return await transactions.run(node.volume, request, operations, durable=durable)

        return await self._write(call)

    async def create_volume(self, path: str, settings: VolumeSettings | None = None) -> int:
        async def call(request: Request) -> int:
            async with self.new_name(path, parents=True) as at:
                return await self.platform.catalog.create(request, at, settings or VolumeSettings())

        return await self._write(call)

    async def take_snapshot(self, path: Target, name: str) -> int:
        """Of the volume that the path leads to; the snapshot's number, which is a volume's."""

        async def call(request: Request) -> int:
            async with self.node(path) as node:
                taken = await self.platform.snapshots.create(request, node.volume, name)
                return taken.number

        return await self._write(call)

    async def remove_snapshot(self, path: Target, name: str) -> None:
        async def call(request: Request) -> None:
            async with self.node(path) as node:
                await self.platform.snapshots.remove(request, node.volume, name)

        await self._write(call)

    async def clone(self, path: str, name: str, new: str) -> int:
        """A volume made of a snapshot; its number."""

        async def call(request: Request) -> int:
            async with self.node(path) as node, self.new_name(new, parents=True) as at:
                return await clones.clone(self.platform, request, node.volume, name, at)

        return await self._write(call)

    async def restore(self, volume_id: int, name: str) -> int:
        async def call(request: Request) -> list[int]:
            return await restore.restore(self.platform, request, volume_id, name)

        (number,) = await self._write(call)
        return number

    async def restore_path(self, path: str, name: str) -> int:
        async def call(request: Request) -> int:
            async with self.new_name(path, parents=True) as at:
                return await restore_paths.restore(self.platform, request, at, name)

        return await self._write(call)

    async def promote(self, path: str) -> int:
        async def call(request: Request) -> int:
            async with self.node(path, follow=False) as node:
                clone, number = node.volume, node.inode.number
                _, made = await restore_paths.promote(self.platform, request, clone, number)
                return made

        return await self._write(call)

    async def set_quota(self, target: Target, **limits: int) -> None:
        async def call(request: Request) -> None:
            async with self.reference(target) as (volume, number):
                given = quota_directories.Limits(**limits)
                await quota_directories.set_quota(volume, request, number, given)

        await self._write(call)

    async def remove_quota(self, target: Target) -> None:
        async def call(request: Request) -> None:
            async with self.reference(target) as (volume, number):
                await quota_directories.remove_quota(volume, request, number)

        await self._write(call)

    async def remove_volume(self, volume_id: int, *, recursive: bool = False) -> None:
        async def call(request: Request) -> None:
            await self.platform.catalog.remove(request, volume_id, recursive=recursive)

        await self._write(call)
