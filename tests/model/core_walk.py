"""One seed of the whole core beside its model: random operations, power cuts, restarts, retries.

What survives a crash is a prefix of a volume's commits. So the model keeps the state after every
commit, the number that is there after a restart says which of them must be found, and then
everything must equal it. An operation foretells the commits it makes. What the server does by
itself is told by the change rows of its commits: each must say something that was due, and changes
in the model what it says (`_explain`); what it does not tell must not be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgpack

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import PlatformError
from dataplatform.core import (
    change_trims,
    compaction,
    expiry,
    orphans,
    retention,
)
from dataplatform.core.platform import Platform
from dataplatform.core.replies import SESSION_AGE_NS
from dataplatform.core.units import Request
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import FaultyStorages
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_VOLUME, ChangeRow, Event, Inode, Kind
from tests.masters import masters
from tests.principals import admin
from tests.sim.power import Power, PowerCut

from .core_comparison import Comparison
from .core_model import Draft, Line
from .core_paths import Found, resolve
from .core_state import INVALID, NOT_FOUND, ROOT, Node, Refused, State, Write
from .platform_driver import Driver, Handle, assert_clean

SEGMENT_BYTES = 128 << 10
NEVER = 1 << 60
PUT = 50
"""The method of puts that share a unit; the driver's calls have none."""

Apply = Callable[[Draft], Any]
Plan = Callable[[], tuple[int, list[int], Apply]]
"""Resolves the paths of a call now: its volume, the files that are flushed first, and the unit."""


class Walk:
    """The server's lives, and what must be there in each."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.is_encrypted = seed % 2 == 1
        self.clock = ManualClock()
        self.disk = MemoryDisk()
        self.storages = MemoryStorages(self.disk, segment_bytes=SEGMENT_BYTES)
        self.lines: dict[int, Line] = {}
        self.puts: list[tuple[int, bytes, dict[str, Any]]] = []  # under way: table, key, columns
        self.putting: tuple[Found, list[tuple[Request, tuple[bytes, dict[str, Any]]]]] | None = None
        self.put_ns = 0
        self.slots: dict[int, int] = {}  # of the puts: the sequence of each
        self.last: tuple[Plan | None, tuple[int, int] | None, Any] = None, None, None
        """The last call: its plan, the commit that keeps its reply (volume, number), the reply."""
        self.fresh: tuple[int, State, State] | None = None  # what the last call changed
        self.counts: Counter[str] = Counter()
        self.steps = 0
        self.step = ""  # the name of the one under way
        self.log: list[str] = []
        self.platform: Platform
        self.power: Power
        self.driver: Driver
        self.comparison: Comparison
        self.second = 0

    def note(self, what: str) -> None:
        self.log.append(what)
        self.counts[what] += 1

    # ---- lives

    async def begin(self) -> None:
        """Two volumes, empty but for the name of the second in the first."""
        await self._start()
        self.driver = Driver(self.platform, b"one client      ")
        self.comparison = Comparison(self.driver, self.clock)
        self.second = await self.driver.create_volume("/vol")
        self.driver.forget_last()
        async with self.driver.node("/") as node, self.driver.node("/vol") as inner:
            junction = await self.driver.stat("/vol", follow=False)
            roots = {ROOT_VOLUME: node, self.second: inner}
            for number, (volume, inode) in roots.items():
                state = volume.state
                nodes = {ROOT: _as_found(inode)}
                if number == ROOT_VOLUME:
                    nodes[ROOT].entries["vol"] = junction.number
                    nodes[junction.number] = _as_found(junction)
                    nodes[junction.number].volume = self.second
                    nodes[junction.number].first = ROOT, "vol"
                first = State(state.commit, nodes, state.next_inode, state.next_producer)
                self.lines[number] = Line(first)

    async def _start(self) -> None:
        rng = random.Random(self.rng.getrandbits(64))
        self.power = Power(rng, self.storages, NEVER, None)
        self.platform = await Platform.start(
            FaultyStorages(self.storages, self.power),
            clock=self.clock,
            entropy=SeededEntropy(self.rng.getrandbits(32)),
            masters=masters(self.rng.getrandbits(32)),
            encrypt_root=self.is_encrypted,
        )

    async def run_step(self, step: Callable[[], Awaitable[None]]) -> None:
        """One step; when the power is cut in the middle of it, what survived is looked at."""
        self.steps += 1
        self.step = step.__name__
        self.note(step.__name__)
        if self.rng.random() < 0.04:
            self.power.cut_at = self.power.points + self.rng.randrange(1, 9)
        try:
            await step()
        except PowerCut:
            self.note("cut in a call")
            await self.after_the_crash()
        except PlatformError as error:
            if not self.power.off.is_set():
                raise AssertionError(f"not expected: {error!r}") from error
            await self.after_the_crash()

    async def crash(self) -> None:
        with contextlib.suppress(PowerCut):
            self.power.cut("between two steps")
        await self.after_the_crash()

    async def after_the_crash(self) -> None:
        self.log.append(f"power off {self.power.where}")
        for _ in range(20):
            await asyncio.sleep(0)  # what was under way meets the end of the power
        await self._start()
        self.driver.reconnect(self.platform)
        for number, line in self.lines.items():
            volume = await self.platform.acquire(number)
            self.log.append(f"{number}: {line.durable} <= {volume.state.commit}")
            await self._catch_up(volume, line)
            self.counts["commits lost"] += line.state.commit - volume.state.commit
            line.go_back(volume.state.commit)
            self.platform.release(volume)
        await self.verify()
        if self.rng.random() < 0.7:
            await self.send_again()
            await self.send_puts_again()
        self.driver.forget_last()
        self.last = None, None, None
        self.puts, self.putting = [], None

    async def reopen(self) -> None:
        """The server stops and starts as it should: then everything is durable."""
        for number, line in self.lines.items():
            volume = await self.platform.acquire(number)
            await volume.sync()
            await self._catch_up(volume, line)
            self.platform.release(volume)
        await self.platform.close()
        for line in self.lines.values():
            line.acknowledge(line.state.commit)
            line.buffered.clear()
            line.ghosts.clear()
        self.storages = MemoryStorages(self.disk, segment_bytes=SEGMENT_BYTES)
        await self._start()
        self.driver.reconnect(self.platform)
        await self.verify()

    async def end(self) -> None:
        await assert_clean(self.platform)
        for number, line in self.lines.items():
            volume = await self.platform.acquire(number)
            await self._catch_up(volume, line)
            self.platform.release(volume)
        await self.verify()
        await self.platform.close()

    # ---- calls

    def find(self, path: str, *, follow: bool = True) -> Found:
        """Where a path leads in the model. Refused if there is nothing."""
        found = resolve(self.states, ROOT_VOLUME, path, follow=follow)
        if found.number is None:
            raise Refused(NOT_FOUND)
        return found

    def find_name(self, path: str) -> Found:
        """Where a name is, or could be."""
        found = resolve(self.states, ROOT_VOLUME, path, follow=False)
        if found.missing:
            raise Refused(NOT_FOUND)
        found.check_name()
        return found

    @property
    def states(self) -> dict[int, State]:
        return {number: line.state for number, line in self.lines.items()}

    async def call(
        self, plan: Plan, call: Callable[[], Awaitable[Any]], *, durable: bool = False
    ) -> Any:
        """A call that is one unit, in the model and in the core; now and then it is sent twice."""
        self.last = plan, None, None
        answer = await self._both(plan, call)
        if durable and not isinstance(answer, Refused):
            self._acknowledge(plan)
        if self.rng.random() < 0.08:
            await self.send_again()
        return answer

    async def send_again(self) -> None:
        """The last call under its old id: done before, it is answered as then, and is not done
        anew."""
        plan, _, _ = self.last
        if plan is None or not self.driver.may_send_again:
            return
        self.note("sent again")
        await self._both(plan, self.driver.send_again)

    async def _both(self, plan: Plan, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            expected = self._foretell(plan)
        except Refused as refused:
            expected = refused
            self.counts["refused"] += 1
            self.counts[f"refused {self.step}"] += 1
        fresh, self.fresh = self.fresh, None
        await self.expect(call, expected)
        if fresh is not None:
            await self._check_events(*fresh)
        await self._look_for_ghosts()
        return expected

    async def _check_events(self, volume_id: int, before: State, after: State) -> None:
        """A commit's events name what was there before it or is there since, and its kind."""
        volume = await self.platform.acquire(volume_id)
        value = await volume.storage.engine.get(keys.change(after.commit))
        self.platform.release(volume)
        assert value is not None, f"commit {after.commit} has no change row"
        row = ChangeRow.unpack(value)
        events = [Event(*event) for event in row.events]
        if len(events) > 1 and any(event.verb == "renamed" for event in events):
            return  # a transaction's, of names that came and went
        for event in events:
            found = [(state, state.find(event.path)) for state in (before, after)]
            kinds = {state.nodes[number].kind for state, number in found if number is not None}
            assert event.kind in kinds, f"{event} is of {kinds or 'nothing'}"

    def _foretell(self, plan: Plan) -> Any:
        volume, flushed, apply = plan()
        line = self.lines[volume]
        for number in flushed:
            line.flush(number, self.clock.now_ns())
        _, done, reply = self.last
        if done is not None and done[0] == volume and done[1] <= line.state.commit:
            return reply
        before, draft = line.state, Draft(line.state, self.clock.now_ns())
        reply = apply(draft)
        if draft.changed:
            line.add(draft)
            self.counts["commits"] += 1
            self.last = plan, (volume, draft.commit), reply
            self.fresh = volume, before, line.state
        return reply

    def _acknowledge(self, plan: Plan) -> None:
        done = self.last[1]
        volume = done[0] if done is not None else plan()[0]
        self.lines[volume].acknowledge(self.lines[volume].state.commit)

    async def expect(self, call: Callable[[], Awaitable[Any]], expected: Any) -> None:
        try:
            answer = await call()
        except PlatformError as error:
            if self.power.off.is_set():
                raise
            if not isinstance(expected, Refused) or error.kind != expected.kind:
                raise AssertionError(f"{error!r}, not {expected!r}") from error
            return
        assert not isinstance(expected, Refused), f"{answer!r}, not {expected!r}"
        if isinstance(answer, Handle):
            answer = answer.inode
        if isinstance(answer, (tuple, list)):
            answer, expected = _plain(answer), _plain(expected)
        assert answer == expected, f"{answer!r}, not {expected!r}"

    async def _look_for_ghosts(self) -> None:
        """A file that lost its name with buffered writes may still be there, or is not."""
        for number, line in self.lines.items():
            gone = [n for n in line.buffered if n not in line.state.nodes]
            if gone:
                volume = await self.platform.acquire(number)
                for file in gone:
                    if await volume.find_inode(file) is None:
                        line.ghosts.discard(file)
                    else:
                        line.ghosts.add(file)
                self.platform.release(volume)

    # ---- buffered writes

    async def write(self, path: str, offset: int, data: bytes, *, durable: bool) -> None:
        def buffer() -> tuple[int, int]:
            found = self.find(path)
            line = self.lines[found.volume]
            number = found.number or 0
            if found.state.nodes[number].kind != "file":
                raise Refused(INVALID)
            if data:
                written = Write(offset, data, self.clock.now_ns())
                line.buffered.setdefault(number, []).append(written)
            size = len(line.seen(number).data)
            if durable:
                line.flush(number, self.clock.now_ns())
            return found.volume, size

        self.last = None, None, None
        try:
            volume, expected = buffer()
        except Refused as refused:
            await self.expect(lambda: self.driver.write(path, offset, data), refused)
            return
        await self.expect(lambda: self.driver.write(path, offset, data, durable=durable), expected)
        if durable:
            self.lines[volume].acknowledge(self.lines[volume].state.commit)

    async def sync(self, volume: Volume, line: Line) -> None:
        await volume.sync()
        await self._catch_up(volume, line)
        line.buffered.clear()  # what is left was of files that are gone
        line.ghosts.clear()
        line.acknowledge(line.state.commit)

    # ---- puts that share a unit

    async def put_together(
        self, table: Found, rows: Sequence[tuple[bytes, dict[str, Any]]]
    ) -> None:
        """Puts of many at once: which of them share a commit, its change row tells."""
        number = table.number
        assert number is not None
        requests = []
        for slot in range(len(rows)):
            self.slots[slot] = self.slots.get(slot, 0) + 1
            request = Request(admin("tester"), b"puts together   ", slot, self.slots[slot], PUT)
            requests.append(request)
        self.last = None, None, None
        self.puts = [(number, key, columns) for key, columns in rows]
        self.putting = table, list(zip(requests, rows, strict=True))
        self.put_ns = self.clock.now_ns()
        await self.send_puts()
        if self.rng.random() < 0.2:
            await self.send_puts()
        self.putting = None

    async def send_puts_again(self) -> None:
        """Those that were under way, if their table and their replies are still there."""
        if self.putting is None or self.clock.now_ns() - self.put_ns >= SESSION_AGE_NS:
            return
        table = self.putting[0]
        if table.number in self.lines[table.volume].state.nodes:
            self.note("sent again")
            await self.send_puts()

    async def send_puts(self) -> None:
        """For the first time, or again: those that are there are answered as then."""
        assert self.putting is not None
        (volume_id, _, _, _, number, _), sent = self.putting
        line = self.lines[volume_id]
        volume = await self.platform.acquire(volume_id)
        try:
            if self.rng.random() < 0.2:
                sent = [*sent, sent[-1]]  # and its own retry, at once
            answers = await asyncio.gather(
                *(
                    volume.puts.put(request, number or 0, key, msgpack.packb(columns))
                    for request, (key, columns) in sent
                ),
                return_exceptions=True,
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            await self._catch_up(volume, line)
            assert not self.puts, f"puts without a commit: {self.puts}"
            line.acknowledge(line.state.commit)
            known = {
                request.slot: answer for (request, _), answer in zip(sent, answers, strict=True)
            }
            for (request, (key, _)), answer in zip(sent, answers, strict=True):
                assert answer == known[request.slot], "a retry was answered otherwise"
                assert answer <= line.state.nodes[number or 0].rows[key].version
        finally:
            self.platform.release(volume)

    # ---- everything is as it must be

    async def verify(self) -> None:
        for number, line in self.lines.items():
            volume = await self.platform.acquire(number)
            try:
                await self.comparison.volume(volume, line)
            except AssertionError as error:
                error.args = (f"volume {number}, commit {line.state.commit}: {error}",)
                raise
            finally:
                self.platform.release(volume)

    # ---- what the server does by itself

    async def background(self) -> None:
        number, line = self.rng.choice(list(self.lines.items()))
        volume = await self.platform.acquire(number)
        try:
            how = self.rng.choice(
                [
                    *(
                        "writeback",
                        "lane",
                        "compaction",
                        "compaction",
                        "orphans",
                        "expiry",
                        "expiry",
                    ),
                    *("retention", "retention", "replies", "trim"),
                ]
            )
            self.note(how)
            if how == "writeback":
                await volume.writeback.run_once()
            elif how == "lane":
                commit = volume.state.commit
                await volume.lane.run_once()
                line.acknowledge(commit)
            elif how == "compaction":
                await compaction.run_once(volume)
            elif how == "orphans":
                await orphans.run_once(volume)
            elif how == "expiry":
                await expiry.run_once(volume)
            elif how == "retention":
                await retention.run_once(volume)
            elif how == "replies":
                await volume.replies.run_once(volume)
            else:
                await change_trims.trim(volume)
            await self._catch_up(volume, line)
        finally:
            self.platform.release(volume)
        await self._look_for_ghosts()

    async def _catch_up(self, volume: Volume, line: Line) -> None:
        """Commits that were not foretold: their change rows say what they did."""
        for commit in range(line.state.commit + 1, volume.state.commit + 1):
            value = await volume.storage.engine.get(keys.change(commit))
            assert value is not None, f"commit {commit} has no change row"
            row = ChangeRow.unpack(value)
            draft = Draft(line.state, row.time_ns)
            for event in row.events:
                if not event[0].startswith("advisory limit"):
                    self._explain(Event(*event), line, draft)
            if not row.events:
                _explain_silent(row, draft)
            draft.changed = True
            line.add(draft)

    def _explain(self, event: Event, line: Line, draft: Draft) -> None:
        if event.path.startswith("(inode"):  # of something without a name
            assert event.verb == "written"
            nameless = int(event.path.removeprefix("(inode ").removesuffix(")"))
            assert nameless in line.buffered, f"nobody wrote this: {event}"
            del line.buffered[nameless]  # flushed: no flush follows
            line.ghosts.discard(nameless)
            return
        number = line.state.find(event.path)
        assert number is not None, f"an event of something unknown: {event}"
        if event.verb == "written":
            assert number in line.buffered, f"nobody wrote this: {event}"
            draft.flush(number, line.buffered.pop(number))
        elif event.verb == "rows expired":
            assert draft.expire_rows(number) == event.facts["rows"], "live rows went"
        elif event.verb == "records expired":
            topic, partition = event.facts["topic"], event.facts["partition"]
            draft.expire_records(number, topic, partition, event.facts["start_offset"])
        elif event.verb == "row put":
            key = event.facts["key"]
            put = next((p for p in self.puts if p[:2] == (number, key)), None)
            assert put is not None, f"nobody put this row: {event}"
            self.puts.remove(put)
            draft.put(number, key, put[2])
        else:
            raise AssertionError(f"the server did by itself: {event}")


def _explain_silent(row: ChangeRow, draft: Draft) -> None:
    """A commit without an event: what it touched tells whether it is one that changes a count."""
    for key in row.keys:
        tag, number = key[:1], keys.number_of(key) if len(key) >= 9 else 0
        node = draft.nodes.get(number)
        if node is None or node.kind != "stream":
            continue
        if tag == keys.INODE:
            assert node.dropped, "a stream was changed, and nobody asked for it"
            draft.sweep_dropped(number)
        elif tag == keys.PRODUCER and not node.dropped:
            _forget_producer(draft, number, key)


def _forget_producer(draft: Draft, stream: int, key: bytes) -> None:
    topic_id, partition = keys.topic_and_partition_of(key)
    producer = keys.last_number_of(key)
    for topic in draft.change(stream).topics.values():
        if topic.id == topic_id:
            known = topic.partitions[partition].producers.pop(producer, None)
            assert known is not None, "a producer was forgotten that nobody knows"
            assert draft.now_ns - known.time_ns > WEEK_NS, "a producer was forgotten too early"


WEEK_NS = 7 * 24 * 3600 * 10**9


def _as_found(inode: Inode) -> Node:
    kind = Kind(inode.kind).word
    return Node(kind, inode.mode, inode.mtime_ns, inode.ctime_ns, inode.version)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
