"""The kernel's requests: whatever they are, each is answered, and nothing ends the mount."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Exhausted, NotFound, Unavailable
from dataplatform.transport.connections import Bulk
from dataplatform_clients.fuse import mount as mount_module
from dataplatform_clients.fuse.areas import REQUEST_BYTES, Areas
from dataplatform_clients.fuse.door import device as device_module
from dataplatform_clients.fuse.door import kernel
from dataplatform_clients.fuse.door import requests as requests_module
from dataplatform_clients.fuse.door.device import Device
from dataplatform_clients.fuse.door.requests import HEAD, STATS_NUMBER, Request, Requests
from dataplatform_clients.fuse.nodes import VIEW_BIT

from .fakes import World, at_work, file_message, turns

SILENT = (kernel.FORGET, kernel.BATCH_FORGET, kernel.INTERRUPT)
"""What the kernel expects no answer to."""

UNREAD = (kernel.FORGET, kernel.GETATTR, kernel.OPENDIR, kernel.FSYNCDIR, kernel.SYNCFS)
"""Nothing of their bodies matters to us."""

BODIES: dict[int, bytes] = {
    kernel.LOOKUP: b"name\0",
    kernel.FORGET: struct.pack("<Q", 1),
    kernel.GETATTR: kernel.GETATTR_IN.pack(0, 0, 0),
    kernel.SETATTR: kernel.SETATTR_IN.pack(kernel.SET_MODE, *[0] * 10, 0o640, *[0] * 4),
    kernel.READLINK: b"",
    kernel.SYMLINK: b"name\0target\0",
    kernel.MKNOD: kernel.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"name\0",
    kernel.MKDIR: kernel.MKDIR_IN.pack(0o755, 0) + b"name\0",
    kernel.UNLINK: b"name\0",
    kernel.RMDIR: b"name\0",
    kernel.RENAME: kernel.RENAME_IN.pack(1) + b"name\0other\0",
    kernel.RENAME2: kernel.RENAME2_IN.pack(1, 0, 0) + b"name\0other\0",
    kernel.LINK: kernel.LINK_IN.pack(7) + b"name\0",
    kernel.OPEN: kernel.OPEN_IN.pack(os.O_RDWR, 0),
    kernel.READ: kernel.READ_IN.pack(5, 0, 4096, 0, 0, 0, 0),
    kernel.WRITE: kernel.WRITE_IN.pack(5, 0, 4, 0, 0, 0, 0) + b"data",
    kernel.STATFS: b"",
    kernel.RELEASE: kernel.RELEASE_IN.pack(5, 0, 0, 0),
    kernel.FSYNC: kernel.FSYNC_IN.pack(5, 0, 0),
    kernel.SETXATTR: kernel.SETXATTR_IN.pack(5, 0, 0, 0) + b"user.a\0value",
    kernel.GETXATTR: kernel.GETXATTR_IN.pack(0, 0) + b"user.a\0",
    kernel.LISTXATTR: kernel.GETXATTR_IN.pack(0, 0),
    kernel.REMOVEXATTR: b"user.a\0",
    kernel.FLUSH: kernel.FLUSH_IN.pack(5, 0, 0, 0),
    kernel.INIT: kernel.INIT_IN.pack(7, 38, 1 << 20, 0),
    kernel.OPENDIR: kernel.OPEN_IN.pack(0, 0),
    kernel.READDIR: kernel.READ_IN.pack(6, 0, 4096, 0, 0, 0, 0),
    kernel.RELEASEDIR: kernel.RELEASE_IN.pack(6, 0, 0, 0),
    kernel.FSYNCDIR: kernel.FSYNC_IN.pack(6, 0, 0),
    kernel.CREATE: kernel.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"name\0",
    kernel.INTERRUPT: kernel.INTERRUPT_IN.pack(99),
    kernel.DESTROY: b"",
    kernel.BATCH_FORGET: kernel.BATCH_FORGET_IN.pack(1, 0) + kernel.FORGET_ONE.pack(7, 1),
    kernel.FALLOCATE: kernel.FALLOCATE_IN.pack(5, 0, 4096, 0, 0),
    kernel.READDIRPLUS: kernel.READ_IN.pack(6, 0, 4096, 0, 0, 0, 0),
    kernel.LSEEK: kernel.LSEEK_IN.pack(5, 0, 3, 0),
    kernel.COPY_FILE_RANGE: kernel.COPY_IN.pack(5, 0, 8, 5, 0, 100, 0),
    kernel.SYNCFS: bytes(8),
}


class FakeDevice:
    """Replies, by `unique`."""

    def __init__(self) -> None:
        self.replies: dict[int, bytes | int] = {}
        self.kept = 0

    def _put(self, unique: int, reply: bytes | int) -> None:
        assert unique not in self.replies, "answered twice"
        self.replies[unique] = reply

    def reply(self, unique: int, body: bytes) -> None:
        self._put(unique, bytes(body))

    def reply_bulk(self, unique: int, parts: Sequence[Bulk]) -> None:
        self._put(unique, b"".join(bytes(part) for part in parts))

    def refuse(self, unique: int, error: int) -> None:
        assert 0 < error < 512, "the kernel takes no other"
        self._put(unique, error)

    def keep_buffer(self) -> None:
        self.kept += 1


class Kernel:
    """Asks, and has the answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.device = FakeDevice()
        self.requests = Requests(world.mount)
        self.requests.device = self.device  # type: ignore[assignment]
        self.requests.init = self._init
        self._unique = 0
        self._buffer = bytearray(b"\xee" * REQUEST_BYTES)  # what was in it before

    def _init(self, view: memoryview, request: Request) -> bytes:
        kernel.INIT_IN.unpack_from(view, HEAD)
        return kernel.INIT_OUT.pack(7, 38, *[0] * 9)

    def send(self, opcode: int, body: bytes = b"", node: int = 1, **fields: int) -> int:
        self._unique += 2
        unique = fields.get("unique", self._unique)
        head = kernel.IN_HEADER.pack(
            HEAD + len(body), opcode, unique, node, 1000, 1000, fields.get("pid", 0), 0, 0
        )
        return self.send_raw(head + body, unique)

    def send_raw(self, data: bytes, unique: int) -> int:
        self._buffer[: len(data)] = data
        self.requests.handle(memoryview(self._buffer), len(data))
        return unique

    async def ask(self, opcode: int, body: bytes = b"", node: int = 1) -> bytes | int:
        unique = self.send(opcode, body, node)
        await self.requests.finished()
        return self.device.replies[unique]


def _answer_anything(world: World) -> None:
    """A server that has an answer to everything."""
    handlers = world.channel.handlers
    handlers["Namespace.Stat"] = lambda message, data: file_message(message.target.inode or 7)
    handlers["Namespace.Create"] = lambda message, data: file_message(9, kind=message.kind)
    handlers["Namespace.Link"] = lambda message, data: file_message(7)
    handlers["Namespace.SetAttributes"] = lambda message, data: file_message(7)
    handlers["Namespace.Remove"] = lambda message, data: pb.NamesReply()
    handlers["Namespace.Rename"] = lambda message, data: pb.NamesReply()
    handlers["Namespace.Usage"] = lambda message, data: pb.UsageReply(capacity_bytes=1 << 30)
    handlers["Namespace.GetXattr"] = lambda message, data: pb.XattrReply(value=b"v")
    handlers["Namespace.ListXattrs"] = lambda message, data: pb.XattrReply(names=["user.a"])
    handlers["Namespace.SetXattr"] = lambda message, data: pb.Empty()
    handlers["Namespace.RemoveXattr"] = lambda message, data: pb.Empty()
    handlers["Namespace.List"] = lambda message, data: pb.ListReply(end=True)
    handlers["Files.Read"] = lambda message, data: (pb.ReadReply(), b"bytes")
    handlers["Files.Allocate"] = lambda message, data: file_message(7)
    handlers["Files.Map"] = lambda message, data: pb.MapReply(end=True, size=10)
    handlers["Files.CopyRange"] = lambda message, data: pb.CopyRangeReply(length=5)


@contextlib.asynccontextmanager
async def asking(**options: Any) -> AsyncIterator[Kernel]:
    async with at_work(**options) as world:
        _answer_anything(world)
        world.file(7, size=10)
        yield Kernel(world)


def _node_for(opcode: int) -> int:
    on_directories = (
        *(kernel.LOOKUP, kernel.SYMLINK, kernel.MKNOD, kernel.MKDIR, kernel.UNLINK),
        *(kernel.RMDIR, kernel.RENAME, kernel.RENAME2, kernel.LINK, kernel.CREATE),
        *(kernel.OPENDIR, kernel.READDIR, kernel.READDIRPLUS, kernel.FSYNCDIR),
    )
    return 1 if opcode in on_directories else 7


# ---------------------------------------------------------------- all of them


def test_every_opcode_is_tried() -> None:
    assert set(BODIES) == set(kernel.NAMES)


@pytest.mark.parametrize("opcode", sorted(BODIES), ids=lambda opcode: kernel.NAMES[opcode])
async def test_every_request_is_answered_once(opcode: int) -> None:
    async with asking() as it:
        unique = it.send(opcode, BODIES[opcode], _node_for(opcode))
        await it.requests.finished()
        await turns()
        if opcode in SILENT:
            assert not it.device.replies
        else:
            reply = it.device.replies[unique]
            # There is no such directory entry among the fakes; all else goes well.
            assert isinstance(reply, bytes) or opcode == kernel.LSEEK, os.strerror(int(reply))


@pytest.mark.allow_warnings("too short", "failed")
@pytest.mark.parametrize("opcode", sorted(BODIES), ids=lambda opcode: kernel.NAMES[opcode])
async def test_a_body_cut_short_is_refused(opcode: int) -> None:
    body = BODIES[opcode]
    async with asking() as it:
        for length in range(len(body)):
            unique = it.send(opcode, body[:length], _node_for(opcode))
            await it.requests.finished()
            await turns()
            reply = it.device.replies.get(unique)
            if opcode in UNREAD:
                continue
            # Of requests that expect no answer the kernel ignores one.
            assert reply == errno.EIO, f"{length} bytes of {len(body)}"
        asked = {asked.name for asked in it.world.channel.asked}
        assert not asked & {"Namespace.Remove", "Namespace.Rename", "Namespace.Create"}


@pytest.mark.allow_warnings
async def test_garbage_is_answered_and_ends_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(seed)
    monkeypatch.setattr(mount_module.logger, "disabled", True)
    async with asking() as it:
        opcodes = [*BODIES, 7, 33, 39, 40, 41, 48, 49, 51, 4096, 1 << 31]
        for index in range(4000):
            opcode = chosen.choice(opcodes)
            body = BODIES.get(opcode, b"")
            kind = chosen.randrange(4)
            if kind == 0:
                body = chosen.randbytes(chosen.randrange(200))
            elif kind == 1 and body:
                at = chosen.randrange(len(body))
                body = body[:at] + chosen.randbytes(chosen.randrange(9)) + body[at + 1 :]
            elif kind == 2:
                body += chosen.randbytes(chosen.randrange(50))
            node = chosen.choice(
                (0, 1, 7, 8, STATS_NUMBER, VIEW_BIT, VIEW_BIT | 5, chosen.getrandbits(64))
            )
            unique = it.send(opcode, body, node)
            if index % 50 == 0:
                await asyncio.wait_for(it.requests.finished(), 20)
            if opcode not in SILENT and unique not in it.device.replies:
                assert it.requests.are_under_way
        await asyncio.wait_for(it.requests.finished(), 20)
        it.device.replies.clear()
        assert isinstance(await it.ask(kernel.GETATTR, BODIES[kernel.GETATTR]), bytes)


@pytest.mark.allow_warnings("without a head", "failed")
async def test_heads_of_any_length(seed: int) -> None:
    chosen = random.Random(seed)
    async with asking() as it:
        for length in range(HEAD):
            it.send_raw(chosen.randbytes(length), 0)
        assert not it.device.replies


async def test_an_unknown_request_is_said_to_be_unknown() -> None:
    async with asking() as it:
        assert await it.ask(4711) == errno.ENOSYS


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFound("gone"), errno.ENOENT),
        (NotFound("not a directory", errno=errno.ENOTDIR), errno.ENOTDIR),
        (Exhausted("full", errno=errno.EDQUOT), errno.EDQUOT),
        (OSError(errno.EXDEV, "another volume"), errno.EXDEV),
        (OSError("without a number"), errno.EIO),
    ],
)
async def test_an_error_is_its_errno(error: Exception, expected: int) -> None:
    async with asking() as it:

        def fail(message: Any, data: bytes) -> Any:
            raise error

        it.world.channel.handlers["Namespace.Create"] = fail
        assert await it.ask(kernel.MKDIR, BODIES[kernel.MKDIR]) == expected
        assert it.world.stats.failures == 0


@pytest.mark.allow_warnings("a request failed. request=`mkdir`")
@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a defect"), KeyError(1)])
async def test_a_failure_is_counted_and_logged(error: Exception) -> None:
    async with asking() as it:

        def fail(message: Any, data: bytes) -> Any:
            raise error

        it.world.channel.handlers["Namespace.Create"] = fail
        reply = await it.ask(kernel.MKDIR, BODIES[kernel.MKDIR])
        assert isinstance(reply, int)
        assert it.world.stats.failures == 1
        assert await it.ask(kernel.GETATTR, BODIES[kernel.GETATTR]) != errno.EIO


# ---------------------------------------------------------------- interrupts


async def test_the_end_of_a_program_ends_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "INTERRUPT_LOOK_S", 0.001)
    is_killed = False
    monkeypatch.setattr(requests_module, "_is_killed", lambda pid: is_killed and pid == 4)
    async with asking() as it:
        it.world.channel.hold("Namespace.Create")
        unique = it.send(kernel.MKDIR, BODIES[kernel.MKDIR], pid=4)
        await turns()
        it.send(kernel.INTERRUPT, kernel.INTERRUPT_IN.pack(unique), unique=unique + 1)
        it.send(kernel.INTERRUPT, kernel.INTERRUPT_IN.pack(4711), unique=unique + 3)
        await asyncio.sleep(0.01)
        assert unique not in it.device.replies  # a signal alone ends nothing
        is_killed = True
        await asyncio.wait_for(it.requests.finished(), 5)
        assert it.device.replies == {unique: errno.EINTR}
        assert not it.requests._interrupted


async def test_an_interrupt_that_comes_too_late() -> None:
    async with asking() as it:
        unique = it.send(kernel.GETATTR, BODIES[kernel.GETATTR])
        await it.requests.finished()
        it.send(kernel.INTERRUPT, kernel.INTERRUPT_IN.pack(unique), unique=unique + 1)
        assert list(it.device.replies) == [unique]


def test_a_killed_program_is_known(tmp_path: Path) -> None:
    assert not requests_module._is_killed(os.getpid())
    assert not requests_module._is_killed(2**22 + 1)  # of another pid namespace, perhaps
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not requests_module._is_killed(child.pid)
        child.send_signal(signal.SIGSTOP)
        assert not requests_module._is_killed(child.pid)
    finally:
        child.kill()
        child.communicate()


# ---------------------------------------------------------------- what they say


async def test_attributes_to_set_are_those_that_are_marked() -> None:
    async with asking() as it:
        values = [0, 0, 5000, 0, 100, 200, 0, 1, 2, 0, 0o4755, 0, 10, 20, 0]
        for valid, expected in (
            (kernel.SET_MODE, {"mode": 0o4755}),
            (kernel.SET_UID | kernel.SET_GID, {"uid": 10, "gid": 20}),
            (kernel.SET_SIZE, {"size": 5000}),
            (kernel.SET_ATIME | kernel.SET_MTIME, {"atime_ns": 100 * 10**9 + 1}),
            (kernel.SET_MTIME, {"mtime_ns": 200 * 10**9 + 2}),
        ):
            it.world.channel.asked.clear()
            body = kernel.SETATTR_IN.pack(valid, *values)
            assert isinstance(await it.ask(kernel.SETATTR, body, 7), bytes)
            message = it.world.channel.named("Namespace.SetAttributes")[0].message
            for field, value in expected.items():
                assert getattr(message, field) == value
            assert message.HasField("size") == ("size" in expected)


async def test_a_time_that_cannot_be_had_is_the_nearest_one() -> None:
    async with asking() as it:
        for seconds, expected in ((1 << 40, (1 << 63) - 1), (-(1 << 40), 1 - (1 << 63))):
            body = kernel.SETATTR_IN.pack(kernel.SET_MTIME, *[0] * 5, seconds, *[0] * 9)
            assert isinstance(await it.ask(kernel.SETATTR, body, 7), bytes)
            message = it.world.channel.named("Namespace.SetAttributes")[-1].message
            assert message.mtime_ns == expected


async def test_a_large_write_keeps_its_buffer_and_a_small_one_does_not() -> None:
    async with asking() as it:
        for size, kept in ((100, 0), (1 << 20, 1)):
            it.device.kept = 0
            body = kernel.WRITE_IN.pack(5, 0, size, 0, 0, 0, 0) + bytes(size)
            assert await it.ask(kernel.WRITE, body, 7) == kernel.WRITE_OUT.pack(size, 0)
            assert it.device.kept == kept


async def test_extended_attributes_before_and_since_linux_5_12() -> None:
    async with asking() as it:
        for size, head in (
            (16, kernel.SETXATTR_IN.pack(3, 1, 0, 0)),
            (8, struct.pack("<II", 3, 1)),
        ):
            it.requests.setxattr_size = size
            assert await it.ask(kernel.SETXATTR, head + b"user.k\0abc", 7) == b""
            message = it.world.channel.named("Namespace.SetXattr")[-1].message
            assert (message.name, message.value, message.create) == ("user.k", b"abc", True)


async def test_the_size_of_an_attribute_comes_first() -> None:
    async with asking() as it:
        for size, expected in ((0, struct.pack("<II", 1, 0)), (1, b"v")):
            body = kernel.GETXATTR_IN.pack(size, 0) + b"user.a\0"
            assert await it.ask(kernel.GETXATTR, body, 7) == expected
        it.world.channel.handlers["Namespace.GetXattr"] = lambda m, d: pb.XattrReply(value=b"long")
        body = kernel.GETXATTR_IN.pack(3, 0) + b"user.a\0"
        assert await it.ask(kernel.GETXATTR, body, 7) == errno.ERANGE


async def test_stats_are_a_file_that_asks_nobody() -> None:
    async with asking() as it:
        entry = await it.ask(kernel.LOOKUP, b".stats\0")
        assert isinstance(entry, bytes)
        number = struct.unpack_from("<Q", entry)[0]
        assert number == STATS_NUMBER
        read = kernel.READ_IN.pack(0, 0, 1 << 16, 0, 0, 0, 0)
        text = await it.ask(kernel.READ, read, number)
        assert isinstance(text, bytes)
        assert b"server_calls 0\n" in text
        for opcode in (kernel.OPEN, kernel.FLUSH, kernel.RELEASE, kernel.GETATTR):
            assert isinstance(await it.ask(opcode, BODIES[opcode], number), bytes)
        assert await it.ask(kernel.SETATTR, BODIES[kernel.SETATTR], number) == errno.EPERM
        assert not it.world.channel.asked


async def test_a_mount_ends_when_its_requests_have() -> None:
    async with asking() as it:
        it.world.channel.hold("Namespace.Create")
        unique = it.send(kernel.MKDIR, BODIES[kernel.MKDIR])
        ending = asyncio.create_task(it.requests.finished())
        await turns()
        assert not ending.done()
        it.world.channel.under_way[0].answer()
        await ending
        assert unique in it.device.replies


def test_who_asks() -> None:
    request = Request(kernel.UNIQUE_RESEND | 8, kernel.MKDIR, 1, 10, 20, 30, 100)
    assert request.caller == (10, 20, 30, 8)


# ---------------------------------------------------------------- the descriptor


class Descriptor:
    """A pair of sockets in the place of /dev/fuse: requests in, replies out, borders kept."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(5)


@contextlib.asynccontextmanager
async def opened(handle: Any) -> AsyncIterator[tuple[Device, Descriptor]]:
    pair = Descriptor()
    device = Device(pair.theirs.fileno(), handle, Areas(may_share=False))
    device.start()
    try:
        yield device, pair
    finally:
        device.stop()
        pair.ours.close()
        pair.theirs.close()


@pytest.mark.allow_warnings("could not be begun")
async def test_no_handler_ends_the_reading() -> None:
    seen: list[bytes] = []

    def handle(view: memoryview, length: int) -> None:
        seen.append(bytes(view[:length]))
        raise ValueError("a defect")

    async with opened(handle) as (_, pair):
        for number in range(3):
            pair.ours.send(b"request %d" % number)
        async with asyncio.timeout(5):
            while len(seen) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
    assert seen == [b"request 0", b"request 1", b"request 2"]


async def test_what_is_kept_is_not_overwritten() -> None:
    kept: list[memoryview] = []

    async with opened(lambda view, length: None) as (device, pair):

        def handle(view: memoryview, length: int) -> None:
            kept.append(view[:length])
            device.keep_buffer()

        device._handle = handle
        for number in range(5):
            pair.ours.send(b"%d" % number * 1000)
        async with asyncio.timeout(5):
            while len(kept) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert [bytes(view) for view in kept] == [b"%d" % n * 1000 for n in range(5)]


async def test_the_end_of_the_file_system_ends_the_device() -> None:
    async with opened(lambda view, length: None) as (device, pair):
        pair.ours.close()
        await asyncio.wait_for(asyncio.shield(device.ended), 5)


async def test_replies_as_the_kernel_reads_them() -> None:
    async with opened(lambda view, length: None) as (device, pair):
        device.reply(7, b"body")
        assert pair.ours.recv(100) == struct.pack("<IiQ", 20, 0, 7) + b"body"
        device.refuse(8, errno.ENOENT)
        assert pair.ours.recv(100) == struct.pack("<IiQ", 16, -2, 8)
        device.reply_bulk(9, [b"a", memoryview(b"bc")])
        assert pair.ours.recv(100) == struct.pack("<IiQ", 19, 0, 9) + b"abc"
        many = [b"x"] * (device_module.PARTS_MAX + 10)  # more pieces than one call takes
        device.reply_bulk(10, many)
        assert pair.ours.recv(1 << 20)[16:] == b"x" * len(many)


@pytest.mark.allow_warnings("did not take a reply")
async def test_a_reply_that_is_not_taken_is_an_error_for_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(lambda view, length: None) as (device, pair):
        wrong = [errno.ENODEV, errno.ENOENT, errno.EINVAL]

        def refuse(descriptor: int, parts: Any) -> int:
            number = wrong.pop(0)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "writev", refuse)
        for unique in (1, 2, 3):
            device.reply_bulk(unique, [b"x"])
        # The file system is gone; the program is gone; it is there, and waits.
        assert pair.ours.recv(100) == struct.pack("<IiQ", 16, -errno.EIO, 3)
