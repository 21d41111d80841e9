"""Rights on tables and their columns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest

from dataplatform.base.errors import Denied, PlatformError
from dataplatform.core import namespace, tables, transactions
from dataplatform.core.access import settings
from dataplatform.core.principals import Principal
from dataplatform.core.units import Request, Unit
from dataplatform.keyspace.records import Kind

from .worlds import ANA, BOB, ROOT, World, in_world

pack: Callable[[Any], bytes] = msgpack.packb

READER = Principal("reader", uid=2000, is_read_only=True)


async def make(world: World, access: dict[str, str], mode: int = 0o700) -> Table:
    number = await world.make_node("/t", mode, kind=Kind.TABLE, access=access)
    table = Table(world, number)
    await table.put(ROOT, b"k", {"name": "x", "km": 1, "owner": "secret"})
    return table


class Table:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number

    async def run(self, who: Principal, work: Callable[[Unit], Awaitable[Any]]) -> Any:
        return await self.world.run(work, who)

    async def put(self, who: Principal, key: bytes, columns: Any, **options: Any) -> Any:
        packed = pack(columns)
        return await self.run(who, lambda u: tables.put(u, self.number, key, packed, **options))

    async def put_many(self, who: Principal, rows: dict[bytes, Any], **options: Any) -> Any:
        data = b"".join(pack(part) for row in rows.items() for part in row)
        return await self.run(who, lambda u: tables.put_many(u, self.number, data, **options))

    async def delete(self, who: Principal, key: bytes, *columns: str, **options: Any) -> Any:
        return await self.run(who, lambda u: tables.delete(u, self.number, key, columns, **options))

    async def increment(self, who: Principal, key: bytes, column: str) -> Any:
        return await self.run(who, lambda u: tables.increment(u, self.number, key, column, 1))

    async def get(self, who: Principal, *columns: str) -> Any:
        page = await tables.get_many(self.world.volume, self.number, [b"k"], columns, Request(who))
        return unpack(page)

    async def scan(self, who: Principal, **options: Any) -> Any:
        page = await tables.scan(self.world.volume, self.number, request=Request(who), **options)
        return unpack(page.data)


def unpack(page: bytes) -> dict[bytes, Any]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(page)
    parts = list(unpacker)
    return {key: row[2] for key, row in zip(parts[::2], parts[1::2], strict=True)}


async def denied(work: Awaitable[Any]) -> Denied:
    with pytest.raises(Denied) as caught:
        await work
    return caught.value


@in_world
async def test_modes_decide_where_no_expression_does(world: World) -> None:
    table = await make(world, {}, mode=0o644)
    assert await table.get(BOB) == {b"k": {"name": "x", "km": 1, "owner": "secret"}}
    await denied(table.put(BOB, b"k", {"km": 2}))
    await denied(table.put_many(BOB, {b"k": {"km": 2}}))
    await denied(table.delete(BOB, b"k"))
    await denied(table.increment(BOB, b"k", "km"))


@in_world
async def test_expressions_decide(world: World) -> None:
    table = await make(world, {"read": "g:eng", "write": "u:bob"})
    assert await table.scan(ANA)
    await denied(table.scan(BOB))
    await denied(table.get(BOB))
    await denied(table.put(ANA, b"k", {"km": 2}))
    await table.put(BOB, b"k", {"km": 2})
    await table.put_many(BOB, {b"new": {"km": 2}})
    assert await table.delete(BOB, b"new")


@in_world
async def test_what_a_write_would_tell_needs_read(world: World) -> None:
    table = await make(world, {"read": "g:eng", "write": "u:bob"})
    await denied(table.put(BOB, b"k", {"km": 2}, if_version=7))
    await denied(table.delete(BOB, b"k", if_version=7))
    await denied(table.increment(BOB, b"k", "km"))
    await denied(table.run(BOB, lambda u: tables.expect_version(u, table.number, b"k", 7)))


@in_world
async def test_a_column_is_left_out_for_whom_may_not_read_it(world: World) -> None:
    table = await make(world, {"read": "p", "read:owner": "u:ana"})
    assert (await table.get(ANA))[b"k"]["owner"] == "secret"
    for found in (
        await table.get(BOB),
        await table.scan(BOB),
        await table.scan(BOB, where="km = 1"),
        await table.get(BOB, "name", "km", "owner"),
    ):
        assert found == {b"k": {"name": "x", "km": 1}}
    assert await table.scan(BOB, columns=["owner"]) == {b"k": {}}
    assert (await table.scan(ROOT))[b"k"]["owner"] == "secret"


@in_world
async def test_nothing_is_filtered_by_a_column_that_may_not_be_read(world: World) -> None:
    table = await make(world, {"read": "p", "read:owner": "u:ana"})
    for where in (
        "owner = 'secret'",
        "km = 1 and not (owner = 'x')",
        "owner is null",
        "owner.part = 1",
        "`owner` in ['secret']",
        "km = owner",
        "owner",
    ):
        error = await denied(table.scan(BOB, where=where, limit=1))
        assert error.facts["column"] == "owner"
    assert await table.scan(ANA, where="owner = 'secret'")
    assert await table.scan(BOB, where="_key = 'k'")


@in_world
async def test_a_column_may_be_for_more_than_the_table(world: World) -> None:
    table = await make(world, {"read": "u:ana", "read:name": "p", "write:km": "u:bob"})
    assert await table.get(BOB) == {b"k": {"name": "x"}}
    assert await table.scan(BOB, columns=["km", "name"]) == {b"k": {"name": "x"}}
    await denied(table.scan(BOB, where="km = 1"))
    await table.put(BOB, b"k", {"km": 5})
    assert (await table.get(ANA))[b"k"]["km"] == 5
    await denied(table.put(BOB, b"k", {"name": "y"}))
    await denied(table.put(BOB, b"new", {"km": 1}))  # adds a row
    await denied(table.put_many(BOB, {b"k": {"km": 1}, b"new": {"km": 1}}))
    await table.put_many(BOB, {b"k": {"km": 6}})
    await denied(table.delete(BOB, b"k"))
    await table.delete(BOB, b"k", "km")
    await denied(table.increment(BOB, b"k", "km"))  # would be told what it is


@in_world
async def test_a_column_that_may_not_be_written(world: World) -> None:
    table = await make(world, {"read": "p", "write": "p", "write:owner": "u:ana"})
    await table.put(BOB, b"k", {"km": 2})
    error = await denied(table.put(BOB, b"k", {"km": 3, "owner": "bob"}))
    assert error.facts["column"] == "owner"
    await denied(table.put_many(BOB, {b"a": {"km": 3}, b"k": {"owner": "bob"}}))
    await denied(table.delete(BOB, b"k", "owner"))
    await denied(table.delete(BOB, b"k"))
    await denied(table.increment(BOB, b"k", "owner"))
    assert await table.get(ANA) == {b"k": {"name": "x", "km": 2, "owner": "secret"}}
    await table.put(ANA, b"k", {"owner": "ana"})


@in_world
async def test_a_column_that_may_not_be_read_is_not_written(world: World) -> None:
    table = await make(world, {"read": "p", "write": "p", "read:owner": "u:ana"})
    await denied(table.put(BOB, b"k", {"owner": "bob"}))
    await denied(table.delete(BOB, b"k", "owner"))
    await denied(table.increment(BOB, b"k", "owner"))


@in_world
async def test_a_row_that_is_replaced_keeps_what_may_not_be_written(world: World) -> None:
    table = await make(world, {"read": "p", "write": "p", "read:owner": "u:ana"})
    await table.put(BOB, b"k", {"km": 9}, replace=True)
    assert await table.get(ANA) == {b"k": {"km": 9, "owner": "secret"}}
    await table.put_many(BOB, {b"k": {"name": "n"}}, replace=True)
    assert await table.get(ANA) == {b"k": {"name": "n", "owner": "secret"}}
    await table.put(ANA, b"k", {"km": 1}, replace=True)
    assert await table.get(ANA) == {b"k": {"km": 1}}


@in_world
async def test_a_column_of_a_table_that_cannot_be_reached_is_nobodys(world: World) -> None:
    await world.make_node("/d", 0o700, kind=Kind.DIRECTORY)
    number = await world.make_node("/d/t", 0o777, kind=Kind.TABLE, access={"read:a": "p"})
    table = Table(world, number)
    await denied(table.scan(BOB))
    await denied(table.put(BOB, b"k", {"a": 1}))


@in_world
async def test_a_token_that_may_only_read_writes_no_column(world: World) -> None:
    table = await make(world, {"write:km": "p", "read": "p"})
    assert await table.get(READER)
    await denied(table.put(READER, b"k", {"km": 1}))
    await denied(table.put_many(READER, {b"k": {"km": 1}}))


@in_world
async def test_puts_that_share_a_unit_are_asked_as_any(world: World) -> None:
    table = await make(world, {"read": "p", "write": "p", "write:owner": "u:ana"})
    puts = world.volume.puts
    sent = [
        puts.put(Request(BOB), table.number, key, pack(columns))
        for key, columns in ((b"a", {"km": 1}), (b"b", {"owner": "bob"}), (b"c", {"km": 3}))
    ]
    assert await sent[0]
    assert await sent[2]
    await denied(sent[1])
    assert sorted(await table.scan(ROOT)) == [b"a", b"c", b"k"]


@in_world
async def test_a_transaction_is_refused_as_a_whole(world: World) -> None:
    table = await make(world, {"read": "p", "write": "p", "write:owner": "u:ana"})

    async def first(unit: Unit) -> None:
        await tables.put(unit, table.number, b"k", pack({"km": 77}))

    async def second(unit: Unit) -> None:
        await tables.put(unit, table.number, b"k", pack({"owner": "bob"}))

    await denied(transactions.run(world.volume, Request(BOB), [first, second], durable=False))
    assert (await table.get(ANA))[b"k"]["km"] == 1


@in_world
async def test_a_scan_is_asked_at_every_page(world: World) -> None:
    table = await make(world, {"read": "u:bob"})
    await table.put(ROOT, b"l", {})
    page = await tables.scan(world.volume, table.number, limit=1, request=Request(BOB))
    assert not page.end

    async def withdraw(unit: Unit) -> None:
        inode = await unit.inode(table.number)
        inode.access = {"read": ""}
        unit.save(inode)

    await world.run(withdraw)
    await denied(table.scan(BOB, start=page.next))


@in_world
async def test_denials_are_told(world: World) -> None:
    table = await make(world, {"write": "p", "write:owner": "u:ana"})
    told: list[Any] = []
    world.guard.on_denied = told.append
    await denied(table.put(BOB, b"k", {"owner": "bob"}))
    assert [(d.principal.name, d.path, d.verb.word) for d in told] == [("bob", "/t", "write")]


@in_world
async def test_errors_do_not_tell_what_a_column_holds(world: World) -> None:
    table = await make(world, {"read": "p", "write": "p", "read:owner": "u:ana"})
    for work in (
        table.put(BOB, b"k", {"owner": 1}),
        table.increment(BOB, b"k", "owner"),
        table.scan(BOB, where="owner > 'a'"),
    ):
        with pytest.raises(PlatformError) as caught:
            await work
        assert "secret" not in str(caught.value)


@in_world
async def test_verdicts_that_are_known_are_forgotten_with_what_they_are_made_of(
    world: World,
) -> None:
    directory = await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    number = await world.make_node("/d/t", 0o700, kind=Kind.TABLE)
    table = Table(world, number)
    await table.put(ROOT, b"k", {})

    async def rule(number: int, **rules: str | None) -> None:
        await world.run(lambda u: settings.set_rules(u, number, rules))

    async def mode(number: int, mode: int) -> None:
        await world.run(lambda u: namespace.set_attributes(u, number, mode=mode))

    async def may(is_allowed: bool) -> None:
        for _ in range(2):
            for work in (table.get(BOB), table.put(BOB, b"k", {}), table.scan(BOB)):
                if is_allowed:
                    await work
                else:
                    await denied(work)

    await may(False)
    await rule(directory, read="u:bob", write="u:bob")
    await may(True)
    await mode(directory, 0o700)
    await may(False)
    await rule(directory, execute="p")
    await may(True)
    await rule(number, read="", write="")
    await may(False)
    await rule(number, read=None, write=None)
    await may(True)
    await rule(directory, read=None, write=None)
    await may(False)
    await mode(number, 0o706)
    await may(True)
