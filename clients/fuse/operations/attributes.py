"""Attributes: stat, chmod, chown, utimens, truncate, extended attributes, statvfs."""

from __future__ import annotations

import errno
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataplatform.api import platform_pb2 as pb

from ..calls import (
    GET_XATTR,
    LIST_XATTRS,
    REMOVE_XATTR,
    SET_ATTRIBUTES,
    SET_XATTR,
    STAT,
    UNKNOWN_OUTCOMES,
    USAGE,
)
from ..nodes import KIND_WORDS, VIEW_BIT
from ..rights import READ
from .callers import Caller
from .names import Names

if TYPE_CHECKING:
    from ..mount import Mount
    from ..nodes import Node

OWN_PREFIX = "user.dp."
"""Attributes that the platform makes up: they can be read, and are not listed (as with btrfs and
ceph), so that nobody tries to copy them."""

NAMESPACES = ("user", "trusted", "security")

XATTR_CREATE = 1
XATTR_REPLACE = 2

USAGE_AGE_S = 1.0
USAGES_MAX = 1000


@dataclass(slots=True)
class Changes:
    """What setattr is to change; None stays."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    kill_set_id: bool = False

    @property
    def has_more(self) -> bool:
        """Anything but the size."""
        rest = (self.mode, self.uid, self.gid, self.atime_ns, self.mtime_ns)
        return any(value is not None for value in rest)


def without_set_id(mode: int) -> int | None:
    """The mode after a write by somebody who may not keep set-id bits; None if it stays (Linux:
    set-user-id always goes, set-group-id if the group may execute)."""
    kept = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        kept &= ~stat.S_ISGID
    return kept if kept != mode else None


class Attributes:
    def __init__(self, mount: Mount, names: Names) -> None:
        self._mount = mount
        self._names = names
        self._calls = mount.calls
        self._rights = mount.rights
        self._usages: dict[int, tuple[float, pb.UsageReply]] = {}  # by node

    async def get(self, number: int) -> Node:
        node = self._mount.nodes.get(number)
        if not node.known and node.links == 0 and node.kind not in (0, pb.FILE):
            return node  # removed while it is open: of files the server knows
        return await self._mount.node(number)

    async def set(self, number: int, changes: Changes, caller: Caller) -> Node:
        node = self._mount.nodes.get(number)
        if number & VIEW_BIT or (node.view is not None and changes.size is not None):
            work = self._mount.view_tree.set_attributes(node, changes.size)
            await self._rights.on_behalf(caller, work)
            return node
        if node.is_directory and not node.links and not node.known:
            self._set_removed(node, changes)
            return node
        if changes.size is not None:
            if changes.kill_set_id:
                await self.kill_set_id(node)
            await self._names.truncate(node, changes.size, caller)
        if changes.has_more:
            await self._set(node, changes, caller)
        elif changes.size is None:
            await self._mount.node(
                number
            )  # chown(2) that changes nobody: set-id bits go, and ctime
            await self._set(node, Changes(uid=node.uid), caller)
        return node

    def _set_removed(self, node: Node, changes: Changes) -> None:
        """A directory that was removed while it is open exists only here, until it is closed."""
        for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns"):
            value = getattr(changes, name)
            if value is not None:
                setattr(node, name, value)
        node.ctime_ns = time.time_ns()
        node.packed = None

    async def _set(self, node: Node, changes: Changes, caller: Caller | None) -> None:
        if node.writing is not None:
            await node.writing.flush()
        request = pb.SetAttributesRequest(
            target=pb.Target(volume=node.volume, inode=node.inode),
            mode=changes.mode,
            uid=self._rights.stored_uid(changes.uid) if changes.uid is not None else None,
            gid=changes.gid,
            atime_ns=changes.atime_ns,
            mtime_ns=changes.mtime_ns,
        )
        if caller is not None:
            self._rights.name(request.target, caller, node.governed)
        mark = self._calls.mark()
        if changes.atime_ns is not None:
            self._mount.access.set(node.key)
        try:
            message = await self._calls.call(SET_ATTRIBUTES, request)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(node)
            raise
        self._mount.take(message, mark)

    async def kill_set_id(self, node: Node) -> None:
        """Before a write or truncation by somebody without CAP_FSETID."""
        await self._mount.node(node.number)
        mode = without_set_id(node.mode)
        if mode is not None:
            await self._set(node, Changes(mode=mode), None)

    # ---- extended attributes

    async def get_xattr(self, number: int, name: bytes, caller: Caller) -> bytes:
        node = self._mount.nodes.get(number)
        text = name.decode("utf-8", "surrogateescape")
        _check_space(text)
        if text.startswith(OWN_PREFIX) or number & VIEW_BIT:
            return await self._rights.on_behalf(caller, self._own(node, text))
        await self._rights.ask(node, READ, caller)
        if node.xattrs is not None and node.promised:
            value = node.xattrs.get(text)
            if value is None:
                raise OSError(errno.ENODATA, "no such attribute")
            return value
        request = pb.XattrRequest(target=_target(node), name=_checked(text))
        reply = await self._calls.call(GET_XATTR, request)
        value = reply.value
        return bytes(value)

    async def _own(self, node: Node, name: str) -> bytes:
        if node.view is not None:
            value = (await node.view.xattrs()).get(name)
            if value is not None:
                return value
            if node.number & VIEW_BIT:
                raise OSError(errno.ENODATA, "no such attribute")
        message = await self._calls.call(STAT, pb.StatRequest(target=_target(node)))
        values = {
            "kind": KIND_WORDS.get(message.kind, "unknown"),
            "version": message.version,
            "size": message.size,
            "volume": message.volume,
            "inode": message.inode,
            "used_bytes": message.used_bytes,
        }
        found = values.get(name.removeprefix(OWN_PREFIX))
        if found is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return str(found).encode()

    async def list_xattrs(self, number: int, caller: Caller) -> list[bytes]:
        node = self._mount.nodes.get(number)
        if number & VIEW_BIT:
            return []  # they are the platform's own
        await self._rights.ask(node, READ, caller)
        if node.xattrs is not None and node.promised:
            names = list(node.xattrs)
        else:
            request = pb.XattrRequest(target=_target(node))
            names = (await self._calls.call(LIST_XATTRS, request)).names
        return [name.encode("utf-8", "surrogateescape") for name in names]

    async def set_xattr(
        self, number: int, name: bytes, value: bytes, flags: int, caller: Caller
    ) -> None:
        node = self._mount.nodes.get(number)
        text = self._writable(number, name)
        request = pb.XattrRequest(
            target=_target(node),
            name=text,
            value=value,
            create=bool(flags & XATTR_CREATE),
            replace=bool(flags & XATTR_REPLACE),
        )
        self._rights.name(request.target, caller, node.governed)
        try:
            await self._calls.call(SET_XATTR, request)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(node)
            raise
        if node.xattrs is not None:
            node.xattrs[text] = value
        node.known = False
        node.packed = None

    async def remove_xattr(self, number: int, name: bytes, caller: Caller) -> None:
        node = self._mount.nodes.get(number)
        text = self._writable(number, name)
        request = pb.XattrRequest(target=_target(node), name=text)
        self._rights.name(request.target, caller, node.governed)
        try:
            await self._calls.call(REMOVE_XATTR, request)
        except UNKNOWN_OUTCOMES:
            self._mount.doubt(node)
            raise
        if node.xattrs is not None:
            node.xattrs.pop(text, None)
        node.known = False
        node.packed = None

    def _writable(self, number: int, name: bytes) -> str:
        text = name.decode("utf-8", "surrogateescape")
        _check_space(text)
        if text.startswith(OWN_PREFIX) or number & VIEW_BIT:
            raise OSError(errno.EPERM, "the platform's own attributes cannot be changed")
        return _checked(text)

    # ---- the whole

    async def usage(self, number: int) -> pb.UsageReply:
        """By the tightest quota that counts for the node, at most a second old."""
        now_s = time.monotonic()
        node = self._mount.nodes.get(number)
        known = self._usages.get(number)
        if known is None or now_s - known[0] > USAGE_AGE_S:
            known = now_s, await self._calls.call(USAGE, pb.StatRequest(target=_target(node)))
            if len(self._usages) >= USAGES_MAX:
                self._usages.clear()
            self._usages[number] = known
        return known[1]


def _target(node: Node) -> pb.Target:
    return pb.Target(volume=node.volume, inode=node.inode)


def _check_space(name: str) -> None:
    """xattr(7): a name belongs to a namespace and has something behind it. There are no POSIX ACLs,
    so nothing of the system's."""
    space, dot, rest = name.partition(".")
    if not dot or space not in NAMESPACES:
        raise OSError(errno.EOPNOTSUPP, "no such namespace of attributes")
    if not rest:
        raise OSError(errno.EINVAL, "a name goes on behind its namespace")


def _checked(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise OSError(errno.EILSEQ, "names of attributes are UTF-8") from error
    return name
