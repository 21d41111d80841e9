"""A stream as a directory of topics, a topic as one of partitions, a partition as lines."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplatform import aio
from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Corrupt, Unavailable
from dataplatform.base.limits import KIB, MIB
from dataplatform_clients.fuse.views import lines, partitions, positions
from dataplatform_clients.fuse.views.base import ViewNode
from dataplatform_clients.fuse.views.fetches import Fetched, Source

from .mounted import find, names, open_to_read, read_all, read_on, redirect, served, size_of, view
from .tails import Tail

SET_ATTRIBUTES = METHODS["Namespace.SetAttributes"]


async def make(client: aio.Client, count: int = 2, **options: Any) -> tuple[aio.Stream, ViewNode]:
    """A stream with a topic `t` of so many partitions, and its view."""
    stream = await client.create_stream("/s", partitions=count, **options)
    await stream.create_topic("t")
    return stream, await view(client, "/s")


async def fill(
    stream: aio.Stream, values: list[Any], partition: int = 0, batch_bytes: int = 16 * KIB
) -> None:
    async with await stream.producer(batch_bytes=batch_bytes, linger_s=10) as producer:
        await producer.send_many("t", values, partition=partition)


async def values(stream: aio.Stream, partition: int | None = None) -> list[bytes | None]:
    chosen = None if partition is None else [partition]
    async with await stream.consumer("t", partitions=chosen, follow=False) as consumer:
        return [record.value async for record in consumer]


async def fails(number: int, awaitable: Any) -> None:
    with pytest.raises(OSError) as caught:
        await awaitable
    assert caught.value.errno == number


def numbered(count: int, seed: int = 0, size_max: int = 60) -> list[bytes]:
    """Values of different lengths, none like another."""
    chance = random.Random(seed)
    return [b"%d:" % n + b"x" * chance.randrange(size_max) for n in range(count)]


def text_of(listed: list[bytes]) -> bytes:
    return b"".join(value + b"\n" for value in listed)


# ------------------------------------------------------------------------------ directories


async def test_directories(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 3)
        assert await names(top) == ["t"]
        await top.mkdir("more")
        assert await names(top, page=1) == ["more", "t"]
        assert await names(await find(top, "t"), page=2) == ["0", "1", "2", "all"]
        assert (await (await find(top, "t")).attributes()).links == 2
        for path in ("none",), ("t", "3"), ("t", "00"), ("t", "x"), ("a b",), ("t", "\udcff"):
            await fails(errno.ENOENT, find(top, *path))
        with pytest.raises(FileExistsError):
            await top.mkdir("t")
        with pytest.raises(ValueError):
            await top.mkdir("a b")
        await fails(errno.EPERM, (await find(top, "t")).create("3"))
        await stream.append("more", b"x")
        await fails(errno.ENOTEMPTY, top.rmdir("more"))
        await top.rmdir("t")
        await fails(errno.ENOENT, top.rmdir("t"))
        await fails(errno.EPERM, top.rename("more", top, "less"))
        assert [topic.name for topic in await stream.topics()] == ["more"]


async def test_attributes_that_say_more(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client)
        await fill(stream, [b"a", b"b", b"c"], 1)
        seen = [await (await find(top, *path)).xattrs() for path in ((), ("t",), ("t", "all"))]
        assert [x["user.dp.kind"] for x in seen] == [b"stream", b"topic", b"partitions"]
        assert {x["user.dp.records"] for x in seen} == {b"3"}
        one = await (await find(top, "t", "1")).xattrs()
        assert one["user.dp.kind"] == b"partition"
        assert (one["user.dp.start_offset"], one["user.dp.end_offset"]) == (b"0", b"3")


# ----------------------------------------------------------------------------------- reading


async def test_records_are_lines(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client)
        await fill(stream, [b"one", None, b"two\nlines", b""])
        await fill(stream, [b"other"], 1)
        file = await find(top, "t", "0")
        assert await read_all(file) == b"one\n\ntwo\nlines\n\n"
        assert await size_of(file) == 16
        everything = await find(top, "t", "all")
        assert await read_all(everything) == b"one\n\ntwo\nlines\n\nother\n"
        assert await size_of(everything) == 22


@pytest.mark.parametrize("size", [1000, 4096, 3 * MIB])
async def test_any_part_reads_as_it_stands(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "MARK_BYTES", 10_000)
    monkeypatch.setattr(positions, "TAIL_BYTES", 5_000)
    listed = numbered(5_000)
    async with served(tmp_path) as client:
        stream, top = await make(client)
        await fill(stream, listed)
        file = await find(top, "t", "0")
        text = text_of(listed)
        assert await size_of(file) == len(text)
        handle = await open_to_read(file)
        assert await read_on(handle, 0, size) == text
        chance = random.Random(1)
        for _ in range(50):
            at = chance.randrange(len(text))
            count = chance.randrange(1, 20_000)
            assert await handle.read(at, count) == text[at : at + count]
        assert await handle.read(len(text) + 1, 10) == b""
        await handle.release()


async def test_large_records(tmp_path: Path) -> None:
    big = [bytes([65 + n]) * (3 * MIB + n) for n in range(3)]
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        for value in big:
            await stream.append("t", value)
        file = await find(top, "t", "0")
        assert await read_all(file) == text_of(big)
        assert await size_of(file) == len(text_of(big))


async def test_a_large_file_begins_within_what_is_kept_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "FILE_BYTES_MAX", 100 * KIB)
    listed = [b"%09d" % n * 10 for n in range(5_000)]
    async with served(tmp_path) as client:
        stream, top = await make(client, 1, compression="none")
        await fill(stream, listed)
        text = await read_all(await find(top, "t", "0"))
        assert text_of(listed).endswith(text)
        assert text in b"\n" + text_of(listed)  # whole lines
        assert 50 * KIB < len(text) <= 100 * KIB


async def test_the_size_of_what_nobody_reads_may_be_about_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "EXACT_BYTES_MAX", 10 * KIB)
    async with served(tmp_path) as client:
        stream, top = await make(client, 1, compression="none")
        listed = [b"x" * 99] * 2_000
        await fill(stream, listed)
        file = await find(top, "t", "0")
        estimate = await size_of(file)
        assert abs(estimate - 200_000) < 20_000
        handle = await open_to_read(file)
        assert await size_of(file) == 200_000
        await handle.release()
        await stream.append("t", b"y")
        assert await size_of(file) == 200_002


async def test_damage_is_told_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Source.fetch

    async def damaged(source: Source, offsets: Mapping[int, int], size_bytes: int) -> list[Fetched]:
        if offsets == {0: 1}:
            error = Corrupt("a record batch is damaged", offset=1)
            return [Fetched("t", 0, 1, memoryview(b""), 0, error)]
        return [
            part._replace(data=part.data[: len(part.data) // 2])
            for part in await fetch(source, offsets, size_bytes)
        ]

    monkeypatch.setattr(Source, "fetch", damaged)
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        for value in b"one", b"two":
            await stream.append("t", value)
        file = await find(top, "t", "0")
        assert await size_of(file) == 4
        handle = await open_to_read(file)
        assert await handle.read(0, 100) == b"one\n"
        with pytest.raises(Corrupt):
            await handle.read(4, 100)
        await handle.release()


# --------------------------------------------------------------------------------- following


async def test_tail_follows(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        listed = numbered(300)
        await fill(stream, listed)
        tail = Tail(await find(top, "t", "0"), 10)
        await tail.begin()
        assert tail.output == text_of(listed[-10:])
        await tail.poll()
        assert tail.output == text_of(listed[-10:])
        for value in b"new", b"a\nb", b"":
            await stream.append("t", value)
            await tail.poll()
            assert tail.output.endswith(value + b"\n")
        more = numbered(5_000, seed=1)
        await fill(stream, more)
        await tail.poll()
        assert tail.output == text_of([*listed[-10:], b"new", b"a\nb", b"", *more])
        assert not tail.was_truncated
        await tail.end()


async def test_tail_follows_all_partitions(tmp_path: Path) -> None:
    """What is there comes partition by partition, then as it arrives; nothing moves any more."""
    async with served(tmp_path) as client:
        stream, top = await make(client, 3)
        for number in range(3):
            await fill(stream, [b"%d" % number] * 5, number)
        file = await find(top, "t", "all")
        tail = Tail(file, 100)
        await tail.begin()
        wanted = [b"0"] * 5 + [b"1"] * 5 + [b"2"] * 5
        chance = random.Random(2)
        for turn in range(40):
            number = chance.randrange(3)
            await stream.append("t", b"%d-%d" % (number, turn), partition=number)
            wanted.append(b"%d-%d" % (number, turn))
            if turn == 20:
                await stream.create_topic("t", 4, exist_ok=True)
                await stream.append("t", b"added", partition=3)
                wanted.append(b"added")
                await tail.poll()
            await tail.poll()
        assert tail.output == text_of(wanted)
        assert await read_all(file) == text_of(wanted)
        await tail.end()
        assert await read_all(file) == text_of(wanted)


async def test_reading_at_the_end_finds_what_came_since(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        handle = await open_to_read(await find(top, "t", "0"))
        assert await handle.read(0, 100) == b""
        await stream.append("t", b"one")
        assert await handle.read(0, 100) == b"one\n"
        assert await handle.read(4, 100) == b""
        await handle.release()


async def test_a_topic_that_is_made_anew_is_a_truncated_file(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        await fill(stream, [b"old"] * 10)
        tail = Tail(await find(top, "t", "0"), 1)
        await tail.begin()
        await stream.delete_topic("t")
        with pytest.raises(FileNotFoundError):
            await tail.poll()
        await stream.append("t", b"new")
        await tail.poll()
        assert tail.was_truncated
        assert tail.output == b"old\nnew\n"
        await tail.end()


# --------------------------------------------------------------------------------- retention


async def trim(client: aio.Client, stream: aio.Stream, bytes_max: int) -> int:
    """Keep no more than that, and wait until it is so; the oldest offset left."""
    options = pb.StreamOptions(partitions=1, compression="none", bytes_max=bytes_max)
    request = pb.SetAttributesRequest(target=pb.Target(path="/s"), stream=options)
    await client.channel.call(SET_ATTRIBUTES, request)

    async def start() -> int:
        return (await stream.topic("t")).partitions[0].start_offset

    before = await start()
    async with asyncio.timeout(60):
        while (found := await start()) == before:  # noqa: ASYNC110 - nor when it trims
            await asyncio.sleep(0.02)
    return found


async def eventually(ask: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    async with asyncio.timeout(60):
        while await ask() != wanted:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_retention_moves_nothing_for_those_who_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "MARK_BYTES", 40 * KIB)
    monkeypatch.setattr(positions, "TAIL_BYTES", KIB)
    async with served(tmp_path) as client:
        stream, top = await make(client, 1, compression="none")
        listed = numbered(1_000)
        await fill(stream, listed)
        file = await find(top, "t", "0")
        text = text_of(listed)
        tail = Tail(file, 3)
        await tail.begin()
        lagging, jumping = await open_to_read(file), await open_to_read(file)
        assert await lagging.read(0, 100) == text[:100]
        more = numbered(4_000, seed=1)
        await fill(stream, more)
        await tail.poll()
        start = await trim(client, stream, 100 * KIB)
        await tail.poll()
        assert not tail.was_truncated
        assert tail.output == text_of([*listed[-3:], *more])
        both = [*listed, *more]
        whole = text_of(both)
        assert await size_of(file) == len(whole)
        kept = text_of(both[start:])
        # Who reads on, or from the beginning, passes over what is gone.
        found = await read_on(lagging, 100)
        assert found.endswith(b"\n" + kept)
        assert text.startswith(text[:100] + found[: -len(kept)])  # it had decoded more
        assert await read_all(file) == kept
        # Who jumps finds every record where it was, and empty lines where one was.
        gap = len(whole) - len(kept)
        assert await jumping.read(gap + 10, 1000) == kept[10:1010]
        assert await jumping.read(gap - 10, 20) == b"\n" * 10 + kept[:10]
        again = Tail(file, len(both) - start + 2)
        await again.begin()
        assert again.output == b"\n\n" + kept
        for handle in lagging, jumping, again, tail:
            await (handle.end() if isinstance(handle, Tail) else handle.release())
        # Once nobody has it open, the gap closes.
        assert await size_of(file) == len(kept)
        assert await read_all(file) == kept


# ---------------------------------------------------------------------------------- appending


async def test_appending_lines(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client)
        topic = await find(top, "t")
        await redirect(topic, "0", b"one\n", append=True)
        await redirect(topic, "0", b"tw", b"o\nthr", b"ee\n\nno end", append=True)
        await redirect(topic, "0", append=True)
        assert await values(stream, 0) == [b"one", b"two", b"three", b"", b"no end"]
        assert await read_all(await topic.lookup("0")) == b"one\ntwo\nthree\n\nno end\n"
        await fails(errno.EPERM, redirect(topic, "0", b"x\n"))
        await fails(errno.EPERM, (await topic.lookup("0")).set_attributes(size=0))
        await fails(errno.EPERM, redirect(topic, "2", b"x\n", append=True))


async def test_lines_of_one_open_file_stay_together(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 4)
        topic = await find(top, "t")
        listed = numbered(50_000)
        text = text_of(listed)
        pieces = [text[at : at + 65_536] for at in range(0, len(text), 65_536)]
        await redirect(topic, "all", *pieces, append=True)
        found = [await values(stream, number) for number in range(4)]
        assert sorted(map(len, found)) == [0, 0, 0, len(listed)]
        assert listed in found
        for _ in range(3):
            await redirect(topic, "all", b"x\n", append=True)
        assert all([await values(stream, number) for number in range(4)])


async def test_lines_are_stored_before_the_file_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        file = await find(top, "t", "0")
        handle = await file.open(reading=True, writing=True, truncate=False)
        assert await handle.write(0, b"one\ntwo") == 7
        await eventually(lambda: values(stream), [b"one"])
        await handle.flush()  # fsync(2)
        assert await values(stream) == [b"one", b"two"]
        assert await handle.read(0, 100) == b"one\ntwo\n"
        await handle.release()


async def test_many_write_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 2)
        topic = await find(top, "t")
        await asyncio.gather(
            *(redirect(topic, "all", b"%d\n" % n * 100, append=True) for n in range(20))
        )
        found = await values(stream)
        assert sorted(found) == sorted(b"%d" % n for n in range(20) for _ in range(100))


async def test_a_line_longer_than_a_record_may_be(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        topic = await find(top, "t")
        large = b"x" * lines.LINE_BYTES_MAX
        await redirect(topic, "0", large[:MIB], large[MIB:], b"\n", append=True)
        assert await values(stream) == [large]
        await fails(errno.EFBIG, redirect(topic, "0", large, b"x", append=True))
        await fails(errno.EFBIG, redirect(topic, "0", large + b"xx\n", append=True))


async def test_errors_are_told_by_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        file = await find(top, "t", "0")
        handle = await file.open(reading=False, writing=True, truncate=False)
        call = client.channel.call

        async def lost(method: Any, *rest: Any, **options: Any) -> Any:
            if method is lines.APPEND:
                raise Unavailable("no server")
            return await call(method, *rest, **options)

        monkeypatch.setattr(client.channel, "call", lost)
        await handle.write(0, b"one\n")
        with pytest.raises(Unavailable):
            await handle.flush()
        monkeypatch.undo()
        await handle.flush()
        await handle.write(4, b"two\n")
        await handle.flush()
        await handle.release()
        assert await values(stream) == [b"two"]


async def test_opening_what_is_gone(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        stream, top = await make(client, 1)
        file = await find(top, "t", "0")
        await stream.delete_topic("t")
        await fails(errno.ENOENT, open_to_read(file))
        await fails(errno.ENOENT, file.attributes())
        await fails(errno.ENOENT, find(top, "t"))
