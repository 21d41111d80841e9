"""The change feed of real servers: followed live, and published exactly once across kills."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

import dataplatform
from dataplatform import Change, Client
from dataplatform_clients.cli import outputs

from .load import MixedLoad
from .servers import ServerProcess
from .worker import BASE

DP = str(Path(sys.executable).with_name("dp"))
TIMEOUT_S = 60.0
DELAY_S = 0.05
"""From a commit to who follows: what is promised, of a machine that has the time."""


def wait(condition: Callable[[], Any]) -> Any:
    ends_s = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < ends_s
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("changes"))
    server.start()
    yield server
    assert server.stop() == 0
    assert server.check().returncode == 0


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with dataplatform.connect(server.address) as client:
        yield client


class Follower:
    """Reads the feed of a path in a thread, with the time at which each change came."""

    def __init__(self, address: str, path: str, since: int, **filters: Any) -> None:
        self.came: Queue[tuple[float, Change]] = Queue()
        self.error: BaseException | None = None
        self._arguments = address, path, since, filters
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        address, path, since, filters = self._arguments
        try:
            with dataplatform.connect(address) as client:
                for change in client.changes(path, since, follow=True, **filters):
                    self.came.put((time.monotonic(), change))
        except dataplatform.PlatformError as error:
            self.error = error

    def next(self) -> tuple[float, Change]:
        return self.came.get(timeout=TIMEOUT_S)

    def end(self) -> BaseException | None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.error


def test_who_follows_hears_within_50_ms(server: ServerProcess, client: Client) -> None:
    """Of rows, which are durable when they are answered; and of files, which nobody syncs."""
    client.mkdir("/live")
    table = client.create_table("/live/table")
    follower = Follower(server.address, "/live", 0)
    assert [follower.next()[1].event for _ in range(2)] == ["created", "created"]
    delays: dict[str, list[float]] = {"rows": [], "files": []}
    for number in range(60):
        what = "rows" if number % 2 else "files"
        began_s = time.monotonic()
        if number % 2:
            table.put(f"k{number}", {"n": number})
        else:
            client.open(f"/live/{number}", "xb").close()
        came_s, change = follower.next()
        assert change.path in ("/live/table", f"/live/{number}")
        delays[what].append(came_s - began_s)
    medians_s = {name: statistics.median(each) for name, each in delays.items()}
    assert all(median_s < DELAY_S for median_s in medians_s.values()), medians_s
    client.rmtree("/live")
    assert isinstance(follower.end(), dataplatform.NotFound)


def test_a_directory_is_followed_wherever_it_goes(server: ServerProcess, client: Client) -> None:
    client.mkdir("/going/from", parents=True)
    follower = Follower(server.address, "/going/from", 0, events=["created", "renamed", "removed"])
    assert follower.next()[1].path == "/going/from"
    client.write_file("/going/from/1", b"")
    client.rename("/going/from", "/going/to")
    client.write_file("/going/to/2", b"")
    client.mkdir("/going/from")
    client.write_file("/going/from/not this", b"")
    client.rename("/going", "/gone")
    client.write_file("/gone/to/3", b"")
    client.rmtree("/gone/to")
    seen = [follower.next()[1] for _ in range(9)]
    assert [(c.event, c.path) for c in seen] == [
        ("created", "/going/from/1"),
        ("renamed", "/going/to"),
        ("created", "/going/to/2"),
        ("renamed", "/gone"),
        ("created", "/gone/to/3"),
        ("removed", "/gone/to/1"),
        ("removed", "/gone/to/2"),
        ("removed", "/gone/to/3"),
        ("removed", "/gone/to"),
    ]
    assert isinstance(follower.end(), dataplatform.NotFound)


def test_consumer_groups_share_a_published_feed(server: ServerProcess, client: Client) -> None:
    client.mkdir("/shop")
    client.create_stream("/feeds", partitions=4)
    done = dp(server, "changes publish /shop --to /feeds:shop --kinds file --events created")
    assert done.returncode == 0, done
    (listed,) = (json.loads(line) for line in dp(server, "changes publications --json").lines())
    assert (listed["path"], listed["stream"], listed["topic"]) == ("/shop", "/feeds", "shop")
    with (
        client.stream("/feeds").consumer("shop", group="g", start="earliest") as one,
        client.stream("/feeds").consumer("shop", group="g", start="earliest") as two,
    ):
        for number in range(40):
            client.write_file(f"/shop/{number}", b"x")
        found: list[dict[str, Any]] = []

        def all_came() -> bool:
            for consumer in (one, two):
                found.extend(json.loads(record.value or b"") for record in consumer.poll(0.05))
            return len(found) >= 40

        wait(all_came)
    feed = client.changes("/shop", kinds=["file"], events=["created"])
    expected = [json.loads(outputs.to_json(outputs.change_json(change))) for change in feed]
    assert sorted(found, key=lambda each: each["commit"]) == expected
    assert dp(server, "changes unpublish /shop --to /feeds:shop").returncode == 0
    assert dp(server, "changes publications").stdout == ""


class Done:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr

    def lines(self) -> list[str]:
        return self.stdout.splitlines()


def dp(server: ServerProcess, line: str) -> Done:
    return Done(
        subprocess.run(
            [DP, *line.split()],
            env={**os.environ, "DP_SERVER": server.address},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


# ---------------------------------------------------------------------------------- exactly once


def _published(client: Client, stream: str) -> dict[int, list[dict[str, Any]]]:
    """By partition, in order."""
    found: dict[int, list[dict[str, Any]]] = {}
    with client.stream(stream).consumer("feed", start="earliest", follow=False) as consumer:
        for record in consumer:
            found.setdefault(record.partition, []).append(json.loads(record.value or b""))
    return found


def _compare(client: Client, path: str, stream: str) -> int:
    """What was published is what the feed says, but for what publications appended."""
    own = {"/feeds/outside", f"{BASE}/inside"}
    expected = [
        json.loads(outputs.to_json(outputs.change_json(change)))
        for change in client.changes(path)
        if not (change.path in own and change.event in ("records appended", "records expired"))
    ]

    def is_told() -> bool:
        return all(each.behind == 0 for each in client.publications())

    wait(is_told)
    told = _published(client, stream)
    begin = min(each["commit"] for each in itertools.chain(*told.values()))
    expected = [each for each in expected if each["commit"] >= begin]
    for partition in told.values():
        assert [each["commit"] for each in partition] == sorted(e["commit"] for e in partition)

    def order(each: dict[str, Any]) -> tuple[int, str]:
        return each["commit"], json.dumps(each, sort_keys=True)

    found = sorted(itertools.chain(*told.values()), key=order)
    assert found == sorted(expected, key=order)
    return len(found)


@pytest.mark.allow_warnings
@pytest.mark.parametrize("engine", ["rocks", "slate"])
async def test_each_change_is_published_once_across_kills(
    tmp_path: Path, engine: str, seed: int
) -> None:
    """From one volume to another, and within one volume, whose feed then holds the stream."""
    rng = random.Random(seed)
    server = ServerProcess(tmp_path, engine)
    await asyncio.to_thread(server.start)
    load = MixedLoad(server.address, seed)

    def prepare() -> None:
        with dataplatform.connect(server.address) as client:
            client.create_volume(BASE)
            client.create_volume("/feeds")
            client.create_stream("/feeds/outside", partitions=3)
            client.create_stream(f"{BASE}/inside")
            client.publish_changes(BASE, "/feeds/outside", "feed")
            client.publish_changes(BASE, f"{BASE}/inside", "feed")

    def compare() -> None:
        with dataplatform.connect(server.address) as client:
            assert {each.state for each in client.publications()} == {"running"}
            assert _compare(client, BASE, "/feeds/outside") > load.steps // 2
            _compare(client, BASE, f"{BASE}/inside")

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
        await asyncio.to_thread(compare)
        await load.close()
    finally:
        server.stop()
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
