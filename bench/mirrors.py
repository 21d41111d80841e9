"""python -m bench.mirrors [--rounds N] [--mib N] [--changes N] [--rate N] [--seconds N]

Mirrors between two servers on this machine, over TCP, beside a plain copy of the same bytes over
TCP in the same minutes: read from the source's segments, sent, written to a file, synced.

- base copy: asked are 60% of the plain copy, and 200 MB/s;
- catch-up after overwrites of 1,000 hot rows: asked is that about 1,000 rows are shipped;
- lag of a continuous mirror while so many changes per second are made: asked is under 1 s.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dataplatform
from dataplatform import aio

from .servers import Server, serving

FILE_BYTES = 32 << 20
CHUNK_BYTES = 1 << 20
HOT_ROWS = 1_000
TASKS = 64


@dataclass(frozen=True, slots=True)
class _Pair:
    """A source, somebody who mirrors it, and how that reaches it."""

    there: dataplatform.Client
    here: dataplatform.Client
    east: Server
    address: str
    token: str

    def mirror(self, volume: str) -> None:
        source = f"{self.address}/{volume}"
        self.here.create_mirror(f"/{volume}", source, token=self.token, insecure=True)

    def wait_equal(self, volume: str) -> None:
        commit = self.there.volume_info(f"/{volume}").commit
        _until(lambda: self.here.mirror_info(f"/{volume}").commit >= commit)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mirrors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--grpc", action="store_true", help="over gRPC, not frames")
    parser.add_argument("--directory", help="where the data is put for a while")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="dp-mirrors-", dir=options.directory)
        directory = Path(stack.enter_context(temporary))
        for name in ("east", "west"):
            (directory / name).mkdir()
        where = f"127.0.0.1:{_free_port()}"
        option, scheme = ("--grpc", "grpc") if options.grpc else ("--listen", "dp")
        words = ("--cluster", "east", option, where, "--insecure")
        east = stack.enter_context(serving(directory / "east", *words))
        west = stack.enter_context(serving(directory / "west", "--cluster", "west"))
        there = stack.enter_context(dataplatform.connect(east.address))
        here = stack.enter_context(dataplatform.connect(west.address))
        there.create_user("mirror", admin=True)
        token = there.create_token("mirror", read_only=True).token
        pair = _Pair(there, here, east, f"{scheme}://{where}", token)
        if options.mib:
            _base_copies(pair, directory, options.rounds, options.mib)
        if options.changes:
            _catch_up(pair, options.changes)
        if options.rate:
            _lag(pair, options.rate, options.seconds)
    return 0


# ---------------------------------------------------------------- base copies


def _base_copies(pair: _Pair, directory: Path, rounds: int, mib: int) -> None:
    pair.there.create_volume("/bulk")
    blob = os.urandom(FILE_BYTES)
    for number in range(max(1, (mib << 20) // FILE_BYTES)):
        pair.there.write_file(f"/bulk/f{number}", blob)
    pair.there.sync()
    plain, copied = [], []
    for _ in range(rounds):
        plain.append(_plain_copy(pair.east.data, directory / "plain"))
        used = pair.there.volume_info("/bulk").used_bytes
        began_s = time.perf_counter()
        pair.mirror("bulk")
        pair.wait_equal("bulk")
        copied.append(used / (time.perf_counter() - began_s))
        pair.here.remove_mirror("/bulk")
        print(f"plain {plain[-1] / 1e6:,.0f} MB/s, base copy {copied[-1] / 1e6:,.0f} MB/s")
    ratio = statistics.median(c / p for c, p in zip(copied, plain, strict=True))
    best = max(copied) / 1e6
    print(f"base copy: {ratio:.2f} of a plain copy (asked: 0.6), {best:,.0f} MB/s at best")


def _plain_copy(data: Path, to: Path) -> float:
    """Bytes per second."""
    segments = sorted(data.glob("volumes/*/segments/*.seg"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = os.fork()
        if not sender:
            connection, _ = listening.accept()
            for segment in segments:
                with segment.open("rb") as file:
                    while chunk := file.read(CHUNK_BYTES):
                        connection.sendall(chunk)
            os._exit(0)
        began_s, total, buffer = time.perf_counter(), 0, memoryview(bytearray(CHUNK_BYTES))
        with socket.create_connection(listening.getsockname()) as reader, to.open("wb") as file:
            while count := reader.recv_into(buffer):
                file.write(buffer[:count])
                total += count
            file.flush()
            os.fsync(file.fileno())
        took_s = time.perf_counter() - began_s
        os.waitpid(sender, 0)
    to.unlink()
    return total / took_s


# ---------------------------------------------------------------- changes


async def _overwrite(address: str, path: str, count: int) -> None:
    """Hot rows, over and over."""
    async with await aio.connect(address) as dp:
        table = await dp.table(path)
        turns = iter(range(count))

        async def put() -> None:
            for number in turns:
                await table.put(f"k{number % HOT_ROWS}", {"n": number})

        await asyncio.gather(*(put() for _ in range(TASKS)))


def _catch_up(pair: _Pair, changes: int) -> None:
    pair.there.create_volume("/hot")
    pair.there.create_table("/hot/rows")
    asyncio.run(_overwrite(pair.east.address, "/hot/rows", HOT_ROWS))
    pair.mirror("hot")
    pair.wait_equal("hot")
    pair.here.pause_mirror("/hot")
    before = pair.here.mirror_info("/hot")
    asyncio.run(_overwrite(pair.east.address, "/hot/rows", changes))
    began_s = time.perf_counter()
    pair.here.resume_mirror("/hot")
    pair.wait_equal("hot")
    took_s, after = time.perf_counter() - began_s, pair.here.mirror_info("/hot")
    print(
        f"catch-up after {changes:,} overwrites of {HOT_ROWS:,} rows, "
        f"{after.commit - before.commit:,} commits: {after.rows - before.rows:,} rows shipped, "
        f"{after.changes - before.changes:,} change rows, "
        f"{(after.bytes - before.bytes) / 1e6:.1f} MB, {took_s:.1f} s"
    )


async def _paced(address: str, path: str, rate: int, seconds: float) -> int:
    """So many puts per second, each a request of its own; how many there were."""
    async with await aio.connect(address) as dp:
        table = await dp.table(path)
        began_s = time.perf_counter()
        done = 0
        while (now_s := time.perf_counter() - began_s) < seconds:
            due = int(now_s * rate) - done
            if due > 0:
                puts = (table.put(f"k{(done + n) % HOT_ROWS}", {"n": done + n}) for n in range(due))
                await asyncio.gather(*puts)
                done += due
            await asyncio.sleep(0.005)
        return done


def _lag(pair: _Pair, rate: int, seconds: float) -> None:
    pair.there.create_volume("/live")
    pair.there.create_table("/live/rows")
    pair.mirror("live")
    pair.wait_equal("live")
    lags: list[float] = []
    done: list[int] = []
    writing = threading.Thread(
        target=lambda: done.append(
            asyncio.run(_paced(pair.east.address, "/live/rows", rate, seconds))
        )
    )
    writing.start()
    table = pair.here.table("/live/rows")
    source = pair.there.table("/live/rows")
    while writing.is_alive():
        # The newest row there: how long until it is here?
        newest = max((row.columns["n"] for row in source.scan()), default=-1)
        began_s = time.perf_counter()
        while max((row.columns["n"] for row in table.scan()), default=-1) < newest:
            time.sleep(0.005)
        lags.append(time.perf_counter() - began_s)
    writing.join()
    lags.sort()
    print(
        f"lag at {done[0] / seconds:,.0f} changes/s: median {statistics.median(lags):.2f} s, "
        f"at most {lags[-1]:.2f} s (asked: under 1 s)"
    )


if __name__ == "__main__":
    sys.exit(main())
