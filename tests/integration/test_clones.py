"""Clones and restoring with a real server: through the library and `dp`, and killed on the way."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

import dataplatform
from dataplatform.base.errors import Conflict, Denied, Invalid
from tests.integration.test_snapshots import change, fill, run, serving


def check_before(dp: dataplatform.Client, path: str) -> None:
    """What `fill` left, seen at a path, whether it is in a snapshot or not."""
    with dp.open(f"{path}/d/f", "rb") as f:
        assert f.read() == b"before"
    with dp.open(f"{path}/d/large", "rb") as f:
        assert f.read() == b"x" * (1 << 20)
    assert sorted(entry.name for entry in dp.scandir(path)) == ["d", "s", "t"]
    assert {row.key: row.columns["n"] for row in dp.table(f"{path}/t").scan()} == {
        f"k{i}": i for i in range(100)
    }
    stream = dp.stream(f"{path}/s")
    with stream.consumer("a", follow=False) as consumer:
        assert sorted(record.value for record in consumer) == [b"%d" % i for i in range(10)]
    (group,) = stream.groups()
    assert sum(offset.offset for offset in group.offsets) == 4


ROUNDS = 6
ROUNDS_SYSTEM = 100
"""At most twice as many kills."""


@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_a_clone_goes_its_own_way(engine: str, tmp_path: Path) -> None:
    with serving(tmp_path, engine) as process, dataplatform.connect(process.address) as dp:
        dp.create_volume("/v", quota_bytes=1 << 30)
        fill(dp, "/v/p")
        dp.create_snapshot("/v", "monday")
        change(dp, "/v/p")
        run(process, "snapshot", "clone", "/v", "monday", "/w")
        check_before(dp, "/w/p")
        assert dp.volume_info("/w").quota_bytes == 1 << 30
        change(dp, "/w/p")
        with dp.open("/w/p/d/new", "wb") as f:
            f.write(b"n" * (1 << 20))
        check_before(dp, "/v/p@monday")
        said = run(process, "snapshot", "promote", "/w/p/d", code=6)
        assert "/p/d" in said
        process.kill()
        process.start()
    with serving(tmp_path, engine) as process, dataplatform.connect(process.address) as dp:
        dp.create_snapshot("/v", "tuesday")
        dp.clone_snapshot("/v", "tuesday", "/x")
        with dp.open("/x/p/d/more", "wb") as f:
            f.write(b"m" * (1 << 20))
        dp.table("/x/p/t").put("k1", {"n": -1})
        assert dp.promote_clone("/x/p") == "/v/p"
        with dp.open("/v/p/d/more", "rb") as f:
            assert f.read() == b"m" * (1 << 20)
        assert dp.table("/v/p/t").get("k1").columns == {"n": -1}
        with pytest.raises(Conflict):
            dp.promote_clone("/x/p")
        with pytest.raises(Invalid, match="no clone") as refused:
            dp.promote_clone("/v/p")
        assert refused.value.facts["path"] == "/v"
        with pytest.raises(Invalid, match="root of the clone"):
            dp.promote_clone("/x")
        if engine == "slate":
            with pytest.raises(Invalid):
                dp.remove_snapshot("/v", "tuesday")
        for path in ("/w", "/x"):
            dp.remove_volume(path, recursive=True)
        for name in ("monday", "tuesday"):
            dp.remove_snapshot("/v", name)
        assert not list(dp.check().findings)


@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_restoring(engine: str, tmp_path: Path) -> None:
    with serving(tmp_path, engine) as process, dataplatform.connect(process.address) as dp:
        dp.create_volume("/v")
        fill(dp, "/v/p")
        dp.create_snapshot("/v", "monday")
        change(dp, "/v/p")
        dp.create_snapshot("/v", "tuesday")
        run(process, "snapshot", "restore", "/v/p/d/large", "monday")
        with dp.open("/v/p/d/large", "rb") as f:
            assert f.read() == b"x" * (1 << 20)
        run(process, "snapshot", "restore", "/v/p/s", "monday")
        run(process, "snapshot", "restore", "/v", "monday")
        check_before(dp, "/v/p")
        assert dp.table("/v/p@tuesday/t").get("k1").columns == {"n": "changed"}
        assert dp.restore_snapshot("/v", "tuesday") == "/v"
        dp.rmtree("/v/p")
        assert dp.restore_snapshot("/v/p", "monday") == "/v/p"
        check_before(dp, "/v/p")
        process.kill()
        process.start()
        check_before(dp, "/v/p")
        assert [s.name for s in dp.snapshots("/v")] == ["monday", "tuesday"]
        events = [c.event for c in dp.changes("/v", events=["restored", "volume restored"])]
        assert events == ["volume restored", "restored"]
        assert not list(dp.check().findings)


def test_a_mount_like_client_sees_the_restored_volume(tmp_path: Path) -> None:
    """What another client has open, or waits for, ends; what it asks for next is new."""
    with serving(tmp_path) as process, dataplatform.connect(process.address) as dp:
        dp.create_volume("/v")
        fill(dp, "/v/p")
        dp.create_snapshot("/v", "monday")
        change(dp, "/v/p")
        dp.sync()  # else what is buffered is a commit of its own, later
        seen: list[str] = []
        since = dp.volume_info("/v").commit

        def follow() -> None:
            with dataplatform.connect(process.address) as other:
                for told in other.changes("/v", since=since, follow=True):
                    seen.append(told.event)
                    if told.event == "volume restored":
                        return

        thread = threading.Thread(target=follow)
        thread.start()
        with dataplatform.connect(process.address) as other, other.open("/v/p/d/f", "rb") as f:
            assert f.read() == b"after, and longer"
            dp.restore_snapshot("/v", "monday")
            check_before(other, "/v/p")
        thread.join(30)
        assert seen[-1] == "volume restored"  # a write that nobody synced may be told before
        with pytest.raises(dataplatform.PlatformError) as error:
            next(iter(dp.changes("/v", since=since - 1)))
        assert error.value.kind.name == "STALE"


@pytest.mark.allow_warnings
@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_killed_while_cloning_and_restoring(engine: str, tmp_path: Path, seed: int) -> None:
    campaign(engine, tmp_path, seed, ROUNDS)


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.allow_warnings
@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_killed_often(engine: str, tmp_path: Path, seed: int) -> None:
    campaign(engine, tmp_path, seed, ROUNDS_SYSTEM)


def campaign(engine: str, tmp_path: Path, seed: int, rounds: int) -> None:
    """Each is repeated by its client until it is answered; a snapshot is what it was all along."""
    rng = random.Random(seed)
    with serving(tmp_path, engine) as process:
        with dataplatform.connect(process.address) as dp:
            dp.create_volume("/v")
            fill(dp, "/v/p")
            dp.create_snapshot("/v", "monday")
            change(dp, "/v/p")
            dp.create_snapshot("/v", "tuesday")
        done: list[str] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with dataplatform.connect(process.address) as dp:
                    for number in range(rounds):
                        dp.restore_snapshot("/v", "monday")
                        check_before(dp, "/v/p")
                        done.append("restored")
                        dp.clone_snapshot("/v", "tuesday", f"/w{number}")
                        dp.restore_snapshot("/v/p", "tuesday")
                        assert dp.table("/v/p/t").get("k1").columns == {"n": "changed"}
                        dp.restore_snapshot("/v/p", "monday")
                        check_before(dp, "/v/p")
                        dp.remove_volume(f"/w{number}", recursive=True)
                        done.append("cloned")
            except BaseException as error:
                failed.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        kills = 0
        while worker.is_alive():
            worker.join(rng.uniform(0.05, 1.0))
            if worker.is_alive() and kills < 2 * rounds:
                process.kill()
                process.start()
                kills += 1
        assert not failed, failed
        assert len(done) == 2 * rounds
        print(f"{engine}: {kills} kills")  # noqa: T201  with -rA
        with dataplatform.connect(process.address) as dp:
            check_before(dp, "/v/p")
            check_before(dp, "/v/p@monday")
            assert not list(dp.check().findings)
            assert [volume.path for volume in dp.volumes()] == ["/", "/v"]
    left = sorted(p.name for p in (tmp_path / "data" / "volumes").glob("*"))
    assert engine == "slate" or len(left) == 2, left


def test_who_may(tmp_path: Path) -> None:
    with serving(tmp_path) as process, dataplatform.connect(process.address) as dp:
        dp.create_volume("/v")
        fill(dp, "/v/p")
        dp.create_snapshot("/v", "monday")
        dp.create_user("ana")
        token = dp.create_token("ana").token
        with dataplatform.connect(process.address, token=token) as ana:
            for call in (
                lambda: ana.clone_snapshot("/v", "monday", "/v/c"),
                lambda: ana.restore_snapshot("/v", "monday"),
                lambda: ana.restore_snapshot("/v/p", "monday"),
            ):
                with pytest.raises(Denied):
                    call()
        with pytest.raises(Invalid):
            dp.restore_snapshot("/", "monday")
