"""Open files: read, write, flush, sync, space (POSIX.1-2017; fallocate(2), copy_file_range(2)).

Opening asks nobody: what is known of a node is exact, and the server is told that a file is open
only when its last name goes. So reading a small file that was read before costs one request of the
kernel, and none of ours.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError
from dataplatform.client import syncing
from dataplatform.transport.connections import Bulk

from ..calls import ALLOCATE, COPY_RANGE, MAP, SYNC, UNKNOWN_OUTCOMES
from ..handles import Handle
from ..nodes import VIEW_BIT
from ..reading import Reading
from ..rights import EXECUTE, READ, WRITE
from .attributes import Attributes
from .callers import Asker, Caller
from .names import Names

if TYPE_CHECKING:
    from ..mount import Mount
    from ..nodes import Node

logger = logging.getLogger(__name__)

T = TypeVar("T")

FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FALLOC_ZERO_RANGE = 16

FMODE_EXEC = 0x20
"""In the flags of an open by execve(2) (Linux include/linux/fs.h)."""

SEEK_DATA = 3
SEEK_HOLE = 4

COPY_BYTES_MAX = 1 << 30

PROMISE_ATTEMPTS_MAX = 5
"""Of a file that others change again before the answer is there."""


class Opened(NamedTuple):
    """An open file, and how the kernel may treat it."""

    handle: Handle
    keep_cache: bool = False
    direct: bool = False
    nonseekable: bool = False


class Files:
    def __init__(self, mount: Mount, names: Names, attributes: Attributes) -> None:
        self._mount = mount
        self._names = names
        self._attributes = attributes
        self._calls = mount.calls
        self._handles = mount.handles
        self._access = mount.access
        self._rights = mount.rights

    # ---- opening

    async def open(
        self, number: int, flags: int, caller: Caller, *, kill_set_id: bool = False
    ) -> Opened:
        """ESTALE, ENOENT; EACCES of an expression: modes are the kernel's to check."""
        mount = self._mount
        node = mount.nodes.get(number)
        if node.view is not None or number & VIEW_BIT:
            return await self._open_view(node, flags, caller)
        if not (node.known and node.promised):
            await mount.refresh(node)
        elif not flags & os.O_TRUNC:
            mount.stats.cache_hits += 1
        if node.is_snapshot and (flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC):
            raise OSError(errno.EROFS, "nothing in a snapshot can be changed")
        if node.asked:
            await self._rights.ask(node, _verbs(flags), caller)
        if flags & os.O_TRUNC:
            if kill_set_id:
                await self._attributes.kill_set_id(node)
            await self._names.truncate(node, 0, caller)
        return Opened(self._handle(node, caller), node.open_pages())

    def opened(self, node: Node, caller: Caller) -> Opened:
        """Of a file that has just been created."""
        return Opened(self._handle(node, caller), node.open_pages())

    def _handle(self, node: Node, caller: Caller) -> Handle:
        mount = self._mount
        reading = Reading(node, self._calls, mount.blocks, mount.small_files)
        handle = Handle(self._handles.next(), node, reading)
        handle.caller = caller
        self._handles.files[handle.number] = handle
        node.opens += 1
        return handle

    async def _open_view(self, node: Node, flags: int, caller: Caller) -> Opened:
        if node.view is None:
            raise OSError(errno.ESTALE, "looked up again, please")
        access = flags & os.O_ACCMODE
        if node.is_snapshot and access != os.O_RDONLY:
            raise OSError(errno.EROFS, "nothing in a snapshot can be changed")
        work = node.view.open(
            reading=access in (os.O_RDONLY, os.O_RDWR),
            writing=access in (os.O_WRONLY, os.O_RDWR),
            truncate=bool(flags & os.O_TRUNC),
        )
        view = await self._rights.on_behalf(caller, work)
        handle = Handle(self._handles.next(), node, None)
        handle.caller = caller
        handle.view = view
        self._handles.files[handle.number] = handle
        node.opens += 1
        return Opened(handle, direct=True, nonseekable=view.nonseekable)

    def _find(self, number: int, handle_number: int) -> Handle:
        handle = self._handles.files.get(handle_number)
        if handle is None:
            # Given out by a process before this one: it goes on with what the request says.
            node = self._mount.nodes.get(number)
            if number & VIEW_BIT:
                raise OSError(errno.ESTALE, "open it again, please")
            mount = self._mount
            reading = Reading(node, self._calls, mount.blocks, mount.small_files)
            handle = Handle(handle_number, node, reading)
            if self._handles.any_lost and node.writing is None:
                mount.writing(node).lose()
            handle.seen_failures = 0
            self._handles.files[handle_number] = handle
            node.opens += 1
        return handle

    async def release(self, number: int, handle_number: int) -> None:
        handle = self._handles.files.pop(handle_number, None)
        if handle is None:
            return
        node = handle.node
        node.opens -= 1
        if handle.view is not None:
            try:
                await self._on_behalf(handle, handle.view.release())
            except (PlatformError, OSError) as error:
                logger.warning("a file was not closed cleanly. reason=`%s`", error)
            return
        if handle.reading is not None:
            handle.reading.forget()
        self._mount.closed(node)

    # ---- rights

    async def _check(self, handle: Handle, verb: int, asker: Asker) -> None:
        """EACCES if an expression, which may be another one by now, keeps it from whoever opened
        it; what a process before this one opened is asked about for who uses it."""
        node = handle.node
        if node.governed_turn != self._rights.turn:
            await self._mount.node(node.number)
        if node.asked:
            if handle.caller is None:
                handle.caller = asker.caller
            await self._rights.ask(node, verb, handle.caller)

    async def _on_behalf(self, handle: Handle, work: Coroutine[Any, Any, T]) -> T:
        if handle.caller is None:
            return await work
        return await self._rights.on_behalf(handle.caller, work)

    # ---- reading and writing

    async def read(
        self, number: int, handle_number: int, offset: int, size: int, asker: Asker
    ) -> list[Bulk]:
        handle = self._find(number, handle_number)
        if handle.view is not None:
            return [await self._on_behalf(handle, handle.view.read(offset, size))]
        node, mount = handle.node, self._mount
        await self._check(handle, READ, asker)
        await self._settle(node)
        self._access.read(node)
        small = mount.small_files.find(node)
        if small is not None:
            part = small[offset : offset + size]
            mount.stats.read_bytes += len(part)
            return [part]
        if mount.near is not None:
            near = await mount.near.read(node, offset, size)
            if near is not None:
                return near
        assert handle.reading is not None
        return await handle.reading.read(offset, size)

    async def _settle(self, node: Node) -> None:
        """Before bytes are read: those that we wrote are with the server, and what the kernel is
        going to keep of them is promised."""
        for _ in range(PROMISE_ATTEMPTS_MAX):
            if node.writing is not None and node.writing.is_busy:
                await node.writing.flush()
            if node.promised and node.known:
                return
            await self._mount.refresh(node)
        if self._mount.kernel is not None:
            self._mount.kernel.pages_changed(node.number)  # others write all the time

    async def write(
        self,
        number: int,
        handle_number: int,
        offset: int,
        data: Bulk,
        asker: Asker,
        *,
        appends: bool,
        kill_set_id: bool,
    ) -> int:
        handle = self._find(number, handle_number)
        if handle.view is not None:
            return await self._on_behalf(handle, handle.view.write(offset, bytes(data)))
        node = handle.node
        mount = self._mount
        if node.governed or node.governed_turn != self._rights.turn:
            await self._check(handle, WRITE, asker)
        if node.writing is not None and node.writing.failures > handle.seen_failures:
            assert node.writing.failure is not None
            raise node.writing.failure  # told again, once, by the next flush or sync
        if kill_set_id and node.mode & 0o6000:
            await self._attributes.kill_set_id(node)
        if mount.budget.used_bytes >= mount.budget.bytes_max:
            await mount.budget.room()
        if not node.kind:
            await mount.node(node.number)
        node.wrote()
        node.written_s = mount.loop.time()
        if mount.near is not None:
            mount.near.written(node, offset, len(data))
        writing = mount.writing(node)
        writing.write(offset, data, appends=appends)
        if mount.fullness.is_near(node.volume):
            await writing.flush()
            if writing.failures > handle.seen_failures:
                assert writing.failure is not None
                raise writing.failure
        mount.stats.written_bytes += len(data)
        return len(data)

    async def flush(self, number: int, handle_number: int) -> None:
        """close(2): others see what was written."""
        handle = self._find(number, handle_number)
        if handle.view is not None:
            await self._on_behalf(handle, handle.view.flush())
            return
        writing = handle.node.writing
        if writing is not None:
            if writing.is_busy:
                await writing.flush()
            handle.raise_failure()

    async def sync(self, number: int, handle_number: int) -> None:
        """fsync(2): what was written is durable, and the file's name."""
        handle = self._find(number, handle_number)
        if handle.view is not None:
            await self._on_behalf(handle, handle.view.flush())
            return
        writing = handle.node.writing
        if writing is not None:
            try:
                await writing.sync()
            except PlatformError:
                handle.seen_failures = writing.failures  # told once, not again by close
                raise
            handle.raise_failure()
        else:
            await syncing.sync(self._calls.channel, handle.node.key)

    async def sync_directory(self, number: int) -> None:
        """fsync(2) of a directory: its names are durable."""
        node = self._mount.nodes.get(number)
        if node.view is None:
            request = pb.SyncRequest(target=pb.Target(volume=node.volume, inode=node.inode))
            await self._calls.call(SYNC, request)

    async def sync_all(self) -> None:
        """syncfs(2)."""
        for node in self._mount.nodes:
            if node.writing is not None and node.writing.is_busy:
                await node.writing.flush()
        await syncing.sync(self._calls.channel)

    # ---- space

    async def allocate(
        self,
        number: int,
        handle_number: int,
        offset: int,
        length: int,
        mode: int,
        asker: Asker,
        *,
        kill_set_id: bool,
    ) -> None:
        """fallocate(2): reserve, punch a hole, zero a range."""
        node = await self._file(number, handle_number, WRITE, asker)
        keep_size = bool(mode & FALLOC_KEEP_SIZE)
        kind = mode & ~FALLOC_KEEP_SIZE
        if kind not in (0, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE):
            raise OSError(errno.EOPNOTSUPP, "this kind of allocation does not exist here")
        if kind == FALLOC_PUNCH_HOLE and not keep_size:
            raise OSError(errno.EOPNOTSUPP, "a hole does not change the size")
        if kill_set_id:
            await self._attributes.kill_set_id(node)
        if node.writing is not None:
            await node.writing.flush()
        if kind != FALLOC_PUNCH_HOLE and not keep_size:
            await self._allocate(node, offset, length, pb.AllocateRequest.RESERVE, False)
        elif kind == 0:
            await self._allocate(node, offset, length, pb.AllocateRequest.RESERVE, True)
        if kind == FALLOC_PUNCH_HOLE:
            await self._allocate(node, offset, length, pb.AllocateRequest.PUNCH_HOLE, True)
        elif kind == FALLOC_ZERO_RANGE:
            await self._allocate(node, offset, length, pb.AllocateRequest.ZERO_RANGE, True)

    async def _allocate(
        self,
        node: Node,
        offset: int,
        length: int,
        mode: pb.AllocateRequest.Mode,
        keep_size: bool,
    ) -> None:
        mark = self._calls.mark()
        request = pb.AllocateRequest(
            target=pb.Target(volume=node.volume, inode=node.inode),
            offset=offset,
            length=length,
            mode=mode,
            keep_size=keep_size,
        )
        try:
            if mode == pb.AllocateRequest.RESERVE:
                message = await self._calls.call(ALLOCATE, request)
            else:
                with self._calls.channel.unsynced.cutting(node.key, offset, offset + length):
                    message = await self._calls.call(ALLOCATE, request)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(node)
            raise
        self._mount.take(message, mark)
        self._calls.changed(node)

    async def seek(
        self, number: int, handle_number: int, offset: int, whence: int, asker: Asker
    ) -> int:
        """lseek(2) with SEEK_DATA and SEEK_HOLE. ENXIO."""
        node = await self._file(number, handle_number, 0, asker)
        if whence not in (SEEK_DATA, SEEK_HOLE):
            raise OSError(errno.EINVAL, "unknown kind of seek")
        if node.writing is not None:
            await node.writing.flush()
        at = offset
        while True:
            request = pb.MapRequest(
                target=pb.Target(volume=node.volume, inode=node.inode), offset=at, limit=1000
            )
            reply = await self._calls.call(MAP, request)
            if offset >= reply.size:
                raise OSError(errno.ENXIO, "beyond the end")
            for found in reply.ranges:
                if whence == SEEK_DATA:
                    return int(max(offset, found.offset))
                if found.offset > at:
                    return at
                at = found.offset + found.length
            if reply.end or not reply.ranges:
                break
        if whence == SEEK_DATA:
            raise OSError(errno.ENXIO, "no data behind it")
        return int(min(at, reply.size))

    async def copy(
        self,
        number: int,
        handle_number: int,
        offset: int,
        target_number: int,
        target_handle: int,
        target_offset: int,
        length: int,
        asker: Asker,
        *,
        kill_set_id: bool,
    ) -> int:
        """copy_file_range(2): within a volume nothing is copied. EXDEV makes the kernel copy."""
        source = await self._file(number, handle_number, READ, asker)
        target = await self._file(target_number, target_handle, WRITE, asker)
        if source.volume != target.volume:
            raise OSError(errno.EXDEV, "in another volume")
        if kill_set_id:
            await self._attributes.kill_set_id(target)
        for node in (source, target):
            if node.writing is not None:
                await node.writing.flush()
        request = pb.CopyRangeRequest(
            source=pb.Target(volume=source.volume, inode=source.inode),
            target=pb.Target(volume=target.volume, inode=target.inode),
            source_offset=offset,
            target_offset=target_offset,
            length=min(length, COPY_BYTES_MAX),
        )
        try:
            reply = await self._calls.call(COPY_RANGE, request)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(target)
            raise
        end = target_offset + int(reply.length)
        self._calls.channel.unsynced.cut(target.key, target_offset, end)
        self._calls.changed(target)
        target.known = False
        target.packed = None
        return int(reply.length)

    async def _file(self, number: int, handle_number: int, verb: int, asker: Asker) -> Node:
        handle = self._find(number, handle_number)
        if handle.view is not None:
            raise OSError(errno.EOPNOTSUPP, "rows and records have no extents")
        if verb:
            await self._check(handle, verb, asker)
        return handle.node


def _verbs(flags: int) -> int:
    """What open(2) with these flags is for."""
    if flags & FMODE_EXEC:
        return EXECUTE
    access = flags & os.O_ACCMODE
    verbs = READ if access == os.O_RDONLY else WRITE if access == os.O_WRONLY else READ | WRITE
    return verbs | (WRITE if flags & os.O_TRUNC else 0)
