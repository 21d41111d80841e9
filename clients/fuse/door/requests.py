"""Each request of the kernel as a call of `operations`, and its result as the kernel's reply.

A handler takes what it needs out of the buffer before its first wait, and returns the reply's body
(bytes, or a list of pieces of bulk). It is begun at once and takes no task unless it waits.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.transport.connections import Bulk

from ..listings import DOTS, Item, Listing
from ..nodes import VIEW_BIT, Node
from ..operations.attributes import Attributes, Changes
from ..operations.callers import Caller, errno_of
from ..operations.files import Files, Opened
from ..operations.names import Names
from ..rights import LIST
from . import kernel, packing
from .device import KEPT_BYTES_MIN, Device

if TYPE_CHECKING:
    from ..handover import Handover
    from ..mount import Mount

logger = logging.getLogger(__name__)

Body = bytes | list[Bulk]
Handler = Callable[[memoryview, "Request"], Awaitable[Body | None]]

HEAD = kernel.IN_HEADER.size
STATS_NAME = b".stats"
STATS_NUMBER = VIEW_BIT | (1 << 61)

_QUIET = frozenset(
    {
        ErrorKind.NOT_FOUND,
        ErrorKind.EXISTS,
        ErrorKind.INVALID,
        ErrorKind.DENIED,
        ErrorKind.EXHAUSTED,
        ErrorKind.CONFLICT,
        ErrorKind.STALE,
    }
)
"""Errors that belong to a program's day; others are logged."""

INTERRUPT_LOOK_S = 1.0
SIGKILL_BIT = 1 << 8

GIVE_UP_S = 15.0
"""How long a change of a program that was killed is waited for while there is a connection to the
server: longer than the server itself waits for other mounts to hear of it."""

_LOOKING = frozenset(
    {
        kernel.LOOKUP,
        kernel.GETATTR,
        kernel.READLINK,
        kernel.READ,
        kernel.STATFS,
        kernel.GETXATTR,
        kernel.LISTXATTR,
        kernel.OPENDIR,
        kernel.READDIR,
        kernel.READDIRPLUS,
        kernel.LSEEK,
    }
)
"""Requests that change nothing, whenever they are given up."""

TIME_NS_MAX = (1 << 63) - 1

USAGE_BLOCK_BYTES = 4096
UNKNOWN_ENTRIES = 1 << 40
UNKNOWN_CAPACITY_BYTES = 1 << 50
"""Shown where the store below does not say how much it holds (object stores)."""


class Request:
    """The head of a request."""

    __slots__ = ("end", "gid", "node", "opcode", "pid", "uid", "unique")

    def __init__(
        self, unique: int, opcode: int, node: int, uid: int, gid: int, pid: int, end: int
    ) -> None:
        self.unique = unique
        self.opcode = opcode
        self.node = node
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.end = end

    @property
    def caller(self) -> Caller:
        return Caller(self.uid, self.gid, self.pid, self.unique & ~kernel.UNIQUE_RESEND)


class Requests:
    """The kernel's requests, carried out."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self.names = Names(mount)
        self.attributes = Attributes(mount, self.names)
        self.files = Files(mount, self.names, self.attributes)
        self.device: Device
        self.init: Callable[[memoryview, Request], bytes]
        self.name_valid_s = packing.VALID_S
        self.setxattr_size = kernel.SETXATTR_IN.size
        self._under_way: dict[int, asyncio.Task[Any]] = {}
        self._heads: dict[int, Request] = {}  # of those under way
        self._interrupted: dict[int, float] = {}  # since when (the loop's time)
        self._watching: asyncio.TimerHandle | None = None
        self.unrepeated: Handover | None = None
        """Remembers what is under way, for a kernel that cannot ask a successor again."""
        self._operations = mount.stats.operations
        self._channel = mount.calls.channel
        self._owed = mount.calls.owed
        self._handlers: dict[int, Handler] = {
            kernel.LOOKUP: self._lookup,
            kernel.GETATTR: self._getattr,
            kernel.SETATTR: self._setattr,
            kernel.READLINK: self._readlink,
            kernel.SYMLINK: self._symlink,
            kernel.MKNOD: self._mknod,
            kernel.MKDIR: self._mkdir,
            kernel.UNLINK: self._unlink,
            kernel.RMDIR: self._rmdir,
            kernel.RENAME: self._rename,
            kernel.RENAME2: self._rename2,
            kernel.LINK: self._link,
            kernel.OPEN: self._open,
            kernel.READ: self._read,
            kernel.WRITE: self._write,
            kernel.STATFS: self._statfs,
            kernel.RELEASE: self._release,
            kernel.FSYNC: self._fsync,
            kernel.SETXATTR: self._setxattr,
            kernel.GETXATTR: self._getxattr,
            kernel.LISTXATTR: self._listxattr,
            kernel.REMOVEXATTR: self._removexattr,
            kernel.FLUSH: self._flush,
            kernel.OPENDIR: self._opendir,
            kernel.READDIR: self._readdir,
            kernel.READDIRPLUS: self._readdirplus,
            kernel.RELEASEDIR: self._releasedir,
            kernel.FSYNCDIR: self._fsyncdir,
            kernel.CREATE: self._create,
            kernel.FALLOCATE: self._fallocate,
            kernel.LSEEK: self._lseek,
            kernel.COPY_FILE_RANGE: self._copy_file_range,
            kernel.SYNCFS: self._syncfs,
        }

    @property
    def are_under_way(self) -> bool:
        return bool(self._under_way)

    async def finished(self) -> None:
        """Wait for those that have begun."""
        while self._under_way:
            await asyncio.wait(list(self._under_way.values()))
            await asyncio.sleep(0)

    # ---- the way in and out

    def handle(self, view: memoryview, length: int) -> None:
        """Begin the request in the buffer. Whatever is in there, nothing is raised."""
        if length < HEAD:
            logger.error("a request without a head. length=%d", length)
            return
        view = view[:length]
        _, opcode, unique, node, uid, gid, pid, _, _ = kernel.IN_HEADER.unpack_from(view)
        request = Request(unique, opcode, node, uid, gid, pid, length)
        handler = self._handlers.get(opcode)
        if handler is None:
            try:
                self._special(view, request)
            except Exception:
                logger.exception("a request failed. opcode=%d", opcode)
                self.device.refuse(unique, errno.EIO)
            return
        self._operations[kernel.NAMES[opcode]] += 1
        connection = self._channel.current
        scheduled = connection.begin_turn() if connection is not None else False
        task = self._mount.steps.begin(self._serve(handler, view, request))
        if connection is not None:
            connection.end_turn(scheduled)
        if task is not None:
            self._under_way[unique] = task
            self._heads[unique] = request
            if self.unrepeated is not None:
                self.unrepeated.begin_request(unique)

    def _special(self, view: memoryview, request: Request) -> None:
        opcode = request.opcode
        if opcode == kernel.FORGET:
            self._mount.nodes.forget(request.node)
        elif opcode == kernel.BATCH_FORGET:
            count, _ = kernel.BATCH_FORGET_IN.unpack_from(view, HEAD)
            at = HEAD + kernel.BATCH_FORGET_IN.size
            for index in range(count):
                node, _ = kernel.FORGET_ONE.unpack_from(view, at + index * kernel.FORGET_ONE.size)
                self._mount.nodes.forget(node)
        elif opcode == kernel.INTERRUPT:
            (unique,) = kernel.INTERRUPT_IN.unpack_from(view, HEAD)
            self._interrupt(unique)
        elif opcode == kernel.INIT:
            self.device.reply(request.unique, self.init(view, request))
        elif opcode == kernel.DESTROY:
            self.device.reply(request.unique, b"")
        else:
            self.device.refuse(request.unique, errno.ENOSYS)

    async def _serve(self, handler: Handler, view: memoryview, request: Request) -> None:
        unique = request.unique
        is_answered = True
        try:
            body = await handler(view, request)
        except (PlatformError, OSError) as error:
            self._refuse(request, error)
        except asyncio.CancelledError:
            is_answered = False
            self.device.refuse(unique, errno.EINTR)
        except struct.error:
            logger.error("a request is too short. request=`%s`", kernel.NAMES[request.opcode])
            self.device.refuse(unique, errno.EIO)
        except Exception:
            logger.exception("a request failed. request=`%s`", kernel.NAMES[request.opcode])
            self._mount.stats.failures += 1
            self.device.refuse(unique, errno.EIO)
        else:
            if isinstance(body, list):
                self.device.reply_bulk(unique, body)
            elif body is not None:
                self.device.reply(unique, body)
        finally:
            if self._under_way.pop(unique, None) is not None:
                self._heads.pop(unique, None)
                if self.unrepeated is not None:
                    self.unrepeated.end_request(unique)
            if self._owed:
                self._mount.calls.done(unique & ~kernel.UNIQUE_RESEND, is_answered=is_answered)

    def _refuse(self, request: Request, error: PlatformError | OSError) -> None:
        if isinstance(error, PlatformError) and error.kind not in _QUIET:
            self._mount.stats.failures += 1
            name = kernel.NAMES[request.opcode]
            logger.warning("a request failed. request=`%s`, reason=`%s`", name, error)
        self.device.refuse(request.unique, errno_of(error))

    # ---- interrupts

    def _interrupt(self, unique: int) -> None:
        """A signal came for a program that waits. A local disk does not let calls be interrupted,
        so only the end of the program ends its call; that is looked for until it is answered."""
        if unique in self._under_way:
            self._interrupted[unique] = self._mount.loop.time()
            if self._watching is None:
                self._look_for_killed()

    def _look_for_killed(self) -> None:
        self._watching = None
        for unique, since_s in list(self._interrupted.items()):
            task, request = self._under_way.get(unique), self._heads.get(unique)
            if task is None or request is None:
                del self._interrupted[unique]
            elif _is_killed(request.pid) and self._may_give_up(request, since_s):
                del self._interrupted[unique]
                task.cancel()
        if self._interrupted:
            self._watching = self._mount.loop.call_later(INTERRUPT_LOOK_S, self._look_for_killed)

    def _may_give_up(self, request: Request, since_s: float) -> bool:
        """As on a local disk, what a program had begun when it was killed is done when it is gone:
        its locks go with it, and whoever has them next must not find it half done, or have it
        done later. So a change that the server is working on is waited for."""
        if request.opcode in _LOOKING:
            return True
        connection = self._channel.current
        if connection is None or connection.closed:
            return True
        return self._mount.loop.time() - since_s >= GIVE_UP_S

    # ---- names

    async def _lookup(self, view: memoryview, request: Request) -> bytes:
        name = _name(view, HEAD)
        number = request.node
        if number == kernel.ROOT_NODE and name == STATS_NAME:
            return packing.entry(self._stats_node(), 0)
        node, is_kept = await self.names.lookup(number, name, request.caller)
        valid_s = self.name_valid_s if is_kept else 0
        if node is None:
            if valid_s:
                return packing.no_entry(valid_s)
            raise OSError(errno.ENOENT, "no such name")
        return packing.entry(node, valid_s)

    def _stats_node(self) -> Node:
        node = Node(STATS_NUMBER, 0, 0)
        node.kind, node.mode, node.links = 1, 0o444, 1
        node.size = len(self._mount.stats.text().encode())
        return node

    def _entry(self, node: Node, directory: int, name: bytes) -> bytes:
        """Of something that has just been made or linked."""
        found = self._mount.nodes.find(directory)
        is_kept = (
            found is not None
            and found.promised
            and found.entries is not None
            and found.entries.get(name) == node.number
            and not self._mount.rights.is_passage_asked(found)
        )
        return packing.entry(node, self.name_valid_s if is_kept else 0)

    async def _mknod(self, view: memoryview, request: Request) -> bytes:
        mode, rdev, _, _ = kernel.MKNOD_IN.unpack_from(view, HEAD)
        name = _name(view, HEAD + kernel.MKNOD_IN.size)
        node = await self.names.mknod(request.node, name, mode, rdev, request.caller)
        return self._entry(node, request.node, name)

    async def _mkdir(self, view: memoryview, request: Request) -> bytes:
        mode, _ = kernel.MKDIR_IN.unpack_from(view, HEAD)
        name = _name(view, HEAD + kernel.MKDIR_IN.size)
        node = await self.names.mkdir(request.node, name, mode, request.caller)
        return self._entry(node, request.node, name)

    async def _symlink(self, view: memoryview, request: Request) -> bytes:
        name, target = _two_names(view, HEAD)
        node = await self.names.symlink(request.node, name, target, request.caller)
        return self._entry(node, request.node, name)

    async def _link(self, view: memoryview, request: Request) -> bytes:
        (existing,) = kernel.LINK_IN.unpack_from(view, HEAD)
        name = _name(view, HEAD + kernel.LINK_IN.size)
        node = await self.names.link(existing, request.node, name, request.caller)
        return self._entry(node, request.node, name)

    async def _unlink(self, view: memoryview, request: Request) -> bytes:
        name = _name(view, HEAD)
        await self.names.unlink(request.node, name, request.caller)
        return b""

    async def _rmdir(self, view: memoryview, request: Request) -> bytes:
        name = _name(view, HEAD)
        await self.names.rmdir(request.node, name, request.caller)
        return b""

    async def _rename(self, view: memoryview, request: Request) -> bytes:
        (directory,) = kernel.RENAME_IN.unpack_from(view, HEAD)
        return await self._rename_to(view, request, kernel.RENAME_IN.size, directory, 0)

    async def _rename2(self, view: memoryview, request: Request) -> bytes:
        directory, flags, _ = kernel.RENAME2_IN.unpack_from(view, HEAD)
        return await self._rename_to(view, request, kernel.RENAME2_IN.size, directory, flags)

    async def _rename_to(
        self, view: memoryview, request: Request, skip: int, directory: int, flags: int
    ) -> bytes:
        name, new_name = _two_names(view, HEAD + skip)
        await self.names.rename(request.node, name, directory, new_name, flags, request.caller)
        return b""

    # ---- attributes

    async def _getattr(self, view: memoryview, request: Request) -> bytes:
        if request.node == STATS_NUMBER:
            return self._attributes(self._stats_node())
        return self._attributes(await self.attributes.get(request.node))

    def _attributes(self, node: Node) -> bytes:
        valid_s = packing.VALID_S if node.known and node.promised else 0
        return kernel.ATTRIBUTES_OUT.pack(valid_s, 0, 0) + packing.attributes(node)

    async def _setattr(self, view: memoryview, request: Request) -> bytes:
        values = kernel.SETATTR_IN.unpack_from(view, HEAD)
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = values
        changes = Changes(
            mode=mode & 0o7777 if valid & kernel.SET_MODE else None,
            uid=uid if valid & kernel.SET_UID else None,
            gid=gid if valid & kernel.SET_GID else None,
            size=size if valid & kernel.SET_SIZE else None,
            atime_ns=_time_ns(atime, atime_ns) if valid & kernel.SET_ATIME else None,
            mtime_ns=_time_ns(mtime, mtime_ns) if valid & kernel.SET_MTIME else None,
            kill_set_id=bool(valid & kernel.SET_KILL_SUIDGID),
        )
        if request.node == STATS_NUMBER:
            raise OSError(errno.EPERM, "only to be read")
        return self._attributes(await self.attributes.set(request.node, changes, request.caller))

    async def _readlink(self, view: memoryview, request: Request) -> bytes:
        return (await self._mount.node(request.node)).symlink.encode()

    async def _getxattr(self, view: memoryview, request: Request) -> bytes:
        size, _ = kernel.GETXATTR_IN.unpack_from(view, HEAD)
        name = _name(view, HEAD + kernel.GETXATTR_IN.size)
        if request.node == STATS_NUMBER:
            raise OSError(errno.ENODATA, "no such attribute")
        value = await self.attributes.get_xattr(request.node, name, request.caller)
        return _sized(value, size)

    async def _listxattr(self, view: memoryview, request: Request) -> bytes:
        size, _ = kernel.GETXATTR_IN.unpack_from(view, HEAD)
        if request.node == STATS_NUMBER:
            return _sized(b"", size)
        names = await self.attributes.list_xattrs(request.node, request.caller)
        return _sized(b"".join(name + b"\x00" for name in names), size)

    async def _setxattr(self, view: memoryview, request: Request) -> bytes:
        size, flags = kernel.SETXATTR_IN_BEFORE_33.unpack_from(view, HEAD)
        name, end, value = bytes(view[HEAD + self.setxattr_size :]).partition(b"\x00")
        if not name or not end or len(value) < size:
            raise struct.error("no name, or too few bytes of its value")
        await self.attributes.set_xattr(request.node, name, value[:size], flags, request.caller)
        return b""

    async def _removexattr(self, view: memoryview, request: Request) -> bytes:
        await self.attributes.remove_xattr(request.node, _name(view, HEAD), request.caller)
        return b""

    async def _statfs(self, view: memoryview, request: Request) -> bytes:
        usage = await self.attributes.usage(request.node)
        capacity = usage.capacity_bytes or UNKNOWN_CAPACITY_BYTES
        free = min(usage.available_bytes if usage.capacity_bytes else capacity, capacity)
        free_blocks = free // USAGE_BLOCK_BYTES
        entries_max = usage.quota_entries or UNKNOWN_ENTRIES
        entries_free = entries_max - usage.entries
        if usage.quota_entries:
            entries_free = usage.available_entries
        return kernel.STATFS_OUT.pack(
            capacity // USAGE_BLOCK_BYTES,
            free_blocks,
            free_blocks,
            entries_max,
            entries_free,
            USAGE_BLOCK_BYTES,
            255,
            USAGE_BLOCK_BYTES,
            0,
        )

    # ---- files

    async def _open(self, view: memoryview, request: Request) -> bytes:
        flags, open_flags = kernel.OPEN_IN.unpack_from(view, HEAD)
        if request.node == STATS_NUMBER:
            return kernel.OPEN_OUT.pack(0, kernel.OPEN_DIRECT_IO, 0)
        kill = bool(open_flags & kernel.OPEN_KILL_SUIDGID)
        opened = await self.files.open(request.node, flags, request.caller, kill_set_id=kill)
        return _opened(opened, flags)

    async def _create(self, view: memoryview, request: Request) -> bytes:
        flags, mode, _, _ = kernel.CREATE_IN.unpack_from(view, HEAD)
        name = _name(view, HEAD + kernel.CREATE_IN.size)
        node = await self.names.create(
            request.node, name, mode, request.caller, exclusive=bool(flags & os.O_EXCL)
        )
        if node.view is not None or (flags & os.O_TRUNC and node.size):
            opened = await self.files.open(node.number, flags, request.caller)
        else:
            opened = self.files.opened(node, request.caller)
        return self._entry(node, request.node, name) + _opened(opened, flags)

    async def _read(self, view: memoryview, request: Request) -> Body:
        handle, offset, size, _, _, _, _ = kernel.READ_IN.unpack_from(view, HEAD)
        if request.node == STATS_NUMBER:
            return self._mount.stats.text().encode()[offset : offset + size]
        return await self.files.read(request.node, handle, offset, size, request)

    async def _write(self, view: memoryview, request: Request) -> bytes:
        handle, offset, size, write_flags, _, flags, _ = kernel.WRITE_IN.unpack_from(view, HEAD)
        start = HEAD + kernel.WRITE_IN.size
        data: Bulk = view[start : start + size]
        if len(data) != size:
            raise struct.error("too few bytes")
        if size >= KEPT_BYTES_MIN:
            self.device.keep_buffer()
        else:
            data = bytes(data)
        written = await self.files.write(
            request.node,
            handle,
            offset,
            data,
            request,
            appends=bool(flags & os.O_APPEND) and not write_flags & kernel.WRITE_CACHE,
            kill_set_id=bool(write_flags & kernel.WRITE_KILL_SUIDGID),
        )
        return kernel.WRITE_OUT.pack(written, 0)

    async def _flush(self, view: memoryview, request: Request) -> bytes:
        handle, _, _, _ = kernel.FLUSH_IN.unpack_from(view, HEAD)
        if request.node != STATS_NUMBER:
            await self.files.flush(request.node, handle)
        return b""

    async def _release(self, view: memoryview, request: Request) -> bytes:
        handle, _, _, _ = kernel.RELEASE_IN.unpack_from(view, HEAD)
        if request.node != STATS_NUMBER:
            await self.files.release(request.node, handle)
        return b""

    async def _fsync(self, view: memoryview, request: Request) -> bytes:
        handle, _, _ = kernel.FSYNC_IN.unpack_from(view, HEAD)
        await self.files.sync(request.node, handle)
        return b""

    async def _fallocate(self, view: memoryview, request: Request) -> bytes:
        handle, offset, length, mode, _ = kernel.FALLOCATE_IN.unpack_from(view, HEAD)
        await self.files.allocate(
            request.node, handle, offset, length, mode, request, kill_set_id=request.uid != 0
        )
        return b""

    async def _lseek(self, view: memoryview, request: Request) -> bytes:
        handle, offset, whence, _ = kernel.LSEEK_IN.unpack_from(view, HEAD)
        at = await self.files.seek(request.node, handle, offset, whence, request)
        return kernel.LSEEK_OUT.pack(at)

    async def _copy_file_range(self, view: memoryview, request: Request) -> bytes:
        handle, offset, node, target, target_offset, length, _ = kernel.COPY_IN.unpack_from(
            view, HEAD
        )
        copied = await self.files.copy(
            request.node,
            handle,
            offset,
            node,
            target,
            target_offset,
            length,
            request,
            kill_set_id=request.uid != 0,
        )
        return kernel.WRITE_OUT.pack(copied, 0)

    async def _syncfs(self, view: memoryview, request: Request) -> bytes:
        await self.files.sync_all()
        return b""

    # ---- directories

    async def _opendir(self, view: memoryview, request: Request) -> bytes:
        node = self._mount.nodes.get(request.node)
        flags = 0
        if node.view is None:
            if not node.promised:
                node = await self._mount.node(request.node)
            if node.open_pages():
                flags = kernel.OPEN_KEEP_CACHE
            flags |= kernel.OPEN_CACHE_DIR
            await self._mount.rights.ask(node, LIST, request.caller)
        handles = self._mount.handles
        number = handles.next()
        handles.directories[number] = Listing(self._mount, node, request.caller)
        return kernel.OPEN_OUT.pack(number, flags, 0)

    async def _readdir(self, view: memoryview, request: Request) -> bytes:
        return await self._list(view, request, plus=False)

    async def _readdirplus(self, view: memoryview, request: Request) -> bytes:
        return await self._list(view, request, plus=True)

    async def _list(self, view: memoryview, request: Request, *, plus: bool) -> bytes:
        handle, position, size, _, _, _, _ = kernel.READ_IN.unpack_from(view, HEAD)
        listing = self._mount.handles.directories.get(handle)
        if listing is None:
            node = await self._mount.node(request.node)
            listing = Listing(self._mount, node, request.caller)
            self._mount.handles.directories[handle] = listing
        items: list[Item] = []
        if position == 0:
            listing.begin()
        if position < DOTS:
            dots = (Item(b".", request.node, 0o040000, None), Item(b"..", 1, 0o040000, None))
            items += dots[position:]
            items += await listing.at(DOTS)
        else:
            items = await listing.at(position)
        return packing.directory_page(
            items,
            position,
            size,
            plus=plus,
            name_valid_s=self.name_valid_s if self._is_kept(listing) else 0,
        )

    def _is_kept(self, listing: Listing) -> bool:
        return listing.is_kept and not self._mount.rights.is_passage_asked(listing.node)

    async def _releasedir(self, view: memoryview, request: Request) -> bytes:
        handle, _, _, _ = kernel.RELEASE_IN.unpack_from(view, HEAD)
        self._mount.handles.directories.pop(handle, None)
        return b""

    async def _fsyncdir(self, view: memoryview, request: Request) -> bytes:
        await self.files.sync_directory(request.node)
        return b""


def _opened(opened: Opened, flags: int) -> bytes:
    kernel_flags = 0
    if opened.direct:
        kernel_flags |= kernel.OPEN_DIRECT_IO
    elif opened.keep_cache:
        kernel_flags |= kernel.OPEN_KEEP_CACHE
    if opened.nonseekable:
        kernel_flags |= kernel.OPEN_NONSEEKABLE
    if flags & os.O_ACCMODE == os.O_RDONLY and not opened.direct:
        kernel_flags |= kernel.OPEN_NOFLUSH
    return kernel.OPEN_OUT.pack(opened.handle.number, kernel_flags, 0)


def _time_ns(seconds: int, nanoseconds: int) -> int:
    """Times end in 1677 and 2262: like other file systems we take the nearest that there is."""
    return min(max(seconds * packing.NS + nanoseconds, -TIME_NS_MAX), TIME_NS_MAX)


def _name(view: memoryview, start: int) -> bytes:
    """What stands at the end of a request, and ends with a zero byte."""
    name = bytes(view[start:])
    if len(name) < 2 or name[-1]:
        raise struct.error("no name")
    return name[:-1]


def _two_names(view: memoryview, start: int) -> list[bytes]:
    names = bytes(view[start:]).split(b"\x00")
    if len(names) != 3 or not names[0] or not names[1] or names[2]:
        raise struct.error("no two names")
    return names[:2]


def _sized(value: bytes, size: int) -> bytes:
    """getxattr(2): the size alone when none is given, ERANGE when it does not fit."""
    if size == 0:
        return kernel.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "larger than the buffer")
    return value


def _is_killed(pid: int) -> bool:
    """Whether a program has a SIGKILL that it cannot follow because it waits for us. The kernel
    makes that of any signal that ends the program."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False  # of another pid namespace: nobody can know
    return any(
        int(line.split()[1], 16) & SIGKILL_BIT
        for line in lines
        if line.startswith((b"SigPnd:", b"ShdPnd:"))
    )
