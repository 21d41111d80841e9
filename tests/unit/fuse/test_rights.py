"""Whom the mount names to the server, what it asks about, and how long it believes the answer."""

import asyncio
import errno
import os

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform_clients.fuse import rights as module
from dataplatform_clients.fuse.calls import CALLER
from dataplatform_clients.fuse.door import packing
from dataplatform_clients.fuse.operations.attributes import Attributes
from dataplatform_clients.fuse.operations.callers import Caller
from dataplatform_clients.fuse.operations.files import Files
from dataplatform_clients.fuse.operations.names import Names
from dataplatform_clients.fuse.rights import (
    ALL,
    CREATE,
    DELETE,
    EXECUTE,
    LIST,
    READ,
    WRITE,
    Rights,
    widened,
)

from .fakes import ROOT_ASKS, World, at_work

ANA = Caller(1000, 100, os.getpid(), 7)


class Asking:
    caller = ANA


@pytest.mark.parametrize(
    ("mode", "governed", "is_directory", "shown"),
    [
        (0o600, 0, False, 0o600),
        (0o600, READ, False, 0o644),
        (0o600, READ | WRITE, False, 0o666),
        (0o600, EXECUTE, False, 0o600),
        (0o700, EXECUTE, False, 0o711),
        (0o700, EXECUTE, True, 0o711),
        (0o1700, ALL, True, 0o777),
        (0o600, LIST | CREATE | DELETE, False, 0o600),  # inherited, and of directories alone
        (0o700, READ | WRITE, True, 0o700),
        (0o700, LIST, True, 0o744),
        (0o700, CREATE, True, 0o722),
    ],
)
def test_modes_let_pass_what_the_server_decides(
    mode: int, governed: int, is_directory: bool, shown: int
) -> None:
    assert widened(mode, governed, is_directory=is_directory) == shown


async def test_a_change_names_the_caller_and_groups_only_where_rules_are() -> None:
    async with at_work() as world:
        rights, target = world.mount.rights, pb.Target()
        rights.name(target, ROOT_ASKS.caller, ALL)
        assert not target.HasField("caller")
        rights.name(target, ANA, 0)
        assert (target.caller.uid, list(target.caller.gids)) == (1000, [100])
        assert target.caller.modes_checked
        governed = pb.Target()
        rights.name(governed, ANA, READ)
        assert list(governed.caller.gids) == [100, *os.getgroups()]


@pytest.mark.parametrize(
    ("governed", "is_checked"),
    [
        ((CREATE,), False),  # w is shown for the sake of `create`: the mode of `delete` is open
        ((CREATE | DELETE | WRITE,), True),
        ((READ | WRITE | LIST,), True),  # w is shown as it is
        ((CREATE, DELETE), False),  # of two directories
        ((ALL, 0), True),
    ],
)
async def test_modes_that_the_kernel_could_not_check_are_left_to_the_server(
    governed: tuple[int, ...], is_checked: bool
) -> None:
    async with at_work() as world:
        target = pb.Target()
        world.mount.rights.name(target, ANA, *governed)
        assert target.caller.modes_checked is is_checked


async def _opened(world: World, flags: int, governed: int) -> Files:
    node = world.file(2)
    node.governed, node.governed_turn = governed, world.mount.rights.turn
    names = Names(world.mount)
    files = Files(world.mount, names, Attributes(world.mount, names))
    await files.open(2, flags, ANA)
    return files


async def test_what_no_rule_decides_is_not_asked_about() -> None:
    async with at_work() as world:
        await _opened(world, os.O_RDWR, 0)
        await _opened(world, os.O_RDONLY, WRITE)
        assert not world.channel.named("Namespace.Access")


async def test_an_open_is_asked_about_once_and_again_when_rules_may_be_others() -> None:
    async with at_work() as world:
        world.channel.handlers["Namespace.Access"] = lambda message, _: pb.AccessReply(
            allowed=message.verbs
        )
        await _opened(world, os.O_RDWR, READ | WRITE)
        await _opened(world, os.O_RDWR, READ | WRITE)
        (asked,) = world.channel.named("Namespace.Access")
        assert asked.message.verbs == READ | WRITE
        assert asked.message.target.caller.uid == 1000
        world.mount.rights.forget()
        await _opened(world, os.O_RDWR, READ | WRITE)
        assert len(world.channel.named("Namespace.Access")) == 2


async def test_who_may_not_gets_eacces_and_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_work() as world:
        world.channel.handlers["Namespace.Access"] = lambda message, _: pb.AccessReply(allowed=READ)
        with pytest.raises(OSError, match="not allowed") as refused:
            await _opened(world, os.O_RDWR, READ | WRITE)
        assert refused.value.errno == errno.EACCES
        node = world.mount.nodes.get(2)
        await world.mount.rights.ask(node, WRITE, ROOT_ASKS.caller)
        # A verdict ends by itself, too.
        files = await _opened(world, os.O_RDONLY, READ)
        assert files is not None
        monkeypatch.setattr(module.time, "monotonic", lambda: 1e12)
        world.channel.handlers["Namespace.Access"] = lambda message, _: pb.AccessReply(allowed=0)
        with pytest.raises(OSError, match="not allowed"):
            await world.mount.rights.ask(node, READ, ANA)


async def test_a_mount_of_one_user_asks_about_everything_and_names_nobody() -> None:
    async with at_work() as world:
        rights = Rights(world.calls, speaks=False, uid=10_000, local_uid=1000)
        node = world.file(2, mode=0o600, uid=10_000)
        node.uid = 10_000
        rights.take(node, 0)
        node.packed = None
        assert (node.governed, node.uid) == (ALL, 1000)
        assert rights.stored_uid(1000) == 10_000
        assert packing.attributes(node)
        world.channel.handlers["Namespace.Access"] = lambda message, _: pb.AccessReply(
            allowed=message.verbs
        )
        await rights.ask(node, READ, ANA)
        (asked,) = world.channel.named("Namespace.Access")
        assert not asked.message.target.HasField("caller")


async def test_requests_of_a_view_are_the_callers() -> None:
    async with at_work() as world:

        async def work() -> pb.Caller | None:
            await asyncio.sleep(0)
            return CALLER.get()

        named = await world.mount.rights.on_behalf(ANA, work())
        assert named is not None
        assert named.uid == 1000
        assert not named.modes_checked
        assert await world.mount.rights.on_behalf(ROOT_ASKS.caller, work()) is None
        assert CALLER.get() is None
