"""Changes of programs that were killed: waited for while the server works on them. What was given
up was made or not, so nothing of it is believed: neither here nor in the kernel."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Callable
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound, Unavailable
from dataplatform_clients.fuse.door import kernel
from dataplatform_clients.fuse.door import requests as requests_module

from .fakes import World, file_message, turns
from .test_requests import BODIES, Kernel, asking

PID = 4
PLACE = 3  # a directory
OLD = 7  # the file that is "old" there
OTHER = 8


class _Connection:
    """What is asked of the connection to the server."""

    closed = False

    def begin_turn(self) -> bool:
        return False

    def end_turn(self, scheduled: bool) -> None:
        pass


@pytest.fixture(autouse=True)
def _killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at all the time, and the program is always killed."""
    monkeypatch.setattr(requests_module, "INTERRUPT_LOOK_S", 0.0)
    monkeypatch.setattr(requests_module, "_is_killed", lambda pid: pid == PID)


def _furnish(it: Kernel) -> None:
    """A directory that is known whole, with two files."""
    world = it.world
    directory = world.directory(PLACE)
    for name, inode in ((b"old", OLD), (b"other", OTHER)):
        world.mount.nodes.name(directory, name, world.file(inode, size=10).number)
    directory.complete = True
    for inode in (OLD, OTHER):
        world.mount.nodes.get(inode).xattrs = {"user.a": b"before"}


def _interrupt(it: Kernel, unique: int) -> None:
    it.send(kernel.INTERRUPT, kernel.INTERRUPT_IN.pack(unique), unique=unique + 1)


async def _give_up(it: Kernel, opcode: int, body: bytes, node: int, method: str) -> None:
    """Begin it, have it sent, and kill the program, with no connection to the server."""
    it.world.channel.hold(method)
    unique = it.send(opcode, body, node, pid=PID)
    await it.world.channel.asks_for(method)
    _interrupt(it, unique)
    await asyncio.wait_for(it.requests.finished(), 5)
    assert it.device.replies[unique] == errno.EINTR
    it.world.channel.held.clear()


async def _lookup(it: Kernel, name: bytes) -> int:
    """The number of what has this name; 0: nothing."""
    reply = await it.ask(kernel.LOOKUP, name + b"\0", PLACE)
    if reply == errno.ENOENT:
        return 0
    assert isinstance(reply, bytes)
    return int(struct.unpack_from("<Q", reply)[0])


def _says(names: dict[str, int]) -> Callable[[Any, bytes], pb.Node]:
    """A server where these names stand for these inodes."""

    def stat(message: Any, data: bytes) -> pb.Node:
        path = message.target.path
        if not path:
            return file_message(message.target.inode, size=99, version=9)
        if path not in names:
            raise NotFound("no such name")
        return file_message(names[path], size=10)

    return stat


# ---------------------------------------------------------------- waiting


@pytest.mark.parametrize(
    ("opcode", "method", "name", "after"),
    [
        (kernel.UNLINK, "Namespace.Remove", b"old", 0),
        (kernel.CREATE, "Namespace.Create", b"new", 9),
    ],
)
async def test_a_change_that_the_server_works_on_is_waited_for(
    opcode: int, method: str, name: bytes, after: int
) -> None:
    async with asking() as it:
        _furnish(it)
        it.world.channel.current = _Connection()  # type: ignore[assignment]
        it.world.channel.hold(method)
        body = BODIES[opcode].removesuffix(b"name\0") + name + b"\0"
        unique = it.send(opcode, body, PLACE, pid=PID)
        asked = await it.world.channel.asks_for(method)
        _interrupt(it, unique)
        await asyncio.sleep(0.01)
        assert unique not in it.device.replies
        asked.answer()
        await asyncio.wait_for(it.requests.finished(), 5)
        assert isinstance(it.device.replies[unique], bytes)
        it.world.channel.asked.clear()
        assert await _lookup(it, name) == after
        assert not it.world.channel.asked


async def test_what_changes_nothing_ends_with_its_program() -> None:
    async with asking() as it:
        it.world.channel.current = _Connection()  # type: ignore[assignment]
        it.world.channel.hold("Namespace.Stat")
        unique = it.send(kernel.LOOKUP, b"name\0", pid=PID)
        await turns()
        _interrupt(it, unique)
        await asyncio.wait_for(it.requests.finished(), 5)
        assert it.device.replies == {unique: errno.EINTR}


async def test_a_server_that_hangs_does_not_keep_a_program_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests_module, "GIVE_UP_S", 0.01)
    async with asking() as it:
        _furnish(it)
        it.world.channel.current = _Connection()  # type: ignore[assignment]
        await _give_up(it, kernel.UNLINK, b"old\0", PLACE, "Namespace.Remove")


# ---------------------------------------------------------------- names

_TWO = b"old\0new\0"

_NAMES = [
    (kernel.UNLINK, b"old\0", "Namespace.Remove", {"other": OTHER}),
    (kernel.RMDIR, b"old\0", "Namespace.Remove", {"other": OTHER}),
    (
        kernel.RENAME,
        kernel.RENAME_IN.pack(PLACE) + _TWO,
        "Namespace.Rename",
        {"other": OTHER, "new": OLD},
    ),
    (
        kernel.RENAME,
        kernel.RENAME_IN.pack(PLACE) + b"old\0other\0",
        "Namespace.Rename",
        {"other": OLD},
    ),
    (
        kernel.RENAME2,
        kernel.RENAME2_IN.pack(PLACE, 2, 0) + b"old\0other\0",
        "Namespace.Rename",
        {"old": OTHER, "other": OLD},
    ),
    (
        kernel.LINK,
        kernel.LINK_IN.pack(OLD) + b"new\0",
        "Namespace.Link",
        {"old": OLD, "other": OTHER, "new": OLD},
    ),
    *(
        (opcode, body, "Namespace.Create", {"old": OLD, "other": OTHER, "new": 9})
        for opcode, body in (
            (kernel.CREATE, kernel.CREATE_IN.pack(2, 0o644, 0, 0) + b"new\0"),
            (kernel.MKNOD, kernel.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"new\0"),
            (kernel.MKDIR, kernel.MKDIR_IN.pack(0o755, 0) + b"new\0"),
            (kernel.SYMLINK, b"new\0target\0"),
        )
    ),
]
"""Changes, and which names there are once they were made."""

_NAME_IDS = [f"{kernel.NAMES[case[0]]}-{index}" for index, case in enumerate(_NAMES)]


def _names_told(world: World) -> set[bytes]:
    return {told[2] for told in world.kernel.told if told[:2] == ("name", PLACE)}


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not-done"])
@pytest.mark.parametrize(("opcode", "body", "method", "names"), _NAMES, ids=_NAME_IDS)
async def test_names_that_were_given_up_are_asked_for(
    opcode: int, body: bytes, method: str, names: dict[str, int], is_done: bool
) -> None:
    async with asking() as it:
        _furnish(it)
        before = {"old": OLD, "other": OTHER}
        await _give_up(it, opcode, body, PLACE, method)
        truth = names if is_done else before
        it.world.channel.handlers["Namespace.Stat"] = _says(truth)
        for name in ("old", "other", "new"):
            assert await _lookup(it, name.encode()) == truth.get(name, 0)
        changed = {
            name.encode() for name in {*before, *names} if before.get(name) != names.get(name)
        }
        assert _names_told(it.world) >= changed
        assert ("epoch",) in it.world.kernel.told
        assert ("attributes", PLACE) in it.world.kernel.told
        assert ("pages", PLACE) in it.world.kernel.told


@pytest.mark.allow_warnings("a request failed")
async def test_names_are_asked_for_when_the_patience_has_ended() -> None:
    async with asking() as it:
        _furnish(it)

        def fail(message: Any, data: bytes) -> Any:
            raise Unavailable("away")

        it.world.channel.handlers["Namespace.Remove"] = fail
        assert await it.ask(kernel.UNLINK, b"old\0", PLACE) == errno.EIO
        it.world.channel.handlers["Namespace.Stat"] = _says({})
        assert await _lookup(it, b"old") == 0


async def test_an_answer_of_before_it_was_given_up_is_not_kept() -> None:
    async with asking() as it:
        _furnish(it)
        channel = it.world.channel
        channel.handlers["Namespace.Stat"] = _says({"old": OLD})
        it.world.mount.nodes.doubt(it.world.mount.nodes.get(PLACE), [b"old"])
        channel.hold("Namespace.Stat")
        it.send(kernel.LOOKUP, b"old\0", PLACE)
        asked = await channel.asks_for("Namespace.Stat")
        channel.hold("Namespace.Remove")
        unique = it.send(kernel.UNLINK, b"old\0", PLACE, pid=PID)
        await channel.asks_for("Namespace.Remove")
        _interrupt(it, unique)
        while unique not in it.device.replies:  # noqa: ASYNC110
            await asyncio.sleep(0)
        asked.answer()
        await asyncio.wait_for(it.requests.finished(), 5)
        channel.held.clear()
        channel.handlers["Namespace.Stat"] = _says({})
        assert await _lookup(it, b"old") == 0


async def test_a_file_that_may_have_lost_its_last_name_stays_open() -> None:
    async with asking() as it:
        _furnish(it)
        opened = await it.ask(kernel.OPEN, kernel.OPEN_IN.pack(0, 0), OLD)
        assert isinstance(opened, bytes)
        await _give_up(it, kernel.UNLINK, b"old\0", PLACE, "Namespace.Remove")
        assert it.world.channel.named("Namespace.Remove")[-1].message.keep_open
        await turns()
        assert it.world.mount.nodes.get(OLD).held


# ---------------------------------------------------------------- attributes, bytes


def _setattr(valid: int, *, size: int = 0) -> bytes:
    return kernel.SETATTR_IN.pack(valid, 0, 0, size, *[0] * 7, 0o600, *[0] * 4)


@pytest.mark.parametrize(
    ("opcode", "body", "method"),
    [
        (kernel.SETATTR, _setattr(kernel.SET_MODE), "Namespace.SetAttributes"),
        (kernel.SETATTR, _setattr(kernel.SET_SIZE, size=5), "Namespace.SetAttributes"),
        (kernel.SETXATTR, BODIES[kernel.SETXATTR], "Namespace.SetXattr"),
        (kernel.REMOVEXATTR, BODIES[kernel.REMOVEXATTR], "Namespace.RemoveXattr"),
        (kernel.FALLOCATE, BODIES[kernel.FALLOCATE], "Files.Allocate"),
        (kernel.COPY_FILE_RANGE, kernel.COPY_IN.pack(5, 0, OLD, 6, 0, 100, 0), "Files.CopyRange"),
        (kernel.LINK, kernel.LINK_IN.pack(OLD) + b"new\0", "Namespace.Link"),
        (kernel.UNLINK, b"old\0", "Namespace.Remove"),
    ],
    ids=["mode", "size", "setxattr", "removexattr", "fallocate", "copy", "link", "unlink"],
)
async def test_what_is_known_of_a_file_is_asked_for(opcode: int, body: bytes, method: str) -> None:
    async with asking() as it:
        _furnish(it)
        on_file = method not in ("Namespace.Link", "Namespace.Remove")
        node = (
            OLD if on_file and opcode != kernel.COPY_FILE_RANGE else PLACE if not on_file else OTHER
        )
        file = it.world.mount.nodes.get(OLD)
        turn = file.data_turn
        await _give_up(it, opcode, body, node, method)
        it.world.channel.handlers["Namespace.Stat"] = _says({"old": OLD})
        assert file.data_turn != turn
        assert file.xattrs is None
        assert (await it.world.mount.node(OLD)).size == 99
        assert ("attributes", OLD) in it.world.kernel.told
        assert ("pages", OLD) in it.world.kernel.told
