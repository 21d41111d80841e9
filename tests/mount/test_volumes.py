"""Volumes below the mounted directory, and mounts that may only read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform
from tests.integration.servers import ServerProcess

from .mounts import TREE, Mount, mounted, wait_until
from .programs import run
from .test_posix import refused

pytestmark = pytest.mark.skipif(bool(TREE), reason="a plain directory has no volumes")

QUOTA = 16 << 20


@pytest.fixture
def volume(server: ServerProcess, places: tuple[Path, Path]) -> Iterator[tuple[Path, Path]]:
    """A new volume, as both mounts show it."""
    path = f"/{places[0].name}/volume"
    with dataplatform.connect(server.address) as client:
        client.create_volume(path, quota_bytes=QUOTA)
        yield places[0] / "volume", places[1] / "volume"
        for entry in client.scandir(path):
            client.rmtree(f"{path}/{entry.name}") if entry.is_dir() else client.remove(entry.path)
        client.remove_volume(path)


def test_files_are_in_the_volume(
    server: ServerProcess, places: tuple[Path, Path], volume: tuple[Path, Path]
) -> None:
    here, there = volume
    (here / "d").mkdir()
    (here / "d" / "f").write_bytes(b"x" * 100_000)
    assert (there / "d" / "f").read_bytes() == b"x" * 100_000
    with dataplatform.connect(server.address) as client:
        path = f"/{places[0].name}/volume"
        assert client.read_file(f"{path}/d/f") == b"x" * 100_000
        assert client.stat(f"{path}/d/f").volume == client.volume_info(path).volume
        client.write_file(f"{path}/g", b"from the library")
    assert (here / "g").read_bytes() == b"from the library"
    assert sorted(os.listdir(there)) == ["d", "g"]
    assert os.listdir(places[1]) == ["volume"]


def test_a_new_volume_is_seen_where_its_name_was_missed(
    server: ServerProcess, places: tuple[Path, Path]
) -> None:
    here, there = places
    with refused(errno.ENOENT):
        os.stat(there / "late")
    assert os.listdir(here) == []
    with dataplatform.connect(server.address) as client:
        client.create_volume(f"/{here.name}/late")
        (there / "late" / "f").write_text("x")
        assert client.read_file(f"/{here.name}/late/f") == b"x"
        (here / "late" / "f").unlink()
        client.remove_volume(f"/{here.name}/late")
    for place in places:
        with refused(errno.ENOENT):
            os.stat(place / "late")


def test_names_do_not_cross_volumes(place: Path, volume: tuple[Path, Path]) -> None:
    here, _ = volume
    outside = here.parent
    (outside / "f").write_text("x")
    with refused(errno.EXDEV):
        os.rename(outside / "f", here / "f")
    with refused(errno.EXDEV):
        os.link(outside / "f", here / "f")
    run(["mv", outside / "f", here / "f"])  # copies, and removes
    assert (here / "f").read_text() == "x"
    assert not (outside / "f").exists()
    with refused(errno.EBUSY, errno.ENOTEMPTY):
        os.rmdir(here)
    os.rename(here, outside / "moved")  # a volume is renamed like a directory
    assert (outside / "moved" / "f").read_text() == "x"
    os.rename(outside / "moved", here)
    assert os.stat(here / "..").st_ino == outside.stat().st_ino


def test_numbers_are_of_one_volume(volume: tuple[Path, Path]) -> None:
    """Programs that compare (st_dev, st_ino), as `rsync` does, mistake no file for another."""
    here, there = volume
    for directory in (here, here.parent):
        for number in range(20):
            (directory / f"{number}").write_text("x")
    files = [os.stat(d / f"{n}") for d in (here, here.parent) for n in range(20)]
    assert len({(status.st_dev, status.st_ino) for status in files}) == 40
    for name in ("0", "7"):
        assert os.stat(here / name).st_ino == os.stat(there / name).st_ino


def test_the_space_is_that_of_the_quota(volume: tuple[Path, Path]) -> None:
    here, _ = volume
    found = os.statvfs(here)
    assert found.f_blocks * found.f_frsize <= QUOTA + found.f_frsize
    with open(here / "f", "wb") as file:
        file.write(os.urandom(8 << 20))
        file.flush()
        os.fsync(file.fileno())
    wait_until(lambda: _free_bytes(here) <= 9 << 20, 10, "df says so")


def _free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_a_mount_that_may_only_read(server: ServerProcess, place: Path) -> None:
    (place / "f").write_text("x")
    (place / "d").mkdir()
    with mounted(server, f"/{place.name}", "--read-only") as mount:
        assert isinstance(mount, Mount)
        root = mount.mountpoint
        assert (root / "f").read_text() == "x"
        for call in (
            lambda: (root / "g").write_text("y"),
            lambda: os.unlink(root / "f"),
            lambda: os.mkdir(root / "e"),
            lambda: os.rmdir(root / "d"),
            lambda: os.rename(root / "f", root / "g"),
            lambda: os.chmod(root / "f", 0o600),
            lambda: os.open(root / "f", os.O_RDWR),
            lambda: os.truncate(root / "f", 0),
            lambda: os.utime(root / "f", (1, 1)),
            lambda: os.setxattr(root / "f", "user.a", b""),
            lambda: os.symlink("x", root / "l"),
            lambda: os.link(root / "f", root / "l"),
        ):
            with refused(errno.EROFS):
                call()
        assert os.access(root / "f", os.R_OK)
        assert not os.access(root / "f", os.W_OK)
        (place / "f").write_text("changed")
        assert (root / "f").read_text() == "changed"
    assert sorted(os.listdir(place)) == ["d", "f"]
