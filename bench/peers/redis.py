"""Redis with an append-only file, over its Unix socket, through redis-py.

One server; each way first sets how the file is synced: `always` syncs before the reply (several
commands that arrive together share a sync), `everysec` once a second. Measured twice, as redis-py
is installed by itself and with the hiredis parser.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Coroutine, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import uvloop

from ..processes import Running
from ..sides import Driver, MakeDriver, Side, Sizes, Way, way
from ..tasks import CLIENTS, PROCESSES, Call, Crowd, rate_together, until
from ..timing import median_us, rate, timed
from .tools import find_program, has_module

VALUE = b"x" * 100
READ = 10_000
PIPELINE = 1_000
CALL_S = 60.0
MODES = {"always": "synced before the reply", "everysec": "within a second"}


class Redis(Side):
    name = "redis"
    works = frozenset(
        (
            *("produce-many", "produce", "consume", "put", "append"),
            *("put-shared", "put-connections", "put-processes", "put-many"),
            *("get", "get-pipelined", "scan"),
        )
    )
    _running: Running | None = None

    def missing(self) -> str | None:
        if find_program("redis-server") is None:
            return "no redis-server: apt-get install redis-server"
        if not has_module("redis"):
            return "no redis-py: pip install redis"
        return None

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        socket = directory / "redis.sock"
        self._running = start_redis(directory, "--port", "0", "--unixsocket", str(socket))
        self._running.wait_until(socket.exists)
        drivers = [partial(RedisDriver, str(socket), "redis-py")]
        if has_module("hiredis"):
            drivers.append(partial(RedisDriver, str(socket), "hiredis"))
        return drivers

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()


def start_redis(directory: Path, *options: str) -> Running:
    """A server that stores in `directory`, appends to a file, and takes no snapshots."""
    program = find_program("redis-server")
    assert program is not None
    return Running(
        [program, "--dir", str(directory), "--appendonly", "yes", "--save", "", *options],
        directory / "redis.log",
    )


def load(parser: str) -> Any:
    """redis-py, in a process that has not imported it yet: it chooses its parser when it is."""
    if parser == "redis-py":
        sys.modules["hiredis"] = None  # type: ignore[assignment]
    importlib.import_module("redis.asyncio")
    return importlib.import_module("redis")


class RedisDriver(Driver):
    def __init__(self, socket: str, parser: str) -> None:
        self._socket = socket
        self._parser = parser
        self._redis = load(parser)
        self._client = self._redis.Redis(unix_socket_path=socket, socket_timeout=CALL_S)
        self._client.ping()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._connections: list[Any] = []
        self._filled: set[str] = set()

    def ways(self) -> Sequence[Way]:
        made: list[Way] = []

        def add(work: str, label: str, mode: str | None, measure: Any) -> None:
            durability = MODES[mode] if mode else "–"
            name = f"{label}, {mode} ({self._parser})" if mode else f"{label} ({self._parser})"
            made.append(way(work, name, durability, partial(self._in_mode, mode, measure)))

        add("produce-many", "XADD, pipelines", "everysec", self.produce)
        add("produce", "XADD, pipelines", "everysec", self.produce)
        add("consume", "XREAD COUNT 1000", None, self.consume)
        add("put-many", "SET, pipelines", "everysec", self.put_many)
        add("get", "GET", None, self.get)
        add("get-pipelined", "asyncio, pipelines of 64", None, self.get_pipelined)
        add("scan", "SCAN + MGET, 1000", None, self.scan)
        add("put-shared", "SET, 64 connections", "always", self.connections)
        add("put-connections", "SET, 64 connections", "always", self.connections)
        if self._parser == "redis-py":
            add("produce-many", "XADD, pipelines", "always", self.produce)
            add("put-many", "SET, pipelines", "always", self.put_many)
            add("put", "SET", "always", self.put)
            add("append", "XADD", "always", self.append)
            add("put-processes", f"SET, {PROCESSES} processes", "always", self.processes)
        return made

    def _in_mode(self, mode: str | None, measure: Any, sizes: Sizes) -> float:
        self._client.config_set("appendfsync", mode or "everysec")
        value: float = measure(sizes)
        return value

    def _pipelined(self, count: int, command: str, *arguments: Any) -> float:
        """Rate of a command in pipelines; `%d` in the key is the number."""
        key, *rest = arguments
        with timed() as watch:
            for start in range(0, count, PIPELINE):
                pipeline = self._client.pipeline(transaction=False)
                for number in range(start, start + PIPELINE):
                    pipeline.execute_command(command, key % number if "%" in key else key, *rest)
                pipeline.execute()
        return count / watch.seconds

    def produce(self, sizes: Sizes) -> float:
        """Commands are gathered one by one: many per call and one per call are the same here."""
        count = sizes.count(50_000, PIPELINE) // PIPELINE * PIPELINE
        figure = self._pipelined(count, "XADD", "produced", "*", "v", VALUE)
        self._client.unlink("produced")
        return figure

    def consume(self, sizes: Sizes) -> float:
        count = sizes.count(50_000, PIPELINE) // PIPELINE * PIPELINE
        key = f"consumed{count}"
        if key not in self._filled:
            self._client.unlink(key)
            self._pipelined(count, "XADD", key, "*", "v", VALUE)
            self._filled.add(key)
        read, last = 0, "0"
        with timed() as watch:
            while found := _entries(self._client.xread({key: last}, count=1000)):
                read += len(found)
                last = found[-1][0]
        assert read == count, read
        return read / watch.seconds

    def put(self, sizes: Sizes) -> float:
        client = self._client
        return median_us(lambda i: client.set(f"k{i:07}", VALUE), sizes.count(100, 20))

    def append(self, sizes: Sizes) -> float:
        client = self._client
        return median_us(lambda _: client.xadd("one", {"v": VALUE}), sizes.count(100, 20))

    def put_many(self, sizes: Sizes) -> float:
        count = sizes.count(100_000, PIPELINE) // PIPELINE * PIPELINE
        return self._pipelined(count, "SET", "many%07d", VALUE)

    def _fill(self, prefix: str, count: int) -> None:
        if prefix not in self._filled:
            self._pipelined(-(-count // PIPELINE) * PIPELINE, "SET", f"{prefix}%07d", VALUE)
            self._filled.add(prefix)

    def get(self, sizes: Sizes) -> float:
        self._fill("read", READ)
        client = self._client
        return rate(lambda i: client.get(f"read{i * 7919 % READ:07}"), sizes.count(5_000))

    def get_pipelined(self, sizes: Sizes) -> float:
        self._fill("read", READ)
        count = sizes.count(50_000, CLIENTS) // CLIENTS * CLIENTS

        async def measure() -> float:
            client = (await self._connect(1))[0]
            with timed() as watch:
                for start in range(0, count, CLIENTS):
                    pipeline = client.pipeline(transaction=False)
                    for number in range(start, start + CLIENTS):
                        pipeline.get(f"read{number * 7919 % READ:07}")
                    await pipeline.execute()
            return count / watch.seconds

        return self._run(measure())

    def scan(self, sizes: Sizes) -> float:
        """The keys with their values: SCAN alone gives names."""
        count = sizes.count(200_000, PIPELINE) // PIPELINE * PIPELINE
        client = self._client
        client.select(1)
        try:
            if client.dbsize() != count:
                client.flushdb()
                self._pipelined(count, "SET", "k%07d", VALUE)
            found, cursor = 0, 0
            with timed() as watch:
                while True:
                    cursor, keys = client.scan(cursor, count=1000)
                    found += len(client.mget(keys)) if keys else 0
                    if cursor == 0:
                        break
        finally:
            client.select(0)
        assert found >= count, found
        return found / watch.seconds

    def connections(self, sizes: Sizes) -> float:
        async def measure() -> float:
            calls = [_set(client) for client in await self._connect(CLIENTS)]
            return await rate_together(calls, sizes.count(20_000))

        return self._run(measure())

    def processes(self, sizes: Sizes) -> float:
        share = partial(_share, self._socket, self._parser)
        return self._crowd.rate(share, sizes.count(20_000))

    @cached_property
    def _crowd(self) -> Crowd:
        return Crowd()

    async def _connect(self, count: int) -> list[Any]:
        while len(self._connections) < count:
            self._connections.append(await _connect(self._redis, self._socket))
        return self._connections[:count]

    def _run(self, coroutine: Coroutine[Any, Any, float]) -> float:
        return self._runner.run(coroutine)

    def close(self) -> None:
        if "_crowd" in self.__dict__:
            self._crowd.close()
        self._client.close()
        for client in self._connections:
            self._runner.run(client.aclose())
        self._runner.close()


async def _connect(redis: Any, socket: str) -> Any:
    client = redis.asyncio.Redis(
        unix_socket_path=socket, socket_timeout=CALL_S, single_connection_client=True
    )
    await client.ping()
    return client


def _set(client: Any, first: int = 0) -> Call:
    return lambda number: client.set(f"k{first + number:07}", VALUE)


def _share(socket: str, parser: str, begin: float, first: int, count: int) -> tuple[float, float]:
    """What one of the processes does."""
    redis = load(parser)

    async def work() -> tuple[float, float]:
        clients = [await _connect(redis, socket) for _ in range(CLIENTS // PROCESSES)]
        calls = [_set(client, first) for client in clients]
        await until(begin)
        begun = time.monotonic()
        await rate_together(calls, count)
        ended = time.monotonic()
        for client in clients:
            await client.aclose()
        return begun, ended

    return uvloop.run(work())


def _entries(reply: Any) -> list[Any]:
    """The entries of the only stream of a reply to XREAD, in either protocol's form."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (chunks,) = reply.values()
        return [entry for chunk in chunks for entry in chunk]
    return list(reply[0][1])
