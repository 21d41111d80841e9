"""Names: look up, create, link, remove, rename (POSIX.1-2017, System Interfaces; renameat2(2)).

A name is answered from memory while the server promised to tell of changes in its directory; every
change is one request. What a change of ours does to what is remembered is done when its answer is
there: a promise is broken by others only.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, NamedTuple

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound
from dataplatform.base.limits import NAME_BYTES_MAX

from ..calls import CREATE, LINK, REMOVE, RENAME, SET_ATTRIBUTES, STAT, UNKNOWN_OUTCOMES
from ..nodes import SNAPSHOT_NAME, VIEW_BIT
from ..rights import EXECUTE
from .callers import Caller, name_text

if TYPE_CHECKING:
    from ..mount import Mount
    from ..nodes import Node


class Named(NamedTuple):
    """What a name stands for, None if for nothing, and whether the kernel may keep that."""

    node: Node | None
    is_kept: bool


RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_SPECIAL = {
    stat.S_IFREG: pb.FILE,
    stat.S_IFIFO: pb.FIFO,
    stat.S_IFSOCK: pb.SOCKET,
    stat.S_IFCHR: pb.CHARACTER_DEVICE,
    stat.S_IFBLK: pb.BLOCK_DEVICE,
}


class Names:
    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._nodes = mount.nodes
        self._calls = mount.calls
        self._rights = mount.rights

    # ---- looking

    async def lookup(self, number: int, name: bytes, caller: Caller) -> Named:
        """What the name stands for. EACCES if an expression does not let the caller pass."""
        directory = self._nodes.get(number)
        if directory.view is not None or number & VIEW_BIT:
            work = self._mount.view_tree.lookup(directory, name)
            return Named(await self._rights.on_behalf(caller, work), False)
        if self._rights.is_passage_asked(directory):
            await self._rights.check(directory, EXECUTE, caller)
            return Named((await self._known(directory, name)).node, False)
        return await self._known(directory, name)

    async def _known(self, directory: Node, name: bytes) -> Named:
        if len(name) > NAME_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, "names have at most 255 bytes")
        if name == SNAPSHOT_NAME:
            return await self._snapshots(directory)
        entries = directory.entries
        if entries is not None:
            child = entries.get(name)
            if child is None:
                if directory.complete:
                    self._mount.stats.cache_hits += 1
                    return Named(None, directory.promised)
            elif child == 0:
                self._mount.stats.cache_hits += 1
                return Named(None, directory.promised)
            else:
                node = self._nodes.find(child)
                if node is not None and node.known:
                    self._mount.stats.cache_hits += 1
                    return Named(node, directory.promised)
        return await self._ask(directory, name)

    async def _ask(self, directory: Node, name: bytes) -> Named:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return Named(None, False)  # nothing can have such a name
        mark, turn = self._calls.mark(), directory.names_turn
        try:
            message = await self._calls.call(STAT, pb.StatRequest(target=_at(directory, text)))
        except NotFound as error:
            if error.os_errno != errno.ENOENT:
                raise
            return Named(None, self._keep(directory, name, 0, mark, turn))
        if message.volume_root:  # what is mounted there, not the directory that it covers
            request = pb.StatRequest(target=_at(directory, text), follow=True)
            message = await self._calls.call(STAT, request)
        node = self._mount.take(message, mark)
        return Named(node, self._keep(directory, name, node.number, mark, turn))

    async def _snapshots(self, directory: Node) -> Named:
        """`.snapshot`: in every directory, but not among its names. In a snapshot there is none."""
        if not directory.known:
            await self._mount.refresh(directory)
        if directory.is_snapshot:
            return Named(None, directory.promised)
        node = self._nodes.snapshots_of(directory)
        if not (node.known and node.promised):
            await self._mount.refresh(node)
        return Named(node, node.promised)

    def _keep(self, directory: Node, name: bytes, number: int, mark: int, turn: int) -> bool:
        """Remember what the server said of a name, if no names changed meanwhile: neither was that
        told, nor did we change any. The kernel looks a name up anew without locking the directory,
        so the answer can be of before a change of ours and come behind the answer to that."""
        if directory.names_turn != turn or self._calls.told_since(directory.key, mark):
            return False
        directory.promised = True
        self._nodes.name(directory, name, number)
        return True

    # ---- creating

    async def create(
        self, number: int, name: bytes, mode: int, caller: Caller, *, exclusive: bool
    ) -> Node:
        """A new file, or the one that is there unless `exclusive`. EEXIST."""
        directory = self._nodes.get(number)
        if directory.view is not None:
            work = self._mount.view_tree.create(directory, name)
            return await self._rights.on_behalf(caller, work)
        request = self._request(directory, name, pb.FILE, mode, caller)
        request.exist_ok = not exclusive
        return await self._create(directory, name, request, caller)

    async def mknod(self, number: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        directory = self._nodes.get(number)
        kind = _SPECIAL.get(stat.S_IFMT(mode) or stat.S_IFREG)
        if kind is None:
            raise OSError(errno.EINVAL, "no such kind of node")
        if directory.view is not None:
            if kind != pb.FILE:
                raise OSError(errno.EPERM, "only files can be made here")
            work = self._mount.view_tree.create(directory, name)
            return await self._rights.on_behalf(caller, work)
        request = self._request(directory, name, kind, mode, caller)
        if kind in (pb.CHARACTER_DEVICE, pb.BLOCK_DEVICE):
            request.rdev = rdev
        return await self._create(directory, name, request, caller)

    async def mkdir(self, number: int, name: bytes, mode: int, caller: Caller) -> Node:
        directory = self._nodes.get(number)
        if directory.view is not None:
            work = self._mount.view_tree.mkdir(directory, name)
            return await self._rights.on_behalf(caller, work)
        request = self._request(directory, name, pb.DIRECTORY, mode, caller)
        node = await self._create(directory, name, request, caller)
        if node.promised:
            node.entries, node.complete = {}, True  # made by us: it is empty
        return node

    async def symlink(self, number: int, name: bytes, target: bytes, caller: Caller) -> Node:
        directory = self._nodes.get(number)
        if directory.view is not None:
            raise OSError(errno.EPERM, "no links can be made here")
        request = self._request(directory, name, pb.SYMLINK, 0o777, caller)
        try:
            request.symlink = target.decode()
        except UnicodeDecodeError as error:
            raise OSError(errno.EILSEQ, "targets of symbolic links are UTF-8") from error
        return await self._create(directory, name, request, caller)

    def _request(
        self, directory: Node, name: bytes, kind: int, mode: int, caller: Caller
    ) -> pb.CreateRequest:
        request = pb.CreateRequest(
            target=_at(directory, name_text(name)),
            kind=kind,  # type: ignore[arg-type]
            mode=mode & 0o7777,
            uid=caller.uid,
            gid=caller.gid,
        )
        self._rights.name(request.target, caller, directory.governed)
        return request

    async def _create(
        self, directory: Node, name: bytes, request: pb.CreateRequest, caller: Caller
    ) -> Node:
        mark = self._calls.mark()
        try:
            message = await self._calls.once(CREATE, request, caller.key)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(directory, name)
            raise
        node = self._mount.take(message, mark)
        self._added(directory, name, node, mark)
        if node.links == (2 if node.is_directory else 1) and node.xattrs is None and node.promised:
            node.xattrs = {}  # new: nobody can have set any
        node.is_ours = not request.exist_ok
        return node

    def _added(self, directory: Node, name: bytes, node: Node, mark: int) -> None:
        subdirectories = 1 if node.is_directory else 0
        self._changed(directory, mark, node.ctime_ns, 1, subdirectories)
        if self._calls.told_since(directory.key, mark):
            self._unsure(directory, name)
        else:
            self._nodes.name(directory, name, node.number)

    def _changed(
        self, directory: Node, mark: int, time_ns: int, names: int, subdirectories: int
    ) -> None:
        """Names came or went through us: what that does to the directory is known, unless others
        worked there meanwhile."""
        directory.names_turn += 1
        if self._calls.told_since(directory.key, mark):
            directory.known = False
        self._calls.overtaken(directory)
        directory.size = max(directory.size + names, 0)
        directory.links = max(directory.links + subdirectories, 0)
        if time_ns > directory.ctime_ns:  # not so when answers overtake one another
            directory.mtime_ns = directory.ctime_ns = time_ns
        directory.packed = None

    async def link(self, existing: int, number: int, name: bytes, caller: Caller) -> Node:
        directory = self._nodes.get(number)
        source = self._nodes.get(existing)
        if directory.view is not None or source.view is not None:
            raise OSError(errno.EPERM, "no links can be made here")
        if source.volume != directory.volume:
            raise OSError(errno.EXDEV, "in another volume")
        if source.writing is not None:
            await source.writing.flush()
        mark = self._calls.mark()
        request = pb.LinkRequest(
            existing=pb.Target(volume=source.volume, inode=source.inode),
            target=_at(directory, name_text(name)),
        )
        self._rights.name(request.existing, caller, directory.governed, source.governed)
        try:
            message = await self._calls.once(LINK, request, caller.key)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(directory, name)
            self._mount.doubt(source)
            raise
        node = self._mount.take(message, mark)
        self._added(directory, name, node, mark)
        return node

    # ---- removing

    async def unlink(self, number: int, name: bytes, caller: Caller) -> None:
        await self._remove(number, name, pb.RemoveRequest.NOT_DIRECTORY, caller)

    async def rmdir(self, number: int, name: bytes, caller: Caller) -> None:
        await self._remove(number, name, pb.RemoveRequest.EMPTY_DIRECTORY, caller)

    async def _remove(
        self, number: int, name: bytes, expect: pb.RemoveRequest.Expect, caller: Caller
    ) -> None:
        directory = self._nodes.get(number)
        if directory.view is not None:
            work = self._mount.view_tree.remove(
                directory, name, is_directory=expect == pb.RemoveRequest.EMPTY_DIRECTORY
            )
            await self._rights.on_behalf(caller, work)
            return
        node = await self._target(directory, name)
        if node is not None and node.view is not None and expect != pb.RemoveRequest.NOT_DIRECTORY:
            # A table or stream looks like a directory, and is removed as one when it is empty.
            expect = await self._mount.view_tree.removal(node)
        mark = self._calls.mark()
        request = pb.RemoveRequest(
            target=_at(directory, name_text(name)),
            expect=expect,
            keep_open=node is not None and self._mount.may_be_open(node),
        )
        self._rights.name(request.target, caller, directory.governed)
        try:
            reply = await self._calls.once(REMOVE, request, caller.key)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(directory, name)
            self._may_have_lost_name(node, is_kept=request.keep_open)
            raise
        is_directory = expect == pb.RemoveRequest.EMPTY_DIRECTORY
        self._changed(directory, mark, reply.time_ns, -1, -1 if is_directory else 0)
        self._nodes.unname(directory, name)
        self._lost_name(directory, reply)

    async def _target(self, directory: Node, name: bytes) -> Node | None:
        """What is going to lose this name: it has to be known whether it is open here."""
        child = directory.entries.get(name) if directory.entries is not None else None
        if child:
            return self._nodes.find(child)
        if not (self._mount.handles.files or self._mount.is_successor):
            return None
        return (await self._known(directory, name)).node

    def _lost_name(self, directory: Node, reply: pb.NamesReply) -> None:
        """What is known of the node that a name was taken from does not hold any more."""
        node = self._doubt(directory, reply.lost)
        if node is None:
            return
        if node.is_directory:
            node.links = 0  # whoever has it open sees it as it was, but for this
            self._nodes.forget_names(node)
        elif reply.kept_open:
            self._mount.kept(node)
        elif reply.is_last and node.kind != pb.FILE:
            node.links = 0  # a FIFO, say, that a program has open: the server knows nothing of that

    def _may_have_lost_name(self, node: Node | None, *, is_kept: bool) -> None:
        """Nobody knows whether a name was taken from it."""
        if node is None or node.view is not None:
            return
        self._mount.doubt(node)
        if is_kept:  # if it was the last one, the server has it open for us
            self._mount.background(self._mount.hold(node))

    def _doubt(self, directory: Node, inode: int) -> Node | None:
        """The inode of the same volume changed: its attributes are to be asked for."""
        if not inode:
            return None
        node = self._nodes.find(self._nodes.number_of((directory.volume, inode)))
        if node is not None:
            node.known = False
            node.packed = None
            self._calls.overtaken(node)
        return node

    # ---- renaming

    async def rename(
        self,
        number: int,
        name: bytes,
        new_number: int,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, "unknown flags")
        source, target = self._nodes.get(number), self._nodes.get(new_number)
        if source.view is not None or target.view is not None:
            work = self._mount.view_tree.rename(source, name, target, new_name)
            await self._rights.on_behalf(caller, work)
            return
        if source.volume != target.volume:
            raise OSError(errno.EXDEV, "in another volume")
        moved = source.entries.get(name, 0) if source.entries is not None else 0
        exchange, no_replace = bool(flags & RENAME_EXCHANGE), bool(flags & RENAME_NOREPLACE)
        replaced = None if no_replace else await self._target(target, new_name)
        keep = not exchange and replaced is not None and self._mount.may_be_open(replaced)
        moved_node = self._nodes.find(moved) if moved else None
        if moved_node is not None and moved_node.writing is not None:
            await moved_node.writing.flush()
        request = pb.RenameRequest(
            source=_at(source, name_text(name)),
            target=_at(target, name_text(new_name)),
            no_replace=no_replace,
            exchange=exchange,
            keep_open=keep,
        )
        self._rights.name(request.source, caller, source.governed, target.governed)
        mark = self._calls.mark()
        try:
            reply = await self._calls.once(RENAME, request, caller.key)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(source, name)
            self._mount.doubt(target, new_name)
            if moved_node is not None:
                self._mount.doubt(moved_node)
            self._may_have_lost_name(replaced, is_kept=keep)
            raise
        same = replaced is not None and replaced.number == moved
        if same or (number == new_number and name == new_name):
            return
        self._doubt(source, reply.renamed)
        if replaced is not None:
            self._doubt(target, replaced.inode)
        is_sure = _knows(target, new_name)
        self._left(source, target, reply.time_ns, mark, moved_node, replaced, exchange)
        target.known = target.known and is_sure
        self._nodes.unname(source, name)
        if exchange:
            self._exchanged(source, name, replaced, mark)
        if moved and not self._calls.told_since(target.key, mark):
            self._nodes.name(target, new_name, moved)
        else:
            self._unsure(target, new_name)
        self._lost_name(target, reply)

    def _exchanged(self, source: Node, name: bytes, node: Node | None, mark: int) -> None:
        if node is None or self._calls.told_since(source.key, mark):
            self._unsure(source, name)
        else:
            self._nodes.name(source, name, node.number)

    def _left(
        self,
        source: Node,
        target: Node,
        time_ns: int,
        mark: int,
        moved: Node | None,
        replaced: Node | None,
        exchange: bool,
    ) -> None:
        """What a rename does to the two directories."""
        if exchange or moved is None:
            for directory in (source, target):
                self._changed(directory, mark, time_ns, 0, 0)
                directory.known = False
            return
        moves = 1 if moved.is_directory else 0
        gone = 1 if replaced is not None and replaced.is_directory else 0
        self._changed(source, mark, time_ns, -1, -moves)
        self._changed(target, mark, time_ns, 0 if replaced is not None else 1, moves - gone)

    def _unsure(self, directory: Node, name: bytes) -> None:
        """There is something of this name, but nothing is known of it."""
        if directory.entries is not None:
            directory.entries.pop(name, None)
            directory.complete = False

    async def truncate(self, node: Node, size: int, caller: Caller) -> None:
        """ftruncate(2), also as a part of opening. What was written before is stored before."""
        if node.writing is not None:
            await node.writing.flush()
        mark = self._calls.mark()
        request = pb.SetAttributesRequest(
            target=pb.Target(volume=node.volume, inode=node.inode), size=size
        )
        self._rights.name(request.target, caller, node.governed)
        try:
            with self._calls.channel.unsynced.cutting(node.key, size):
                message = await self._calls.call(SET_ATTRIBUTES, request)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(node)
            raise
        self._mount.take(message, mark)
        self._calls.changed(node)


def _at(directory: Node, name: str) -> pb.Target:
    return pb.Target(volume=directory.volume, inode=directory.inode, path=name)


def _knows(directory: Node, name: bytes) -> bool:
    """Whether it is known if there is something of that name."""
    entries = directory.entries
    return entries is not None and (directory.complete or name in entries)
