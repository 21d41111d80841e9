"""What every `Engine` keeps: order, atomicity, views that stand still, honest durability."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from dataplatform.base.errors import Exists, Invalid, NotFound, Stale, Unavailable
from dataplatform.engine.base import Engine, Pair, Reader, scan_all

from .storages import VOLUME, Harness, close

START, END = b"\x00", b"\xff" * 8


def expected_page(
    rows: dict[bytes, bytes], start: bytes, end: bytes, reverse: bool, limit: int, size: int
) -> list[Pair]:
    page: list[Pair] = []
    total = 0
    for key in sorted((k for k in rows if start <= k < end), reverse=reverse):
        if len(page) == limit or total >= size:
            break
        page.append((key, rows[key]))
        total += len(key) + len(rows[key])
    return page


async def everything(reader: Reader) -> dict[bytes, bytes]:
    return {key: value async for key, value in scan_all(reader, START, END)}


def random_key(rng: random.Random) -> bytes:
    """Few distinct bytes, so that prefixes, neighbours and 0x00/0xff edges are common."""
    return bytes(rng.choices(b"\x00a\xfe\xff", k=rng.randint(1, 4)))


class EngineContract(Harness):
    async def test_get_put_delete(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            assert await engine.get(b"a") is None
            await engine.commit({b"a": b"1", b"b": b""})
            assert await engine.get(b"a") == b"1"
            assert await engine.get(b"b") == b""
            await engine.commit({b"a": None, b"missing": None, b"b": b"2"})
            assert await engine.get(b"a") is None
            assert await engine.get(b"b") == b"2"

    async def test_get_many_keeps_the_order_of_the_keys(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            await engine.commit({b"a": b"1", b"b": b"", b"c": b"3"})
            keys = [b"c", b"x", b"a", b"b", b"c"]
            want = [b"3", None, b"1", b"", b"3"]
            view = await engine.view()
            for reader in (engine, view):
                assert await reader.get_many(keys) == want
                assert await reader.get_many([]) == []
            view.close()

    async def test_an_empty_batch_has_a_ticket(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            first = await engine.commit({})
            second = await engine.commit({b"a": b"1"})
            assert second > first
            await engine.durable(second)

    async def test_big_values(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            value = random.Random(1).randbytes(4 << 20)
            await engine.commit({b"big": value})
            assert await engine.get(b"big") == value
            assert await engine.scan(START, END) == [(b"big", value)]

    async def test_keys_are_ordered_as_unsigned_bytes(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            keys = [b"\x00", b"\x00\x00", b"\x00\xff", b"\x01", b"a", b"a\x00", b"b", b"\xff\xff"]
            await engine.commit({key: key for key in reversed(keys)})
            assert [key for key, _ in await engine.scan(b"", END)] == keys

    async def test_ranges_are_half_open_both_ways(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            await engine.commit({bytes([c]): b"v" for c in b"abcde"})
            for reverse in (False, True):

                async def keys(start: bytes, end: bytes, back: bool = reverse) -> list[bytes]:
                    found = [k for k, _ in await engine.scan(start, end, reverse=back)]
                    return found[::-1] if back else found

                assert await keys(b"b", b"d") == [b"b", b"c"]
                assert await keys(b"aa", b"cc") == [b"b", b"c"]
                assert await keys(b"d", END) == [b"d", b"e"]
                assert await keys(b"", b"b") == [b"a"]
                assert await keys(b"", b"a") == []
                assert await keys(b"f", END) == []
                assert await keys(b"c", b"c") == []
                assert await keys(b"d", b"b") == []

    async def test_pages_end_at_the_limit_or_the_size(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            rows = {b"%03d" % i: b"x" * 97 for i in range(50)}  # 100 bytes each
            await engine.commit(rows)
            assert len(await engine.scan(START, END, limit=7)) == 7
            assert len(await engine.scan(START, END, size_bytes=1)) == 1
            assert len(await engine.scan(START, END, size_bytes=300)) == 3
            assert len(await engine.scan(START, END, size_bytes=301)) == 4
            assert len(await engine.scan(START, END)) == 50
            assert (await engine.scan(START, END, limit=1, reverse=True))[0][0] == b"049"

    async def test_random_pages_match_a_dict(self, tmp_path: Path, seed: int) -> None:
        rng = random.Random(seed)
        rows: dict[bytes, bytes] = {}
        async with self.engine(tmp_path) as engine:
            for _ in range(60):
                batch: dict[bytes, bytes | None] = {}
                for _ in range(rng.randint(0, 12)):
                    put = rng.random() < 0.7
                    batch[random_key(rng)] = rng.randbytes(rng.randint(0, 20)) if put else None
                await engine.commit(batch, awaited=rng.random() < 0.5)
                for key, value in batch.items():
                    if value is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = value
                wanted = [random_key(rng) for _ in range(3)]
                assert await engine.get_many(wanted) == [rows.get(key) for key in wanted]
                assert await engine.get(wanted[0]) == rows.get(wanted[0])
                for _ in range(rng.randint(0, 5)):
                    start, end = random_key(rng), random_key(rng)
                    reverse, limit = rng.random() < 0.5, rng.randint(1, 8)
                    size = rng.choice([1, 40, 1 << 20])
                    page = await engine.scan(
                        start, end, reverse=reverse, limit=limit, size_bytes=size
                    )
                    assert page == expected_page(rows, start, end, reverse, limit, size)
            assert await everything(engine) == rows
            backwards = [p async for p in scan_all(engine, START, END, reverse=True)]
            assert backwards == sorted(rows.items(), reverse=True)

    async def test_awaited_commits_are_seen_at_once_and_kept(self, tmp_path: Path) -> None:
        """What an engine puts off writing is no different for those who read, or come after."""
        async with self.engine(tmp_path) as engine:
            await engine.commit({b"a": b"0", b"gone": b"0"})
            before = await engine.view()
            await engine.commit({b"a": b"1", b"gone": None}, awaited=True)
            last = await engine.commit({b"b": b"2"}, awaited=True)
            assert await engine.get(b"a") == b"1"
            assert await engine.get(b"gone") is None
            assert await engine.get_many([b"a", b"b", b"gone"]) == [b"1", b"2", None]
            after = await engine.view()
            await engine.commit({b"a": b"3"}, awaited=True)
            assert await before.get(b"a") == b"0"
            assert await after.get_many([b"a", b"b", b"gone"]) == [b"1", b"2", None]
            assert await everything(engine) == {b"a": b"3", b"b": b"2"}
            before.close()
            after.close()
            await engine.commit({b"b": None})  # behind them in the order
            await engine.durable(last)
            assert engine.durable_ticket >= last
            assert await everything(engine) == {b"a": b"3"}

    async def test_scan_all_crosses_pages(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            rows = {b"%05d" % i: b"v%d" % i for i in range(3500)}
            await engine.commit(rows)
            assert await everything(engine) == rows
            keys = [k async for k, _ in scan_all(engine, START, END, reverse=True)]
            assert keys == sorted(rows, reverse=True)

    # -------------------------------------------------------------------------------- views

    async def test_a_view_stands_still(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            before = {b"a": b"1", b"b": b"2", b"c": b"3"}
            await engine.commit(before)
            view = await engine.view()
            await engine.commit({b"a": None, b"b": b"new", b"aa": b"new", b"d": b"new"})
            second = await engine.view()
            await engine.commit({b"a": b"again", b"c": None})
            assert await everything(view) == before
            assert await everything(second) == {
                b"aa": b"new",
                b"b": b"new",
                b"c": b"3",
                b"d": b"new",
            }
            assert await view.get(b"aa") is None
            assert await view.get_many([b"a", b"b", b"d"]) == [b"1", b"2", None]
            page = await view.scan(b"a", b"c", reverse=True)
            assert page == [(b"b", b"2"), (b"a", b"1")]
            view.close()
            second.close()

    async def test_random_views_match_dicts(self, tmp_path: Path, seed: int) -> None:
        rng = random.Random(seed)
        rows: dict[bytes, bytes] = {}
        async with self.engine(tmp_path) as engine:
            views = []
            for _ in range(40):
                for _ in range(rng.randint(1, 4)):
                    key = random_key(rng)
                    if rng.random() < 0.6:
                        rows[key] = rng.randbytes(3)
                        await engine.commit({key: rows[key]})
                    else:
                        rows.pop(key, None)
                        await engine.commit({key: None})
                views.append((await engine.view(), dict(rows)))
                if len(views) > 4:
                    view, want = views.pop(rng.randrange(len(views)))
                    assert await everything(view) == want
                    view.close()
                view, want = rng.choice(views)
                start, end = random_key(rng), random_key(rng)
                reverse = rng.random() < 0.5
                page = await view.scan(start, end, reverse=reverse, limit=3)
                assert page == expected_page(want, start, end, reverse, 3, 1 << 20)
                key = random_key(rng)
                assert await view.get(key) == want.get(key)

    async def test_a_closed_view_refuses(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            view = await engine.view()
            view.close()
            view.close()
            with pytest.raises(Unavailable):
                await view.get(b"a")
            with pytest.raises(Unavailable):
                await view.scan(START, END)

    async def test_closing_the_engine_closes_its_views(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        await storage.engine.commit({b"a": b"1"})
        await storage.engine.checkpoint("one")
        views = [await storage.engine.view(), await storage.engine.open_checkpoint("one")]
        await close(storage)
        for view in views:
            with pytest.raises(Unavailable):
                await view.get(b"a")
            view.close()
        storage = await storages.open(VOLUME)  # nothing holds the database any more
        assert await storage.engine.get(b"a") == b"1"
        await storages.close()

    # ------------------------------------------------------------------------------ durability

    async def test_tickets_grow_and_durable_covers_the_earlier_ones(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            tickets = [await engine.commit({b"%d" % i: b"v"}) for i in range(5)]
            assert tickets == sorted(set(tickets))
            await engine.durable(tickets[2])
            assert engine.durable_ticket >= tickets[2]
            await engine.durable(tickets[4])
            assert engine.durable_ticket == tickets[4]
            await engine.durable(tickets[0])

    async def test_many_waiters(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:

            async def write(i: int) -> None:
                ticket = await engine.commit({b"%03d" % i: b"v"})
                await engine.durable(ticket)
                assert engine.durable_ticket >= ticket

            await asyncio.gather(*(write(i) for i in range(100)))
            assert len(await engine.scan(START, END)) == 100

    async def test_a_cancelled_waiter_harms_nobody(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            tickets = [await engine.commit({b"%d" % i: b"v"}) for i in range(8)]
            waiters = [asyncio.ensure_future(engine.durable(t)) for t in tickets]
            await asyncio.sleep(0)
            for waiter in waiters[:-1]:
                waiter.cancel()
            await waiters[-1]
            assert engine.durable_ticket == tickets[-1]
            await engine.durable(await engine.commit({b"after": b"v"}))

    async def test_a_closed_engine_refuses(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            ticket = await engine.commit({b"a": b"1"})
            await engine.close()
            await engine.close()
            for call in (
                engine.get(b"a"),
                engine.get_many([b"a"]),
                engine.scan(START, END),
                engine.view(),
                engine.commit({b"a": b"2"}),
                engine.durable(ticket),
                engine.checkpoint("x"),
                engine.open_checkpoint("x"),
                engine.delete_checkpoint("x"),
            ):
                with pytest.raises(Unavailable):
                    await call

    # -------------------------------------------------------------------------------- breaking

    async def test_a_broken_engine_reads_and_writes_nothing(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        engine = storage.engine
        assert not engine.broken
        ticket = await engine.commit({b"a": b"1", b"b": b"2"})
        await engine.checkpoint("one")
        before = await engine.view()
        self.fail(engine, Unavailable("the disk failed"))
        await expect_broken(engine, ticket)
        checkpoint = await engine.open_checkpoint("one")
        for reader in (engine, before, checkpoint):
            assert await everything(reader) == {b"a": b"1", b"b": b"2"}
        with pytest.raises(Unavailable):
            await engine.delete_checkpoint("one")
        await close(storage)
        for reader in (engine, before, checkpoint):
            with pytest.raises(Unavailable):
                await reader.get(b"a")
        engine = (await storages.open(VOLUME)).engine
        assert await everything(engine) == {b"a": b"1", b"b": b"2"}
        await engine.durable(await engine.commit({b"c": b"3"}))
        await storages.close()

    async def test_a_fenced_engine_does_not_even_read(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            ticket = await engine.commit({b"a": b"1"})
            await engine.durable(ticket)
            self.fail(engine, Stale("opened by another server"))
            for call in (
                engine.get(b"a"),
                engine.get_many([b"a"]),
                engine.scan(START, END),
                engine.view(),
                engine.commit({b"a": b"2"}),
                engine.durable(ticket),
            ):
                with pytest.raises(Stale):
                    await call

    # ----------------------------------------------------------------------------- checkpoints

    async def test_a_checkpoint_is_a_moment_that_survives(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        engine = storage.engine
        rows = {b"%04d" % i: b"old" for i in range(1500)}
        await engine.commit(rows)
        await engine.checkpoint("first")
        await engine.commit({b"0001": b"new", b"0002": None, b"x": b"new"})
        await self._check_checkpoint(engine, rows)
        await storages.close()
        storages = await self.storages(tmp_path)
        engine = (await storages.open(VOLUME)).engine
        await self._check_checkpoint(engine, rows)
        assert await engine.get(b"0001") == b"new"
        await storages.close()

    async def _check_checkpoint(self, engine: Engine, rows: dict[bytes, bytes]) -> None:
        view = await engine.open_checkpoint("first")
        assert await everything(view) == rows
        assert await view.get(b"x") is None
        assert await view.get_many([b"0001", b"x", b"0002"]) == [b"old", None, b"old"]
        page = await view.scan(START, END, reverse=True, limit=2)
        assert page == [(b"1499", b"old"), (b"1498", b"old")]
        view.close()

    async def test_a_checkpoint_makes_what_it_holds_durable(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            ticket = await engine.commit({b"a": b"1"})
            await engine.checkpoint("one")
            assert engine.durable_ticket >= ticket

    async def test_checkpoint_names(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            with pytest.raises(NotFound):
                await engine.open_checkpoint("none")
            await engine.checkpoint("one")
            with pytest.raises(Exists):
                await engine.checkpoint("one")
            for name in ("", ".", "..", "a/b", "a.b", "\0", "x" * 101):
                with pytest.raises(Invalid):
                    await engine.checkpoint(name)
                with pytest.raises(Invalid):
                    await engine.open_checkpoint(name)
                with pytest.raises(Invalid):
                    await engine.delete_checkpoint(name)

    async def test_deleted_checkpoints_are_gone_but_for_their_readers(self, tmp_path: Path) -> None:
        async with self.engine(tmp_path) as engine:
            await engine.commit({b"a": b"1"})
            await engine.checkpoint("one")
            first = await engine.open_checkpoint("one")
            second = await engine.open_checkpoint("one")
            await engine.commit({b"a": b"2"})
            await engine.delete_checkpoint("one")
            with pytest.raises(NotFound):
                await engine.open_checkpoint("one")
            first.close()
            assert await second.get(b"a") == b"1"
            second.close()
            await engine.delete_checkpoint("one")  # a retry after a lost reply
            await engine.checkpoint("one")
            view = await engine.open_checkpoint("one")
            assert await view.get(b"a") == b"2"
            view.close()

    # ----------------------------------------------------------------------------------- order

    async def test_commits_racing_with_syncs_stay_in_order(self, tmp_path: Path) -> None:
        """Waiters of one ticket are woken only when it is covered, whatever else goes on."""
        async with self.engine(tmp_path) as engine:
            done: list[int] = []

            async def wait(ticket: int) -> None:
                await engine.durable(ticket)
                assert engine.durable_ticket >= ticket
                done.append(ticket)

            waiting = []
            for i in range(200):
                ticket = await engine.commit({b"k": b"%d" % i})
                waiting.append(asyncio.ensure_future(wait(ticket)))
                if i % 7 == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*waiting)
            assert len(done) == 200
            assert await engine.get(b"k") == b"199"


async def expect_broken(engine: Engine, ticket: int) -> None:
    """What every engine answers after a failed commit or sync, until it is reopened."""
    assert engine.broken
    for call in (engine.commit({b"z": b"z"}), engine.durable(ticket), engine.checkpoint("z")):
        with pytest.raises(Unavailable):
            await call
    view = await engine.view()
    for reader in (engine, view):
        rows = await everything(reader)
        assert await reader.get_many(list(rows)) == list(rows.values())
        assert [await reader.get(key) for key in rows] == list(rows.values())
    view.close()
