"""Other clusters on a mount of the top level: directories, exact, and none holds up another."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplatform.base.errors import Unavailable
from tests.integration.test_clusters import Cluster, clusters
from tests.mount.mounts import Mount, ground


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Cluster, Cluster]]:
    with clusters(tmp_path, "home", "east") as (home, east):
        with home.connect() as dp:
            dp.add_cluster("east", east.address, token=east.token())
            dp.mkdir("/here")
        yield home, east


def wait_for(found: object, what: str, limit_s: float = 10) -> None:
    deadline_s = time.monotonic() + limit_s
    while not found():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.EHOSTDOWN:
            return False
        raise
    return True


def test_a_cluster_is_a_directory(two: tuple[Cluster, Cluster]) -> None:
    home, east = two
    with Mount(home.process.address, ground() / "mnt") as mount:
        top = mount.mountpoint
        assert sorted(os.listdir(top)) == ["east", "here"]
        (top / "east" / "projects").mkdir()
        file = top / "east" / "projects" / "a.txt"
        file.write_bytes(b"one" * 100_000)
        with open(file, "r+b") as f:
            f.seek(3)
            f.write(b"two")
            f.flush()
            os.fsync(f.fileno())
        with east.connect() as dp:
            data = dp.read_file("/projects/a.txt")
            assert data[:9] == b"onetwoone"
            assert len(data) == 300_000
            # Exact: what others change there is seen here as soon as they were answered.
            for n in range(20):
                assert file.stat().st_size == 300_000 + (n and 1) * (n - 300_000)
                assert file.read_bytes()[-1:] in (b"e", b"x")
                dp.write_file("/projects/a.txt", b"x" * (n + 1))
                assert file.read_bytes() == b"x" * (n + 1)
                dp.write_file(f"/projects/new{n}", b"")
                assert (top / "east" / "projects" / f"new{n}").exists()
                dp.remove(f"/projects/new{n}")
                assert not (top / "east" / "projects" / f"new{n}").exists()
        with pytest.raises(OSError) as caught:
            os.rename(file, top / "here" / "a.txt")
        assert caught.value.errno == errno.EXDEV
        subprocess.run(["mv", file, top / "here" / "a.txt"], check=True, timeout=20)
        assert (top / "here" / "a.txt").read_bytes() == b"x" * 20
        assert not file.exists()
        with open(top / "east" / "deleted", "w+b") as f:
            f.write(b"still there")
            f.flush()
            os.unlink(top / "east" / "deleted")
            f.seek(0)
            assert f.read() == b"still there"
        with pytest.raises(OSError):
            os.rmdir(top / "east")
        with pytest.raises(FileExistsError):
            os.mkdir(top / "east")


def test_a_cluster_that_is_away(two: tuple[Cluster, Cluster]) -> None:
    home, east = two
    with Mount(home.process.address, ground() / "mnt") as mount:
        top = mount.mountpoint
        (top / "east" / "f").write_bytes(b"abc")
        file = open(top / "east" / "f", "r+b")  # noqa: SIM115
        port = east.port
        east.process.kill()
        began_s = time.monotonic()
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                os.stat(top / "east" / "f")
            assert caught.value.errno == errno.EHOSTDOWN
        assert time.monotonic() - began_s < 12
        began_s = time.monotonic()
        assert sorted(os.listdir(top)) == ["east", "here"]
        (top / "here" / "x").write_bytes(b"y")
        with pytest.raises(OSError):
            os.listdir(top / "east")
        assert time.monotonic() - began_s < 2, "the rest goes on"
        east.start(port=port)
        wait_for(lambda: is_there(top / "east" / "f"), "it is there again")
        assert (top / "east" / "f").read_bytes() == b"abc"
        file.write(b"abd")
        file.flush()
        os.fsync(file.fileno())
        file.close()
        with east.connect() as dp:
            assert dp.read_file("/f") == b"abd"


def test_a_cluster_that_is_silent(two: tuple[Cluster, Cluster]) -> None:
    """As behind a cable that is cut: nobody says that it is away."""
    home, east = two
    with Mount(home.process.address, ground() / "mnt") as mount, home.connect() as dp:
        top = mount.mountpoint
        (top / "east" / "f").write_bytes(b"abc")
        east.process.signal(signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            with pytest.raises(OSError) as caught:
                (top / "east" / "g").write_bytes(b"")
            assert caught.value.errno == errno.EHOSTDOWN
            assert time.monotonic() - began_s < 12
            began_s = time.monotonic()
            for n in range(10):
                (top / "here" / f"x{n}").write_bytes(b"y")
                assert sorted(os.listdir(top)) == ["east", "here"]
                with pytest.raises(OSError):
                    os.stat(top / "east" / "f")
                with pytest.raises(Unavailable):
                    dp.read_file("/east/f")
            assert time.monotonic() - began_s < 3, "the rest goes on"
        finally:
            east.process.signal(signal.SIGCONT)
        wait_for(lambda: is_there(top / "east" / "f"), "it is there again")
        with east.connect() as there:
            there.write_file("/f", b"abd")
        assert (top / "east" / "f").read_bytes() == b"abd"


def test_a_cluster_that_comes_and_goes(tmp_path: Path) -> None:
    with (
        clusters(tmp_path, "home", "east") as (home, east),
        Mount(home.process.address, ground() / "mnt") as mount,
        home.connect() as dp,
    ):
        top = mount.mountpoint
        assert not (top / "east").exists()
        dp.add_cluster("east", east.address, token=east.token())
        assert (top / "east").is_dir()
        (top / "east" / "d").mkdir()
        dp.remove_cluster("east")
        wait_for(lambda: not (top / "east").exists(), "it is not known any more")
        assert os.listdir(top) == []
    with clusters(tmp_path / "sub", "home", "east") as (home, east):
        with home.connect() as dp:
            dp.add_cluster("east", east.address, token=east.token())
            dp.mkdir("/east/deep/er", parents=True)
        with Mount(home.process.address, ground() / "mnt", "/east/deep") as mount:
            (mount.mountpoint / "er" / "f").write_text("below")
        with east.connect() as dp:
            assert dp.read_file("/deep/er/f") == b"below"
