"""Serving a mount: from the kernel's descriptor to the server, until it is unmounted or a successor
takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, PlatformError, Unavailable
from dataplatform.client.syncing import sync
from dataplatform.client.tokens import read_token
from dataplatform.transport.addresses import Address, default_address, parse
from dataplatform.transport.tls import Trust

from .areas import WRITE_BYTES_MAX, Areas
from .blockfiles import BlockFiles
from .blocks import Blocks
from .calls import STAT, Calls, MountChannel
from .door import kernel
from .door.device import Device
from .door.notices import Notices
from .door.requests import HEAD, Request, Requests
from .handover import Handover
from .mount import Mount
from .options import MountOptions
from .rights import Rights
from .stats import Stats
from .watching import Watcher

logger = logging.getLogger(__name__)

READAHEAD_BYTES = 4 << 20
BACKGROUND_MAX = 64
"""Requests that the kernel has under way without a program waiting: readahead, writeback."""

FIRST_PATIENCE_S = 3.0
GREETING = struct.Struct("<I")  # the kernel's minor version

OLD_NAME_VALID_S = 1
"""How long names are kept by kernels that cannot be told to look all of them up again."""


async def serve(options: MountOptions, descriptor: int, handover: Handover) -> None:
    """Serve until the file system is unmounted or the keeper wants it drained. PlatformError if
    there is nothing to mount."""
    stats = Stats(options, handover.session, handover.generation)
    areas = Areas(may_share=options.near)
    channel = MountChannel(
        _address(options),
        token=lambda: read_token(options.token_file) if options.token_file else options.token,
        patience_s=options.patience_s,
        handover=handover,
        areas=areas,
        trust=Trust(options.ca, options.cert, options.key),
    )
    try:
        await channel.connect(FIRST_PATIENCE_S if not handover.generation else options.patience_s)
        calls = Calls(channel, stats, handover, areas)
        root, _ = await channel.call(
            STAT, pb.StatRequest(target=pb.Target(path=options.path), follow=True)
        )
        if root.kind not in (pb.DIRECTORY, pb.TABLE, pb.STREAM):
            raise Invalid("only directories, tables and streams can be mounted", path=options.path)
        async with _blocks(options, calls) as blocks:
            mount = Mount(root, calls, options, blocks, handover, _rights(calls))
            worker = _Worker(mount, descriptor, handover)
            await worker.run()
    finally:
        await channel.close()


def _rights(calls: Calls) -> Rights:
    welcome = calls.channel.welcome
    return Rights(calls, speaks=welcome.may_speak, uid=welcome.uid, local_uid=os.getuid())


def _address(options: MountOptions) -> Address:
    return parse(options.address) if options.address else default_address()


@contextlib.asynccontextmanager
async def _blocks(options: MountOptions, calls: Calls) -> AsyncIterator[Blocks | None]:
    """The cache on disk, if one is wanted and can be had: it is not worth a mount."""
    store = calls.channel.store
    if not options.cache_dir:
        yield None
        return
    if not store:
        logger.warning("the server does not say what it stores: it is too old for a cache on disk")
        yield None
        return
    files = BlockFiles(Path(options.cache_dir), store.hex())
    blocks = Blocks(files, options.cache_size_bytes, calls.stats, lambda: calls.channel.store)
    try:
        await blocks.begin()
    except OSError as error:
        logger.warning("there is no cache on disk. reason=`%s`", error)
        yield None
        return
    try:
        yield blocks
    finally:
        await blocks.close()


class _Worker:
    def __init__(self, mount: Mount, descriptor: int, handover: Handover) -> None:
        self._mount = mount
        self._handover = handover
        self._requests = Requests(mount)
        self._device = Device(descriptor, self._requests.handle, mount.calls.areas)
        self._requests.device = self._device
        self._requests.init = self._init
        self._notices: Notices | None = None
        self._watcher: Watcher | None = None
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        mount, handover = self._mount, self._handover
        mount.stats.log_on_signal()
        if handover.generation:
            await self._take_over()
        self._device.start()
        draining = asyncio.create_task(handover.link.draining.wait())
        try:
            ends: set[asyncio.Future[Any]] = {draining, self._device.ended}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._device.stop()
            await self._finish()
        finally:
            draining.cancel()
            if self._watching is not None:
                self._watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._watching
            mount.steps.close()
            if mount.near is not None:
                mount.near.close()
            if self._notices is not None:
                self._notices.close()

    async def _finish(self) -> None:
        """Nothing is lost by the end: what was taken from programs goes to the server."""
        await self._requests.finished()
        for node in self._mount.nodes:
            if node.writing is not None and node.writing.is_busy:
                await node.writing.flush()
        await self._mount.access.run_once()
        with contextlib.suppress(PlatformError):
            await sync(self._mount.calls.channel)

    async def _take_over(self) -> None:
        """A worker before this one has spoken with the kernel: go on where it ended."""
        (minor,) = GREETING.unpack(self._handover.greeting)
        self._mount.handles.start_behind(self._handover.generation << 40)
        self._take_losses()
        unanswered = self._handover.take_unanswered()
        self._agree(minor, resumes=True)
        await self._begin_watching()
        if minor >= kernel.RESEND_MINOR:
            self._device.notify(kernel.NOTIFY_RESEND, b"")
        for unique in unanswered:
            self._device.refuse(unique, errno.EIO)  # nobody will ask again
        self._handover.link.ready()

    def _take_losses(self) -> None:
        """Bytes that the worker before had taken from programs, and no server had: whoever has such
        a file open is told so once, by its next sync or close."""
        mount, handover = self._mount, self._handover
        lost = handover.dirty()
        mount.handles.any_lost = handover.dirty_overflowed
        handover.forget_dirty()
        for key in lost:
            mount.writing(mount.nodes.get(mount.nodes.number_of(key))).lose()
        if lost or mount.handles.any_lost:
            logger.error("writes of %d files were lost with the worker before", len(lost))

    # ---- the kernel's first request

    def _init(self, view: memoryview, request: Request) -> bytes:
        major, minor, readahead, flags = kernel.INIT_IN.unpack_from(view, HEAD)
        if major != kernel.MAJOR:
            return kernel.INIT_OUT.pack(kernel.MAJOR, kernel.MINOR, *([0] * 9))
        minor = min(minor, kernel.MINOR)
        if minor < kernel.MINOR_MIN:
            raise Unavailable("the kernel is too old: Linux 5.4 is needed", fuse=f"7.{minor}")
        # Without EXPLICIT_INVAL_DATA: the kernel drops a file's pages itself when it hears of
        # another size, or its last page would show zeros behind the old end for a while.
        wanted = (
            kernel.INIT_ASYNC_READ
            | kernel.INIT_ATOMIC_O_TRUNC
            | kernel.INIT_BIG_WRITES
            | kernel.INIT_DO_READDIRPLUS
            | kernel.INIT_READDIRPLUS_AUTO
            | kernel.INIT_ASYNC_DIO
            | kernel.INIT_PARALLEL_DIROPS
            | kernel.INIT_MAX_PAGES
            | kernel.INIT_CACHE_SYMLINKS
            | kernel.INIT_HANDLE_KILLPRIV_V2
            | kernel.INIT_SETXATTR_EXT
            | kernel.INIT_EXT
        ) & flags
        flags2 = kernel.INIT2_HAS_RESEND if flags & kernel.INIT_EXT else 0
        self._handover.greeting = GREETING.pack(minor)
        self._agree(minor)
        asyncio.get_running_loop().create_task(self._greeted())
        return kernel.INIT_OUT.pack(
            kernel.MAJOR,
            minor,
            min(readahead, READAHEAD_BYTES) if readahead else READAHEAD_BYTES,
            wanted,
            BACKGROUND_MAX,
            BACKGROUND_MAX * 3 // 4,
            WRITE_BYTES_MAX,
            1,
            WRITE_BYTES_MAX // 4096,
            0,
            flags2,
        )

    def _agree(self, minor: int, *, resumes: bool = False) -> None:
        self._notices = Notices(self._device, minor)
        if not self._notices.has_epoch:
            self._requests.name_valid_s = OLD_NAME_VALID_S
        if minor < kernel.SETXATTR_EXT_MINOR:
            self._requests.setxattr_size = kernel.SETXATTR_IN_BEFORE_33.size
        if minor < kernel.RESEND_MINOR:
            self._requests.unrepeated = self._handover
        self._mount.kernel = self._notices
        self._watcher = Watcher(self._mount, self._notices, resumes=resumes)

    async def _greeted(self) -> None:
        await self._begin_watching()
        self._handover.link.ready()

    async def _begin_watching(self) -> None:
        assert self._watcher is not None
        await self._watcher.begin()
        self._watching = asyncio.create_task(self._watcher.run())
