"""Names: directories, attributes, links, renaming and removing."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid, NotFound
from .base import Operations
from .connection import Pending
from .messages import build, whole_number
from .nodes import durability, entry_of, stat_of
from .paths import Path, checked, join, target, text
from .values import Entry, Stat, Usage
from .window import Window

STAT = METHODS["Namespace.Stat"]
LIST = METHODS["Namespace.List"]
CREATE = METHODS["Namespace.Create"]
LINK = METHODS["Namespace.Link"]
REMOVE = METHODS["Namespace.Remove"]
RENAME = METHODS["Namespace.Rename"]
SET_ATTRIBUTES = METHODS["Namespace.SetAttributes"]
GET_XATTR = METHODS["Namespace.GetXattr"]
LIST_XATTRS = METHODS["Namespace.ListXattrs"]
SET_XATTR = METHODS["Namespace.SetXattr"]
REMOVE_XATTR = METHODS["Namespace.RemoveXattr"]
USAGE = METHODS["Namespace.Usage"]
PATH = METHODS["Namespace.Path"]
VOLUMES = METHODS["Volumes.List"]

REMOVES_UNDER_WAY = 64
"""Of `rmtree`: enough to hide the round trip, few enough to leave slots for others."""


# ------------------------------------------------------------- requests, also for transactions


def create_request(
    path: Path,
    kind: pb.Kind,
    mode: int,
    *,
    parents: bool = False,
    exist_ok: bool = False,
    durable: bool | None = None,
) -> pb.CreateRequest:
    return build(
        pb.CreateRequest,
        target=target(path),
        kind=kind,
        mode=mode,
        uid=os.getuid(),
        gid=os.getgid(),
        parents=parents,
        exist_ok=exist_ok,
        durability=durability(durable),
    )


def symlink_request(to: Path, path: Path) -> pb.CreateRequest:
    request = create_request(path, pb.SYMLINK, 0o777)
    request.symlink = text(to)
    return request


def link_request(existing: Path, path: Path) -> pb.LinkRequest:
    return build(pb.LinkRequest, existing=target(existing), target=target(path))


def remove_request(
    path: Path,
    expect: pb.RemoveRequest.Expect = pb.RemoveRequest.ANYTHING,
    *,
    missing_ok: bool = False,
    durable: bool | None = None,
) -> pb.RemoveRequest:
    return build(
        pb.RemoveRequest,
        target=target(path),
        expect=expect,
        missing_ok=missing_ok,
        durability=durability(durable),
    )


def rename_request(
    source: Path,
    to: Path,
    *,
    no_replace: bool = False,
    exchange: bool = False,
    durable: bool | None = None,
) -> pb.RenameRequest:
    return build(
        pb.RenameRequest,
        source=target(source),
        target=target(to),
        no_replace=no_replace,
        exchange=exchange,
        durability=durability(durable),
    )


class NamespaceOperations(Operations):
    # ------------------------------------------------------------------------------- looking

    async def _node(self, path: Path, *, follow: bool = True) -> pb.Node:
        request = build(pb.StatRequest, target=target(path), follow=follow)
        node: pb.Node = (await self._channel.call(STAT, request))[0]
        return node

    async def stat(self, path: Path) -> Stat:
        return stat_of(await self._node(path))

    async def lstat(self, path: Path) -> Stat:
        return stat_of(await self._node(path, follow=False))

    async def exists(self, path: Path) -> bool:
        try:
            await self._node(path)
        except NotFound:
            return False
        return True

    async def _pages(self, path: Path) -> AsyncIterator[list[Entry]]:
        """A directory's entries, a page at a time, the next one under way meanwhile."""
        directory = text(path)
        pending: Pending | None = await self._list(directory, "")
        try:
            while pending is not None:
                reply: pb.ListReply
                reply, _ = await pending
                pending = None
                if not reply.end and reply.nodes:
                    pending = await self._list(directory, reply.nodes[-1].name)
                yield [entry_of(node, directory) for node in reply.nodes]
        finally:
            if pending is not None:
                pending.abandon()

    async def _list(self, directory: str, after: str) -> Pending:
        request = build(pb.ListRequest, target=pb.Target(path=directory), after=after)
        return await self._channel.start(LIST, request)

    async def scandir(self, path: Path = "/") -> AsyncIterator[Entry]:
        async for page in self._pages(path):
            for entry in page:
                yield entry

    async def listdir(self, path: Path = "/") -> list[str]:
        return [entry.name async for page in self._pages(path) for entry in page]

    async def walk(
        self, path: Path, *, topdown: bool = True
    ) -> AsyncIterator[tuple[str, list[Entry], list[Entry]]]:
        # A stack instead of recursion, so that no tree is too deep. The flag says that what is
        # below a directory has been given already (bottom up).
        empty: tuple[list[Entry], list[Entry]] = ([], [])
        stack = [(text(path), False, empty)]
        while stack:
            directory, is_done, listed = stack.pop()
            if is_done:
                yield directory, *listed
                continue
            directories: list[Entry] = []
            others: list[Entry] = []
            async for page in self._pages(directory):
                for entry in page:
                    (directories if entry.is_dir() else others).append(entry)
            if topdown:
                yield directory, directories, others
            else:
                stack.append((directory, True, (directories, others)))
            # Other clusters are seen, and not entered: who means them begins there.
            inside = [entry for entry in directories if not entry.is_cluster]
            stack.extend((entry.path, False, empty) for entry in reversed(inside))

    async def usage(self, path: Path = "/") -> Usage:
        reply: pb.UsageReply
        reply, _ = await self._channel.call(
            USAGE, build(pb.StatRequest, target=target(path), follow=True)
        )
        return Usage(
            reply.used_bytes,
            reply.entries,
            reply.quota_bytes or None,
            reply.available_bytes,
            reply.capacity_bytes or None,
            reply.quota_entries or None,
            reply.available_entries if reply.quota_entries else None,
        )

    async def readlink(self, path: Path) -> str:
        node = await self._node(path, follow=False)
        if node.kind != pb.SYMLINK:
            raise Invalid("not a symbolic link", path=text(path))
        return node.symlink

    # -------------------------------------------------------------------------------- making

    async def mkdir(
        self,
        path: Path,
        mode: int = 0o755,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        durable: bool | None = None,
    ) -> Stat:
        request = create_request(
            path, pb.DIRECTORY, mode, parents=parents, exist_ok=exist_ok, durable=durable
        )
        return stat_of((await self._channel.call(CREATE, request))[0])

    async def link(self, existing: Path, path: Path) -> Stat:
        return stat_of((await self._channel.call(LINK, link_request(existing, path)))[0])

    async def symlink(self, target: Path, path: Path) -> Stat:
        return stat_of((await self._channel.call(CREATE, symlink_request(target, path)))[0])

    # ------------------------------------------------------------------------------ changing

    async def rename(
        self,
        source: Path,
        target: Path,
        *,
        no_replace: bool = False,
        exchange: bool = False,
        durable: bool | None = None,
    ) -> None:
        request = rename_request(
            source, target, no_replace=no_replace, exchange=exchange, durable=durable
        )
        await self._channel.call(RENAME, request)

    async def remove(
        self, path: Path, *, missing_ok: bool = False, durable: bool | None = None
    ) -> None:
        request = remove_request(path, missing_ok=missing_ok, durable=durable)
        await self._channel.call(REMOVE, request)

    async def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        request = remove_request(path, pb.RemoveRequest.NOT_DIRECTORY, missing_ok=missing_ok)
        await self._channel.call(REMOVE, request)

    async def rmdir(self, path: Path) -> None:
        await self._channel.call(REMOVE, remove_request(path, pb.RemoveRequest.EMPTY_DIRECTORY))

    async def rmtree(self, path: Path, *, missing_ok: bool = False) -> int:
        try:
            node = await self._node(path, follow=False)
        except NotFound:
            if missing_ok:
                return 0
            raise
        removed = 0
        if node.kind == pb.DIRECTORY:
            await self._check_one_volume(node, text(path))
            window = Window(self._channel, REMOVES_UNDER_WAY)
            async for directory, directories, others in self.walk(path, topdown=False):
                # What is below these directories was removed in earlier rounds.
                for entry in (*directories, *others):
                    request = remove_request(join(directory, entry.name), missing_ok=True)
                    await window.start(REMOVE, request)
                    removed += 1
                await window.drain()
        await self.remove(path, missing_ok=missing_ok)
        return removed + 1

    async def _check_one_volume(self, node: pb.Node, path: str) -> None:
        """A tree that is removed holds no volume, and is none: those go one by one, by name."""
        if node.volume_root:
            raise Invalid(
                "this is the root of a volume: remove what is in it, or the whole with "
                "`dp volume remove`",
                path=path,
            )
        found: pb.PathReply
        found, _ = await self._channel.call(
            PATH, build(pb.StatRequest, target=pb.Target(volume=node.volume, inode=node.inode))
        )
        below = found.path.rstrip("/") + "/"
        volumes, _ = await self._channel.call(VOLUMES, pb.Empty())
        for volume in volumes.volumes:
            if volume.path.startswith(below):
                raise Invalid(
                    "a volume is mounted inside: remove that first with `dp volume remove`",
                    path=path,
                    volume=volume.path,
                )

    async def _set(self, request: pb.SetAttributesRequest) -> Stat:
        return stat_of((await self._channel.call(SET_ATTRIBUTES, request))[0])

    async def chmod(self, path: Path, mode: int, *, follow: bool = True) -> Stat:
        return await self._set(
            build(pb.SetAttributesRequest, target=target(path), follow=follow, mode=mode)
        )

    async def chown(
        self, path: Path, uid: int | None = None, gid: int | None = None, *, follow: bool = True
    ) -> Stat:
        return await self._set(
            build(pb.SetAttributesRequest, target=target(path), follow=follow, uid=uid, gid=gid)
        )

    async def utime(
        self,
        path: Path,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow: bool = True,
    ) -> Stat:
        if times is not None and ns is not None:
            raise Invalid("utime takes seconds or nanoseconds, not both")
        if times is not None:
            try:
                ns = int(times[0] * 1e9), int(times[1] * 1e9)
            except (TypeError, ValueError, OverflowError):
                raise Invalid("times are two numbers of seconds", times=times) from None
        elif ns is None:
            ns = (time.time_ns(),) * 2
        return await self._set(
            build(
                pb.SetAttributesRequest,
                target=target(path),
                follow=follow,
                atime_ns=ns[0],
                mtime_ns=ns[1],
            )
        )

    async def truncate(self, path: Path, size: int) -> Stat:
        whole_number("size", size)
        return await self._set(
            build(pb.SetAttributesRequest, target=target(path), follow=True, size=size)
        )

    # ------------------------------------------------------------------- extended attributes

    async def getxattr(self, path: Path, name: str, *, follow: bool = True) -> bytes:
        request = build(
            pb.XattrRequest, target=target(path), follow=follow, name=checked(name, "name")
        )
        value: bytes = (await self._channel.call(GET_XATTR, request))[0].value
        return value

    async def listxattr(self, path: Path, *, follow: bool = True) -> list[str]:
        request = build(pb.XattrRequest, target=target(path), follow=follow)
        return list((await self._channel.call(LIST_XATTRS, request))[0].names)

    async def setxattr(
        self,
        path: Path,
        name: str,
        value: bytes,
        *,
        create: bool = False,
        replace: bool = False,
        follow: bool = True,
    ) -> None:
        request = build(
            pb.XattrRequest,
            target=target(path),
            follow=follow,
            name=checked(name, "name"),
            value=bytes(value),
            create=create,
            replace=replace,
        )
        await self._channel.call(SET_XATTR, request)

    async def removexattr(self, path: Path, name: str, *, follow: bool = True) -> None:
        request = build(
            pb.XattrRequest, target=target(path), follow=follow, name=checked(name, "name")
        )
        await self._channel.call(REMOVE_XATTR, request)
