"""`.snapshot` on real mounts: every directory as it was, for all kinds, and no way to change it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform
from tests.integration.servers import ServerProcess

from .mounts import TREE, mounted, wait_until
from .test_faults import _worker
from .test_posix import refused
from .test_rights import ANA, do

pytestmark = pytest.mark.skipif(bool(TREE), reason="a plain directory has no snapshots")


@pytest.fixture
def client(server: ServerProcess) -> Iterator[dataplatform.Client]:
    with dataplatform.connect(server.address, patience_s=30) as client:
        yield client


@pytest.fixture
def volume(
    server: ServerProcess, places: tuple[Path, Path], client: dataplatform.Client
) -> Iterator[tuple[Path, Path, str]]:
    """A new volume, as both mounts show it, and its path."""
    path = f"/{places[0].name}/volume"
    client.create_volume(path)
    yield places[0] / "volume", places[1] / "volume", path
    client.remove_volume(path, recursive=True)


def fill(here: Path, client: dataplatform.Client, path: str) -> None:
    (here / "d" / "inner").mkdir(parents=True)
    (here / "d" / "f").write_bytes(b"before")
    (here / "d" / "inner" / "large").write_bytes(bytes(range(256)) * 4096)
    (here / "d" / "link").symlink_to("f")
    os.chmod(here / "d" / "f", 0o640)
    os.utime(here / "d" / "f", ns=(1_000_000_000, 2_000_000_000))
    client.create_table(f"{path}/t").put("k", {"n": 1})
    stream = client.create_stream(f"{path}/s")
    with stream.producer() as producer:
        producer.send("a", value=b"one")
        producer.send("a", value=b"two")


def change(here: Path, client: dataplatform.Client, path: str) -> None:
    (here / "d" / "f").write_bytes(b"after, and longer")
    shutil.rmtree(here / "d" / "inner")
    (here / "d" / "new").write_bytes(b"new")
    client.table(f"{path}/t").put("k", {"n": 2})
    with client.stream(f"{path}/s").producer() as producer:
        producer.send("a", value=b"three")


def test_every_directory_as_it_was(
    volume: tuple[Path, Path, str], client: dataplatform.Client
) -> None:
    here, there, path = volume
    fill(here, client, path)
    kept = subprocess.run(["cp", "-a", here / "d", here.parent / "kept"], check=True)
    assert kept.returncode == 0
    client.create_snapshot(path, "monday")
    change(here, client, path)
    for mount in (here, there):
        assert ".snapshot" not in os.listdir(mount)
        assert os.listdir(mount / ".snapshot") == ["monday"]
        assert os.listdir(mount / "d" / ".snapshot") == ["monday"]
        then = mount / ".snapshot" / "monday"
        assert sorted(os.listdir(then)) == ["d", "s", "t"]
        assert sorted(os.listdir(mount / "d" / ".snapshot" / "monday")) == ["f", "inner", "link"]
        assert (mount / "d" / ".snapshot" / "monday" / "f").read_bytes() == b"before"
        assert (then / "d" / "link").read_bytes() == b"before"
        assert (then / "d" / "inner" / "large").read_bytes() == bytes(range(256)) * 4096
        assert b'"n": 1' in (then / "t" / "k.json").read_bytes().replace(b'"n":1', b'"n": 1')
        assert (then / "s" / "a" / "0").read_bytes() == b"one\ntwo\n"
        # Modes and times, too: what is copied from there is what it was.
        same = subprocess.run(
            ["diff", "-r", "--no-dereference", then / "d", mount.parent / "kept"],
            capture_output=True,
        )
        assert same.returncode == 0, same.stdout
        was, kept_ = os.stat(then / "d" / "f"), os.stat(mount.parent / "kept" / "f")
        assert (was.st_mode, was.st_mtime_ns, was.st_size) == (
            kept_.st_mode,
            kept_.st_mtime_ns,
            kept_.st_size,
        )
        with refused(errno.ENOENT):
            os.stat(then / ".snapshot")
        with refused(errno.ENOENT):
            os.stat(mount / ".snapshot" / "tuesday")
    shutil.rmtree(here.parent / "kept")


def test_nothing_there_can_be_changed(
    volume: tuple[Path, Path, str], client: dataplatform.Client
) -> None:
    here, _, path = volume
    fill(here, client, path)
    client.create_snapshot(path, "monday")
    then = here / ".snapshot" / "monday"
    for call in (
        lambda: (then / "new").write_bytes(b"x"),
        lambda: (then / "d" / "f").write_bytes(b"x"),
        lambda: os.truncate(then / "d" / "f", 0),
        lambda: os.unlink(then / "d" / "f"),
        lambda: os.mkdir(then / "new"),
        lambda: os.chmod(then / "d" / "f", 0o600),
        lambda: os.utime(then / "d" / "f"),
        lambda: os.rename(then / "d" / "f", then / "d" / "g"),
        lambda: os.symlink("x", then / "new"),
        lambda: os.setxattr(then / "d" / "f", "user.x", b"y"),
        lambda: os.mkdir(here / ".snapshot" / "tuesday"),
        lambda: (then / "t" / "k.json").write_bytes(b'{"n": 3}'),
        lambda: (then / "s" / "a" / "all").open("ab", buffering=0).write(b"three\n"),
    ):
        with refused(errno.EROFS):
            call()
    with refused(errno.EXDEV):
        os.rename(then / "d" / "f", here / "taken")
    for call in (
        lambda: os.mkdir(here / "d" / ".snapshot"),
        lambda: os.rmdir(here / "d" / ".snapshot"),
        lambda: os.rmdir(then),
    ):
        with pytest.raises(OSError):
            call()
    assert (then / "d" / "f").read_bytes() == b"before"


def test_snapshots_come_and_go_under_the_eyes_of_a_mount(
    volume: tuple[Path, Path, str], client: dataplatform.Client
) -> None:
    here, there, path = volume
    fill(here, client, path)
    for round_ in range(3):
        for mount in (here, there):
            assert os.listdir(mount / ".snapshot") == []
            with refused(errno.ENOENT):
                os.stat(mount / ".snapshot" / "monday")
        (here / "d" / "f").write_bytes(b"round %d" % round_)
        client.create_snapshot(path, "monday")  # what was buffered is in it
        for mount in (here, there):
            assert os.listdir(mount / ".snapshot") == ["monday"]
            assert (mount / ".snapshot/monday/d/f").read_bytes() == b"round %d" % round_
            assert os.stat(mount / "d/.snapshot/monday").st_ino
        client.remove_snapshot(path, "monday")


def test_a_snapshot_is_mounted_by_itself(
    server: ServerProcess, volume: tuple[Path, Path, str], client: dataplatform.Client
) -> None:
    here, _, path = volume
    fill(here, client, path)
    client.create_snapshot(path, "monday")
    change(here, client, path)
    with mounted(server, f"{path}/.snapshot/monday") as mount:
        assert (mount.mountpoint / "d" / "f").read_bytes() == b"before"
        with refused(errno.EROFS):
            (mount.mountpoint / "new").write_bytes(b"")


def test_what_is_shut_today_stays_shut(
    volume: tuple[Path, Path, str], client: dataplatform.Client
) -> None:
    here, _, path = volume
    (here / "f").write_text("text")
    (here / "f").chmod(0o644)
    here.chmod(0o755)
    client.create_snapshot(path, "monday")
    then = here / ".snapshot" / "monday" / "f"
    assert do(ANA, "read", then) == "text"
    (here / "f").chmod(0o600)
    wait_until(lambda: do(ANA, "read", then) == "EACCES", 2.0, "shut")
    (here / "f").chmod(0o644)
    wait_until(lambda: do(ANA, "read", then) == "text", 2.0, "open")
    client.acl.set(f"{path}/f", read=f"!u:{ANA}")
    wait_until(lambda: do(ANA, "read", then) == "EACCES", 2.0, "shut")
    assert then.read_text() == "text"


def test_volumes_with_large_numbers(
    own: ServerProcess,
) -> None:
    """Snapshots are numbered with the inodes of the root volume, of which there may be millions."""
    with dataplatform.connect(own.address) as client:
        client.create_volume("/v")
        client.write_file("/v/f", b"before")
        raise_numbers(own, 10_000_000)
        taken = client.create_snapshot("/v", "monday")
        assert taken.volume >= 10_000_000
        client.write_file("/v/f", b"after")
        with mounted(own) as mount:
            root = mount.mountpoint
            assert (root / "v/.snapshot/monday/f").read_bytes() == b"before"
            with (root / "v/.snapshot/monday/f").open("rb") as file:
                _worker(mount).kill()
                assert file.read() == b"before"
            assert (root / "v/.snapshot/monday/f").read_bytes() == b"before"


def raise_numbers(server: ServerProcess, number: int) -> None:
    """As if so many inodes had been given out."""
    import asyncio

    from dataplatform.core.platform import Platform
    from dataplatform.core.units import SYSTEM, Unit
    from dataplatform.engine.stores import open_storages
    from dataplatform.keyspace import keys
    from dataplatform.keyspace.records import ROOT_VOLUME

    async def go() -> None:
        platform = await Platform.start(await open_storages(server.directory / "data"))
        root = await platform.acquire(ROOT_VOLUME)

        async def work(unit: Unit) -> None:
            unit.raise_counters(number, 0)
            unit.put(keys.SETTINGS_KEY, root.settings.pack())

        await root.run(SYSTEM, work, durable=True)
        platform.release(root)
        await platform.close()

    assert server.stop() == 0
    asyncio.run(go())
    server.start()
