"""A table as a directory of rows."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplatform import aio
from dataplatform_clients.fuse.views.base import ViewNode
from dataplatform_clients.fuse.views.drafts import DRAFT_BYTES_MAX, SCRATCH_MAX

from .mounted import (
    find,
    names,
    open_to_read,
    read_all,
    redirect,
    served,
    size_of,
    view,
)

NO_ROW = pytest.mark.allow_warnings("the row keeps its value")


async def make(
    client: aio.Client, rows: dict[Any, dict[str, Any]] | None = None
) -> tuple[Any, Any]:
    """A table and its view."""
    table = await client.create_table("/t")
    if rows:
        await table.put_many(rows)
    return table, await view(client, "/t")


async def columns(table: aio.Table, key: str | bytes) -> dict[str, Any] | None:
    row = await table.get(key)
    return None if row is None else dict(row.columns)


async def fails(number: int, awaitable: Any) -> None:
    with pytest.raises(OSError) as caught:
        await awaitable
    assert caught.value.errno == number


# ---------------------------------------------------------------------------------- looking


async def test_a_row_reads_as_its_columns(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"vin-1": {"model": "ES8", "km": 12}})
        row = await directory.lookup("vin-1.json")
        assert await read_all(row) == b'{"model": "ES8", "km": 12}\n'
        seen = await row.attributes()
        assert seen.size == 27
        assert stat.S_ISREG(seen.mode)
        assert stat.S_ISDIR((await directory.attributes()).mode)
        version = (await table.get("vin-1")).version
        assert await row.xattrs() == {
            "user.dp.kind": b"row",
            "user.dp.version": b"%d" % version,
            "user.dp.key": b"vin-1",
        }
        xattrs = await directory.xattrs()
        assert (xattrs["user.dp.kind"], xattrs["user.dp.rows"]) == (b"table", b"1")
        assert int(xattrs["user.dp.size_bytes"]) > 0
        await fails(errno.ENOENT, directory.lookup("vin-2.json"))
        await fails(errno.ENOENT, directory.lookup("vin-1"))
        await fails(errno.ENOENT, directory.lookup("vin%2D1.json"))


async def test_mtime_moves_with_the_row_and_only_with_it(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}, "b": {"n": 1}})
        row = await directory.lookup("a.json")
        first = (await row.attributes()).mtime_ns
        await table.put("b", {"n": 2})
        assert (await row.attributes()).mtime_ns == first
        await table.put("a", {"n": 2})
        assert (await row.attributes()).mtime_ns > first


async def test_a_thousand_rows_are_listed_in_pages(tmp_path: Path) -> None:
    keys = [f"k{n:04}" for n in range(1_000)]
    async with served(tmp_path) as client:
        _, directory = await make(client, {key: {"n": 1} for key in keys})
        wanted = [f"{key}.json" for key in keys]
        assert await names(directory) == wanted
        assert await names(directory, page=7) == wanted


async def test_rows_whose_names_would_be_too_long_have_none(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        _, directory = await make(client, {"a": {}, "k" * 251: {}, b"\xff" * 84: {}, "z": {}})
        assert await names(directory) == ["a.json", "z.json"]
        await fails(errno.ENOENT, directory.lookup("k" * 251 + ".json"))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(st.binary(min_size=1, max_size=12), min_size=1, max_size=6))
async def test_any_key_can_be_listed_found_and_written(
    tmp_path_factory: pytest.TempPathFactory, keys: set[bytes]
) -> None:
    async with served(tmp_path_factory.mktemp("server")) as client:
        table, directory = await make(client, {key: {"n": 1} for key in keys})
        listed = await names(directory, page=2)
        assert len(listed) == len(keys)
        for key, name in zip(sorted(keys), listed, strict=True):
            row = await directory.lookup(name)
            assert (await row.xattrs())["user.dp.key"] == key
            await redirect(directory, name, b'{"n": 2}')
            assert await columns(table, key) == {"n": 2}
            await directory.unlink(name)
        assert await names(directory) == []


# ---------------------------------------------------------------------------------- writing


async def test_writing_puts_the_whole_row(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"old": 1}})
        await redirect(directory, "a.json", b'{"n": 1,\n', b' "s": "\xc3\xa4"}\n')
        assert await columns(table, "a") == {"n": 1, "s": "ä"}
        await redirect(directory, "b.json", b"{}")
        assert await columns(table, "b") == {}
        assert await names(directory) == ["a.json", "b.json"]
        assert await read_all(await directory.lookup("a.json")) == '{"n": 1, "s": "ä"}\n'.encode()


async def test_a_row_is_not_there_before_its_file_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client)
        node = await directory.create("a.json")
        handle = await node.open(reading=True, writing=True, truncate=False)
        await handle.write(0, b'{"n"')
        assert await table.get("a") is None
        assert await names(directory) == ["a.json"]  # but its writer sees it
        assert await size_of(node) == 4
        assert await handle.read(0, 100) == b'{"n"'
        await handle.write(4, b": 1}")
        await handle.flush()
        assert await columns(table, "a") == {"n": 1}
        assert await size_of(node) == len(b'{"n": 1}\n')
        await handle.write(0, b'{"n": 2}')
        await handle.release()
        assert await columns(table, "a") == {"n": 2}


async def test_touch_puts_nothing_and_is_seen_until_it_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}, "c": {}})
        node = await directory.create("b.json")
        handle = await node.open(reading=False, writing=True, truncate=False)
        assert await names(directory) == ["a.json", "b.json", "c.json"]
        assert await names(directory, page=1) == ["a.json", "b.json", "c.json"]
        assert await size_of(await directory.lookup("b.json")) == 0
        await handle.flush()
        await handle.release()
        assert await names(directory) == ["a.json", "c.json"]
        await fails(errno.ENOENT, directory.lookup("b.json"))
        await redirect(directory, "a.json")  # only emptied
        assert await columns(table, "a") == {"n": 1}
        assert await size_of(await directory.lookup("a.json")) == 9


@NO_ROW
@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[1]",
        b"12",
        b"\xff",
        b" ",
        b'{"a": NaN}',
        b'{"": 1}',
        b'{"a": 18446744073709551616}',
        b'{"a": "\\ud800"}',
    ],
)
async def test_what_is_no_row_leaves_the_old_one(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        node = await directory.lookup("a.json")
        handle = await node.open(reading=False, writing=True, truncate=True)
        await handle.write(0, content)
        for _ in range(2):
            with pytest.raises((OSError, ValueError)) as caught:
                await handle.flush()
            error: Any = caught.value
            assert getattr(error, "os_errno", error.errno if isinstance(error, OSError) else 0) == (
                errno.EINVAL
            )
        await handle.release()
        assert await columns(table, "a") == {"n": 1}
        assert await read_all(node) == b'{"n": 1}\n'
        lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert "path=`/t/a.json`" in lines[0]


async def test_editing_in_place_reads_modifies_and_writes(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1, "raw": b"text"}})
        node = await directory.lookup("a.json")
        handle = await node.open(reading=True, writing=True, truncate=False)
        content = await handle.read(0, 100)
        await handle.write(content.index(b"1"), b"7")
        await handle.flush()
        assert await columns(table, "a") == {"n": 7, "raw": b"text"}
        await node.set_attributes(size=0)  # ftruncate(2)
        await handle.write(0, b'{"n": 8}')
        await handle.release()
        assert await columns(table, "a") == {"n": 8}


async def test_truncate_before_open_is_part_of_it(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1, "long": "x" * 100}})
        node = await directory.lookup("a.json")
        await node.set_attributes(size=0)
        handle = await node.open(reading=False, writing=True, truncate=False)
        await handle.write(0, b'{"n": 2}')
        await handle.flush()
        await handle.release()
        assert await columns(table, "a") == {"n": 2}


async def test_unchanged_columns_keep_their_types(tmp_path: Path) -> None:
    values = {"raw": b"ok", "bin": b"\xff", "when": datetime(2026, 1, 31, tzinfo=UTC), "n": 1}
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": values})
        text = await read_all(await directory.lookup("a.json"))
        await redirect(directory, "a.json", text.replace(b'"n": 1', b'"n": 2'))
        assert await columns(table, "a") == {**values, "n": 2}
        await redirect(directory, "b.json", text)  # a copy: only what JSON says
        assert await columns(table, "b") == {**json.loads(text), "bin": b"\xff"}


async def test_handles_of_one_file_share_what_is_written(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        node = await directory.lookup("a.json")
        first, second = [
            await node.open(reading=True, writing=True, truncate=False) for _ in range(2)
        ]
        await asyncio.gather(first.write(6, b"5"), second.write(7, b"6}\n"))
        assert await first.read(0, 100) == await second.read(0, 100) == b'{"n": 56}\n'
        await asyncio.gather(first.flush(), second.flush())
        assert await columns(table, "a") == {"n": 56}
        await first.release()
        await table.put("a", {"n": 9}, replace=True)
        assert await second.read(0, 100) == b'{"n": 9}\n'
        await second.release()
        assert (await columns(table, "a")) == {"n": 9}


async def test_what_others_write_is_seen_at_once_but_not_within_one_reading(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"s": "1" * 100}})
        handle = await open_to_read(await directory.lookup("a.json"))
        first = await handle.read(0, 50)
        await table.put("a", {"s": "2" * 100})
        assert first + await handle.read(50, 100) == b'{"s": "' + b"1" * 100 + b'"}\n'
        assert b"2" * 100 in await handle.read(0, 200)
        await handle.release()
        await table.delete("a")
        await fails(errno.ENOENT, directory.lookup("a.json"))


async def test_too_large(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        _, directory = await make(client, {"a": {"n": 1}})
        node = await directory.lookup("a.json")
        handle = await node.open(reading=False, writing=True, truncate=True)
        await fails(errno.EFBIG, handle.write(DRAFT_BYTES_MAX, b"1"))
        await handle.release()
        big = b'{"big": "' + b"x" * (3 << 20) + b'"}'
        await redirect(directory, "a.json", big[: 1 << 20], big[1 << 20 :])
        assert await size_of(node) == len(big) + 1
        assert await read_all(node) == big + b"\n"


@NO_ROW
async def test_larger_than_a_row_may_be(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        with pytest.raises(ValueError) as caught:
            await redirect(directory, "a.json", b'{"big": "' + b"x" * (5 << 20) + b'"}')
        assert caught.value.os_errno == errno.EFBIG
        assert await columns(table, "a") == {"n": 1}


# ------------------------------------------------------------------------ removing, renaming


async def test_unlink(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        node = await directory.lookup("a.json")
        handle = await node.open(reading=True, writing=True, truncate=False)
        await handle.write(6, b"2")
        await directory.unlink("a.json")
        assert (await node.attributes()).links == 0
        assert await handle.read(0, 100) == b'{"n": 2}\n'
        await handle.flush()
        await handle.release()
        assert await table.get("a") is None
        await fails(errno.ENOENT, directory.unlink("a.json"))
        await fails(errno.ENOENT, directory.unlink("a.tmp"))


async def test_rename_moves_a_row(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1, "raw": b"x"}, "b": {"old": 1}})
        node = await directory.lookup("a.json")
        await directory.rename("a.json", directory, "b.json")
        assert await names(directory) == ["b.json"]
        assert await columns(table, "b") == {"n": 1, "raw": b"x"}
        assert (await node.xattrs())["user.dp.key"] == b"b"  # the kernel goes on with this node
        assert await directory.lookup("b.json") is node
        await fails(errno.ENOENT, directory.rename("a.json", directory, "c.json"))
        await fails(errno.EINVAL, directory.rename("b.json", directory, "%41.json"))
        await fails(errno.EXDEV, directory.rename("b.json", ViewNode(), "c.json"))
        changes = [c async for c in client.changes("/t") if c.event.startswith("row")]
        assert changes[-1].commit == changes[-2].commit


async def test_editors_that_write_a_temporary_file(tmp_path: Path) -> None:
    """As `sed -i`: create, write, close, rename."""
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        await redirect(directory, "sedAbC", b'{"n": 2}')
        assert await names(directory) == ["sedAbC", "a.json"]
        assert await names(directory, page=1) == ["sedAbC", "a.json"]
        assert (await (await directory.lookup("sedAbC")).xattrs())["user.dp.kind"] == b"scratch"
        await directory.rename("sedAbC", directory, "a.json")
        assert await columns(table, "a") == {"n": 2}
        assert await names(directory) == ["a.json"]


async def test_editors_that_rename_before_they_close(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        node = await directory.create(".a.json.tmp")
        handle = await node.open(reading=False, writing=True, truncate=False)
        await handle.write(0, b'{"n": 2}')
        await directory.rename(".a.json.tmp", directory, "a.json")
        assert await columns(table, "a") == {"n": 2}
        await handle.write(6, b"3")
        await handle.flush()
        await handle.release()
        assert await columns(table, "a") == {"n": 3}


async def test_editors_that_keep_a_backup(tmp_path: Path) -> None:
    """As vim: is there room for a file? The old one aside, a new one, and the old one away."""
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1, "raw": b"x"}})
        await redirect(directory, ".a.json.swp", b"\0\1")
        await redirect(directory, "4913")
        await directory.unlink("4913")
        await directory.rename("a.json", directory, "a.json~")
        assert await read_all(await directory.lookup("a.json~")) == b'{"n": 1, "raw": "x"}\n'
        await redirect(directory, "a.json", b'{"n": 2}\n')
        await directory.unlink("a.json~")
        await directory.unlink(".a.json.swp")
        assert await columns(table, "a") == {"n": 2}
        assert await names(directory) == ["a.json"]


@NO_ROW
async def test_renaming_what_is_no_row_into_place(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        table, directory = await make(client, {"a": {"n": 1}})
        for content in b"{", b"":
            await redirect(directory, "tmp", content)
            await fails(errno.EINVAL, directory.rename("tmp", directory, "a.json"))
        assert await names(directory) == ["tmp", "a.json"]
        assert await columns(table, "a") == {"n": 1}
        await directory.rename("tmp", directory, "tmp2")
        assert await names(directory) == ["tmp2", "a.json"]
        await fails(errno.EINVAL, directory.create("%41.json"))


async def test_scratch_files_are_bounded(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        _, directory = await make(client)
        for number in range(SCRATCH_MAX):
            await redirect(directory, f"tmp{number}", b"x")
        await fails(errno.ENOSPC, directory.create("one-more"))
        await directory.unlink("tmp0")
        await directory.create("one-more")
        for number in range(1, 4):
            await redirect(directory, f"tmp{number}", b"x" * DRAFT_BYTES_MAX)
        await fails(errno.ENOSPC, redirect(directory, "tmp4", b"x" * DRAFT_BYTES_MAX))
        await directory.unlink("tmp1")
        await redirect(directory, "tmp4", b"x" * DRAFT_BYTES_MAX)


async def test_it_is_one_view_for_as_long_as_it_is_used(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        _, directory = await make(client)
        await redirect(directory, "tmp", b"x")
        again = await view(client, "/t")
        assert again is directory
        assert await find(again, "tmp")
