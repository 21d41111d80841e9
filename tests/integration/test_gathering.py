"""Many streams into one, through real servers: each record once, in its order, with its origin."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dataplatform
from dataplatform.base.errors import Exists, Invalid, NotFound
from tests.integration.test_clusters import Cluster, clusters


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Cluster]]:
    with clusters(tmp_path, "home", "east", "west") as made:
        home, *others = made
        with home.connect() as dp:
            for other in others:
                dp.add_cluster(other.name, other.address, token=other.token())
        yield made


def wait_for(found: Callable[[], bool], what: Callable[[], object], limit_s: float = 60) -> None:
    deadline_s = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline_s, what()
        time.sleep(0.02)


def produce(cluster: Cluster, path: str, topic: str, count: int, first: int = 0) -> None:
    with cluster.connect() as dp, dp.stream(path).producer() as producer:
        for n in range(first, first + count):
            headers = {"n": b"%d" % n} if n % 3 else {}
            producer.send(
                topic, value=b"%s %d" % (path.encode(), n), key=b"%d" % (n % 17), headers=headers
            )


def behind(dp: dataplatform.Client) -> int:
    return sum(one.behind for gather in dp.gathers() for one in gather.sources)


def gathered(dp: dataplatform.Client, count: int) -> int:
    return sum(one.records for gather in dp.gathers() for one in gather.sources) - count


def records(dp: dataplatform.Client, path: str, topic: str) -> list[dataplatform.Record]:
    stream = dp.stream(path)
    total = sum(p.end_offset - p.start_offset for p in stream.topic(topic).partitions)
    with stream.consumer(topic, start="earliest") as consumer:
        return [record for _, record in zip(range(total), consumer, strict=False)]


Records = list[dataplatform.Record]


def check_all(found: Records, sources: dict[str, Records]) -> None:
    """Each record of the sources is there once, as it was, in the order of its partition."""
    seen: dict[tuple[str, int], Records] = defaultdict(list)
    for record in found:
        source, partition, offset = bytes(record.headers["dp-origin"]).decode().rsplit("/", 2)
        assert int(offset) == len(seen[source, int(partition)]), record
        seen[source, int(partition)].append(record)
    wanted: dict[tuple[str, int], Records] = defaultdict(list)
    for source, theirs in sources.items():
        for record in theirs:
            wanted[source, record.partition].append(record)
    assert seen.keys() == wanted.keys()
    for place, theirs in wanted.items():
        ours = seen[place]
        assert len({record.partition for record in ours}) == 1
        assert len(ours) == len(theirs), place
        for one, other in zip(ours, theirs, strict=True):
            assert (one.key, one.value, one.timestamp) == (other.key, other.value, other.timestamp)
            assert {k: v for k, v in one.headers.items() if k != "dp-origin"} == dict(other.headers)


def test_each_record_once_whatever_is_killed(three: list[Cluster]) -> None:
    home, east, west = three
    places = [(east, "/a"), (east, "/b"), (west, "/c")]
    for cluster, path in places:
        with cluster.connect() as dp:
            dp.create_stream(path, partitions=3)
        produce(cluster, path, "t", 500)
    names = [f"/{cluster.name}{path}:t" for cluster, path in places]
    with home.connect() as dp:
        dp.create_stream("/all", partitions=4)
        dp.gather("/all", "t", names)
        wait_for(lambda: gathered(dp, 0) > 0, lambda: dp.gathers())
    ended = threading.Event()

    def kill() -> None:
        for cluster in (home, east, home, west, home):
            cluster.process.kill()
            cluster.start(port=cluster.port)
        ended.set()

    thread = threading.Thread(target=kill)
    thread.start()
    first = 500
    while not ended.is_set() and first < 20_000:
        for cluster, path in places:
            try:
                produce(cluster, path, "t", 200, first)
            except Exception:
                continue
        first += 200
    thread.join()
    with home.connect() as dp:
        total = 0
        for cluster, path in places:
            with cluster.connect() as there:
                total += sum(p.end_offset for p in there.stream(path).topic("t").partitions)
        wait_for(lambda: gathered(dp, total) >= 0, lambda: (total, dp.gathers()))
        assert gathered(dp, total) == 0
        found = records(dp, "/all", "t")
        theirs = {}
        for (cluster, path), name in zip(places, names, strict=True):
            with cluster.connect() as there:
                theirs[name] = records(there, path, "t")
        check_all(found, theirs)
        (gather,) = dp.gathers()
        for one in gather.sources:
            assert (one.state, one.behind, one.lost) == ("following", 0, 0)
    home.process.stop()
    checked = home.process.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_not_followed(three: list[Cluster]) -> None:
    home, east, _ = three
    with east.connect() as there:
        for path in ("/trimmed", "/recreated", "/deleted"):
            there.create_stream(path)
            there.stream(path).append("t", b"0")
    with home.connect() as dp:
        dp.create_stream("/all")
        for wrong in (["/north/s:t"], ["/east/trimmed"], ["east/x:t"], []):
            with pytest.raises((Invalid, NotFound)):
                dp.gather("/all", "t", wrong)
        dp.gather("/all", "t", ["/east/trimmed:t", "/east/recreated:t", "/east/deleted:t"])
        with pytest.raises(Exists):
            dp.gather("/all", "t", ["/east/trimmed:t"])
        wait_for(lambda: gathered(dp, 3) == 0, lambda: dp.gathers())
        with east.connect() as there:
            there.remove("/recreated")
            there.create_stream("/recreated")
            for n in range(5):
                there.stream("/recreated").append("t", b"another %d" % n)
            there.stream("/deleted").delete_topic("t")
            there.stream("/trimmed").append("t", b"1")
        wait_for(lambda: gathered(dp, 4) == 0, lambda: dp.gathers())

        def states() -> dict[str, dataplatform.GatherSource]:
            return {one.source: one for gather in dp.gathers() for one in gather.sources}

        wait_for(lambda: states()["/east/recreated:t"].state == "stopped", states)
        assert "another stream" in states()["/east/recreated:t"].reason
        wait_for(lambda: states()["/east/deleted:t"].state == "waiting", states)
        assert "no such topic" in states()["/east/deleted:t"].reason
        assert states()["/east/trimmed:t"].state == "following"
        # Nothing of it came.
        values = [bytes(record.value) for record in records(dp, "/all", "t")]
        assert sorted(values) == [b"0", b"0", b"0", b"1"]
        # Away, and there again.
        port = east.port
        east.process.kill()
        wait_for(lambda: states()["/east/trimmed:t"].state == "waiting", states)
        assert "127.0.0.1" in states()["/east/trimmed:t"].reason
        east.start(port=port)
        with east.connect() as there:
            there.stream("/trimmed").append("t", b"2")
        wait_for(lambda: gathered(dp, 5) == 0, lambda: dp.gathers())
        # Paused, and ended.
        dp.pause_gather("/all", "t")
        with east.connect() as there:
            there.stream("/trimmed").append("t", b"3")
        assert dp.gathers()[0].paused
        assert gathered(dp, 5) == 0
        dp.pause_gather("/all", "t", paused=False)
        wait_for(lambda: gathered(dp, 6) == 0, lambda: dp.gathers())
        dp.end_gather("/all", "t", ["/east/deleted:t"])
        assert len(dp.gathers()[0].sources) == 2
        dp.end_gather("/all", "t")
        assert dp.gathers() == []
        with pytest.raises(NotFound):
            dp.end_gather("/all", "t")


def test_the_command(three: list[Cluster]) -> None:
    home, east, _ = three
    with east.connect() as there:
        there.create_stream("/s").append("t", b"x", key=b"k")
    home.dp("stream", "create", "/all")
    home.dp("mirror", "gather", "/all:t", "--from", "/east/s:t")
    with home.connect() as dp:
        wait_for(lambda: gathered(dp, 1) == 0, lambda: dp.gathers())
    found = json.loads(home.dp("stream", "consume", "/all:t", "--json"))
    assert found["headers"]["dp-origin"] == "/east/s:t/0/0"
    (line,) = home.dp("mirror", "gathers").splitlines()
    assert line.split("\t")[:5] == ["/all:t", "/east/s:t", "following", "1", "0"]
    home.dp("mirror", "gather", "/all:t", "--pause")
    assert "\tpaused\t" in home.dp("mirror", "gathers")
    home.dp("mirror", "ungather", "/all:t")
    assert home.dp("mirror", "gathers") == ""


@pytest.mark.slow
def test_a_hundred_sources() -> None:
    """As the bench does with ten million records."""
    command = [sys.executable, "-m", "bench.gathering", "--clusters", "2"]
    command += ["--streams", "50", "--records", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert "each is there once" in done.stdout, done.stdout + done.stderr


def test_a_source_that_was_restored_is_not_followed(three: list[Cluster]) -> None:
    home, east, _ = three
    with east.connect() as there, home.connect() as dp:
        there.create_volume("/v")
        stream = there.create_stream("/v/s")
        stream.append("t", b"0")
        there.create_snapshot("/v", "before")
        stream.append("t", b"1")
        dp.create_stream("/all")
        dp.gather("/all", "t", ["/east/v/s:t"])
        wait_for(lambda: gathered(dp, 2) == 0, lambda: dp.gathers())
        dp.pause_gather("/all", "t")
        there.restore_snapshot("/v", "before")
        for n in range(3):  # more than there were
            there.stream("/v/s").append("t", b"another %d" % n)
        dp.pause_gather("/all", "t", paused=False)
        wait_for(lambda: dp.gathers()[0].sources[0].state == "stopped", lambda: dp.gathers())
        assert "restored" in dp.gathers()[0].sources[0].reason
        assert [record.value for record in records(dp, "/all", "t")] == [b"0", b"1"]
        dp.pause_gather("/all", "t", paused=False)
        wait_for(lambda: gathered(dp, 4) == 0, lambda: dp.gathers())
        values = [record.value for record in records(dp, "/all", "t")]
        assert values == [b"0", b"1", b"another 1", b"another 2"]
