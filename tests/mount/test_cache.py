"""The read cache on disk, in a real mount: used after a new one, and never old."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from dataplatform_clients.fuse.stats import parse_stats
from tests.integration.servers import ServerProcess

from .mounts import Mount, ground, wait_until

SIZE = 9 << 20


def _stats(mount: Mount) -> dict[str, int]:
    text = (mount.mountpoint / ".stats").read_text()
    return {name: int(value) for name, value in parse_stats(text).items() if value.isdecimal()}


def _options(cache: Path) -> tuple[str, ...]:
    return ("-o", f"nonear,cache_dir={cache},cache_size=64MiB")


def test_a_new_mount_reads_from_disk_and_sees_changes(own: ServerProcess) -> None:
    place = ground()
    cache = place / "cache"
    data = random.Random(1).randbytes(SIZE)
    try:
        with Mount(own.address, place / "a", "/", *_options(cache)) as mount:
            file = mount.mountpoint / "file"
            file.write_bytes(data)
            (mount.mountpoint / "small").write_bytes(b"small")
        # What is not durable yet has no name that holds, so it is not kept.
        with Mount(own.address, place / "b", "/", *_options(cache)) as mount:
            wait_until(lambda: _filled(mount, data), 30, "the cache is filled")
        with Mount(own.address, place / "c", "/", *_options(cache)) as mount:
            assert (mount.mountpoint / "file").read_bytes() == data
            assert (mount.mountpoint / "small").read_bytes() == b"small"
            found = _stats(mount)
            assert found["read_bytes"] == 0, "the server was asked for what is on disk"
            assert found["cached_read_bytes"] >= SIZE
            assert SIZE <= found["cached_bytes"] <= 64 << 20

            with Mount(own.address, place / "d", "/", *_options(cache)) as other:
                with (other.mountpoint / "file").open("r+b") as file_there:
                    file_there.seek(5 << 20)
                    file_there.write(b"changed")
                changed = data[: 5 << 20] + b"changed" + data[(5 << 20) + 7 :]
                assert (mount.mountpoint / "file").read_bytes() == changed
                assert (other.mountpoint / "file").read_bytes() == changed
        for block in cache.glob("*/*/*"):
            block.write_bytes(bytes(reversed(block.read_bytes())))
        with Mount(own.address, place / "e", "/", *_options(cache)) as mount:
            assert (mount.mountpoint / "file").read_bytes() == changed
    finally:
        shutil.rmtree(place)


def _filled(mount: Mount, data: bytes) -> bool:
    for name, wanted in (("file", data), ("small", b"small")):
        path = mount.mountpoint / name
        assert path.read_bytes() == wanted
        _drop_pages(path)
    return _stats(mount)["cached_bytes"] >= SIZE + 4096


def _drop_pages(path: Path) -> None:
    """The next read comes to the mount again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_directory_that_cannot_be_used_is_done_without(own: ServerProcess) -> None:
    place = ground()
    try:
        (place / "file").write_bytes(b"")
        with Mount(own.address, place / "mnt", "/", *_options(place / "file")) as mount:
            (mount.mountpoint / "f").write_bytes(b"works")
            assert (mount.mountpoint / "f").read_bytes() == b"works"
            assert "there is no cache on disk" in mount.last_log()
    finally:
        shutil.rmtree(place)
