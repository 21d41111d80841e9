"""A mirror and its source, each on a host of its own: somebody writes, something breaks, and the
mirror is a commit that the source had, byte for byte.

The source is looked at after every write: `Recorder` knows what it was at each of its commits.
Change rows are compared as such; apart from them, a commit that wrote nothing is as the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dataplatform
from dataplatform.base.errors import PlatformError
from dataplatform.core.replication.seam import Pin, PinLost, is_told
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ChangeRow
from tests.replicas import Picture, Replica, assert_equal, picture

from .clusters import Cluster, Host, Network
from .relays import Relay

T = TypeVar("T")

WAIT_S = 60.0

PATH = "/v"
MIRROR = "/m"


def until(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """Wait for it; errors of servers that are being started again are no answer."""
    deadline_s = time.monotonic() + wait_s
    last: object = None
    while time.monotonic() < deadline_s:
        try:
            last = condition()
        except (PlatformError, OSError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)  # between two looks at another process
    raise AssertionError(f"it never came to: {what}; last: {last}")


async def pinned(cluster: Cluster, path: str, work: Callable[[Pin], Awaitable[T]]) -> T:
    """What `work` finds in a volume at one commit; again, if its server went meanwhile."""
    for _ in range(10):
        async with cluster.source(path) as source:
            try:
                async with await source.pin() as pin:
                    return await work(pin)
            except PinLost:
                continue
    raise AssertionError("the pins of the source are lost again and again")


class Recorder:
    """What the source was, by commit, and which change row each has."""

    def __init__(self, cluster: Cluster, path: str = PATH) -> None:
        self._cluster = cluster
        self._path = path
        self._replica = Replica()
        self._from: list[int] = []  # from which commit on it was as in the same place of:
        self._pictures: list[Picture | None] = []  # None: nobody looked
        self.rows: Picture = {}
        self.commit = 0
        self.history = b""

    def note(self) -> None:
        asyncio.run(pinned(self._cluster, self._path, self._note))

    async def _note(self, pin: Pin) -> None:
        assert pin.commit >= self.commit, f"the source went back from {self.commit} to {pin.commit}"
        self.history = self.history or pin.described.history
        assert pin.described.history == self.history
        since = self.commit
        if pin.commit == since and self._pictures:
            return
        await self._replica.follow(pin)
        rows = {key: value for key, value in self._replica.pairs.items() if key[:1] == keys.CHANGE}
        told = [
            keys.number_of(key)
            for key, value in sorted(rows.items())
            if keys.number_of(key) > since and any(map(is_told, ChangeRow.unpack(value).keys))
        ]
        self.rows.update(rows)
        if not self._pictures:
            told = [pin.commit]
        if told:
            if told[0] < told[-1]:
                self._add(told[0], None)
            self._add(told[-1], without_changes(self._replica.pairs))
        self.commit = pin.commit

    def _add(self, commit: int, found: Picture | None) -> None:
        self._from.append(commit)
        self._pictures.append(found)

    def find(self, commit: int) -> Picture | None:
        """What the source was at that commit; None if nobody looked just then."""
        assert commit <= self.commit, f"commit {commit} was not made: {self.commit}"
        index = bisect_right(self._from, commit) - 1
        return self._pictures[index] if index >= 0 else None


def without_changes(found: Picture) -> Picture:
    return {key: value for key, value in found.items() if key[:1] != keys.CHANGE}


class Writer:
    """Changes a volume by one commit at a time, of every kind there is."""

    def __init__(self, cluster: Cluster, seed: int, path: str = PATH) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._path = path
        self.written = 0
        self._client: dataplatform.Client | None = None

    @property
    def dp(self) -> dataplatform.Client:
        if self._client is None:
            self._client = self._cluster.client()
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def begin(self) -> None:
        """What all further writes stand on."""
        dp, path = self.dp, self._path
        dp.create_volume(path)
        dp.create_table(f"{path}/t")
        dp.create_stream(f"{path}/s", partitions=2)
        dp.stream(f"{path}/s").create_topic("a")
        dp.mkdir(f"{path}/d")
        dp.set_quota(f"{path}/d", quota_bytes=1 << 30)
        for number in range(8):
            data = self._random.randbytes(self._random.choice((10, 5_000, 300_000)))
            dp.write_file(f"{path}/d/f{number}", data)
        dp.sync()

    def write(self) -> None:
        rng, dp, path = self._random, self.dp, self._path
        name = f"{path}/d/f{rng.randrange(8)}"
        steps: list[Callable[[], object]] = [
            lambda: dp.write_file(name, rng.randbytes(rng.choice((1, 3_000, 200_000)))),
            lambda: self._overwrite(name),
            lambda: dp.rename(name, f"{name}.x"),
            lambda: dp.setxattr(f"{path}/d", f"user.{rng.randrange(4)}", rng.randbytes(8)),
            lambda: dp.chmod(f"{path}/d", rng.choice((0o755, 0o700, 0o775))),
            lambda: dp.acl.set(f"{path}/d", read=rng.choice(("u:ana", "p", None))),
            lambda: dp.acl.set(f"{path}/t", {"read:n": rng.choice(("g:eng", None))}),
            lambda: dp.set_quota(f"{path}/d", advisory_bytes=rng.randrange(1 << 30)),
            lambda: dp.remove(f"{name}.x", missing_ok=True),
            lambda: dp.table(f"{path}/t").put(f"k{rng.randrange(20)}", {"n": self.written}),
            lambda: dp.table(f"{path}/t").delete(f"k{rng.randrange(20)}"),
            lambda: dp.table(f"{path}/t").put_many(
                {f"m{n}": {"n": self.written} for n in range(rng.randrange(1, 50))}
            ),
            lambda: dp.stream(f"{path}/s").append(
                "a", rng.randbytes(rng.choice((10, 2_000))), partition=rng.randrange(2)
            ),
            lambda: dp.stream(f"{path}/s").commit_offsets("g", "a", {0: rng.randrange(100)}),
            self._transaction,
        ]
        with contextlib.suppress(dataplatform.NotFound):
            rng.choice(steps)()
        self.written += 1

    def _overwrite(self, name: str) -> None:
        rng = self._random
        with self.dp.open(name, "r+b") as file:
            file.pwrite(rng.randbytes(rng.choice((1, 4_096, 70_000))), rng.randrange(200_000))
            file.sync()

    def _transaction(self) -> None:
        with self.dp.transaction(self._path) as work:
            work.write_file("d/f0", b"%d" % self.written)
            work.table("t").put("number", {"n": self.written})


class World:
    """East has a volume; west mirrors it, over a link that can be cut."""

    def __init__(self, east: Cluster, west: Cluster, relay: Relay | None, seed: int) -> None:
        self.east = east
        self.west = west
        self.relay = relay
        self.random = random.Random(seed)
        self.writer = Writer(east, seed)
        self.recorder = Recorder(east)
        self.north: Cluster | None = None
        self.compared = 0
        self.commits: set[int] = set()  # that the mirror was, when it was looked at

    def write(self, count: int) -> None:
        for _ in range(count):
            self.writer.write()
            self.recorder.note()

    def look(self) -> bool:
        """Whether the mirror is a commit of the source that was looked at, too. AssertionError if
        it is none."""
        return asyncio.run(pinned(self.west, MIRROR, self._look))

    async def _look(self, pin: Pin) -> bool:
        if pin.described.history != self.recorder.history:
            return False  # nothing was copied yet
        found = await picture(pin)
        await pinned(self.east, PATH, self.recorder._note)
        rows = {key: value for key, value in found.items() if key[:1] == keys.CHANGE}
        assert_equal(rows, {key: self.recorder.rows.get(key, b"") for key in rows})
        assert not rows or max(map(keys.number_of, rows)) == pin.commit
        expected = self.recorder.find(pin.commit)
        if expected is None:
            return False
        assert_equal(without_changes(found), expected)
        self.compared += 1
        self.commits.add(pin.commit)
        return True

    def wait_equal(self) -> None:
        """Until the mirror is what the source is now, and then all is the same."""
        until(lambda: self._commit(self.west, MIRROR) >= self._commit(self.east, PATH), "equality")
        self.assert_equal((self.east, PATH), (self.west, MIRROR))

    def wait_equal_in_the_north(self) -> None:
        """The mirror of the mirror, too: down to the change rows."""
        north = self.north
        assert north is not None
        self.wait_equal()
        until(lambda: self._commit(north, MIRROR) >= self._commit(self.west, MIRROR), "equality")
        self.assert_equal((self.east, PATH), (north, MIRROR))

    def assert_equal(self, *places: tuple[Cluster, str]) -> None:
        async def state(pin: Pin) -> tuple[int, dict[str, int], Picture]:
            counters = pin.described.state
            names = ("next_inode", "next_producer", "used_bytes", "entries")
            found = {name: int(getattr(counters, name)) for name in names}
            return pin.commit, found, without_changes(await picture(pin))

        def found() -> list[tuple[int, dict[str, int], Picture]]:
            # What a source keeps tidy by itself is a commit, too: the mirror has it a little later.
            both = [asyncio.run(pinned(cluster, path, state)) for cluster, path in places]
            return both if both[0][0] == both[1][0] else []

        one, other = until(found, "the same commit on both sides")
        assert one[1] == other[1]
        assert_equal(one[2], other[2])

    def _commit(self, cluster: Cluster, path: str) -> int:
        async def commit(pin: Pin) -> int:
            return pin.commit

        return asyncio.run(pinned(cluster, path, commit))

    def is_empty(self) -> bool:
        """Whether nothing was copied to the mirror yet."""
        with self.west.client() as dp:
            return not dp.mirror_info(MIRROR).commit

    # ---- what people do

    def begin_again(self) -> None:
        """With a mirror to which nothing was copied yet."""
        with self.west.client() as dp:
            dp.remove_mirror(MIRROR)
            dp.create_mirror(MIRROR, f"/east{PATH}")

    def promote_and_fail_back(self) -> None:
        """Everybody goes west, writes there, and comes back."""
        with self.west.client() as dp:
            dp.promote_mirror(MIRROR)
        away = Writer(self.west, self.random.getrandbits(32), MIRROR)
        for _ in range(10):
            away.write()
        away.close()
        self.fail_back()

    def fail_back(self) -> None:
        """The east follows the west, takes over, and is followed by it again."""
        with self.east.client() as there, self.west.client() as here:
            there.create_mirror(PATH, f"/west{MIRROR}", discard=True)
            here.sync()
            until(
                lambda: (
                    self._commit(self.east, PATH) >= self._commit(self.west, MIRROR)
                    and there.mirror_info(PATH).state == "current"
                ),
                "the east follows",
            )
            self.assert_equal((self.east, PATH), (self.west, MIRROR))
            there.promote_mirror(PATH)
            # What the west keeps tidy by itself is a commit, too.
            here.create_mirror(MIRROR, f"/east{PATH}", discard=True)
        self.recorder = Recorder(self.east)
        self.recorder.note()

    # ---- what breaks

    def break_something(self, pause_s: float) -> str:
        """One fault that begins within a second, and is over when this returns."""
        time.sleep(self.random.random() * pause_s)  # at any moment
        fault = self.random.choice(("source", "target", "both", "link", "reset"))
        down_s = self.random.choice((0.0, 0.1, 0.5))
        if fault == "link" or (fault == "reset" and self.relay is None):
            host = self.random.choice((self.east.host, self.west.host))
            host.cut()
            time.sleep(down_s * 2)
            host.mend()
        elif fault == "reset":
            assert self.relay is not None
            self.relay.abort()
        else:
            victims = [self.east] if fault == "source" else [self.west]
            victims = [self.east, self.west] if fault == "both" else victims
            for victim in victims:
                victim.kill()
            time.sleep(down_s)
            for victim in victims:
                victim.start()
        return fault

    def write_while(self, work: Callable[[], str]) -> str:
        """Write until it is done; what it says."""
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append(work()))
        thread.start()
        while thread.is_alive():
            self.write(1)
        thread.join()
        assert said, "the fault itself failed"
        return said[0]


@contextlib.contextmanager
def mirrored(
    directory: Path, seed: int, *, relayed: bool = True, three: bool = False
) -> Iterator[World]:
    """A source with something in it, and a mirror of it that has just been asked for; with
    `three`, a mirror of that in the north."""
    with contextlib.ExitStack() as stack:
        names = ("east", "west", "north")[: 3 if three else 2]
        network = stack.enter_context(Network(len(names)))
        east, west, *others = (
            Cluster(directory / name, name, host)
            for name, host in zip(names, network.hosts, strict=True)
        )
        for cluster in (east, west, *others):
            cluster.start()
            stack.callback(cluster.kill)
        relay = None
        address = ""
        if relayed:
            here = f"{network.prefix}.1"
            relay = stack.enter_context(Relay(here, (east.host.address, _port(east.host)), seed))
            address = f"dp://{here}:{relay.port}"
        west.know(east, address)
        east.know(west)
        world = World(east, west, relay, seed)
        stack.callback(world.writer.close)
        world.writer.begin()
        world.recorder.note()
        with west.client() as dp:
            dp.create_mirror(MIRROR, f"/east{PATH}")
        for north in others:
            north.know(west)
            with north.client() as dp:
                dp.create_mirror(MIRROR, f"/west{MIRROR}")
            world.north = north
        yield world


def _port(host: Host) -> int:
    from .clusters import FRAMES_PORT

    return FRAMES_PORT


def assert_clean(*clusters: Cluster) -> None:
    """The offline check of each; they are down afterwards."""
    for cluster in clusters:
        assert cluster.stop() == 0
        done = cluster.check()
        assert done.returncode == 0, f"{cluster.name}:\n{done.stdout}{done.stderr}"
