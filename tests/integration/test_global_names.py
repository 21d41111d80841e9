"""/east/path from any client of a cluster that knows east: through real servers, as who one is."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Denied, Invalid, NotFound, Unavailable
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from tests.integration.test_clusters import Cluster, clusters

EXDEV, EHOSTDOWN = 18, 112
FAST_S = 20.0  # a call that waited for a server that is away would take minutes


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Cluster]]:
    with clusters(tmp_path, "home", "east", "west") as made:
        home, *others = made
        with home.connect() as dp:
            for other in others:
                dp.add_cluster(other.name, other.address, token=other.token())
        yield made


def test_everything_has_a_global_name(three: list[Cluster]) -> None:
    home, east, west = three
    with home.connect() as dp, east.connect() as there:
        dp.mkdir("/projects")
        entries = list(dp.scandir("/"))
        assert [entry.name for entry in entries] == ["east", "projects", "west"]
        assert [entry.is_cluster for entry in entries] == [True, False, True]
        assert [place for place, _, _ in dp.walk("/")] == ["/", "/projects"]
        dp.mkdir("/east/p/q", parents=True)
        data = os.urandom(3_000_000)
        dp.write_file("/east/p/f", data)
        assert there.read_file("/p/f") == data
        assert dp.read_file("/east/p/f") == data
        assert dp.read_file("/home/east/p/f") == data if dp.exists("/home/east") else True
        assert [entry.path for entry in dp.scandir("/east/p")] == ["/east/p/f", "/east/p/q"]
        table = dp.create_table("/east/p/t")
        table.put("a", {"n": 1})
        assert table.increment("a", "n", 2) == 3
        table.put_many({str(n): {"n": n} for n in range(1000)})
        assert len(list(table.scan())) == 1001
        assert there.table("/p/t").get("7").columns == {"n": 7}
        stream = dp.create_stream("/east/p/s", partitions=2)
        with stream.producer() as producer:
            for n in range(100):
                producer.send("t", value=b"%d" % n, key=b"k")
        with stream.consumer("t", group="g", start="earliest") as consumer:
            got = [record.value for _, record in zip(range(100), consumer, strict=False)]
            consumer.commit()
        assert got == [b"%d" % n for n in range(100)]
        assert sum(offset.offset for offset in there.stream("/p/s").group("g").offsets) == 100
        with dp.transaction("/east/p") as tx:
            tx.rename("f", "g")
            tx.table("t").put("b", {"n": 2})
            tx.stream("s").append("t", b"x")
        assert there.exists("/p/g")
        with dp.open("/east/p/h", "w+b") as file:
            file.write(b"abcdef")
            file.seek(2)
            file.write(b"xx")
            file.sync()
            dp.remove("/east/p/h")
            file.seek(0)
            assert file.read() == b"abxxef"
        changes = list(dp.changes("/east/p"))
        renamed = next(change for change in changes if change.event == "renamed")
        assert (renamed.path, renamed.facts["from"]) == ("/east/p/g", "/east/p/f")
        for source, target in (
            ("/east/p/g", "/west/g"),
            ("/east/p/g", "/projects/g"),
            ("/projects", "/east/x"),
        ):
            with pytest.raises(Invalid) as caught:
                dp.rename(source, target)
            assert caught.value.os_errno == EXDEV
        dp.copy("/east/p/g", "/west/g")
        assert west.connect().read_file("/g") == data
        with pytest.raises(NotFound, match="/east/nope/x"):
            dp.stat("/east/nope/x")
        with pytest.raises(Invalid):
            dp.rmdir("/east")
        with pytest.raises(Invalid):
            dp.rmtree("/east")
        dp.create_volume("/east/vol")
        assert dp.volume_info("/east/vol").path == "/east/vol"
        dp.write_file("/east/vol/f", b"v")
        assert there.read_file("/vol/f") == b"v"
        dp.acl.set("/east/p/g", read="u:bob")
        assert there.acl.get("/p/g").own["read"] == "u:bob"


def test_a_symbolic_link_to_another_cluster(three: list[Cluster]) -> None:
    home, east, _ = three
    with home.connect() as dp, east.connect() as there:
        there.mkdir("/p")
        there.symlink("/p", "/q")
        dp.mkdir("/d")
        dp.symlink("/east/p", "/d/link")
        dp.symlink("/east/nowhere", "/d/broken")
        dp.write_file("/d/link/f", b"there")
        assert there.read_file("/p/f") == b"there"
        assert dp.read_file("/d/link/f") == dp.read_file("/east/q/f") == b"there"
        assert [entry.name for entry in dp.scandir("/d/link")] == ["f"]
        assert dp.stat("/d/link").volume_root is False
        assert dp.lstat("/d/link").symlink == "/east/p"
        dp.create_table("/d/link/t").put("k", {"n": 1})
        assert there.table("/p/t").get("k").columns == {"n": 1}
        with pytest.raises(NotFound):
            dp.read_file("/d/broken/f")
        with pytest.raises(NotFound):
            dp.rename("/d/link/f", "/d/link/g")
        dp.remove("/d/link/f")
        assert not there.exists("/p/f")
        dp.remove("/d/link")
        assert there.exists("/p")


def test_one_is_away_and_the_others_are_not(three: list[Cluster]) -> None:
    home, east, _ = three
    with home.connect() as dp:
        dp.write_file("/east/f", b"e")
        dp.write_file("/west/f", b"w")
        port = east.port
        east.process.kill()
        with pytest.raises(Unavailable) as caught:
            dp.stat("/east/f")
        assert caught.value.os_errno == EHOSTDOWN
        began_s = time.monotonic()
        for _ in range(20):
            with pytest.raises(Unavailable, match="east cannot be reached"):
                dp.write_file("/east/g", b"")
            assert dp.read_file("/west/f") == b"w"
        with pytest.raises(Unavailable):
            dp.sync()  # what was written to east before is perhaps not on a disk
        assert time.monotonic() - began_s < FAST_S
        assert [entry.name for entry in dp.scandir("/")] == ["east", "west"]
        east.start(port=port)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                assert dp.read_file("/east/f") == b"e"
                break
            except Unavailable:
                assert time.monotonic() < deadline_s


def test_a_restart_is_not_noticed(three: list[Cluster]) -> None:
    home, east, _ = three
    with home.connect() as dp, dp.open("/east/f", "w+b") as file:
        table = dp.create_table("/east/t")
        file.write(b"one")
        file.flush()
        ended = threading.Event()

        def restart() -> None:
            for _ in range(3):
                east.process.kill()
                east.start(port=east.port)
            ended.set()

        thread = threading.Thread(target=restart)
        thread.start()
        count = 0
        while not ended.is_set():
            try:
                table.increment("k", "n", 1)
            except Unavailable:
                break  # longer than anybody waits: nobody knows whether it was done
            count += 1
        thread.join()
        row = _when_it_is_back(lambda: table.get("k"))
        if count:
            assert count <= row.columns["n"] <= count + 1
        file.seek(0)
        assert _when_it_is_back(file.read) == b"one"


def _when_it_is_back(ask: Callable[[], Any]) -> Any:
    """What is answered once the other cluster is noticed to be there again."""
    deadline_s = time.monotonic() + FAST_S
    while True:
        try:
            return ask()
        except Unavailable:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


async def test_a_retry_is_exact(three: list[Cluster]) -> None:
    """The same request id twice: by two connections of one session, as after a lost reply."""
    home, east, _ = three
    with east.connect() as dp:
        dp.create_table("/t")
    session = os.urandom(16)
    request = pb.IncrementRequest(
        table=pb.Target(path="/east/t"),
        key=b"k",
        column="n",
        integer=1,
        request=pb.RequestId(session=session, slot=3, sequence=9),
    )
    for _ in range(2):
        hello = pb.Hello(session=session)
        connection = await AsyncConnection.open(parse(home.process.address), hello)
        reply, _ = await connection.call(METHODS["Tables.Increment"], request)
        assert reply.integer == 1
        await connection.close()


def test_users_are_the_same_by_name(three: list[Cluster]) -> None:
    home, east, _ = three
    with home.connect() as dp, east.connect() as there:
        for client in (dp, there):
            client.create_user("bob")
        dp.create_user("ana")
        there.create_group("eng")
        there.create_user("ana", uid=4711, groups=["eng"])
        dp.create_user("root2", admin=True)
        there.create_user("root2", admin=True)
        dp.create_user("stranger")
        there.mkdir("/open")
        there.chmod("/open", 0o777)
        there.write_file("/secret", b"for eng")
        there.acl.set("/secret", read="g:eng")
        there.write_file("/closed", b"")
        there.chmod("/closed", 0o600)
        tokens = {name: dp.create_token(name).token for name in ("ana", "bob", "root2", "stranger")}
        reader = dp.create_token("ana", read_only=True).token
        dp.mkdir("/jail")
        inmate = dp.create_token("ana", paths=["/jail"]).token

    def as_(token: str | None) -> dataplatform.Client:
        return dataplatform.connect(home.address, token)

    with as_(tokens["ana"]) as dp:
        assert dp.read_file("/east/secret") == b"for eng"
        dp.write_file("/east/open/a", b"")
        assert dp.stat("/east/open/a").uid == 4711
        with pytest.raises(Denied, match="/east/closed"):
            dp.read_file("/east/closed")
    with as_(tokens["bob"]) as dp, pytest.raises(Denied):
        dp.read_file("/east/secret")
    with as_(tokens["root2"]) as dp:
        # An administrator here acts by the token's right.
        assert dp.read_file("/east/closed") == b""
    with as_(tokens["stranger"]) as dp:
        with pytest.raises(Denied):
            dp.read_file("/east/secret")
        dp.write_file("/east/open/s", b"")
        assert dp.stat("/east/open/s").uid == 65534
    with as_(reader) as dp:
        assert dp.read_file("/east/secret") == b"for eng"
        with pytest.raises(Denied):
            dp.write_file("/east/open/r", b"")
    with as_(inmate) as dp, pytest.raises(Denied):
        dp.stat("/east/open")
    with as_(None) as dp:
        with pytest.raises(Denied):
            dp.read_file("/east/secret")
        dp.stat("/east/open")
    with east.connect() as there:
        there.set_user("ana", disabled=True)
    with as_(tokens["ana"]) as dp, pytest.raises(Denied):
        dp.read_file("/east/secret")


def test_a_token_that_speaks_for_nobody(tmp_path: Path) -> None:
    with clusters(tmp_path, "home", "east") as (home, east):
        with east.connect() as there:
            there.create_user("link")
            there.mkdir("/p")
            there.chown("/p", 10_000, 10_000)
            there.chmod("/p", 0o700)
        with home.connect() as dp:
            dp.add_cluster("east", east.address, token=east.token(speak=False))
            assert dp.clusters()[0].access == ""
            for name in ("ana", "bob"):
                dp.create_user(name)
            ana, bob = (dp.create_token(name).token for name in ("ana", "bob"))
            dp.write_file("/east/p/f", b"by link")
            assert dp.stat("/east/p/f").uid == 10_000
        with dataplatform.connect(home.address, ana) as client:
            assert list(client.listdir("/")) == []
            with pytest.raises(Denied, match="may not use this cluster"):
                client.stat("/east")
            with home.connect() as dp:
                dp.set_cluster("east", access="u:ana | p & !u:bob & !u:carl")
            assert client.read_file("/east/p/f") == b"by link"
        with dataplatform.connect(home.address, bob) as client, pytest.raises(Denied):
            client.read_file("/east/p/f")
        with dataplatform.connect(home.address) as client, pytest.raises(Denied):
            client.read_file("/east/p/f")  # who shows nothing here shows nothing there


def test_nothing_is_passed_on_twice(tmp_path: Path) -> None:
    """Two that know each other, and a third: no request goes in a circle."""
    with clusters(tmp_path, "a", "b", "c") as made:
        for one in made:
            with one.connect() as dp:
                for other in made:
                    if other is not one:
                        dp.add_cluster(other.name, other.address, token=other.token())
        with made[0].connect() as dp:
            dp.write_file("/b/f", b"")
            assert [entry.name for entry in dp.scandir("/b")] == ["f"]
            for path in ("/b/a/x", "/b/c/x", "/b/a/b/a/b/f"):
                with pytest.raises(NotFound):
                    dp.stat(path)
            assert dp.exists("/b/b/f"), "its own name is a name there, too"


def test_another_store_behind_the_address(tmp_path: Path) -> None:
    with clusters(tmp_path, "home", "east") as (home, east):
        token = east.token()
        with home.connect() as dp:
            dp.add_cluster("east", east.address, token=token)
            dp.write_file("/east/f", b"right")
            east.process.kill()
            impostor = Cluster(tmp_path / "other", "east", "--listen", f"127.0.0.1:{east.port}")
            try:
                deadline_s = time.monotonic() + 15
                while time.monotonic() < deadline_s:
                    try:
                        dp.write_file("/east/g", b"")
                    except Denied as error:
                        refusal = str(error)
                        break
                    except Unavailable:
                        continue
                    raise AssertionError("written to somebody else")
                assert "does not work with this one" in refusal
                with impostor.connect() as other:
                    assert list(other.listdir("/")) == []
            finally:
                impostor.process.stop()


def test_from_the_mirror_where_that_is_allowed(tmp_path: Path) -> None:
    with clusters(tmp_path, "home", "east") as (home, east):
        with east.connect() as there:
            there.create_volume("/p")
            there.write_file("/p/d/f", b"mirrored", parents=True)
            there.create_table("/p/t").put("k", {"n": 1})
        with home.connect() as dp:
            dp.add_cluster("east", east.address, token=east.token())
        home.dp("mirror", "create", "/copy", "--source", "/east/p", "--continuous")
        with home.connect() as dp:
            deadline_s = time.monotonic() + 30
            while not dp.exists("/copy/t") and time.monotonic() < deadline_s:
                time.sleep(0.05)
        with dataplatform.connect(home.process.address, stale_ok=True) as dp:
            assert dp.stat("/east/p/d/f").as_of_ns == 0
            node = dp.stat("/east/p/d")
            with dp.open("/east/p/d/f", "rb") as file:
                assert file.read(3) == b"mir"
                east.process.kill()
                before_ns = time.time_ns()
                found = dp.stat("/east/p/d/f")
                assert 0 < found.as_of_ns < before_ns
                assert found.inode == dp.stat("/copy/d/f").inode
                assert file.read(5) == b"rored", "open files go on, too"
            assert dp.as_of_ns == found.as_of_ns
            assert dp.read_file("/east/p/d/f") == b"mirrored"
            assert [e.as_of_ns > 0 for e in dp.scandir("/east/p")] == [True, True]
            assert dp.table("/east/p/t").get("k").columns == {"n": 1}
            assert dp.stat("/east/p/d").inode == node.inode
            for change in (
                lambda: dp.write_file("/east/p/d/g", b""),
                lambda: dp.remove("/east/p/d/f"),
                lambda: dp.stat("/east/elsewhere"),
            ):
                with pytest.raises(Unavailable, match="cannot be reached"):
                    change()
        with home.connect() as dp, pytest.raises(Unavailable):
            dp.stat("/east/p/d/f")
        assert home.dp("--stale-ok", "cat", "/east/p/d/f") == "mirrored"
        home.dp("cat", "/east/p/d/f", code=8)


async def test_a_long_poll_and_its_end(three: list[Cluster]) -> None:
    home, east, _ = three
    with home.connect() as dp:
        stream = dp.create_stream("/east/s")
        stream.create_topic("t")
    async with dataplatform.aio.connect(home.process.address) as client:
        waiting = asyncio.create_task(_first(client))
        await asyncio.sleep(0)
        with east.connect() as there:
            there.stream("/s").append("t", b"now")
        async with asyncio.timeout(10):
            assert await waiting == b"now"


async def _first(client: dataplatform.aio.Client) -> bytes:
    stream = await client.stream("/east/s")
    async with await stream.consumer("t", start="earliest") as consumer:
        async for record in consumer:
            return bytes(record.value)
    raise AssertionError
