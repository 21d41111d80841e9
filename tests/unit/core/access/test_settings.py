"""Access expressions are set, inherited, taken away below, looked at and explained."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable
from typing import Any

import pytest

from dataplatform.base.errors import Denied, Exhausted, Invalid
from dataplatform.core import namespace
from dataplatform.core.access import settings
from dataplatform.core.access.verbs import Verb
from dataplatform.core.principals import Principal
from dataplatform.core.units import Request
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, ChangeRow, Kind

from .worlds import ANA, BOB, ROOT, World, in_world


async def set_rules(world: World, path: str, who: Principal = ROOT, **rules: str | None) -> int:
    number = await world.number(path)
    changed: int = await world.run(lambda u: settings.set_rules(u, number, rules), who)
    return changed


async def own(world: World, path: str) -> dict[str, str]:
    inode = await world.volume.find_inode(await world.number(path))
    assert inode is not None
    return inode.access


async def clear(world: World, path: str, who: Principal, *words: str, limit: int = 0) -> int:
    """All below, as a client does it."""
    changed, left = 0, [await world.number(path)]
    while left:
        directory, after, end = left.pop(), "", False
        while not end:
            page = await world.run(
                lambda u, d=directory, a=after: settings.clear_page(u, d, words, a, limit), who
            )
            changed += page.changed
            left += [number for _, number in page.directories]
            after, end = page.after, page.end
    return changed


async def refused(work: Awaitable[Any]) -> Denied:
    with pytest.raises(Denied) as caught:
        await work
    return caught.value


@in_world
async def test_a_rule_holds_below_until_it_is_taken_away(world: World) -> None:
    await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    await world.make_node("/d/f", 0o600)
    assert not await world.may(BOB, "/d/f", Verb.READ)
    assert await set_rules(world, "/d", read="g:eng|u:bob") == 1
    assert await own(world, "/d") == {"read": "g:eng | u:bob"}
    assert await world.may(BOB, "/d/f", Verb.READ)
    assert await set_rules(world, "/d/f", read="g:eng") == 1
    assert not await world.may(BOB, "/d/f", Verb.READ)
    assert await set_rules(world, "/d/f", read=None) == 1
    assert await world.may(BOB, "/d/f", Verb.READ)
    assert await set_rules(world, "/d", read=None, write=None) == 1
    assert not await world.may(BOB, "/d/f", Verb.READ)
    assert await set_rules(world, "/d", read=None) == 0


@in_world
async def test_what_was_set_is_an_event(world: World) -> None:
    await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    await set_rules(world, "/d", read="p", write="u:ana")
    await set_rules(world, "/d", read="u:ana", write=None)
    events = []
    for commit in range(1, world.volume.state.commit + 1):
        value = await world.volume.storage.engine.get(keys.change(commit))
        assert value is not None
        row = ChangeRow.unpack(value)
        events += [(e[0], e[1], e[3]) for e in row.events if e[0] == "access changed"]
    assert events == [
        ("access changed", "/d", {"set": {"read": "p", "write": "u:ana"}}),
        ("access changed", "/d", {"set": {"read": "u:ana"}, "unset": ["write"]}),
    ]


@in_world
async def test_owners_and_whoever_has_admin_may_set(world: World) -> None:
    await world.make_node("/f", 0o777, 1000)
    error = await refused(set_rules(world, "/f", BOB, read="p"))
    assert error.os_errno == errno.EPERM
    await set_rules(world, "/f", ANA, read="p", admin="u:bob")
    await refused(set_rules(world, "/f", ANA, read=""))  # the rule decides alone
    await set_rules(world, "/f", BOB, read="")
    assert await own(world, "/f") == {"read": "", "admin": "u:bob"}


@in_world
async def test_verbs_are_those_of_the_kind(world: World) -> None:
    await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    await world.make_node("/f", 0o755)
    await world.make_node("/t", 0o755, kind=Kind.TABLE)
    await world.make_node("/s", 0o755, kind=Kind.STREAM)
    for path, verb in [
        ("/f", "produce"),
        ("/t", "execute"),
        ("/t", "consume"),
        ("/s", "read"),
        ("/s", "read:a"),
        ("/f", "read:a"),
        ("/d", "read:a"),
        ("/t", "admin:a"),
        ("/t", "read:"),
        ("/d", "eat"),
        ("/d", ""),
    ]:
        with pytest.raises(Invalid):
            await set_rules(world, path, **{verb: "p"})
    everything = dict.fromkeys(("read", "produce", "topics", "list", "delete"), "p")
    await set_rules(world, "/d", **everything)
    await set_rules(world, "/s", produce="p", topics="", admin="u:ana")
    await set_rules(world, "/t", **{"read:a": "p", "write:b:c": "", "write": "p"})


@in_world
async def test_an_expression_that_cannot_be_read_changes_nothing(world: World) -> None:
    await world.make_node("/f", 0o755)
    with pytest.raises(Invalid, match=r"write: .* at character 4") as caught:
        await set_rules(world, "/f", read="p", write="p &")
    assert caught.value.message.endswith("^")
    assert await own(world, "/f") == {}
    with pytest.raises(Invalid):
        await set_rules(world, "/f")


@in_world
async def test_expressions_of_one_thing_have_a_limit(world: World) -> None:
    await world.make_node("/t", 0o755, kind=Kind.TABLE)
    long = "|".join(f"u:{i:06}" for i in range(6000))
    with pytest.raises(Exhausted):
        await set_rules(world, "/t", **{f"read:{i}": long for i in range(5)})


@in_world
async def test_recursively_the_rule_holds_for_all_below(world: World) -> None:
    for path in ("/d", "/d/e", "/d/e/f"):
        await world.make_node(path, 0o755, kind=Kind.DIRECTORY, access={"read": "u:zoe"})
    for number in range(7):
        access = {"read": "", "write": "u:ana"} if number % 2 else {}
        await world.make_node(f"/d/e/{number}", 0o600, access=access)
    await set_rules(world, "/d", read="u:bob")
    assert await clear(world, "/d", ROOT, "read", limit=2) == 5
    for number in range(7):
        assert await world.may(BOB, f"/d/e/{number}", Verb.READ)
        assert not await world.may(BOB, f"/d/e/{number}", Verb.WRITE)
    assert await own(world, "/d/e/1") == {"write": "u:ana"}
    assert await clear(world, "/d", ROOT, "read") == 0


@in_world
async def test_recursively_each_thing_is_asked_about(world: World) -> None:
    await world.make_node("/d", 0o755, 1000, kind=Kind.DIRECTORY)
    await world.make_node("/d/mine", 0o600, 1000, access={"read": ""})
    await world.make_node("/d/theirs", 0o600, 1001, access={"write": ""})
    assert await clear(world, "/d", ANA, "read") == 1
    await refused(clear(world, "/d", ANA, "write"))


@in_world
async def test_who_sets_admin_recursively_keeps_it(world: World) -> None:
    number = await world.make_node("/d", 0o755, 1000, kind=Kind.DIRECTORY)

    async def wanted(text: str) -> None:
        rules = {"admin": text}
        await world.run(lambda u: settings.set_rules(u, number, rules, recursive=True), ANA)

    with pytest.raises(Invalid):
        await wanted("u:bob")
    assert await own(world, "/d") == {}
    await wanted("u:bob | g:eng")


@in_world
async def test_rules_move_with_the_thing(world: World) -> None:
    await world.make_node("/a", 0o755, kind=Kind.DIRECTORY, access={"read": "u:bob"})
    a = await world.make_node("/a/d", 0o755, kind=Kind.DIRECTORY, access={"write": "u:ana"})
    await world.make_node("/a/d/f", 0o600)
    await world.make_node("/b", 0o755, kind=Kind.DIRECTORY, access={"read": "u:ana"})
    assert await world.may(BOB, "/a/d/f", Verb.READ)
    old, new = await world.number("/a"), await world.number("/b")
    await world.run(lambda u: namespace.rename(u, old, b"d", new, "d"))
    assert await world.number("/b/d") == a
    assert not await world.may(BOB, "/b/d/f", Verb.READ)
    assert await world.may(ANA, "/b/d/f", Verb.READ)
    assert await world.may(ANA, "/b/d/f", Verb.WRITE)


@in_world
async def test_what_holds_and_from_where(world: World) -> None:
    await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    await world.make_node("/d/t", 0o755, kind=Kind.TABLE)
    await set_rules(world, "/d", read="p", write="u:ana", produce="", list="p")
    await set_rules(world, "/d/t", **{"write": "u:bob", "read:a": ""})
    inode = await world.volume.find_inode(await world.number("/d/t"))
    assert inode is not None
    found = await settings.rules_of(world.volume, inode)
    assert found.own == [("read:a", "", "/d/t"), ("write", "u:bob", "/d/t")]
    assert found.inherited == [("read", "p", "/d")]


@in_world
async def test_why(world: World) -> None:
    await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    await world.make_node("/d/t", 0o755, 1000, kind=Kind.TABLE)
    await set_rules(world, "/d", write="u:bob")
    await set_rules(world, "/d/t", **{"read:a": "u:ana", "write:b": "p"})
    inode = await world.volume.find_inode(await world.number("/d/t"))
    assert inode is not None

    async def why(who: Principal, user: str = "", *words: str) -> dict[str, Any]:
        found = await settings.explain(
            world.platform, world.volume, inode, Request(who), user, words
        )
        return {word: (v.allowed, v.by, v.rule, v.path) for word, v in found.answers}

    assert await why(BOB) == {
        "read": (True, "mode", None, ""),
        "write": (True, "expression", "u:bob", "/d"),
        "admin": (False, "mode", None, ""),
    }
    assert await why(BOB, "", "read:a", "write:a", "write:b", "write:c") == {
        "read:a": (False, "expression", "u:ana", "/d/t"),
        "write:a": (False, "expression", "u:ana", "/d/t"),
        "write:b": (True, "expression", "p", "/d/t"),
        "write:c": (True, "expression", "u:bob", "/d"),
    }
    assert (await why(ROOT, "", "write"))["write"] == (True, "administrator", None, "")
    await refused(why(BOB, "ana"))
    assert (await why(ANA, "bob", "write"))["write"] == (True, "expression", "u:bob", "/d")
    with pytest.raises(Invalid):
        await why(BOB, "", "fly")


@in_world
async def test_caches_hear_that_everything_is_over(world: World) -> None:
    number = await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    file = await world.make_node("/d/f", 0o755)
    promises = world.platform.promises
    await promises.watch(b"m" * 16, begin=True, acknowledged=0, wait_s=0)
    keeper = promises.find(b"m" * 16)
    assert keeper is not None
    keeper.keep_now(world.volume, file)
    rules = {"read": "u:ana"}
    changing = world.volume.run(
        Request(ROOT), lambda u: settings.set_rules(u, number, rules), durable=False
    )
    task = asyncio.ensure_future(changing)
    await keeper.news.wait(5)
    news = keeper.find_news()
    assert news is not None
    assert news.everything
    assert not task.done()  # it is answered when that was heard
    await promises.watch(b"m" * 16, begin=False, acknowledged=news.sequence, wait_s=0)
    assert await task == 1


@in_world
async def test_the_root_has_rules_too(world: World) -> None:
    await world.make_node("/f", 0o600)
    await world.run(lambda u: settings.set_rules(u, ROOT_INODE, {"read": "p"}))
    assert await world.may(BOB, "/f", Verb.READ)
