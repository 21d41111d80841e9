"""Views on a whole server in this loop, used as a kernel would use them for a program."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from dataplatform import aio
from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform_clients.fuse.views import view_of
from dataplatform_clients.fuse.views.base import ViewHandle, ViewNode

from ...server.servers import running

STAT = METHODS["Namespace.Stat"]
BLOCK = 128 * 1024


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[aio.Client]:
    """A client; at the end the server's data is checked."""
    async with running(directory) as server, aio.connect(server.endpoints.socket) as client:
        yield client
        report = await client.check()
        assert report.ok, report


async def view(client: aio.Client, path: str) -> ViewNode:
    request = pb.StatRequest(target=pb.Target(path=path))
    node, _ = await client.channel.call(STAT, request)
    return view_of(client, node)


async def find(node: ViewNode, *names: str) -> ViewNode:
    for name in names:
        node = await node.lookup(name)
    return node


async def names(node: ViewNode, page: int = 1_000_000) -> list[str]:
    """The directory's names, a page at a time."""
    found: list[str] = []
    while True:
        count = 0
        async for name, _ in node.entries(found[-1] if found else ""):
            found.append(name)
            count += 1
            if count == page:
                break
        if count < page:
            return found


async def open_to_read(node: ViewNode) -> ViewHandle:
    return await node.open(reading=True, writing=False, truncate=False)


async def read_all(node: ViewNode) -> bytes:
    """As `cat`."""
    handle = await open_to_read(node)
    try:
        return await read_on(handle, 0)
    finally:
        await handle.release()


async def read_on(handle: ViewHandle, offset: int, size: int = BLOCK) -> bytes:
    """From an offset to the end."""
    found = b""
    while data := await handle.read(offset + len(found), size):
        assert len(data) <= size
        found += data
    return found


async def size_of(node: ViewNode) -> int:
    return (await node.attributes()).size


async def redirect(directory: ViewNode, name: str, *pieces: bytes, append: bool = False) -> None:
    """As a shell's `> name` or `>> name` of a program that writes these pieces. Shells close the
    file once before anything is written: it is open twice then."""
    try:
        node = await directory.lookup(name)
    except FileNotFoundError:
        node = await directory.create(name)
    handle = await node.open(reading=False, writing=True, truncate=not append)
    try:
        await handle.flush()
        at = 0
        for piece in pieces:
            assert await handle.write(at, piece) == len(piece)
            at += len(piece)
        await handle.flush()
    finally:
        await handle.release()
