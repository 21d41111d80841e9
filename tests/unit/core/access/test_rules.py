"""Which rule holds where: inheritance, moving, volumes, hard links, and what a token may see."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, NotFound, PlatformError
from dataplatform.core.access.verbs import Verb
from dataplatform.core.principals import Principal
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.keyspace.records import ROOT_INODE
from tests.rights import ANA, BOB, EVE, ROOT, Core


async def set_rules(core: Core, path: str, **access: str) -> None:
    node = await core.platform.locate(path)

    async def work(unit: Unit) -> None:
        inode = await unit.inode(node.inode.number)
        inode.access = dict(access)
        unit.save(inode)
        unit.move_rules()

    await node.volume.run(SYSTEM, work, durable=False)
    core.platform.release(node.volume)


async def may(core: Core, who: Principal, path: str, verb: Verb) -> bool:
    node = await core.platform.locate(path)
    try:
        return await core.platform.guard.may(who, node.volume, node.inode, verb)
    finally:
        core.platform.release(node.volume)


async def refused(core: Core, who: Principal, method: str, message: Any, data: bytes = b"") -> int:
    with pytest.raises(Denied) as caught:
        await core.call(who, method, message, data)
    return caught.value.os_errno


def at(path: str) -> pb.Target:
    return pb.Target(path=path)


def by_number(node: pb.Node) -> pb.Target:
    return pb.Target(volume=node.volume, inode=node.inode)


async def test_the_nearest_rule_decides_alone() -> None:
    core = await Core.start()
    for path in ("/a", "/a/b", "/a/b/c"):
        await core.make_directory(path, 0o755)
    await core.make("/a/f", 0o600)
    await core.make("/a/b/c/f", 0o666)
    await set_rules(core, "/a", read="u:ana")
    assert await may(core, ANA, "/a/f", Verb.READ)  # against the mode
    assert not await may(core, BOB, "/a/b/c/f", Verb.READ)
    assert await may(core, BOB, "/a/b/c/f", Verb.WRITE)  # another verb: the mode
    await set_rules(core, "/a/b", read="g:eng | u:bob")
    assert await may(core, BOB, "/a/b/c/f", Verb.READ)
    await set_rules(core, "/a/b/c/f", read="")
    assert not await may(core, ANA, "/a/b/c/f", Verb.READ)
    assert await may(core, ROOT, "/a/b/c/f", Verb.READ)
    await set_rules(core, "/a/b/c/f")
    assert await may(core, ANA, "/a/b/c/f", Verb.READ)
    await core.close()


async def test_a_verdict_says_which_rule_from_where() -> None:
    core = await Core.start()
    await core.make_directory("/a", 0o755)
    await core.make("/a/f", 0o666)
    await set_rules(core, "/a", read="u:ana")
    with pytest.raises(Denied) as caught:
        await core.call(BOB, "Files.Read", pb.ReadRequest(target=at("/a/f"), length=1))
    facts = caught.value.facts
    assert (facts["path"], facts["verb"], facts["user"]) == ("/a/f", "read", "bob")
    assert (facts["rule"], facts["rule_path"]) == ("u:ana", "/a")
    await core.close()


async def test_a_subtree_comes_under_the_rules_of_where_it_is_moved() -> None:
    core = await Core.start()
    await core.make_directory("/closed", 0o777)
    await core.make_directory("/open", 0o777)
    await core.make_directory("/open/d", 0o777, ANA)
    node = await core.make("/open/d/f", 0o666, ANA)
    await set_rules(core, "/closed", read="u:ana")
    assert await may(core, BOB, "/open/d/f", Verb.READ)
    move = pb.RenameRequest(source=at("/open/d"), target=at("/closed/d"))
    assert await refused(core, BOB, "Namespace.Rename", move) == errno.EXDEV
    await core.call(ANA, "Namespace.Rename", move)  # it is hers
    message = pb.ReadRequest(target=by_number(node), length=1)
    assert await refused(core, BOB, "Files.Read", message) == errno.EACCES
    await core.call(ANA, "Files.Read", message)
    back = pb.RenameRequest(source=at("/closed/d"), target=at("/open/d"))
    assert await refused(core, BOB, "Namespace.Rename", back) == errno.EXDEV
    await core.call(ROOT, "Namespace.Rename", back)
    await core.call(BOB, "Files.Read", message)
    await core.close()


async def test_a_transaction_sees_the_rules_that_it_has_just_moved_under() -> None:
    core = await Core.start()
    await core.make_directory("/closed", 0o777)
    await core.make_directory("/d", 0o777, ANA)
    await core.make("/d/f", 0o666, ANA)
    await set_rules(core, "/closed", write="u:bob")
    assert await may(core, ANA, "/d/f", Verb.WRITE)
    operations = [
        pb.TransactionRequest.Operation(
            rename=pb.RenameRequest(source=at("d"), target=at("closed/d"))
        ),
        pb.TransactionRequest.Operation(
            set_attributes=pb.SetAttributesRequest(target=at("closed/d/f"), size=0)
        ),
    ]
    message = pb.TransactionRequest(base=at("/"), operations=operations)
    assert await refused(core, ANA, "Transactions.Commit", message) == errno.EACCES
    assert await may(core, ANA, "/d/f", Verb.WRITE)  # nothing happened
    await core.close()


async def test_rules_hold_in_volumes_below() -> None:
    core = await Core.start()
    await core.make_directory("/a", 0o755)
    await core.call(ROOT, "Volumes.Create", pb.VolumeRequest(target=at("/a/v")))
    node = await core.make("/a/v/f", 0o666)
    assert await may(core, BOB, "/a/v/f", Verb.READ)
    await set_rules(core, "/a", read="u:ana")
    assert not await may(core, BOB, "/a/v/f", Verb.READ)
    await set_rules(core, "/a", execute="u:ana")
    message = pb.ReadRequest(target=by_number(node), length=1)
    assert await refused(core, BOB, "Files.Read", message) == errno.EACCES
    await set_rules(core, "/a")
    await core.call(BOB, "Files.Read", message)
    await core.call(
        ROOT, "Namespace.SetAttributes", pb.SetAttributesRequest(target=at("/a"), mode=0o700)
    )
    assert await refused(core, BOB, "Files.Read", message) == errno.EACCES
    await core.close()


async def test_a_hard_link_is_no_way_out_of_a_rule() -> None:
    core = await Core.start()
    await core.make_directory("/closed", 0o777)
    await core.make_directory("/open", 0o777)
    await core.make("/closed/f", 0o666, BOB)
    await set_rules(core, "/closed", read="u:bob")
    link = pb.LinkRequest(existing=at("/closed/f"), target=at("/open/f"))
    assert await refused(core, EVE, "Namespace.Link", link) == errno.EXDEV
    await core.call(BOB, "Namespace.Link", link)  # his file: he could change its rules
    assert not await may(core, EVE, "/open/f", Verb.READ)  # the first name's rules hold
    await core.close()


async def test_what_is_put_over_a_file_has_its_rules() -> None:
    core = await Core.start()
    await core.make("/f", 0o666)
    await set_rules(core, "/f", write="u:ana", read="u:bob")
    put = pb.WriteFileRequest(target=at("/f"))
    assert await refused(core, BOB, "Files.WriteFile", put, b"x") == errno.EACCES
    await core.call(ANA, "Files.WriteFile", put, b"new")
    node = await core.call(ROOT, "Namespace.Stat", pb.StatRequest(target=at("/f")))
    assert (node.mode, node.uid) == (0o666, 0)
    assert await may(core, BOB, "/f", Verb.READ)
    assert not await may(core, EVE, "/f", Verb.READ)
    await core.close()


async def test_a_new_file_is_not_written_against_a_rule() -> None:
    core = await Core.start()
    await core.make_directory("/d", 0o777)
    await set_rules(core, "/d", write="u:ana")
    put = pb.WriteFileRequest(target=at("/d/f"))
    assert await refused(core, BOB, "Files.WriteFile", put, b"x") == errno.EACCES
    await core.call(ANA, "Files.WriteFile", put, b"x")
    made = pb.CreateRequest(target=at("/d/g"), kind=pb.FILE, mode=0o666, open=True)
    node = await core.call(BOB, "Namespace.Create", made)
    message = pb.WriteRequest(target=by_number(node))
    assert await refused(core, BOB, "Files.Write", message, b"x") == errno.EACCES
    await core.close()


async def test_what_is_withdrawn_is_gone_for_what_is_open_too() -> None:
    core = await Core.start()
    await core.make_directory("/d", 0o755)
    node = await core.make("/d/f", 0o666)
    target = by_number(node)
    await core.call(BOB, "Files.Open", pb.OpenRequest(target=target, access=3))
    read = pb.ReadRequest(target=target, length=1)
    closed = pb.SetAttributesRequest(target=target, mode=0o600)
    await core.call(ROOT, "Namespace.SetAttributes", closed)
    await core.call(BOB, "Files.Read", read)  # POSIX: a file descriptor
    for path in ("/d/f", "/d", "/"):
        await set_rules(core, path, read="!u:bob")
        assert await refused(core, BOB, "Files.Read", read) == errno.EACCES
        await set_rules(core, path)
        await core.call(BOB, "Files.Read", read)
    await set_rules(core, "/d", execute="u:ana")
    assert await refused(core, BOB, "Files.Read", read) == errno.EACCES
    await core.close()


# ---------------------------------------------------------------- tokens for a subtree


async def in_a_jail() -> tuple[Core, Principal]:
    """/jail is what a token of ana's is good for; everything has modes that let everybody."""
    core = await Core.start()
    jail = await core.make_directory("/jail", 0o777)
    await core.make_directory("/jail/d", 0o777)
    await core.make("/jail/f", 0o666)
    await core.make_directory("/outside", 0o777)
    await core.make("/outside/f", 0o666)
    inmate = Principal(
        "ana", uid=1000, gid=1000, gids=frozenset((1000,)), roots=((jail.volume, jail.inode),)
    )
    return core, inmate


@pytest.mark.parametrize(
    "path", ["/", "/outside", "/outside/f", "/missing", "/outside/missing", "/outside/f/x"]
)
async def test_a_token_learns_nothing_of_what_is_outside(path: str) -> None:
    core, inmate = await in_a_jail()
    assert await refused(core, inmate, "Namespace.Stat", pb.StatRequest(target=at(path))) > 0
    assert await refused(core, inmate, "Namespace.List", pb.ListRequest(target=at(path))) > 0
    await core.call(inmate, "Namespace.Stat", pb.StatRequest(target=at("/jail/f")))
    with pytest.raises(NotFound):
        await core.call(inmate, "Namespace.Stat", pb.StatRequest(target=at("/jail/missing")))
    await core.close()


async def test_links_do_not_lead_out_of_a_subtree() -> None:
    core, inmate = await in_a_jail()
    for name, target in (
        ("up", "../outside/f"),
        ("abs", "/outside/f"),
        ("dots", "d/../../outside"),
    ):
        await core.call(
            inmate,
            "Namespace.Create",
            pb.CreateRequest(target=at(f"/jail/{name}"), kind=pb.SYMLINK, symlink=target),
        )
        message = pb.StatRequest(target=at(f"/jail/{name}"), follow=True)
        assert await refused(core, inmate, "Namespace.Stat", message) == errno.EACCES
        read = pb.ReadRequest(target=at(f"/jail/{name}"), length=1)
        assert await refused(core, inmate, "Files.Read", read) == errno.EACCES
    message = pb.CreateRequest(target=at("/jail/home"), kind=pb.SYMLINK, symlink="../jail/f")
    await core.call(inmate, "Namespace.Create", message)
    await core.call(inmate, "Namespace.Stat", pb.StatRequest(target=at("/jail/home"), follow=True))
    await core.close()


async def test_nothing_is_brought_into_a_subtree_or_out_of_it() -> None:
    core, inmate = await in_a_jail()
    for source, target in (("/outside/f", "/jail/g"), ("/jail/f", "/outside/g")):
        move = pb.RenameRequest(source=at(source), target=at(target))
        assert await refused(core, inmate, "Namespace.Rename", move) == errno.EACCES
        link = pb.LinkRequest(existing=at(source), target=at(target))
        assert await refused(core, inmate, "Namespace.Link", link) == errno.EACCES
    copy = pb.CopyRangeRequest(source=at("/outside/f"), target=at("/jail/f"), length=1)
    assert await refused(core, inmate, "Files.CopyRange", copy) == errno.EACCES
    await core.close()


async def test_a_guessed_number_or_a_stale_one_leads_nowhere() -> None:
    core, inmate = await in_a_jail()
    outside = await core.call(ROOT, "Namespace.Stat", pb.StatRequest(target=at("/outside/f")))
    inside = await core.call(ROOT, "Namespace.Stat", pb.StatRequest(target=at("/jail/f")))
    for number in range(1, 12):
        target = pb.Target(volume=outside.volume, inode=number)
        for method, message in (
            ("Namespace.Stat", pb.StatRequest(target=target)),
            ("Namespace.Path", pb.StatRequest(target=target)),
            ("Files.Read", pb.ReadRequest(target=target, length=1)),
            ("Files.Locate", pb.ReadRequest(target=target, length=1)),
        ):
            try:
                await core.call(inmate, method, message)
            except PlatformError:
                continue
            path = await core.call(ROOT, "Namespace.Path", pb.StatRequest(target=target))
            assert path.path.startswith("/jail")
    target = by_number(inside)
    await core.call(inmate, "Files.Open", pb.OpenRequest(target=target, access=1))
    move = pb.RenameRequest(source=at("/jail/f"), target=at("/outside/moved"))
    await core.call(ROOT, "Namespace.Rename", move)
    read = pb.ReadRequest(target=target, length=1)
    assert await refused(core, inmate, "Files.Read", read) == errno.EACCES  # open or not
    await core.close()


async def test_an_administrators_token_for_a_subtree_stays_in_it() -> None:
    core, inmate = await in_a_jail()
    warden = Principal("root", uid=0, gid=0, is_admin=True, roots=inmate.roots)
    await core.call(warden, "Files.WriteFile", pb.WriteFileRequest(target=at("/jail/f")), b"x")
    put = pb.WriteFileRequest(target=at("/outside/f"))
    assert await refused(core, warden, "Files.WriteFile", put, b"x") == errno.EACCES
    assert await refused(core, warden, "System.Check", pb.CheckRequest()) == errno.EPERM
    reply = await core.call(warden, "System.Status", pb.Empty())
    assert not reply.data
    assert not any(volume.path for volume in reply.volumes)
    await core.close()


# ---------------------------------------------------------------- volumes, callers


async def test_volumes_are_made_by_administrators_and_owners() -> None:
    core = await Core.start()
    await core.make_directory("/ana", 0o755, ANA)
    await core.make_directory("/all", 0o777)
    create = pb.VolumeRequest(target=at("/all/v"))
    assert await refused(core, ANA, "Volumes.Create", create) == errno.EPERM
    made = await core.call(ANA, "Volumes.Create", pb.VolumeRequest(target=at("/ana/x/v")))
    found = pb.StatRequest(target=at("/ana/x/v"), follow=True)
    root = await core.call(ANA, "Namespace.Stat", found)
    assert (root.uid, root.gid, root.inode) == (1000, 1000, ROOT_INODE)
    await core.call(ANA, "Files.WriteFile", pb.WriteFileRequest(target=at("/ana/x/v/f")), b"x")
    settings = pb.VolumeRequest(target=at("/ana/x/v"), settings=pb.VolumeSettings(quota_bytes=1))
    assert await refused(core, ANA, "Volumes.Set", settings) == errno.EPERM
    remove = pb.VolumeRequest(target=at("/ana/x/v"), recursive=True)
    assert await refused(core, BOB, "Volumes.Remove", remove) == errno.EPERM
    listed = await core.call(BOB, "Volumes.List", pb.Empty())
    assert made.volume in [v.volume for v in listed.volumes]
    closed = pb.SetAttributesRequest(target=at("/ana"), mode=0o700)
    await core.call(ANA, "Namespace.SetAttributes", closed)
    listed = await core.call(BOB, "Volumes.List", pb.Empty())
    assert made.volume not in [v.volume for v in listed.volumes]
    await core.call(ANA, "Volumes.Remove", remove)
    await core.close()


async def test_whoever_may_speak_acts_for_the_caller() -> None:
    core = await Core.start()
    await core.make_directory("/d", 0o777)
    await core.make("/d/f", 0o600)
    ana = pb.Caller(uid=1000, gids=[1000, 50])
    read = pb.ReadRequest(target=pb.Target(path="/d/f", caller=ana), length=1)
    assert await refused(core, ROOT, "Files.Read", read) == errno.EACCES
    read.target.caller.uid = 0
    await core.call(ROOT, "Files.Read", read)
    made = pb.CreateRequest(target=pb.Target(path="/d/g", caller=ana), kind=pb.FILE, uid=5, gid=6)
    node = await core.call(ROOT, "Namespace.Create", made)
    assert (node.uid, node.gid) == (1000, 1000)
    with pytest.raises(Denied):
        await core.call(BOB, "Files.Read", read)
    await core.close()


async def test_nothing_comes_between_a_check_and_its_use() -> None:
    core = await Core.start()
    await core.make_directory("/d", 0o777)
    await core.make("/d/f", 0o666)
    volume = await core.platform.acquire(1)
    closed = pb.SetAttributesRequest(target=at("/d/f"), mode=0o600)
    shut = pb.SetAttributesRequest(target=at("/d"), mode=0o700)
    calls = []
    async with volume.lane.between():  # both have found the file, and wait for their turn
        for who, method, message in (
            (ROOT, "Namespace.SetAttributes", closed),
            (BOB, "Namespace.SetAttributes", pb.SetAttributesRequest(target=at("/d/f"), size=0)),
            (BOB, "Namespace.Create", pb.CreateRequest(target=at("/d/g"), kind=pb.FILE)),
            (ROOT, "Namespace.SetAttributes", shut),
            (BOB, "Namespace.Create", pb.CreateRequest(target=at("/d/h"), kind=pb.FILE)),
            (BOB, "Namespace.Remove", pb.RemoveRequest(target=at("/d/f"))),
        ):
            calls.append(asyncio.ensure_future(core.call(who, method, message)))
            for _ in range(50):
                await asyncio.sleep(0)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, Denied) for result in results] == [
        False, True, False, False, True, True
    ]  # fmt: skip
    core.platform.release(volume)
    await core.close()


async def test_a_token_that_may_only_read_commits_nothing() -> None:
    core = await Core.start()
    await core.make("/f", 0o666)
    reader = Principal("root", uid=0, gid=0, is_admin=True, is_read_only=True)
    await core.call(reader, "Files.Read", pb.ReadRequest(target=at("/f"), length=1))
    assert await refused(core, reader, "Files.Write", pb.WriteRequest(target=at("/f")), b"x")
    accessed = pb.SetAttributesRequest(target=at("/f"), accessed=True, atime_ns=5)
    assert await refused(core, reader, "Namespace.SetAttributes", accessed)
    await core.close()
