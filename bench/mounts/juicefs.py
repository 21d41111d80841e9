"""JuiceFS: files as its object store, Redis for its metadata.

Redis syncs before each reply, or keeps everything in memory. It does not sync the objects. Its
defaults, the local cache included, but for the trash: overwritten blocks, which it keeps for a day,
would fill the disk before the works are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..peers.juicefs import JuiceFS
from ..peers.redis import start_redis
from ..peers.tools import answers, find_program, free_port
from ..processes import Running, run
from .places import Durability, Place, family, mounted, unmount


class JuiceFSMount(Place):
    def __init__(self, name: str, title: str, durability: Durability, *redis: str) -> None:
        self.name = name
        self.title = title
        self.durability = durability
        self._options = redis
        self._redis: Running | None = None
        self._mount: Running | None = None

    def missing(self) -> str | None:
        return JuiceFS().missing()

    def start(self, directory: Path) -> None:
        self._directory = directory
        port = free_port()
        self._program = find_program("juicefs") or "juicefs"
        self._metadata = f"redis://127.0.0.1:{port}/1"
        (directory / "redis").mkdir()
        self._redis = start_redis(
            directory / "redis", "--port", str(port), "--bind", "127.0.0.1", *self._options
        )
        self._redis.wait_until(lambda: answers(port))
        bucket = ("--storage", "file", "--bucket", f"{directory / 'objects'}/")
        run([self._program, "format", "--trash-days", "0", *bucket, self._metadata, "bench"])
        self._serve()

    def _serve(self) -> None:
        cache = ("--cache-dir", str(self._directory / "cache"))
        command = [self._program, "mount", "--no-usage-report", *cache]
        self._mount = mounted(
            [*command, self._metadata, str(self.point)], self.point, self._directory / "mount.log"
        )

    def remount(self) -> None:
        self._unmount()
        self._serve()

    def _unmount(self) -> None:
        command = [self._program, "umount"]
        unmount(
            self.point,
            self._mount,
            [*command, str(self.point)],
            [*command, "--force", str(self.point)],
        )
        self._mount = None

    def stop(self) -> None:
        if self._mount is not None:
            self._unmount()
        if self._redis is not None:
            self._redis.stop()

    @property
    def point(self) -> Path:
        return self._directory / "mount"

    @property
    def stores(self) -> Sequence[Path]:
        return (self._directory / "objects", self._directory / "redis")

    def mount_pids(self) -> Sequence[int]:
        return family(self._mount.pid) if self._mount else ()

    def server_pids(self) -> Sequence[int]:
        return (self._redis.pid,) if self._redis else ()


def always() -> JuiceFSMount:
    return JuiceFSMount(
        "juicefs-always",
        "JuiceFS, Redis synced",
        Durability("metadata synced, objects unsynced", "metadata synced, objects unsynced"),
        *("--appendfsync", "always"),
    )


def in_memory() -> JuiceFSMount:
    return JuiceFSMount(
        "juicefs-memory",
        "JuiceFS, Redis in memory",
        Durability("metadata lost", "metadata lost"),
        *("--appendonly", "no"),
    )
