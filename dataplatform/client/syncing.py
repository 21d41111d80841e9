"""Making buffered file writes durable, whatever happens to the server (see `unsynced`)."""

from __future__ import annotations

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import NotFound, Unavailable
from .connection import Channel, Pending
from .unsynced import KEPT_BYTES_MAX, File

WRITE = METHODS["Files.Write"]
SYNC = METHODS["Files.Sync"]

ATTEMPTS_MAX = 100
"""Restarts of the server that one sync goes along with."""


async def sync(channel: Channel, file: File | None = None) -> None:
    """Everything written to the file (None: to all files) is durable after this."""
    for _ in range(ATTEMPTS_MAX):
        if await _sync_once(channel, file):
            return
    raise Unavailable("the server was restarted again and again while files were synced")


async def _sync_once(channel: Channel, file: File | None) -> bool:
    mark = channel.unsynced.mark()
    reply, _ = await channel.call(SYNC, _request(file))
    return await confirm(channel, file, mark, reply.verifier)


async def confirm(channel: Channel, file: File | None, mark: int, verifier: bytes) -> bool:
    """Take in the reply of a sync: True if it covers everything up to the mark; what it does not
    cover is sent again."""
    unsynced = channel.unsynced
    lost = unsynced.confirm(file, mark, verifier)
    for write in lost:
        again = pb.WriteRequest(target=_target(write.file), offset=write.offset)
        try:
            answer, _ = await channel.call(WRITE, again, write.parts)
        except NotFound:
            unsynced.forget(write.file)  # removed meanwhile
            if file is not None:
                raise
        else:
            unsynced.resent(write, answer.verifier)
    return not lost


class Relief:
    """Keeps what a client keeps within bounds: one sync at a time runs beside a file's writes."""

    def __init__(self, channel: Channel, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._channel = channel
        self._kept_bytes_max = kept_bytes_max
        self._under_way: tuple[int, Pending] | None = None
        self._lock = channel.runtime.lock()

    async def after_write(self) -> None:
        """Returns when no more than twice `kept_bytes_max` is kept."""
        if not self._is_due():
            return
        async with self._lock:
            if not self._is_due():
                return
            await self._finish()
            unsynced = self._channel.unsynced
            if unsynced.size_bytes > self._kept_bytes_max:
                mark = unsynced.mark()
                self._under_way = mark, await self._channel.start(SYNC, _request(None))

    def _is_due(self) -> bool:
        """Whether a sync is to be begun, or the one under way to be waited for."""
        kept_bytes, kept_bytes_max = self._channel.unsynced.size_bytes, self._kept_bytes_max
        if self._under_way is None:
            return kept_bytes > kept_bytes_max
        return kept_bytes > 2 * kept_bytes_max or self._under_way[1].done()

    async def _finish(self) -> None:
        if self._under_way is None:
            return
        mark, pending = self._under_way
        try:
            reply, _ = await pending
            await confirm(self._channel, None, mark, reply.verifier)
        finally:
            self._under_way = None

    async def end(self) -> None:
        """The file is closed."""
        async with self._lock:
            await self._finish()


def _request(file: File | None) -> pb.SyncRequest:
    return pb.SyncRequest() if file is None else pb.SyncRequest(target=_target(file))


def _target(file: File) -> pb.Target:
    return pb.Target(volume=file[0], inode=file[1])
