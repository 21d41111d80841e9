"""The audit of real servers: complete across kills, and unchangeable through every door."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dataplatform
from dataplatform import Client
from dataplatform.api import platform_pb2 as pb
from tests.wires import GrpcWire

from .load import MixedLoad
from .servers import ServerProcess
from .test_mounting import _reason_to_skip
from .worker import BASE

DP = str(Path(sys.executable).with_name("dp"))
TIMEOUT_S = 30.0
Record = dict[str, Any]


def records_of(client: Client, topic: str) -> list[Record]:
    with client.stream("/.audit").consumer(topic, start="earliest", follow=False) as consumer:
        return [json.loads(record.value or b"") for record in consumer]


def wait(condition: Callable[[], Any]) -> Any:
    ends_s = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < ends_s
        time.sleep(0.02)
    return found


# ---------------------------------------------------------------------------------- complete


def _compare(client: Client) -> int:
    """What the stream says of the volume of the load is what its change feed says."""
    expected = [(c.commit, c.event, c.path, c.principal) for c in client.changes(BASE) if c.path]

    def told() -> list[Record] | None:
        found = records_of(client, BASE[1:])
        return found if found and found[-1]["commit"] >= expected[-1][0] else None

    found = wait(told)
    assert [(r["commit"], r["op"], r["path"], r["user"]) for r in found] == expected
    assert all(r["verdict"] == "allowed" for r in found)
    origins = {r["origin"] for r in found if r["user"] != "system"}
    assert all(origin.startswith(f"unix pid {os.getpid()} uid") for origin in origins)
    return len(found)


@pytest.mark.allow_warnings
@pytest.mark.parametrize("engine", ["rocks", "slate"])
async def test_everything_is_told_once_across_kills(tmp_path: Path, engine: str, seed: int) -> None:
    rng = random.Random(seed)
    server = ServerProcess(tmp_path, engine)
    await asyncio.to_thread(server.start)
    load = MixedLoad(server.address, seed)

    def prepare() -> None:
        with dataplatform.connect(server.address) as client:
            client.create_volume(BASE, audit="changes")

    def compare() -> int:
        with dataplatform.connect(server.address) as client:
            return _compare(client)

    try:
        await asyncio.to_thread(prepare)
        await load.start()
        for _ in range(6):
            await load.progress(rng.randrange(1, 400))
            server.kill()
            await asyncio.to_thread(server.start)
        await load.progress(20)
        await load.stop()
        await load.verify()
        server.kill()
        await asyncio.to_thread(server.start)
        assert await asyncio.to_thread(compare) > load.steps // 2
        await load.verify()
        await load.close()
    finally:
        server.stop()
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


# ---------------------------------------------------------------------------------- every door


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    server = ServerProcess(tmp_path_factory.mktemp("audit"), "rocks", "--grpc", "127.0.0.1:0")
    grpc = str(server.start()["grpc"])
    with dataplatform.connect(server.address) as client:
        client.set_volume("/", audit="all")
        client.create_stream("/events")
        client.write_file("/file", b"x")
        wait(lambda: client.exists("/.audit"))
    yield server, grpc
    assert server.stop() == 0
    assert server.check().returncode == 0


@pytest.fixture
def client(server: tuple[ServerProcess, str]) -> Iterator[Client]:
    """Of an administrator: the server's own uid on its socket."""
    with dataplatform.connect(server[0].address) as client:
        yield client


def dp(server: ServerProcess, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DP, *map(str, arguments)],
        env={**os.environ, "DP_SERVER": server.address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _produce(client: Client) -> None:
    with client.stream("/.audit").producer() as producer:
        producer.send("root", value=b"{}")


def _transaction(client: Client, change: Callable[[Any], Any]) -> None:
    with client.transaction("/") as transaction:
        change(transaction)


PYTHON: dict[str, Callable[[Client], Any]] = {
    "remove": lambda c: c.remove("/.audit"),
    "rmtree": lambda c: c.rmtree("/.audit"),
    "rename": lambda c: c.rename("/.audit", "/mine"),
    "replace": lambda c: c.rename("/events", "/.audit"),
    "write": lambda c: c.write_file("/.audit", b""),
    "chmod": lambda c: c.chmod("/.audit", 0o777),
    "chown": lambda c: c.chown("/.audit", 1, 1),
    "xattr": lambda c: c.setxattr("/.audit", "user.x", b"1"),
    "produce": _produce,
    "create topic": lambda c: c.stream("/.audit").create_topic("mine"),
    "delete topic": lambda c: c.stream("/.audit").delete_topic("root"),
    "append in a transaction": lambda c: _transaction(
        c, lambda t: t.stream(".audit").append("root", value=b"{}")
    ),
    "remove in a transaction": lambda c: _transaction(c, lambda t: t.remove(".audit")),
    "rename in a transaction": lambda c: _transaction(c, lambda t: t.rename(".audit", "mine")),
}

SEEN_AS_INVALID = ("write",)
"""Refused before anybody asks whose it is: a stream is in the way of a file."""


@pytest.mark.parametrize("what", PYTHON)
def test_python_does_not_change_it(client: Client, what: str) -> None:
    before = records_of(client, "root")
    expected = dataplatform.Invalid if what in SEEN_AS_INVALID else dataplatform.Denied
    with pytest.raises(expected):
        PYTHON[what](client)
    _assert_kept(client, before)


def _assert_kept(client: Client, before: list[Record]) -> None:
    assert records_of(client, "root")[: len(before)] == before
    found = client.stat("/.audit")
    assert (found.kind, found.mode, found.uid) == ("stream", 0o600, 0)
    assert [topic.name for topic in client.stream("/.audit").topics()] == ["root"]


def test_attempts_are_in_it(client: Client) -> None:
    with pytest.raises(dataplatform.Denied):
        client.remove("/.audit")

    def told() -> list[Record]:
        return [
            r
            for r in records_of(client, "root")
            if r["verdict"] == "denied" and r["rule"] == "the audit cannot be changed"
        ]

    assert wait(told)[-1]["path"] == "/.audit"


COMMANDS = {
    "rm": ("rm", "/.audit"),
    "rm -r": ("rm", "-r", "/.audit"),
    "mv": ("mv", "/.audit", "/mine"),
    "mv over it": ("mv", "/events", "/.audit"),
    "topic create": ("stream", "topic", "create", "/.audit:mine"),
    "produce": ("stream", "produce", "/.audit:root", "/etc/hostname"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_commands_do_not_change_it(
    server: tuple[ServerProcess, str], client: Client, what: str
) -> None:
    before = records_of(client, "root")
    done = dp(server[0], *COMMANDS[what])
    assert done.returncode == 5, done
    assert "audit" in done.stderr
    _assert_kept(client, before)


AUDIT = pb.Target(path="/.audit")
MINE = pb.Target(path="/mine")

GRPC: dict[str, tuple[str, Any]] = {
    "remove": ("Namespace.Remove", pb.RemoveRequest(target=AUDIT)),
    "rename": ("Namespace.Rename", pb.RenameRequest(source=AUDIT, target=MINE)),
    "exchange": (
        "Namespace.Rename",
        pb.RenameRequest(source=pb.Target(path="/events"), target=AUDIT, exchange=True),
    ),
    "chmod": ("Namespace.SetAttributes", pb.SetAttributesRequest(target=AUDIT, mode=0o777)),
    "retention": (
        "Namespace.SetAttributes",
        pb.SetAttributesRequest(target=AUDIT, stream=pb.StreamOptions(ttl_ms=1)),
    ),
    "truncate": ("Namespace.SetAttributes", pb.SetAttributesRequest(target=AUDIT, size=0)),
    "xattr": ("Namespace.SetXattr", pb.XattrRequest(target=AUDIT, name="user.x", value=b"1")),
    "create topic": ("Streams.CreateTopic", pb.TopicRequest(stream=AUDIT, topic="mine")),
    "delete topic": ("Streams.DeleteTopic", pb.TopicRequest(stream=AUDIT, topic="root")),
    "producer": ("Streams.InitProducer", pb.ProducerRequest(stream=AUDIT)),
    "delete in a transaction": (
        "Transactions.Commit",
        pb.TransactionRequest(
            base=pb.Target(path="/"),
            operations=[
                pb.TransactionRequest.Operation(
                    remove=pb.RemoveRequest(target=pb.Target(path=".audit"))
                )
            ],
        ),
    ),
}


@pytest.mark.parametrize("what", GRPC)
def test_grpc_does_not_change_it(
    server: tuple[ServerProcess, str], client: Client, what: str
) -> None:
    before = records_of(client, "root")
    wire = GrpcWire(server[1])
    try:
        reply = wire.call(*GRPC[what])
    finally:
        wire.close()
    assert isinstance(reply, pb.ErrorInfo), reply
    _assert_kept(client, before)


@pytest.mark.skipif(bool(_reason_to_skip()), reason=_reason_to_skip() or "-")
def test_a_mount_does_not_change_it(
    server: tuple[ServerProcess, str], client: Client, tmp_path: Path
) -> None:
    before = records_of(client, "root")
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    done = dp(server[0], "mount", "/", mountpoint, "--log-file", tmp_path / "mount.log")
    assert done.returncode == 0, done
    try:
        place = mountpoint / ".audit"
        assert ".audit" in os.listdir(mountpoint)
        attempts: list[Callable[[], Any]] = [
            lambda: os.rename(place, mountpoint / "mine"),
            lambda: os.rename(mountpoint / "file", place),
            lambda: os.rmdir(place),
            lambda: os.mkdir(place / "mine"),
            lambda: os.rmdir(place / "root"),
            lambda: os.unlink(place / "root" / "0"),
            lambda: os.truncate(place / "root" / "0", 0),
            lambda: (place / "root" / "all").write_text("{}\n"),
            lambda: os.chmod(place, 0o777),
            lambda: os.chown(place, 1, 1),
            lambda: os.setxattr(place, "user.x", b"1"),
        ]
        for attempt in attempts:
            with pytest.raises(OSError):
                attempt()
    finally:
        assert dp(server[0], "umount", mountpoint).returncode == 0
    _assert_kept(client, before)


# ---------------------------------------------------------------------------------- what it says


def test_reads_and_the_command(server: tuple[ServerProcess, str], client: Client) -> None:
    client.create_table("/table").put("k", {"a": 1})
    client.table("/table").get("k")
    list(client.table("/table").scan())
    client.read_file("/file")
    client.listdir("/")

    def told() -> set[tuple[str, str]] | None:
        ops = {(r["op"], r.get("path")) for r in records_of(client, "root")}
        wanted = {
            ("row put", "/table"),
            ("row got", "/table"),
            ("scanned", "/table"),
            ("read", "/file"),
            ("listed", "/"),
        }
        return wanted if wanted <= ops else None

    wait(told)
    shown = dp(server[0], "audit", "/table", "--json", "--since", "1h")
    assert shown.returncode == 0, shown
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {line["path"] for line in lines} == {"/table"}
    assert {"created", "row put", "row got"} <= {line["op"] for line in lines}
    got = next(line for line in lines if line["op"] == "row got")
    assert got["facts"]["keys"][0] == "k"
    assert dp(server[0], "audit", "/table", "--denied").stdout == ""
    assert dp(server[0], "audit", "/", "--user", "nobody-of-that-name").stdout == ""
    plain = dp(server[0], "audit", "/table")
    assert "row put" in plain.stdout
    info = dp(server[0], "volume", "info", "/")
    assert "all, /.audit:root" in info.stdout
    assert "commits behind" in dp(server[0], "status").stdout


def test_who_is_not_let_in_is_in_it(server: tuple[ServerProcess, str], client: Client) -> None:
    with pytest.raises(dataplatform.Denied):
        dataplatform.connect(server[0].address, token="no.such.token")
    wire = GrpcWire(server[1])
    wire._metadata = (*wire._metadata, ("authorization", "Bearer no.such.token"))
    try:
        assert isinstance(wire.call("System.Ping", pb.Empty()), pb.ErrorInfo)
    finally:
        wire.close()

    def told() -> list[Record] | None:
        logins = [r for r in records_of(client, "root") if r["op"] == "login"]
        return logins if len(logins) == 2 else None

    unix, grpc = wait(told)
    assert unix["origin"].startswith(f"unix pid {os.getpid()} ")
    assert grpc["origin"].startswith("grpc ipv4:127.0.0.1:")
    assert {r["verdict"] for r in (unix, grpc)} == {"denied"}
    assert "no.such.token" not in json.dumps([unix, grpc])
