"""Promises: which client keeps what in a cache, and that it hears of a change before anybody is
answered (D11). These are the callbacks of AFS (Howard et al. 1988).

A session that keeps nodes in a cache is a `Keeper`. Whatever it is answered with comes with a
promise on the inode: it is told when somebody else changes it, and the reply to that change waits
until it has acknowledged. What it asked a directory about is promised with the directory's inode.

- A promise is made before the value is read, or when the unit that made the value commits. So there
  is no moment at which a keeper has a value without a promise, and none at which it is not told.
- A promise that is broken is over: the keeper asks again, and has it again.
- What was told and not acknowledged is kept, and told again to a keeper that asks again.
- Nobody waits for long: a keeper that did not ask for LEASE_S keeps nothing any more, on either
  side (it counts from when it asked, hence ends before us). When it comes back it hears that
  everything is over, as does one that nobody knows here, after a restart.
- A file whose last name goes lives on until every other keeper of it has acknowledged that: before
  it does so it opens what it has in use (`holds`).
- Being told is no way to see more: whoever was denied something is promised nothing, and names that
  came or went are told to those who may list the directory; others hear that everything is over.
- Nobody in particular makes nobody wait: an anonymous keeper is told, and not waited for.

Waiting happens outside of the lane. Two keepers may wait for each other's acknowledgement while
they change things themselves, because acknowledging needs nothing that a change holds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base.clock import Clock
from ..base.errors import PlatformError, Unavailable
from ..keyspace import keys
from .access.verbs import Verb
from .principals import NOBODY, SYSTEM_PRINCIPAL, Principal
from .signals import Signal
from .snapshot_names import directory_of_snapshots

if TYPE_CHECKING:
    from .units import Unit
    from .volumes import Volume

LEASE_S = 10.0
"""How long a change waits at most for a keeper that does not answer."""

PROMISES_MAX = 1_000_000
"""Of one keeper, at some 100 bytes each. The oldest are broken when there are more."""

BREAK_OLDEST = PROMISES_MAX // 100
"""So many at a time: finding the oldest costs more than the next ones after it."""

TOLD_MAX = 200_000
"""What a keeper has not acknowledged yet; with more than that, everything is over for it."""

NEWS_MAX = 5_000
"""Promises and names that are told at a time, unless one change alone has more names."""

_INODE, _ENTRY, _XATTR, _PIECE = keys.INODE[0], keys.ENTRY[0], keys.XATTR[0], keys.PIECE[0]


class Effect:
    """What a change does to one inode, as far as caches care."""

    __slots__ = ("data", "entries", "is_directory", "names", "unlinked")

    def __init__(self, *, data: bool = False) -> None:
        self.data = data
        self.entries = False
        self.is_directory = False
        self.unlinked = False
        self.names: list[bytes] = []

    def entry(self, name: bytes) -> None:
        self.entries = self.is_directory = True
        self.names.append(name)


class Broken(NamedTuple):
    """What somebody who keeps an inode is told of it. `names`: of entries in this directory. The
    promise is over, unless `kept`: whoever keeps a directory keeps its other names, too."""

    sequence: int
    volume: int
    inode: int
    entries: bool
    data: bool
    unlinked: bool
    names: tuple[bytes, ...]
    kept: bool = False


class News(NamedTuple):
    """What a keeper is told: it acknowledges `sequence` when its caches are rid of it."""

    sequence: int
    broken: Sequence[Broken]
    everything: bool


Blind = frozenset[tuple[bytes, int]]
"""(session, directory): who may not be told names of which."""

Told = Sequence[tuple["Keeper", int]]
"""Whose acknowledgement of what a change waits for."""


def effects_of(unit: Unit) -> dict[int, Effect]:
    """What the unit's commit does to which inodes. Rows, records and housekeeping are not cached,
    and buffered writes were told of when they were taken."""
    effects: dict[int, Effect] = {}
    for key in unit.writes:
        kind = key[0]
        if kind != _INODE and kind != _ENTRY and kind != _PIECE and kind != _XATTR:
            continue
        number = keys.number_of(key)
        effect = effects.get(number)
        if effect is None:
            effect = effects[number] = Effect()
        if kind == _ENTRY:
            effect.entry(keys.name_of(key))
        elif kind == _PIECE:
            effect.data = True
    for number, effect in effects.items():
        inode = unit.known_inode(number)
        if inode is not None and inode.is_directory:
            effect.is_directory = True
    for number in unit.resized:
        effects.setdefault(number, Effect()).data = True
    for number in unit.unlinked:
        effects.setdefault(number, Effect()).unlinked = True
    return effects


def _key(volume: int, inode: int) -> int:
    return volume << 64 | inode


class Keeper:
    """A session that keeps nodes in a cache: its promises, and what it has been told."""

    __slots__ = (
        "_waiting",
        "acknowledged",
        "asked_s",
        "everything",
        "kept",
        "news",
        "over",
        "principal",
        "report",
        "sequence",
        "session",
        "told",
        "unlinked",
    )

    def __init__(
        self,
        session: bytes,
        now_s: float,
        sequence: int,
        principal: Principal = SYSTEM_PRINCIPAL,
    ) -> None:
        self.session = session
        self.principal = principal  # who watched last
        self.asked_s = now_s  # when it watched last
        self.sequence = sequence  # of what it was told last; grows over all lives of the session
        self.acknowledged = sequence
        self.everything = 0  # not 0: with this number it was told that everything is over
        self.kept: dict[int, None] = {}  # oldest first
        self.told: deque[Broken] = deque()  # not acknowledged
        self.unlinked: set[int] = set()  # those of `told` that live on for this keeper
        self.news = Signal()
        self.report: Any = None  # what it last said of itself, for people
        self.over = False  # nobody answers for it any more
        self._waiting: deque[tuple[int, float, asyncio.Future[None]]] = deque()

    # ---- making promises

    def keep_now(self, volume: Volume, inode: int) -> None:
        """Promise it; then read it. See `keep` for inodes that may be on their way out."""
        kept = self.kept
        kept[volume.id << 64 | inode] = None
        if len(kept) > PROMISES_MAX:
            for key in list(islice(kept, BREAK_OLDEST)):
                if key in kept:  # not if everything ended meanwhile
                    self.tell(key, Effect())

    async def keep(self, volume: Volume, *inodes: int) -> None:
        """The same. If a unit under way has already decided that one of them goes, that comes
        first: nobody may have an inode that is gone, and not have been asked whether it uses it."""
        for inode in inodes:
            self.keep_now(volume, inode)
        going = volume.lane.going
        if going and not going.isdisjoint(inodes):
            await volume.lane.settled()
            for inode in inodes:
                self.keep_now(volume, inode)

    def keeps(self, volume: int, inode: int) -> bool:
        return _key(volume, inode) in self.kept

    def denied(self, volume: int, inode: int) -> None:
        """It asked about this, and was denied an answer: nothing of it is promised. Whoever may do
        everything was denied it for somebody else."""
        if not self.principal.is_free and self.keeps(volume, inode):
            self.tell(_key(volume, inode), Effect())

    # ---- telling

    def tell(self, key: int, effect: Effect) -> None:
        """Break a promise; a directory's goes on until the directory goes."""
        is_kept = effect.is_directory and not effect.unlinked
        if not is_kept:
            del self.kept[key]
        self.sequence += 1
        if len(self.told) >= TOLD_MAX:
            self.end_everything()
            return
        self.told.append(
            Broken(
                self.sequence,
                key >> 64,
                key & 0xFFFF_FFFF_FFFF_FFFF,
                effect.entries,
                effect.data,
                effect.unlinked,
                tuple(effect.names),
                is_kept,
            )
        )
        if effect.unlinked:
            self.unlinked.add(key)
        self.news.notify()

    def relay(
        self,
        volume: int,
        inode: int,
        *,
        entries: bool,
        data: bool,
        unlinked: bool,
        names: Sequence[bytes],
        kept: bool,
    ) -> int:
        """Tell what another cluster told of something that it promised; with which number."""
        self.sequence += 1
        if len(self.told) >= TOLD_MAX:
            self.end_everything()
            return self.sequence
        self.told.append(
            Broken(self.sequence, volume, inode, entries, data, unlinked, tuple(names), kept)
        )
        self.news.notify()
        return self.sequence

    def end_everything(self) -> None:
        """All promises end, and what was told goes up in that."""
        self._clear()
        self.sequence += 1
        self.everything = self.sequence
        self.news.notify()

    def begin(self) -> None:
        """It has nothing in its cache."""
        self._clear()
        self.everything = 0
        self.acknowledge(self.sequence)

    def _clear(self) -> None:
        self.kept.clear()
        self.told.clear()
        self.unlinked.clear()

    def acknowledge(self, sequence: int) -> None:
        self.acknowledged = max(self.acknowledged, sequence)
        while self.told and self.told[0].sequence <= sequence:
            broken = self.told.popleft()
            if broken.unlinked:
                self.unlinked.discard(_key(broken.volume, broken.inode))
        if self.everything <= sequence:
            self.everything = 0
        while self._waiting and self._waiting[0][0] <= sequence:
            _wake(self._waiting.popleft()[2])

    def find_news(self) -> News | None:
        """What it has not acknowledged, from the oldest on; None if there is nothing."""
        if not self.told and not self.everything:
            return None
        broken: list[Broken] = []
        weight = 0
        for one in self.told:
            weight += 1 + len(one.names)
            if broken and weight > NEWS_MAX:
                break
            broken.append(one)
        whole = len(broken) == len(self.told)
        sequence = self.sequence if whole else broken[-1].sequence
        return News(sequence, broken, bool(self.everything))

    # ---- waiting for it

    def is_late(self, now_s: float) -> bool:
        """It did not ask for a lease; or it asks and asks, and does not acknowledge."""
        if now_s - self.asked_s >= LEASE_S:
            return True
        return bool(self._waiting) and now_s - self._waiting[0][1] >= 2 * LEASE_S

    @property
    def is_awaited(self) -> bool:
        return bool(self._waiting)

    @property
    def is_somebody(self) -> bool:
        return self.principal.uid != NOBODY

    async def wait(self, sequence: int, now_s: float) -> None:
        """Until it has acknowledged so much, or need not any more."""
        if self.over or self.acknowledged >= sequence:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting and self._waiting[-1][0] > sequence:  # a retry, after others
            sequence = self._waiting[-1][0]
        self._waiting.append((sequence, now_s, waiter))
        await waiter

    def release(self, wake: Callable[[asyncio.Future[None]], None] | None = None) -> None:
        """Nobody waits for it any more."""
        waiting, self._waiting = self._waiting, deque()
        for _, _, waiter in waiting:
            (wake or _wake)(waiter)


class Promises:
    """All keepers of a server. False if there are none, which is all that a change pays then."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closed = False
        self.keepers: dict[bytes, Keeper] = {}
        self._snapshot_lists: dict[int, set[tuple[bytes, int]]] = {}
        """By volume: who was promised names in which `.snapshot`."""
        self.broken_count = 0
        self.late_count = 0

    def __bool__(self) -> bool:
        return bool(self.keepers)

    # ---- keepers

    def find(self, session: bytes) -> Keeper | None:
        return self.keepers.get(session)

    async def watch(
        self,
        session: bytes,
        *,
        begin: bool,
        acknowledged: int,
        wait_s: float,
        report: Any = None,
        principal: Principal = SYSTEM_PRINCIPAL,
    ) -> News:
        """Acknowledge, and hear what there is to hear; waits for it, but no more than half a lease.

        A session that watches for the first time becomes a keeper. If it says that it is one
        already it is told that everything is over, and so is one that was late.
        """
        keeper = self._asked(session, begin, acknowledged)
        keeper.principal = principal
        if report is not None:
            keeper.report = report
        news = keeper.find_news()
        if news is None and not begin and wait_s > 0 and not self._closed:
            await keeper.news.wait(min(wait_s, LEASE_S / 2))
            news = keeper.find_news()
        return news or News(keeper.sequence, (), keeper.over)

    def _asked(self, session: bytes, begin: bool, acknowledged: int) -> Keeper:
        now_s = self._clock.monotonic()
        keeper = self.keepers.get(session)
        if keeper is None:
            # Numbers of another life, before a restart even, are never taken for those of this one.
            keeper = Keeper(session, now_s, self._clock.now_ns() // 1000)
            self.keepers[session] = keeper
            if not begin:
                keeper.end_everything()
        elif begin:
            keeper.begin()
        elif keeper.is_late(now_s):
            self._expire(keeper)
        elif acknowledged > keeper.sequence:
            keeper.end_everything()  # it cannot mean us
        else:
            keeper.acknowledge(acknowledged)
        keeper.asked_s = now_s
        return keeper

    def leave(self, session: bytes) -> None:
        """The client is gone: it keeps nothing, and nobody waits for it."""
        keeper = self.keepers.pop(session, None)
        if keeper is not None:
            keeper.end_everything()
            keeper.over = True
            keeper.release()

    def run_once(self) -> int:
        """End what late keepers were promised, so that nobody waits for them; how many. Run it
        often: a change waits for up to a lease and one turn of this."""
        now_s = self._clock.monotonic()
        late = [k for k in self.keepers.values() if k.is_late(now_s) and (k.kept or k.told)]
        for keeper in late:
            self._expire(keeper)
        return len(late)

    def _expire(self, keeper: Keeper) -> None:
        self.late_count += keeper.is_awaited
        keeper.end_everything()
        keeper.release()

    def close(self) -> None:
        """The server is stopping: nobody can acknowledge any more. Changes that wait for it are
        done, but their callers hear it elsewhere or later: they ask again."""
        self._closed = True
        for keeper in self.keepers.values():
            keeper.release(_refuse)
            keeper.news.notify()

    def keep_directory(self, keeper: Keeper, volume: Volume, inode: int) -> None:
        """Promise names in a directory, which may be `.snapshot` in one."""
        keeper.keep_now(volume, inode)
        if directory_of_snapshots(inode):
            self._snapshot_lists.setdefault(volume.id, set()).add((keeper.session, inode))

    def snapshots_changed(self, volume: int, name: str) -> Told:
        """A snapshot of the volume came or went: tell whoever keeps names of a `.snapshot`."""
        promised, told = self._snapshot_lists.pop(volume, set()), []
        now_s = self._clock.monotonic()
        for session, inode in promised:
            keeper = self.keepers.get(session)
            if keeper is None or not keeper.keeps(volume, inode):
                continue
            if keeper.is_late(now_s):
                self._expire(keeper)
            elif not keeper.principal.is_free:  # who may not be told names
                keeper.end_everything()
            else:
                effect = Effect()
                effect.entry(name.encode())
                keeper.tell(_key(volume, inode), effect)
                self._snapshot_lists.setdefault(volume, set()).add((session, inode))
            if keeper.is_somebody:
                told.append((keeper, keeper.sequence))
        return told

    # ---- changes

    def others(self, session: bytes | None) -> list[Keeper]:
        """Those to whom a change that the session makes may be news."""
        return [k for k in self.keepers.values() if k.kept and k.session != session]

    async def committed(self, unit: Unit) -> Told:
        """Tell whoever keeps what the unit changed."""
        if unit.changes_rules:
            return self._end_everything(unit.request.caller)
        others = self.others(unit.request.caller)
        if not others or unit.quiet or unit.told_before:
            return ()
        effects = effects_of(unit)
        return self._tell(others, unit.volume.id, effects, await _blind(others, unit, effects))

    def _end_everything(self, session: bytes | None) -> Told:
        """For all keepers; the one whose change it is waits for nobody but the others."""
        now_s = self._clock.monotonic()
        told = []
        for keeper in list(self.keepers.values()):
            if keeper.is_late(now_s):
                self._expire(keeper)
                continue
            keeper.end_everything()
            if keeper.session != session and keeper.is_somebody:
                told.append((keeper, keeper.sequence))
        return told

    def written(self, volume: int, inode: int, session: bytes | None) -> Told:
        """Tell whoever keeps a file that bytes were written to it, or that it is longer."""
        others = self.others(session)
        return self._tell(others, volume, {inode: Effect(data=True)}) if others else ()

    def _tell(
        self,
        others: Iterable[Keeper],
        volume: int,
        effects: Mapping[int, Effect],
        blind: Blind = frozenset(),
    ) -> Told:
        now_s = self._clock.monotonic()
        told = []
        for keeper in others:
            mine = [n for n in effects if _key(volume, n) in keeper.kept]
            if not mine:
                continue
            if keeper.is_late(now_s):
                self._expire(keeper)
                continue
            for number in mine:
                if _key(volume, number) not in keeper.kept:
                    continue  # everything ended meanwhile
                if (keeper.session, number) in blind:
                    keeper.end_everything()
                else:
                    keeper.tell(_key(volume, number), effects[number])
            self.broken_count += len(mine)
            if keeper.is_somebody:
                told.append((keeper, keeper.sequence))
        return told

    def outstanding(self, session: bytes | None) -> Told:
        """All that others have not acknowledged: what a change may wait for that was done before,
        whose first reply is still held back or was lost."""
        return [
            (k, k.sequence) for k in self.keepers.values() if k.is_awaited and k.session != session
        ]

    async def acknowledged(self, told: Told) -> None:
        """Wait until whoever was told has acknowledged, or need not. UNAVAILABLE if the server
        stops first."""
        for keeper, sequence in told:
            if self._closed:
                raise _stopping()
            await keeper.wait(sequence, self._clock.monotonic())

    def is_kept(self, volume: int, inode: int, session: bytes | None) -> bool:
        """Whether somebody other than the session keeps it."""
        key = _key(volume, inode)
        return any(key in k.kept for k in self.keepers.values() if k.session != session)

    def holds(self, volume: int, inode: int) -> bool:
        """Whether it lost its last name and somebody has not acknowledged that yet."""
        key = _key(volume, inode)
        return any(key in k.unlinked for k in self.keepers.values())

    def replaced(self, volume: int) -> None:
        """Something else stands in the volume from now on, under the same numbers: everything is
        over for those who keep anything of it. `outstanding` tells whom to wait for."""
        now_s = self._clock.monotonic()
        for keeper in list(self.keepers.values()):
            if any(key >> 64 == volume for key in keeper.kept):
                if keeper.is_late(now_s):
                    self._expire(keeper)
                else:
                    keeper.end_everything()

    def forget_volume(self, volume: int) -> None:
        """The volume was removed with all it held: tell its keepers; nobody waits."""
        for keeper in self.keepers.values():
            for key in [key for key in keeper.kept if key >> 64 == volume]:
                if key in keeper.kept:
                    keeper.tell(key, Effect(data=True))

    # ---- for people

    def reports(self) -> list[Any]:
        """What keepers last said of themselves, of those that are there."""
        now_s = self._clock.monotonic()
        return [
            k.report for k in self.keepers.values() if k.report is not None and not k.is_late(now_s)
        ]

    def counts(self) -> dict[str, int]:
        """For metrics."""
        keepers = self.keepers.values()
        return {
            "keepers": len(keepers),
            "kept": sum(len(k.kept) for k in keepers),
            "told": sum(len(k.told) for k in keepers),
            "broken": self.broken_count,
            "late": self.late_count,
        }


async def _blind(keepers: Iterable[Keeper], unit: Unit, effects: Mapping[int, Effect]) -> Blind:
    """Which of them may not see the names in the directories where names came or went."""
    volume = unit.volume
    found: set[tuple[bytes, int]] = set()
    for keeper in keepers:
        if keeper.principal.is_free:
            continue
        for number, effect in effects.items():
            if not effect.names or _key(volume.id, number) not in keeper.kept:
                continue
            try:
                sees = await volume.guard.may(keeper.principal, volume, number, Verb.LIST)
            except PlatformError:
                sees = False  # it is gone, or cannot be read
            if not sees:
                found.add((keeper.session, number))
    return frozenset(found)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _refuse(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(_stopping())


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping")
