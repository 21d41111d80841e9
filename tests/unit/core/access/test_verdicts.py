"""Verdicts against a table: modes, reach, tokens, administrators."""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace

from dataplatform.base.errors import NotFound, PlatformError
from dataplatform.core import namespace
from dataplatform.core.access.verbs import Verb
from dataplatform.core.principals import Principal
from dataplatform.core.units import Request, Unit
from dataplatform.keyspace.records import Kind

from .worlds import ANA, ANYBODY, BOB, ROOT, World, in_world

TABLE = [
    # mode, owner, group, who, read, write, execute
    (0o640, 1000, 0, ANA, True, True, False),
    (0o640, 0, 50, ANA, True, False, False),
    (0o640, 0, 0, ANA, False, False, False),
    (0o007, 1000, 0, ANA, False, False, False),  # the owner's bits and only those
    (0o070, 0, 1001, BOB, True, True, True),
    (0o707, 0, 1001, BOB, False, False, False),
    (0o604, 0, 0, ANYBODY, True, False, False),
    (0o640, 65534, 65534, ANYBODY, False, False, False),  # nobody in particular owns nothing
    (0o000, 1000, 0, ROOT, True, True, True),
]


@in_world
async def test_modes(world: World) -> None:
    for index, (mode, uid, gid, who, *wanted) in enumerate(TABLE):
        path = f"/f{index}"
        await world.make_node(path, mode, uid, gid)
        verbs = (Verb.READ, Verb.WRITE, Verb.EXECUTE)
        assert [await world.may(who, path, verb) for verb in verbs] == wanted, (oct(mode), who)


@in_world
async def test_reach_needs_execute_of_every_directory(world: World) -> None:
    await world.make_node("/a", 0o700, 1000, kind=Kind.DIRECTORY)
    await world.make_node("/a/b", 0o777, kind=Kind.DIRECTORY)
    await world.make_node("/a/b/f", 0o666)
    assert await world.may(ANA, "/a/b/f", Verb.READ)
    error = await world.refused(BOB, "/a/b/f", Verb.READ)
    assert error.facts["verb"] == "read"
    assert error.facts["user"] == "bob"
    assert "path" not in error.facts

    directory = await world.number("/a")
    await world.run(lambda unit: namespace.set_attributes(unit, directory, mode=0o701))
    assert await world.may(BOB, "/a/b/f", Verb.READ)


@in_world
async def test_any_name_of_a_file_will_do(world: World) -> None:
    await world.make_node("/secret", 0o700, kind=Kind.DIRECTORY)
    number = await world.make_node("/secret/f", 0o666)
    await world.make_node("/open", 0o755, kind=Kind.DIRECTORY)
    assert not await world.guard.may(BOB, world.volume, number, Verb.READ)
    at = await world.number("/open")
    await world.run(lambda unit: namespace.link(unit, number, at, "g"))
    assert await world.guard.may(BOB, world.volume, number, Verb.READ)


@in_world
async def test_token_limits(world: World) -> None:
    await world.make_node("/a", 0o755, kind=Kind.DIRECTORY)
    await world.make_node("/a/f", 0o666)
    await world.make_node("/f", 0o666)
    reader = replace(ROOT, is_read_only=True)
    assert await world.may(reader, "/f", Verb.READ)
    assert not await world.may(reader, "/f", Verb.WRITE)
    below = replace(ROOT, roots=((world.volume.id, await world.number("/a")),))
    assert await world.may(below, "/a/f", Verb.WRITE)
    assert await world.may(below, "/a", Verb.LIST)
    assert not await world.may(below, "/f", Verb.READ)
    assert not await world.may(below, "/", Verb.LIST)


@in_world
async def test_what_has_no_name_is_not_there(world: World) -> None:
    number = await world.make_node("/f", 0o666)
    session = b"s" * 16
    world.platform.opens.open(session, world.volume, number, Verb.READ)
    await world.run(lambda unit: namespace.remove(unit, 1, b"f"))
    assert await world.guard.may(BOB, world.volume, number, Verb.READ, session=session)
    try:
        await world.guard.may(BOB, world.volume, number, Verb.READ)
    except NotFound:
        return
    raise AssertionError("found")


@in_world
async def test_attributes_of_what_has_no_name(world: World) -> None:
    """fchmod(2), fchown(2), futimens(2) and fsetxattr(2) of an open file that was removed."""
    volume, session = world.volume, b"s" * 16
    number = await world.make_node("/f", 0o666, uid=ANA.uid)
    world.platform.opens.open(session, volume, number)
    await world.run(lambda unit: namespace.remove(unit, 1, b"f", keep_open=True))

    def mode(unit: Unit) -> Awaitable[None]:
        return namespace.set_attributes(unit, number, mode=0o606)

    def owner(unit: Unit) -> Awaitable[None]:
        return namespace.set_attributes(unit, number, uid=ANA.uid, gid=ANA.gid)

    def time(unit: Unit) -> Awaitable[None]:
        return namespace.set_attributes(unit, number, now=True)

    def xattr(unit: Unit) -> Awaitable[None]:
        return namespace.set_xattr(
            unit, number, "user.a", b"x", create_only=False, replace_only=False
        )

    def trusted(unit: Unit) -> Awaitable[None]:
        return namespace.remove_xattr(unit, number, "trusted.a")

    async def answer(work: Callable[[Unit], Awaitable[None]], who: Principal, caller: bytes) -> str:
        try:
            await volume.run(Request(who, caller=caller), work, durable=False)
        except PlatformError as error:
            return errno.errorcode[error.os_errno]
        return "done"

    for work, of_owner, of_other in (
        (mode, "done", "EPERM"),
        (owner, "done", "EPERM"),
        (time, "done", "done"),
        (xattr, "done", "done"),
        (trusted, "EPERM", "EPERM"),
    ):
        assert await answer(work, ANA, session) == of_owner, work.__name__
        assert await answer(work, BOB, session) == of_other, work.__name__
        assert await answer(work, ANA, b"o" * 16) == "ENOENT", work.__name__
    inode = await volume.find_inode(number)
    assert inode is not None
    assert (inode.mode, inode.gid) == (0o606, ANA.gid)


@in_world
async def test_what_is_open_keeps_its_verbs(world: World) -> None:
    number = await world.make_node("/f", 0o666)
    session = b"s" * 16
    world.platform.opens.open(session, world.volume, number, Verb.READ)
    await world.run(lambda unit: namespace.set_attributes(unit, number, mode=0o600))
    guard, volume = world.guard, world.volume
    assert await guard.may(BOB, volume, number, Verb.READ, session=session)
    assert not await guard.may(BOB, volume, number, Verb.WRITE, session=session)
    assert not await guard.may(BOB, volume, number, Verb.READ)


@in_world
async def test_denials_are_told(world: World) -> None:
    await world.make_node("/f", 0o600)
    told = []
    world.guard.on_denied = told.append
    await world.refused(BOB, "/f", Verb.READ)
    assert [(d.principal, d.path, d.verb) for d in told] == [(BOB, "/f", Verb.READ)]
