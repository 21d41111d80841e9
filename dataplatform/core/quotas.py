"""Quotas: what a volume and its directories may hold, in bytes and entries (files, directories,
links, tables, streams), asked and counted in the unit that takes it.

An *account* is the volume, or a directory that was given a quota; what stands in a directory counts
for every account at or above it: its *chain*, nearest first, the volume last. Nested quotas so add
up along the chain. A file with several names counts where its first name is.

A unit notes what it takes where (`Unit.used`); right before it is committed `settle` adds that up
by account, refuses what has no room (EXHAUSTED, EDQUOT) by what the unit takes *altogether*, and
puts the new counts into the same commit. So the counts are exact at every commit, and what is
removed is free again at once.

Buffered writes (`writeback`) have no unit yet: their growth is *held* against the accounts from the
moment at which they are taken. It is an upper bound, found out exactly when an account is nearly
full. Whatever a unit takes while its commit is written is held, too. Together: used + held never
passes a limit, whoever writes.

Where no directory has a quota, none of this looks at any directory.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.errors import Corrupt, Exhausted, Invalid
from ..base.limits import MIB
from ..engine.base import Reader, scan_all
from ..keyspace import keys
from ..keyspace.records import DirectoryQuota, Inode, VolumeSettings, VolumeState

if TYPE_CHECKING:
    from .units import Unit
    from .volumes import Volume

log = logging.getLogger(__name__)

Chain = tuple[int, ...]

VOLUME = 0
"""The volume's own account; the others have the numbers of their directories."""

VOLUME_ONLY: Chain = (VOLUME,)

DEPTH_MAX = 100_000
"""Directories above something; more are a circle of damaged directories."""

CHAINS_MAX = 100_000
"""Directories whose chains are remembered."""

LIMIT_MAX = 2**63 - 1

NEARLY_BYTES = 64 * MIB
"""With less room than that an account is nearly full: as much as a mount gathers, by default."""

OVER_BYTES = 1
OVER_ENTRIES = 2
"""Bits of `over`: which advisory limits are passed. Stored."""

RETURN_PERCENT = 95
"""Of an advisory limit: only below that is it kept again, so that use which swings around the
limit says so once."""


@dataclass(slots=True)
class Held:
    """What the buffered writes of one file may grow by, and for whom that counts."""

    chain: Chain
    size_bytes: int = 0


@dataclass(slots=True)
class Taken:
    """What a unit takes from one account. Forced: what is only counted elsewhere now, so nobody
    can be refused it."""

    size_bytes: int = 0
    entries: int = 0
    forced_bytes: int = 0
    forced_entries: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """Things that count for other accounts once a unit is committed: those of these numbers, and
    all that counts for one of `inner`, accounts that move along."""

    numbers: frozenset[int] | set[int]
    inner: frozenset[int]
    old: Chain
    new: Chain
    is_forced: bool

    def has(self, number: int, chain: Chain) -> bool:
        return number in self.numbers or not self.inner.isdisjoint(chain)


class Quotas:
    """The accounts of one volume, in memory; the stored ones follow with every commit."""

    def __init__(self, volume: Volume, directories: dict[int, DirectoryQuota]) -> None:
        self._volume = volume
        self.directories = directories
        """As committed, by directory; those whose content is being counted, too."""
        self.exempt_bytes = 0  # of the audit, as committed: no quota of the volume counts them
        self.version = 0  # grows with each change of what counts where
        self.moving: list[Move] = []  # by the unit under way
        self._reserved: dict[int, int] = {}  # bytes held and being committed, by account
        self._held: dict[int, Held] = {}  # by file
        self._chains: dict[int, Chain] = {}
        self._cleared = -1

    # ---- accounts

    def limits_of(self, account: int) -> VolumeSettings | DirectoryQuota:
        return self._volume.settings if account == VOLUME else self.directories[account]

    def usage_of(self, account: int) -> VolumeState | DirectoryQuota:
        return self._volume.state if account == VOLUME else self.directories[account]

    def used_bytes(self, account: int) -> int:
        """What is compared with a quota."""
        used = self.usage_of(account).used_bytes
        return used - self.exempt_bytes if account == VOLUME else used

    def held_bytes(self, account: int) -> int:
        """Of buffered writes and commits under way."""
        return self._reserved.get(account, 0)

    async def chain(self, number: int, unit: Unit | None = None) -> Chain:
        """The accounts that what stands in this directory, table or stream counts for: as it is
        committed, or in the unit's eyes."""
        if not self.directories:
            return VOLUME_ONLY
        cleared = self._volume.paths.cleared
        is_usual = unit is None or not unit.renames
        known = self._known_chains() if is_usual else {}
        passed: list[int] = []
        current, chain = number, known.get(number)
        while chain is None:
            inode = await (self._volume if unit is None else unit).find_inode(current)
            if inode is None or len(passed) > DEPTH_MAX:
                is_usual = False  # damaged, or removed just now
                chain = VOLUME_ONLY
                break
            passed.append(current)
            current = inode.parent
            chain = known.get(current) if current else VOLUME_ONLY
        is_usual = is_usual and cleared == self._volume.paths.cleared
        names_end = self._volume.state.next_inode
        for directory in reversed(passed):
            if directory in self.directories:
                chain = (directory, *chain)
            if is_usual and directory < names_end and len(self._chains) < CHAINS_MAX:
                self._chains[directory] = chain
        return chain

    def _known_chains(self) -> dict[int, Chain]:
        """Good until any directory is renamed or removed, or a quota comes or goes."""
        if self._cleared != self._volume.paths.cleared:
            self._cleared = self._volume.paths.cleared
            self._chains = {}
        return self._chains

    def changed(self) -> None:
        """A quota came or went, or things count for others."""
        self.version += 1
        self._volume.paths.clear()

    # ---- what units take

    async def resolve(self, unit: Unit) -> None:
        """Add up by account what the unit took so far. Before it changes what is where."""
        charges, unit.charges = unit.charges, {}
        known = {} if unit.renames else self._known_chains()
        for directory, taken in charges.items():
            chain = known.get(directory)
            if chain is None:
                chain = await self.chain(directory, unit)
            for account in chain:
                if account != VOLUME:
                    _add(unit.accounts.setdefault(account, Taken()), taken)

    def concern(self, unit: Unit) -> bool:
        """Whether the unit is to be settled."""
        if unit.charges or unit.accounts:
            return True
        return bool(unit.used_bytes_delta or unit.entries_delta) and self._volume_is_limited()

    @property
    def has_limits(self) -> bool:
        """Whether there is any limit that bytes may meet. If not, they are counted only."""
        return bool(self.directories or self._volume.settings.quota_bytes)

    def _volume_is_limited(self) -> bool:
        limits = self._volume.settings
        return bool(
            limits.quota_bytes
            or limits.quota_entries
            or limits.advisory_bytes
            or limits.advisory_entries
            or self._volume.state.over
        )

    async def settle(self, unit: Unit) -> dict[int, int]:
        """Refuse what has no room, else put the counts as they are after the unit: the bytes held
        until its commit is done (see `let_go`), by account. EXHAUSTED (EDQUOT)."""
        if unit.charges:
            await self.resolve(unit)
        # Those whose directory went, or whose count was given up, are no more.
        accounts = {a: t for a, t in unit.accounts.items() if a in self.directories}
        if self._volume_is_limited():
            accounts[VOLUME] = Taken(unit.used_bytes_delta, unit.entries_delta)
        if not unit.accepted:
            for account, taken in accounts.items():
                await self._refuse_beyond(unit, account, taken)
        holds = {}
        for account, taken in accounts.items():
            await self._count(unit, account, taken)
            if not unit.accepted and taken.size_bytes > 0:  # the growth of accepted ones is held
                holds[account] = taken.size_bytes
        for account, size_bytes in holds.items():
            self._reserved[account] = self._reserved.get(account, 0) + size_bytes
        return holds

    def let_go(self, holds: dict[int, int]) -> None:
        for account, size_bytes in holds.items():
            if account in self._reserved:
                self._reserved[account] -= size_bytes

    async def _refuse_beyond(self, unit: Unit, account: int, taken: Taken) -> None:
        limits, usage = self.limits_of(account), self.usage_of(account)
        entries = taken.entries + taken.forced_entries
        if taken.entries > 0 and 0 < limits.quota_entries < usage.entries + entries:
            raise await self.refusal(account, unit, entries=True)
        quota_bytes, moved_bytes = limits.quota_bytes, self._moved_growth(account)
        if not quota_bytes or taken.size_bytes + moved_bytes <= 0:
            return
        wanted = self.used_bytes(account) + taken.size_bytes + taken.forced_bytes
        if wanted + moved_bytes + self.held_bytes(account) > quota_bytes:
            await self._tighten(account)
            if wanted + self._moved_growth(account) + self.held_bytes(account) > quota_bytes:
                raise await self.refusal(account, unit)

    async def _tighten(self, account: int) -> None:
        """Find out how much the writes that are held against the account really grow by. While a
        unit is under way nothing else is committed."""
        numbers = self.holding(account)
        numbers += [
            number
            for number, held in self._held.items()
            if account not in held.chain and any(m.has(number, held.chain) for m in self.moving)
        ]
        for number in numbers:
            await self._volume.writeback.tighten(number)

    async def refusal(
        self, account: int, unit: Unit | None = None, *, entries: bool = False
    ) -> Exhausted:
        limits, usage = self.limits_of(account), self.usage_of(account)
        what = "quota of entries" if entries else "quota"
        facts: dict[str, object] = {"volume": self._volume.id}
        if account != VOLUME:
            path_of = unit.path_of if unit is not None else self._volume.path_of
            facts["path"] = await path_of(account)
        if entries:
            facts |= {"quota_entries": limits.quota_entries, "entries": usage.entries}
        else:
            facts |= {"quota_bytes": limits.quota_bytes, "used_bytes": usage.used_bytes}
        whose, command = (
            ("volume", "volume set") if account == VOLUME else ("directory", "quota set")
        )
        return Exhausted(
            f"the {whose}'s {what} is used up: remove data or raise it with `dp {command}`",
            **facts,
            errno=errno.EDQUOT,
        )

    async def _count(self, unit: Unit, account: int, taken: Taken) -> None:
        size_bytes = taken.size_bytes + taken.forced_bytes
        entries = taken.entries + taken.forced_entries
        if account == VOLUME:
            state, limits = self._volume.state, self._volume.settings
            if limits.advisory_bytes or limits.advisory_entries or state.over:
                used, count = state.used_bytes + size_bytes, state.entries + entries
                unit.over = await self.advise(unit, account, limits, used, count, state.over)
            return
        old = self.directories.get(account)
        if old is None:
            return  # its count was given up meanwhile
        key = keys.quota(account)
        if unit.writes.get(key, b"") is None:
            return  # it goes with this unit
        new = old.copy()
        new.used_bytes += size_bytes
        new.entries += entries
        if not old.is_counting:
            new.over = await self.advise(unit, account, new, new.used_bytes, new.entries, old.over)
            unit.put(key, new.pack())
        unit.on_commit(lambda _: self._replace(account, old, new))

    def _replace(self, account: int, old: DirectoryQuota, new: DirectoryQuota) -> None:
        if self.directories.get(account) is old:
            self.directories[account] = new

    # ---- advisory limits

    async def advise(
        self,
        unit: Unit,
        account: int,
        limits: VolumeSettings | DirectoryQuota,
        used_bytes: int,
        entries: int,
        over: int,
    ) -> int:
        """Which advisory limits are passed now, said once when that changes: in the change feed
        and in the server's log."""
        now = _over(over, OVER_BYTES, limits.advisory_bytes, used_bytes)
        now |= _over(over, OVER_ENTRIES, limits.advisory_entries, entries)
        for bit, limit, count, noun in (
            (OVER_BYTES, limits.advisory_bytes, used_bytes, "bytes"),
            (OVER_ENTRIES, limits.advisory_entries, entries, "entries"),
        ):
            if (now ^ over) & bit:
                path = "/" if account == VOLUME else await unit.path_of(account)
                verb = "advisory limit passed" if now & bit else "advisory limit kept again"
                kind = "volume" if account == VOLUME else "directory"
                unit.event(verb, path, kind, limit=limit, of=noun, used=count)
                if now & bit:
                    unit.on_commit(_warner(self._volume.id, path, limit, count, noun))
        return now

    # ---- buffered writes

    async def chain_of_file(self, inode: Inode, version: int) -> Chain:
        """What a write to the file counts for: hold it without waiting for anything in between.
        `version`: as it was before the inode was read."""
        found: Inode | None = inode
        while found is not None:
            chain = await self.chain(found.parent)
            moves = any(move.has(inode.number, chain) for move in self.moving)
            if version == self.version and not moves:
                return chain
            if moves:
                await self._volume.lane.settled()
            version = self.version
            found = await self._volume.find_inode(inode.number)
        return VOLUME_ONLY

    def find_full(self, chain: Chain, size_bytes: int) -> int | None:
        """The first account that has no room for so much more; None if all have."""
        if chain is VOLUME_ONLY and not self._volume.settings.quota_bytes:
            return None
        for account in chain:
            quota = self.limits_of(account).quota_bytes
            if quota and self._wanted(account) + size_bytes > quota:
                return account
        return None

    def _wanted(self, account: int) -> int:
        return self.used_bytes(account) + self._reserved.get(account, 0)

    def hold(self, number: int, chain: Chain, size_bytes: int) -> None:
        """The file may grow by so much, soon."""
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = Held(chain)
        held.size_bytes += size_bytes
        reserved = self._reserved
        for account in held.chain:
            reserved[account] = reserved.get(account, 0) + size_bytes

    def release(self, number: int, size_bytes: int) -> None:
        """It did, or will not."""
        held = self._held.get(number)
        if held is None:
            assert not size_bytes
            return
        held.size_bytes -= size_bytes
        self._reserve(held.chain, -size_bytes)
        if not held.size_bytes:
            del self._held[number]

    def is_nearly_full(self, number: int) -> bool:
        """Whether an account that the buffered writes of a file are held against has little room
        left: who gathers writes should wait for each, to hear in time of the one that has none."""
        held = self._held.get(number)
        if held is None:
            return False
        return self.find_full(held.chain, NEARLY_BYTES) is not None

    def holding(self, account: int) -> list[int]:
        """Files whose buffered writes are held against the account."""
        return [number for number, held in self._held.items() if account in held.chain]

    def _reserve(self, chain: Chain, size_bytes: int) -> None:
        reserved = self._reserved
        for account in chain:
            reserved[account] = reserved.get(account, 0) + size_bytes

    def _recount(self, held: Held, chain: Chain) -> None:
        self._reserve(held.chain, -held.size_bytes)
        held.chain = chain
        self._reserve(chain, held.size_bytes)

    # ---- things that count for others from now on

    async def relocate(
        self,
        unit: Unit,
        directories: tuple[int, int],
        size_bytes: int,
        entries: int,
        numbers: Iterable[int],
        inner: Iterable[int] = (),
        *,
        forced: bool = False,
    ) -> None:
        """In this unit things move from one directory to another, and count there."""
        old, new = [await self.chain(directory, unit) for directory in directories]
        if old == new:
            return
        for chain, others, sign in ((old, new, -1), (new, old, 1)):
            for account in chain:
                if account not in others:
                    parts = (0, 0, size_bytes, entries) if forced else (size_bytes, entries, 0, 0)
                    taken = unit.accounts.setdefault(account, Taken())
                    _add(taken, Taken(*(sign * part for part in parts)))
        move = Move(frozenset(numbers), frozenset(inner), old, new, forced)
        self.moving.append(move)  # until the unit ends, whoever writes to these waits for it
        unit.on_commit(lambda _: self._moved(move))

    def _moved(self, move: Move) -> None:
        for held in self._moved_by(move):
            inside = tuple(account for account in held.chain if account not in move.old)
            self._recount(held, (*inside, *move.new))
        self.changed()

    def _moved_by(self, move: Move) -> Iterator[Held]:
        return (held for n, held in self._held.items() if move.has(n, held.chain))

    def _moved_growth(self, account: int) -> int:
        """What buffered writes of things that move to the account may yet take of it."""
        return sum(
            held.size_bytes
            for move in self.moving
            if account in move.new and account not in move.old and not move.is_forced
            for held in self._moved_by(move)
        )

    # ---- quotas that come and go

    async def begin_count(self, unit: Unit, directory: int) -> None:
        """From now on what is taken and given back below the directory is counted, from zero on.
        In a unit, with no waiting between this and the view that the rest is counted on."""
        below: dict[int, bool] = {}
        while unknown := [number for number in self._held if number not in below]:
            for number in unknown:
                below[number] = await _is_below(unit, number, directory)
        self.directories[directory] = DirectoryQuota(is_counting=True)
        for number, held in self._held.items():
            if below[number]:
                self._recount(held, (directory, *held.chain))
        self.changed()

    def put(self, directory: int, quota: DirectoryQuota) -> None:
        """As it was committed."""
        self.directories[directory] = quota
        self.changed()

    def forget(self, directory: int) -> None:
        """The quota, or its directory, is gone."""
        if self.directories.pop(directory, None) is not None:
            for held in self._held.values():
                if directory in held.chain:
                    self._recount(held, tuple(a for a in held.chain if a != directory))
            self._reserved.pop(directory, None)
            self.changed()

    def remove(self, unit: Unit, directory: int) -> None:
        """The directory has no quota any more, when the unit is committed."""
        if directory in self.directories:
            unit.delete(keys.quota(directory))
            unit.on_commit(lambda _: self.forget(directory))


def check_limits(limits: VolumeSettings | DirectoryQuota) -> None:
    """INVALID."""
    for name in ("quota_bytes", "quota_entries", "advisory_bytes", "advisory_entries"):
        if not 0 <= getattr(limits, name) <= LIMIT_MAX:
            raise Invalid("a quota is a number from 0 (none) to 2^63 - 1", limit=name)


def _add(to: Taken, taken: Taken) -> None:
    to.size_bytes += taken.size_bytes
    to.entries += taken.entries
    to.forced_bytes += taken.forced_bytes
    to.forced_entries += taken.forced_entries


def _over(over: int, bit: int, limit: int, count: int) -> int:
    if not limit:
        return 0
    border = limit * RETURN_PERCENT // 100 if over & bit else limit
    return bit if count > border else 0


def _warner(volume_id: int, path: str, limit: int, count: int, noun: str) -> Callable[[int], None]:
    def warn(ticket: int) -> None:
        log.warning(
            "volume %d: %s holds %d %s: above its advisory limit of %d",
            *(volume_id, path, count, noun, limit),
        )

    return warn


async def _is_below(unit: Unit, number: int, directory: int) -> bool:
    inode = await unit.find_inode(number)
    for _ in range(DEPTH_MAX):
        if inode is None or not inode.parent:
            return False
        if inode.parent == directory:
            return True
        inode = await unit.find_inode(inode.parent)
    return False


async def load_quotas(reader: Reader) -> dict[int, DirectoryQuota]:
    """All that are stored. What cannot be read limits nothing until it is set again: `check` says
    so."""
    found: dict[int, DirectoryQuota] = {}
    try:
        async for key, value in scan_all(reader, *keys.prefix_range(keys.QUOTA)):
            try:
                quota = DirectoryQuota.unpack(value)
                if not all(type(n) is int for n in quota.fields()):
                    raise Corrupt("a stored DirectoryQuota has a wrong field")
                found[keys.number_of(key)] = quota
            except Corrupt as error:
                log.error("a directory's quota cannot be read: run dp check: %s", error)
    except Corrupt as error:
        log.error("the quotas cannot be read to their end: run dp check: %s", error)
    return found
