"""A disk whose every sync takes 200 ms: writers share syncs, reads go on, memory stays bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplatform import aio
from dataplatform.base.limits import KIB, MIB

from .disks import FailingServer, build_shim

SYNC_MS = 200
WRITERS = 64
ROUNDS = 4
GROWTH_BYTES_MAX = 128 * MIB


async def test_writers_wait_and_readers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FailingServer(tmp_path, build_shim(tmp_path), monkeypatch)
    await asyncio.to_thread(server.start)
    try:
        async with await aio.connect(server.address) as dp:
            table = await dp.create_table("/table")
            stream = await dp.create_stream("/stream")
            await table.put("first", {"n": 0})
            await dp.write_file("/file", b"content", durable=True)
            before = (await dp.status()).memory_bytes
            server.plan("slow", "data", value=SYNC_MS)

            async def work(number: int) -> None:
                for round_number in range(ROUNDS):
                    name = f"{number}-{round_number}"
                    if number % 3 == 0:
                        await table.put(name, {"n": number})
                    elif number % 3 == 1:
                        await stream.append("t", name.encode())
                    else:
                        await dp.write_file(f"/{name}", bytes(100 * KIB), durable=True)

            writers = [asyncio.create_task(work(number)) for number in range(WRITERS)]
            reads = 0
            while not all(writer.done() for writer in writers):
                assert (await table.get("first")).columns == {"n": 0}  # type: ignore[union-attr]
                assert await dp.read_file("/file") == b"content"
                reads += 1
                await asyncio.sleep(0)
            await asyncio.gather(*writers)  # none of them failed
            # A read that waited for a sync would come once per sync: every writer needs several.
            assert reads > ROUNDS
            growth = (await dp.status()).memory_bytes - before
            assert growth < GROWTH_BYTES_MAX, growth
            server.heal()
            assert [row.key async for row in table.scan(prefix="0-")] == [
                f"0-{n}" for n in range(ROUNDS)
            ]
            assert not (await dp.check()).findings
            print(f"{reads} reads meanwhile, {growth / MIB:.0f} MiB more")  # noqa: T201  with -s
    finally:
        server.kill()
