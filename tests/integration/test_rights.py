"""Two users of a real server: what each may do, and that a right that is withdrawn is gone at once
for a consumer, a scan and a follower that are under way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import dataplatform
from dataplatform import Client, Denied, aio

from .servers import ServerProcess

WITHDRAWN_S = 1.0
"""A right that was withdrawn is gone within this time."""

PATIENCE_S = 20.0


class Cluster:
    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.admin = dataplatform.connect(server.address)
        self.tokens: dict[str, str] = {}

    def user(self, name: str, *groups: str) -> Client:
        self.admin.create_user(name, groups=groups)
        self.tokens[name] = self.admin.create_token(name).token
        return dataplatform.connect(self.server.address, self.tokens[name])

    def dp(self, *arguments: str, user: str = "") -> subprocess.CompletedProcess[str]:
        token = ["--token", self.tokens[user]] if user else []
        return subprocess.run(
            [
                str(Path(sys.executable).parent / "dp"),
                *("--server", self.server.address, *token, *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    server = ServerProcess(tmp_path)
    server.start()
    made = Cluster(server)
    try:
        yield made
        made.admin.close()
        assert server.stop() == 0
        assert server.check().returncode == 0
    finally:
        server.kill()


def test_one_rule_holds_for_every_kind(cluster: Cluster) -> None:
    admin = cluster.admin
    admin.create_group("eng")
    ana, bob = cluster.user("ana", "eng"), cluster.user("bob")
    admin.mkdir("/d")
    table, stream = admin.create_table("/d/t"), admin.create_stream("/d/s")
    table.put("k", {"a": 1, "owner": "x"})
    admin.write_file("/d/f", b"x")
    with stream.producer() as producer:
        producer.send("a", b"x")
    admin.acl.set("/d", read="g:eng", write="g:eng", consume="g:eng", produce="u:ana")
    assert ana.read_file("/d/f") == b"x"
    assert ana.table("/d/t").get("k").columns == {"a": 1, "owner": "x"}  # type: ignore[union-attr]
    with ana.stream("/d/s").producer() as producer:
        producer.send("a", b"y")
    for refused in (
        lambda: bob.read_file("/d/f"),
        lambda: bob.table("/d/t").get("k"),
        lambda: list(bob.table("/d/t").scan()),
        lambda: bob.table("/d/t").put("k", {"a": 2}),
        lambda: bob.stream("/d/s").topics(),
    ):
        with pytest.raises(Denied):
            refused()
    admin.acl.set("/d/t", {"read": "p", "read:owner": "g:eng"})
    assert bob.table("/d/t").get("k").columns == {"a": 1}  # type: ignore[union-attr]
    with pytest.raises(Denied):
        list(bob.table("/d/t").scan(where="owner = 'x'"))
    with pytest.raises(Denied):
        bob.acl.set("/d/t", read="p")


def test_an_administrators_session_goes_on_under_another_name(cluster: Cluster) -> None:
    """The uid at the other end of the socket becomes a user's, and is nobody's again."""
    admin = cluster.admin
    admin.mkdir("/d")
    admin.create_user("ana", uid=os.geteuid(), admin=True)
    assert admin.whoami().name == "ana"
    admin.write_file("/d/f", b"x")
    admin.remove_user("ana")
    assert admin.whoami().name != "ana"
    admin.write_file("/d/f", b"y")
    assert admin.read_file("/d/f") == b"y"


def test_the_command_explains(cluster: Cluster) -> None:
    cluster.user("ana").close()
    cluster.user("bob").close()
    admin = cluster.admin
    admin.mkdir("/d/e", parents=True)
    assert cluster.dp("acl", "set", "/d", "read=u:ana|u:bob", "list=p").returncode == 0
    assert cluster.dp("acl", "set", "/d/e", "read=").returncode == 0
    shown = [
        json.loads(line)
        for line in cluster.dp("acl", "get", "/d/e", "--json").stdout.split("\n")
        if line
    ]
    assert {"verb": "read", "expression": "", "path": "/d/e", "inherited": False} in shown
    assert {"verb": "list", "expression": "p", "path": "/d", "inherited": True} in shown
    why = cluster.dp("acl", "check", "/d/e", "ana", "read", "list").stdout
    assert "denied" in why
    assert 'read="" set on /d/e' in why
    assert "list=p set on /d" in why
    assert cluster.dp("acl", "check", "/d/e", user="bob").returncode == 0
    assert cluster.dp("acl", "check", "/d/e", "ana", user="bob").returncode == 5
    assert cluster.dp("acl", "set", "/d", "read=p", user="bob").returncode == 5
    wrong = cluster.dp("acl", "set", "/d", "read=u:ana | u:")
    assert wrong.returncode == 2
    lines = wrong.stderr.rstrip("\n").split("\n")
    assert lines[-1].index("^") == len(lines[-2])
    assert cluster.dp("acl", "set", "/d", "read=u:bob", "--recursive").returncode == 0
    assert admin.acl.get("/d/e").own == {}
    assert admin.acl.check("/d/e", "bob", "read")[0].allowed


def test_copies_take_rules_along_and_moves_keep_them(cluster: Cluster) -> None:
    admin = cluster.admin
    admin.mkdir("/d/e", parents=True)
    admin.write_file("/d/e/f", b"x")
    admin.acl.set("/d/e", write="u:ana")
    admin.acl.set("/d/e/f", read="u:bob", write="")
    admin.copy("/d", "/copy", recursive=True)
    assert admin.acl.get("/copy/e").own == {"write": "u:ana"}
    assert admin.acl.get("/copy/e/f").own == {"read": "u:bob", "write": ""}
    assert cluster.dp("cp", "-r", "/d", "/again").returncode == 0
    assert admin.acl.get("/again/e").own == {"write": "u:ana"}
    admin.rename("/d/e", "/moved")
    assert admin.acl.get("/moved").own == {"write": "u:ana"}


def test_a_right_that_is_withdrawn_is_gone_for_what_is_under_way(cluster: Cluster) -> None:
    admin = cluster.admin
    cluster.user("bob").close()
    table, stream = admin.create_table("/t"), admin.create_stream("/s")
    table.put_many({f"k{i:06}": {"a": "x" * 1000} for i in range(5000)})
    with stream.producer() as producer:
        producer.send("a", b"first")
    admin.acl.set("/t", read="u:bob")
    admin.acl.set("/s", consume="u:bob")
    asyncio.run(_under_way(cluster))


async def _to_the_end(rows: AsyncIterator[Any]) -> None:
    async for _ in rows:
        pass


async def _under_way(cluster: Cluster) -> None:
    address = cluster.server.address
    async with (
        aio.connect(address) as admin,
        aio.connect(address, cluster.tokens["bob"]) as bob,
    ):
        table = await bob.table("/t")
        stream = await bob.stream("/s")
        rows = table.scan().__aiter__()
        await rows.__anext__()
        async with await stream.consumer("a", start="earliest") as consumer:
            records = consumer.__aiter__()
            assert (await records.__anext__()).value == b"first"
            waiting = asyncio.ensure_future(records.__anext__())
            await admin.acl.set("/t", read="")
            await admin.acl.set("/s", consume="")
            began_s = time.monotonic()
            with pytest.raises(Denied):
                await asyncio.wait_for(waiting, PATIENCE_S)
            waited_s = time.monotonic() - began_s
            with pytest.raises(Denied):
                await _to_the_end(rows)
            assert waited_s < 3 * WITHDRAWN_S  # as far as a busy machine lets it be measured


def test_a_token_that_is_revoked_ends_what_waits(cluster: Cluster) -> None:
    admin = cluster.admin
    bob = cluster.user("bob")
    admin.mkdir("/d")
    start = max(change.commit for change in admin.changes("/"))

    def follow() -> Any:
        return list(bob.changes("/d", since=start, follow=True))

    raised: list[BaseException] = []

    def run() -> None:
        try:
            follow()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    admin.revoke_tokens(user="bob")
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert isinstance(raised[0], Denied)


def test_what_may_not_be_written_is_not_opened_to_be(cluster: Cluster) -> None:
    admin, bob = cluster.admin, cluster.user("bob")
    admin.mkdir("/d")
    admin.chmod("/d", 0o777)
    for content in (b"", b"kept"):
        admin.write_file("/d/f", content)
        before = admin.stat("/d/f")
        for mode in ("w", "a", "r+", "w+b", "ab"):
            with pytest.raises(Denied):
                bob.open("/d/f", mode)
        after = admin.stat("/d/f")
        assert admin.read_file("/d/f") == content
        assert (after.mtime, after.version) == (before.mtime, before.version)
    with bob.open("/d/own", "w") as file:
        file.write("x")
    with bob.open("/d/own", "a") as file:
        file.write("y")
    admin.symlink("own", "/d/link")
    with bob.open("/d/link", "a") as file:
        file.write("z")
    assert bob.read_file("/d/own") == b"xyz"


def test_refusals_about_identities_are_in_the_audit(cluster: Cluster) -> None:
    admin, bob = cluster.admin, cluster.user("bob")
    admin.set_volume("/", audit="changes")
    ana = cluster.user("ana")
    for refused in (
        lambda: bob.create_user("eve", admin=True),
        lambda: bob.set_user("bob", admin=True),
        lambda: bob.create_token("ana"),
        lambda: bob.remove_user("ana"),
        lambda: bob.create_group("wheel"),
        lambda: bob.users(),
    ):
        with pytest.raises(Denied):
            refused()
    ana.whoami()
    names = {"CreateUser", "SetUser", "CreateToken", "RemoveUser", "CreateGroup", "Users"}
    told: dict[str, Any] = {}
    end = time.monotonic() + PATIENCE_S
    while len(told) < len(names) and time.monotonic() < end:
        done = cluster.dp("audit", "/", "--denied", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        told = {
            line["verb"].removeprefix("Identities."): line
            for line in lines
            if line.get("verb", "").startswith("Identities.")
        }
    assert told.keys() >= names, told.keys()
    assert {line["user"] for line in told.values()} == {"bob"}
