"""Snapshots of a real server: through the library and `dp`, over restarts, kills and load."""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import dataplatform
from dataplatform.base.errors import Denied, Exists, Invalid, NotFound, PlatformError
from tests.integration.servers import ServerProcess

DP = "from dataplatform_clients.cli.main import main; main()"


@contextlib.contextmanager
def serving(directory: Path, engine: str = "rocks") -> Iterator[ServerProcess]:
    process = ServerProcess(directory, engine)
    process.start()
    try:
        yield process
    finally:
        process.stop()


def run(process: ServerProcess, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DP, "--server", process.address, *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def fill(dp: dataplatform.Client, base: str) -> None:
    dp.mkdir(f"{base}/d", parents=True)
    with dp.open(f"{base}/d/f", "wb") as f:
        f.write(b"before")
    with dp.open(f"{base}/d/large", "wb") as f:
        f.write(b"x" * (1 << 20))
    table = dp.create_table(f"{base}/t", ttl=timedelta(days=1))
    table.put_many({f"k{i}": {"n": i} for i in range(100)})
    stream = dp.create_stream(f"{base}/s", partitions=2)
    with stream.producer() as producer:
        for i in range(10):
            producer.send("a", value=b"%d" % i, key=b"%d" % (i % 3))
    with stream.consumer("a", group="g") as consumer:
        for count, _ in enumerate(consumer, 1):
            if count == 4:
                break
        consumer.commit()


def change(dp: dataplatform.Client, base: str) -> None:
    with dp.open(f"{base}/d/f", "wb") as f:
        f.write(b"after, and longer")
    dp.remove(f"{base}/d/large")
    table = dp.table(f"{base}/t")
    table.put("k1", {"n": "changed"})
    table.delete("k2")
    stream = dp.stream(f"{base}/s")
    with stream.producer() as producer:
        producer.send("a", value=b"later")
    with stream.consumer("a", group="g", follow=False) as consumer:
        list(consumer)
        consumer.commit()


def check_before(dp: dataplatform.Client, path: str) -> None:
    """What `fill` left, seen at a path."""
    with dp.open(f"{path}/d/f", "rb") as f:
        assert f.read() == b"before"
    with dp.open(f"{path}/d/large", "rb") as f:
        assert f.read() == b"x" * (1 << 20)
    assert sorted(entry.name for entry in dp.scandir(path)) == ["d", "s", "t"]
    table = dp.table(f"{path}/t")
    assert table.get("k2").columns == {"n": 2}
    assert {row.key: row.columns["n"] for row in table.scan()} == {f"k{i}": i for i in range(100)}
    stream = dp.stream(f"{path}/s")
    with stream.consumer("a") as consumer:
        values = [record.value for record in consumer]  # it follows, and yet it ends
    assert sorted(values) == [b"%d" % i for i in range(10)]
    (group,) = stream.groups()
    assert sum(offset.offset for offset in group.offsets) == 4


@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_all_kinds_as_they_were(engine: str, tmp_path: Path) -> None:
    with serving(tmp_path, engine) as process:
        with dataplatform.connect(process.address) as dp:
            dp.create_volume("/v")
            fill(dp, "/v/p")
            taken = dp.create_snapshot("/v/p", "monday")
            assert (taken.name, taken.path) == ("monday", "/v/.snapshot/monday")
            change(dp, "/v/p")
            for path in ("/v/.snapshot/monday/p", "/v/p/.snapshot/monday", "/v/p@monday"):
                check_before(dp, path)
            with pytest.raises(Exists):
                dp.create_snapshot("/v", "monday")
        process.kill()
        process.start()
        with dataplatform.connect(process.address) as dp:
            check_before(dp, "/v/p@monday")
            (found,) = dp.snapshots("/v", sizes=True)
            assert found.frees_bytes is not None
            assert found.commit == taken.commit
            assert dp.volume_info("/v").snapshots == 1
            dp.remove_snapshot("/v", "monday")
            assert dp.snapshots("/v") == []
            with pytest.raises(NotFound):
                dp.stat("/v/p@monday")
            assert not list(dp.check().findings)


def test_nothing_in_it_changes(tmp_path: Path) -> None:
    with serving(tmp_path) as process, dataplatform.connect(process.address) as dp:
        fill(dp, "/p")
        dp.create_snapshot("/", "monday")
        at = "/p/.snapshot/monday"
        table, stream = dp.table(f"{at}/t"), dp.stream(f"{at}/s")
        for call in (
            lambda: dp.mkdir(f"{at}/new"),
            lambda: dp.remove(f"{at}/d/f"),
            lambda: dp.rename(f"{at}/d/f", f"{at}/d/g"),
            lambda: dp.chmod(f"{at}/d/f", 0o600),
            lambda: dp.open(f"{at}/d/f", "wb").close(),
            lambda: dp.open(f"{at}/d/f", "r+b").close(),
            lambda: table.put("k1", {"n": 0}),
            lambda: table.delete("k1"),
            lambda: stream.create_topic("b"),
            lambda: stream.consumer("a", group="g"),
            lambda: dp.create_snapshot(at, "again"),
        ):
            with pytest.raises(Invalid) as error:
                call()
            assert error.value.os_errno in (errno.EROFS, errno.EINVAL)
        with pytest.raises(PlatformError), stream.producer() as producer:
            producer.send("a", value=b"x").result()
        check_before(dp, at)


def test_a_volume_goes_with_its_snapshots_if_told_so(tmp_path: Path) -> None:
    with serving(tmp_path) as process, dataplatform.connect(process.address) as dp:
        dp.create_volume("/v")
        dp.create_snapshot("/v", "monday")
        with pytest.raises(Invalid, match="snapshots"):
            dp.remove_volume("/v")
        dp.remove_volume("/v", recursive=True)
        dp.create_volume("/v")
        assert dp.snapshots("/v") == []
        assert not list(dp.check().findings)


def test_who_may(tmp_path: Path) -> None:
    with serving(tmp_path) as process, dataplatform.connect(process.address) as dp:
        dp.create_volume("/v")
        dp.create_user("ana")
        token = dp.create_token("ana").token
        dp.create_snapshot("/v", "monday")
        with dataplatform.connect(process.address, token=token) as ana:
            assert [s.name for s in ana.snapshots("/v")] == ["monday"]
            for call in (
                lambda: ana.create_snapshot("/v", "tuesday"),
                lambda: ana.remove_snapshot("/v", "monday"),
                lambda: ana.set_snapshot_schedule("/v", every=timedelta(hours=1), keep=3),
            ):
                with pytest.raises(Denied):
                    call()


def test_commands(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        run(process, "volume", "create", "/v")
        run(process, "mkdir", "/v/d")
        made = json.loads(run(process, "snapshot", "create", "/v", "monday", "--json"))
        assert made["path"] == "/v/.snapshot/monday"
        run(process, "rm", "-r", "/v/d")
        assert run(process, "ls", "/v/.snapshot/monday").split() == ["d"]
        assert run(process, "ls", "/v@monday").split() == ["d"]
        assert run(process, "ls", "/v/.snapshot").split() == ["monday"]
        (listed,) = map(json.loads, run(process, "snapshot", "ls", "/v", "--json").splitlines())
        assert listed["name"] == "monday"
        assert listed["frees_bytes"] is not None
        assert "monday" in run(process, "snapshot", "ls", "/v")
        assert "monday" in run(process, "snapshot", "info", "/v/.snapshot/monday")
        assert "which snapshot" in run(process, "snapshot", "info", "/v", code=2)
        run(process, "snapshot", "schedule", "/v", "--every", "1h", "--keep", "24")
        scheduled = json.loads(run(process, "snapshot", "schedule", "/v", "--json"))
        assert (scheduled["name"], scheduled["keep"]) == ("hourly", 24)
        run(process, "snapshot", "schedule", "/v", "--remove", "hourly")
        assert run(process, "snapshot", "schedule", "/v", "--json") == ""
        run(process, "snapshot", "remove", "/v", "monday")
        assert "no such snapshot" in run(process, "snapshot", "info", "/v", "monday", code=3)


def test_a_schedule_takes_them_and_lets_them_go(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        with dataplatform.connect(process.address) as dp:
            dp.create_volume("/v")
            set_ = dp.set_snapshot_schedule("/v", every=timedelta(seconds=1), keep=2)
            assert set_.name == "every-1s"
            seen: set[str] = set()
            while len(seen) < 3:
                found = dp.snapshots("/v")
                assert len(found) <= 3
                seen |= {snapshot.name for snapshot in found}
        process.kill()
        process.start()
        with dataplatform.connect(process.address) as dp:
            while not {snapshot.name for snapshot in dp.snapshots("/v")} - seen:
                pass
            dp.remove_snapshot_schedule("/v", "every-1s")
            assert 2 <= len(dp.snapshots("/v")) <= 3
            assert not list(dp.check().findings)
