"""A large file, written and read 1 MiB at a time, and many small ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import count

from ..sides import Sizes, Way, way
from ..tasks import CLIENTS, rate_together
from ..timing import timed
from .context import Context

CALL = 1 << 20
CALLS = 256
SMALL = 4096


class Files:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._names = count()
        self._block = os.urandom(CALL)

    def ways(self) -> Sequence[Way]:
        return (
            way("file-write", "open, write, close", "within a second", self.write),
            way("file-write-sync", "open, write, sync, close", "synced", self.write_sync),
            way("file-read", "open, read", "–", self.read),
            way("small-files", "aio write_file, then sync", "synced at the end", self.small),
        )

    @cached_property
    def _directory(self) -> str:
        return self._context.directory("files")

    def write(self, sizes: Sizes) -> float:
        return self._write(sizes.count(CALLS, 16), is_synced=False)

    def write_sync(self, sizes: Sizes) -> float:
        return self._write(sizes.count(CALLS, 16), is_synced=True)

    def _write(self, calls: int, *, is_synced: bool) -> float:
        path = f"{self._directory}/{next(self._names)}"
        with timed() as watch, self._context.dp.open(path, "wb") as file:
            for _ in range(calls):
                file.write(self._block)
            if is_synced:
                file.sync()
        self._context.dp.remove(path)
        return calls * CALL / watch.seconds / 1e6

    def read(self, sizes: Sizes) -> float:
        calls = sizes.count(CALLS, 16)
        path = f"{self._directory}/read{calls}"
        if not self._context.dp.exists(path):
            with self._context.dp.open(path, "wb") as file:
                for _ in range(calls):
                    file.write(self._block)
                file.sync()
        read = 0
        with timed() as watch, self._context.dp.open(path, "rb") as file:
            while data := file.read(CALL):
                read += len(data)
        assert read == calls * CALL, read
        return read / watch.seconds / 1e6

    def small(self, sizes: Sizes) -> float:
        directory = f"{self._directory}/small{next(self._names)}"
        self._context.dp.mkdir(directory)
        client, content = self._context.aio, self._block[:SMALL]
        total = sizes.count(5000)

        async def measure() -> float:
            with timed() as watch:
                await rate_together(
                    [lambda i: client.write_file(f"{directory}/{i}", content)] * CLIENTS, total
                )
                await client.sync()
            return total / watch.seconds

        figure = self._context.run(measure())
        self._context.dp.rmtree(directory)
        return figure
