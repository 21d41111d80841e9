"""Mirrors between real servers: over the wire, with kills, promoted and failed back."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import dataplatform
from dataplatform.base.errors import Exhausted, Invalid, NotFound, PlatformError, Unavailable
from tests.integration.cables import TcpCable
from tests.integration.test_clusters import Cluster, clusters

log = logging.getLogger(__name__)

WAIT_S = 30.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for it. Errors of servers that are being started again are no answer."""
    deadline_s = time.monotonic() + WAIT_S
    last: object = None
    while time.monotonic() < deadline_s:
        try:
            last = condition()
        except (PlatformError, OSError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.02)  # between two looks at another process
    raise AssertionError(f"it never came to: {what}; last: {last}")


@contextlib.contextmanager
def two(directory: Path) -> Iterator[tuple[Cluster, Cluster]]:
    """East and west, who know each other."""
    with clusters(directory, "east", "west") as (east, west):
        know(east, west)
        know(west, east)
        yield east, west


def know(one: Cluster, other: Cluster) -> None:
    token = other.process.directory / f"for-{one.name}.token"
    token.write_text(other.token())
    one.dp("cluster", "add", other.name, other.address, "--with-token", str(token))


def furnish(dp: dataplatform.Client, at: str = "/v") -> None:
    dp.mkdir(f"{at}/d")
    dp.write_file(f"{at}/d/small", b"small")
    dp.write_file(f"{at}/large", bytes(range(256)) * 4096)
    table = dp.create_table(f"{at}/t")
    table.put_many({f"k{n}": {"n": n} for n in range(100)})
    stream = dp.create_stream(f"{at}/s", partitions=2)
    with stream.producer() as producer:
        for n in range(50):
            producer.send("topic", value=b"%d" % n, key=b"%d" % n)
    with stream.consumer("topic", group="g", start="earliest") as consumer:
        for _ in itertools.islice(consumer, 10):
            pass
        consumer.commit()


def content(dp: dataplatform.Client, at: str) -> dict[str, Any]:
    """All that programs can read, with inodes and versions."""
    found: dict[str, Any] = {}
    todo = [at]
    while todo:
        path = todo.pop()
        for entry in dp.scandir(path):
            below = f"{path}/{entry.name}"
            stat = dp.stat(below)
            seen: list[Any] = [stat.kind, stat.inode, stat.version, stat.mode, stat.size]
            if stat.kind == "directory":
                todo.append(below)
            elif stat.kind == "file":
                seen.append(dp.read_file(below))
            elif stat.kind == "table":
                seen.append([(r.key, r.columns, r.version) for r in dp.table(below).scan()])
            elif stat.kind == "stream":
                stream = dp.stream(below)
                for topic in sorted(stream.topics(), key=lambda topic: topic.name):
                    with stream.consumer(topic.name, start="earliest") as consumer:
                        seen.append(
                            sorted(
                                (r.partition, r.offset, r.key, r.value)
                                for r in itertools.islice(consumer, topic.records)
                            )
                        )
                seen.append([(g.name, g.offsets) for g in stream.groups()])
            found[below.removeprefix(at)] = seen
    return found


def current(dp: dataplatform.Client, path: str) -> Callable[[], bool]:
    return lambda: dp.mirror_info(path).state == "current"


def wait_equal(east: Cluster, at: str, west: Cluster, mirror: str) -> None:
    """Until the mirror is the source's commit of now, and then it is all the same."""
    with east.connect() as there, west.connect() as here:
        commit = there.volume_info(at).commit
        until(lambda: here.mirror_info(mirror).commit >= commit, f"commit {commit}")
        assert content(here, mirror) == content(there, at)


def test_from_a_source_to_a_mirror_and_back(tmp_path: Path) -> None:
    with two(tmp_path) as (east, west), east.connect() as there, west.connect() as here:
        there.create_volume("/v")
        furnish(there)
        west.dp("mirror", "create", "/m", "--source", "/east/v", "--continuous")
        wait_equal(east, "/v", west, "/m")
        there.write_file("/v/later", b"x" * 500_000)
        there.rename("/v/d", "/v/e")
        wait_equal(east, "/v", west, "/m")
        with pytest.raises(PlatformError) as caught:
            here.write_file("/m/no", b"")
        assert caught.value.os_errno == 30  # EROFS
        shown = json.loads(west.dp("mirror", "status", "/m", "--json"))
        assert (shown["source"], shown["state"], shown["lag_commits"]) == ("/east/v", "current", 0)
        assert "▶ /m" in west.dp("mirror", "status")
        # The source is away: promoted, written.
        east.process.kill()
        west.dp("mirror", "promote", "/m")
        here.write_file("/m/west", b"written in the west")
        here.table("/m/t").put("k1", {"n": -1})
        # It is back: the same volume becomes the mirror.
        east.start(port=east.port)
        there2 = east.connect()
        there2.write_file("/v/forgotten", b"nobody saw it")
        said = east.dp("mirror", "create", "/v", "--source", "/west/m", code=6)
        assert "--discard" in said
        east.dp("mirror", "create", "/v", "--source", "/west/m", "--discard")
        wait_equal(west, "/m", east, "/v")
        assert "forgotten" not in there2.listdir("/v")
        assert there2.mirror_info("/v").rows < 60, "only what differs is shipped"
        there2.close()
        for cluster in (east, west):
            cluster.process.stop()
            done = cluster.process.check()
            assert done.returncode == 0, done.stdout


class Campaign:
    """Kills of the source, of the target, and of the line between them, while the source is
    written to and the target copies, catches up, and is promoted and made a mirror again."""

    def __init__(self, east: Cluster, west: Cluster, seed: int) -> None:
        self.east = east
        self.west = west
        self.rng = random.Random(seed)
        self.cable = TcpCable(east.port)
        self.stopping = threading.Event()
        self.counts: Counter[str] = Counter()

    def begin(self) -> None:
        self.west.dp("cluster", "set", "east", "--address", self.cable.address)
        with self.east.connect() as dp:
            dp.create_volume("/v")
            furnish(dp)
            for n in range(40):
                dp.write_file(f"/v/d/big{n}", self.rng.randbytes(300_000))
        self.west.dp("mirror", "create", "/m", "--source", "/east/v", "--continuous")

    def write(self) -> None:
        rng = random.Random(self.rng.random())
        for n in itertools.count():
            if self.stopping.is_set():
                return
            with contextlib.suppress(PlatformError, OSError), self.east.connect() as dp:
                while not self.stopping.is_set():
                    dp.table("/v/t").put(f"k{n % 50}", {"n": n})
                    dp.write_file(f"/v/d/f{n % 20}", rng.randbytes(rng.randrange(200_000)))

    def run(self, kills: int) -> None:
        writer = threading.Thread(target=self.write)
        writer.start()
        try:
            for number in range(kills):
                self.kill(self.rng.choice(["source", "target", "link"]))
                if number % 10 == 9:
                    self.anew(self.rng.choice(["copied again", "promoted"]))
        finally:
            self.stopping.set()
            writer.join()
            self.cable.mend()

    def kill(self, what: str) -> None:
        self.counts[what] += 1
        time.sleep(self.rng.random() * 0.5)  # at any moment of what goes on
        if what == "link":
            self.cable.cut()
            time.sleep(self.rng.random() * 0.2)
            self.cable.mend()
            return
        victim = self.east if what == "source" else self.west
        victim.process.kill()
        victim.start(port=victim.port)

    def anew(self, what: str) -> None:
        """From the beginning; or promoted, with the target killed right behind it, and back."""
        self.counts[what] += 1
        with self.west.connect() as dp:
            if what == "copied again":
                dp.remove_mirror("/m")
                dp.create_mirror("/m", "/east/v")
                return
            until(lambda: dp.mirror_info("/m").commit, "a first copy")
            commit = dp.promote_mirror("/m")
            self.west.process.kill()
            self.west.start(port=self.west.port)
            assert dp.volume_info("/m").commit >= commit
            dp.write_file("/m/own", b"written here")
            dp.create_mirror("/m", "/east/v", discard=True)


@pytest.mark.parametrize(
    "kills",
    [10, pytest.param(200, marks=[pytest.mark.system, pytest.mark.timeout(3600)])],
)
def test_kills_of_source_target_and_link(tmp_path: Path, seed: int, kills: int) -> None:
    with two(tmp_path) as (east, west):
        campaign = Campaign(east, west, seed)
        campaign.begin()
        campaign.run(kills)
        wait_equal(east, "/v", west, "/m")
        campaign.cable.close()
        log.info("%d kills: %s", kills, dict(campaign.counts))
        for cluster in (east, west):
            cluster.process.stop()
            done = cluster.process.check()
            assert done.returncode == 0, done.stdout


def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with two(tmp_path) as (east, west), east.connect() as there, west.connect() as here:
        there.create_volume("/v")
        furnish(there)
        with pytest.raises(Exhausted, match="quota"):
            here.create_mirror("/m", "/east/v", quota_bytes=1000)
        with pytest.raises(PlatformError):
            here.create_mirror("/m", "/east/none")
        with pytest.raises(Invalid, match="whole volumes"):
            here.create_mirror("/m", "/east/v/d")
        with pytest.raises(PlatformError):
            here.create_mirror("/m", "dp://127.0.0.1:1/v")
        assert "m" not in here.listdir("/")
        here.create_mirror("/m", "/east/v", every=timedelta(seconds=1))
        until(current(here, "/m"), "current")
        with pytest.raises(Invalid, match="circle"):
            there.create_mirror("/v", "/west/m", discard=True)
        here.pause_mirror("/m")
        there.write_file("/v/x", b"x")
        assert here.mirror_info("/m").state == "paused"
        here.resume_mirror("/m")
        until(lambda: here.exists("/m/x"), "following again")
        there.remove_volume("/v", recursive=True)
        until(lambda: "no such volume" in here.mirror_info("/m").error, "an error")
        assert here.read_file("/m/x") == b"x"
        here.remove_mirror("/m")
        assert "m" not in here.listdir("/")


def test_a_cluster_that_is_known_no_more_is_not_followed(tmp_path: Path) -> None:
    with two(tmp_path) as (east, west), east.connect() as there, west.connect() as here:
        there.create_volume("/v")
        there.create_table("/v/t").put("a", {"n": 1})
        west.dp("mirror", "create", "/m", "--source", "/east/v", "--every", "1h")
        west.dp("mirror", "create", "/n", "--source", "/east/v")
        until(current(here, "/n"), "the first copy")
        west.dp("cluster", "remove", "east")
        error = until(lambda: here.mirror_info("/n").error, "a reason")
        assert "there is no such cluster" in error
        until(lambda: here.mirror_info("/m").error, "a reason, though its turn is in an hour")
        there.table("/v/t").put("a", {"n": 2})
        assert content(here, "/n") != content(there, "/v")
        know(west, east)
        for path in ("/m", "/n"):
            here.resume_mirror(path)
            wait_equal(east, "/v", west, path)


def test_what_is_said_again_of_a_mirror_stays(tmp_path: Path) -> None:
    with two(tmp_path) as (east, west), east.connect() as there, west.connect() as here:
        there.create_volume("/v")
        hourly = ("--every", "1h", "--bandwidth", "5MiB")
        west.dp("mirror", "create", "/m", "--source", "/east/v", *hourly)
        until(current(here, "/m"), "the first copy")
        west.dp("mirror", "create", "/m", "--source", "/east/v")
        found = here.mirror_info("/m")
        assert (found.every, found.bandwidth) == (timedelta(hours=1), 5 << 20)
        west.dp("mirror", "create", "/m", "--source", "/east/v", "--continuous")
        found = here.mirror_info("/m")
        assert (found.every, found.bandwidth) == (None, 5 << 20)


def test_a_source_that_cannot_be_asked_is_said_at_once(tmp_path: Path) -> None:
    with two(tmp_path) as (east, west), west.connect() as here:
        with pytest.raises(NotFound) as missing:
            here.create_mirror("/m", "/east/nothing")
        assert missing.value.facts["path"] == "/east/nothing"
        east.process.kill()
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="the source does not answer"):
            here.create_mirror("/m", "/east/v")
        with pytest.raises(Unavailable, match="say --unchecked") as away:
            here.add_cluster("other", east.address)
        assert "DP_SERVER" not in str(away.value)
        assert (
            time.monotonic() - began_s < 25
        )  # each was asked once: a client would repeat it for 30 s
