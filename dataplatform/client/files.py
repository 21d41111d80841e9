"""Files: opening, whole files in one step, and copies."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Exists, Invalid, NotFound
from ..base.limits import IO_BYTES_MAX, MIB
from .access import AccessOperations
from .connection import OPEN
from .entering import Entering
from .handles import CALL_BYTES, READ, FileHandle
from .messages import build
from .modes import Mode
from .namespace import CREATE, NamespaceOperations, create_request
from .nodes import durability, stat_of
from .paths import Path, checked, join, split, target, text
from .syncing import sync
from .values import Stat
from .window import Window

WRITE_FILE = METHODS["Files.WriteFile"]
COPY_RANGE = METHODS["Files.CopyRange"]

COPY_BYTES = 64 * MIB
"""Of one CopyRange: the server only copies references, but it should not take long either."""

COPIES_UNDER_WAY = 4

Buffer = bytes | bytearray | memoryview


def content(data: Buffer | str) -> bytes | memoryview:
    """The bytes of a file; text is UTF-8."""
    if isinstance(data, str):
        return checked(data, "text").encode()
    return data if isinstance(data, bytes) else memoryview(data).cast("B")


def write_file_request(
    path: Path,
    *,
    mode: int = 0o644,
    parents: bool = False,
    no_replace: bool = False,
    durable: bool | None = None,
) -> pb.WriteFileRequest:
    return build(
        pb.WriteFileRequest,
        target=target(path),
        mode=mode,
        uid=os.getuid(),
        gid=os.getgid(),
        parents=parents,
        no_replace=no_replace,
        durability=durability(durable),
    )


TO_READ, TO_WRITE = 1, 2
"""Verbs as bits: those of `core/access/verbs.py`."""


def _verbs(mode: Mode) -> int:
    """What a file is opened for: who may not do it hears so from `open`, as POSIX has it."""
    return (TO_READ if mode.read else 0) | (TO_WRITE if mode.write else 0)


class FileOperations(NamespaceOperations, AccessOperations):
    # ------------------------------------------------------------------------------- opening

    def open(
        self, path: Path, mode: str = "rb", *, buffering: int = -1, permissions: int = 0o644
    ) -> Entering[FileHandle]:
        """Open a file in a binary mode. `await` it, or use it in `async with`."""
        parsed = Mode.parse(mode, buffering)
        if parsed.text:
            raise Invalid("aio opens files in binary modes only, add a b", mode=mode)
        return Entering(lambda: self.open_handle(path, parsed, permissions, gather=buffering != 0))

    async def open_handle(
        self, path: Path, mode: Mode, permissions: int = 0o644, *, gather: bool = True
    ) -> FileHandle:
        node = await self._open_node(path, mode, permissions)
        return FileHandle(self._channel, node, mode, text(path), gather=gather)

    async def _open_node(self, path: Path, mode: Mode, permissions: int) -> pb.Node:
        node: pb.Node
        for last in (False, True):
            if mode.create:
                create = create_request(path, pb.FILE, permissions)
                create.open = True
                try:
                    node, _ = await self._channel.call(CREATE, create)
                except Exists:
                    # What is there, or what a symbolic link leads to, is opened, if one may.
                    if mode.exclusive:
                        raise
                else:
                    return node
            asked = build(
                pb.OpenRequest, target=target(path), truncate=mode.truncate, access=_verbs(mode)
            )
            try:
                node, _ = await self._channel.call(OPEN, asked)
            except NotFound:
                if last or not mode.create:
                    raise  # a symbolic link to nothing, or somebody removes it all the time
            else:
                return node
        raise AssertionError

    # --------------------------------------------------------------------------- whole files

    async def read_file(self, path: Path) -> bytes:
        request = build(pb.ReadRequest, target=target(path), length=CALL_BYTES)
        reply, data = await self._channel.call(READ, request)
        if reply.size <= len(data):
            return bytes(data)
        # By inode from here on: the path may mean another file by the next request.
        async with await self.open_handle(path, Mode.parse("rb")) as handle:
            return await handle.read()

    async def write_file(
        self,
        path: Path,
        data: Buffer | str,
        *,
        mode: int = 0o644,
        parents: bool = False,
        no_replace: bool = False,
        durable: bool | None = None,
    ) -> Stat:
        view = content(data)
        if len(view) > IO_BYTES_MAX:
            return await self._write_large(
                path, view, mode, parents=parents, no_replace=no_replace, durable=durable
            )
        request = write_file_request(
            path, mode=mode, parents=parents, no_replace=no_replace, durable=durable
        )
        return stat_of((await self._channel.call(WRITE_FILE, request, view))[0])

    async def _write_large(
        self,
        path: Path,
        view: bytes | memoryview,
        mode: int,
        *,
        parents: bool,
        no_replace: bool,
        durable: bool | None,
    ) -> Stat:
        """Beside, then renamed: a reader never sees a part."""
        directory, name = split(text(path))
        if parents:
            await self.mkdir(directory, parents=True, exist_ok=True)
        temporary = join(directory, f".{name[:60]}.{os.urandom(6).hex()}.tmp")
        try:
            async with await self.open_handle(temporary, Mode.parse("xb"), mode) as handle:
                await handle.write(view)
                if durable:
                    await handle.sync()
            await self.rename(temporary, path, no_replace=no_replace, durable=durable)
        except BaseException:
            await self.remove(temporary, missing_ok=True)
            raise
        return await self.stat(path)

    async def sync(self) -> None:
        await sync(self._channel)

    # -------------------------------------------------------------------------------- copies

    async def copy(
        self,
        source: Path,
        target: Path,
        *,
        recursive: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        origin, to = text(source), text(target)
        stat = await self.stat(origin)
        there = await self._find(to)
        if there is not None and there.is_dir():
            to = join(to, split(origin)[1])
        if not stat.is_dir():
            return await self._copy_file(origin, stat, to, progress)
        if not recursive:
            raise Invalid("a directory is copied with recursive=True", path=origin)
        if f"{to.rstrip('/')}/".startswith(f"{origin.rstrip('/')}/"):
            raise Invalid("a directory cannot be copied into itself", source=origin, target=to)
        return await self._copy_tree(origin, to, progress)

    async def _find(self, path: str) -> Stat | None:
        try:
            return await self.stat(path)
        except NotFound:
            return None

    async def _copy_tree(self, source: str, to: str, progress: Callable[[int], None] | None) -> int:
        copied = 0
        async for directory, _, others in self.walk(source):
            place = to + directory[len(source.rstrip("/")) :]
            await self.mkdir(place, (await self.stat(directory)).mode, exist_ok=True)
            await self.acl.copy(directory, place)
            for entry in others:
                name = join(place, entry.name)
                if entry.is_symlink():
                    await self.remove(name, missing_ok=True)
                    await self.symlink(entry.symlink, name)
                else:
                    copied += await self._copy_file(entry.path, entry, name, progress)
        return copied

    async def _copy_file(
        self, source: str, stat: Stat, to: str, progress: Callable[[int], None] | None
    ) -> int:
        if not stat.is_file():
            raise Invalid(f"a {stat.kind} cannot be copied", path=source)
        there = await self._find(to)
        if there is not None and (there.volume, there.inode) == (stat.volume, stat.inode):
            raise Invalid("source and target are the same file", source=source, target=to)
        rules = (await self.acl.get(source)).own
        reader = await self.open_handle(source, Mode.parse("rb"))
        try:
            async with await self.open_handle(to, Mode.parse("wb"), stat.mode) as writer:
                there = await writer.stat()
                if "read" in rules:  # before there is anything to read
                    await self.acl.set(to, read=rules["read"])
                if there.volume == stat.volume:
                    await self._copy_ranges(stat, there, progress)
                else:
                    await _copy_bytes(reader, writer, progress)
        finally:
            await reader.close()
        await self.chmod(to, stat.mode)
        await self.utime(to, ns=(stat.atime_ns, stat.mtime_ns))
        if rules:
            await self.acl.set(to, rules)
        return stat.size

    async def _copy_ranges(
        self, source: Stat, to: Stat, progress: Callable[[int], None] | None
    ) -> None:
        window = Window(self._channel, COPIES_UNDER_WAY)
        for offset in range(0, source.size, COPY_BYTES):
            length = min(COPY_BYTES, source.size - offset)
            request = build(
                pb.CopyRangeRequest,
                source=pb.Target(volume=source.volume, inode=source.inode),
                target=pb.Target(volume=to.volume, inode=to.inode),
                source_offset=offset,
                target_offset=offset,
                length=length,
            )
            await window.start(COPY_RANGE, request)
            if progress is not None:
                progress(length)
        await window.drain()


async def _copy_bytes(
    reader: FileHandle, writer: FileHandle, progress: Callable[[int], None] | None
) -> None:
    while part := await reader.read(CALL_BYTES):
        await writer.write(part)
        if progress is not None:
            progress(len(part))
