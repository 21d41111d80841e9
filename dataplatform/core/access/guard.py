"""The guard: one verdict for every door (D10).

In a unit: `await unit.allow(inode, Verb.WRITE)`; elsewhere `await volume.allow(principal, inode,
Verb.READ)`. Both return or raise DENIED. An unlimited administrator costs one look at the
principal; whoever else asks again about a directory that was asked about before costs some looks
into dicts, and `allows_now` needs no coroutine for that.

A verdict comes about in this order: a token's limits; reach, which is passing through every
directory from the root (or that of the token's subtree) to a name of the thing; the right of an
administrator; the nearest expression for the verb; the mode. What a session has open keeps the
verbs with which it was opened, as far as modes decide (POSIX: a file descriptor).

Within a unit nothing can change between a verdict and what it was for, as far as the unit's own
volume goes: nobody else commits there. A verdict that reads while directories change is taken anew.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import Corrupt, Denied, Invalid, NotFound, Unavailable
from ...keyspace import keys
from ...keyspace.records import ROOT_INODE, ROOT_VOLUME, Inode, Kind
from ..principals import Principal
from .rules import (
    NO_RULES,
    Directory,
    Passage,
    Rule,
    Rules,
    holds,
    mode_allows,
    rules_below,
    verbs_in,
)
from .verbs import CHANGING, CHANGING_BITS, REACH, Verb

if TYPE_CHECKING:
    from ..platform import Platform
    from ..units import Unit
    from ..volumes import Volume
    from .columns import Known

DIRECTORIES_MAX = 100_000
"""Directories that are kept, at some 300 bytes each."""

DEPTH_MAX = 100_000
"""Directories above something; more are a circle of damaged ones."""

WAYS_MAX = 1_000
"""Principals with tokens for a subtree whose way there is remembered."""

TRIES_MAX = 100
"""How often a verdict is taken anew because directories changed under it."""


class Verdict(NamedTuple):
    """Whether somebody may, and why.

    `by` is what decided: "administrator", "expression", "mode", "open" (it was opened so), "token",
    or "reach" (a directory on the way does not let pass). `rule` is the expression that decided,
    `path` where it, or that directory, stands: from the platform's root.
    """

    allowed: bool
    by: str
    rule: str | None = None
    path: str = ""


class Denial(NamedTuple):
    """For whoever listens to `Guard.on_denied`: the audit."""

    principal: Principal
    origin: str
    volume: Volume
    inode: int
    path: str  # from the volume's root
    verb: Verb
    verdict: Verdict


class _Decision(NamedTuple):
    """A verdict whose places are not spelled out yet."""

    allowed: bool
    by: str
    rule: Rule | None = None
    at: tuple[int, int] | None = None  # the directory that lets nobody pass

    @property
    def place(self) -> tuple[int, int] | None:
        return (self.rule.volume, self.rule.inode) if self.rule is not None else self.at


_MAY = _Decision(True, "mode")


class Guard:
    """Of one platform, or of a volume that belongs to none."""

    def __init__(self, platform: Platform | None = None) -> None:
        self._platform = platform
        self._directories: dict[tuple[int, int], Directory] = {}
        self._ways: dict[Principal, frozenset[tuple[int, int]]] = {}
        self._knows_snapshots = False  # some of the directories are in snapshots
        self.generation = 0
        self.columns: dict[tuple[int, int, Principal, str], Known] = {}  # see `columns`
        self.on_denied: Callable[[Denial], None] | None = None
        self.clusters: frozenset[bytes] = frozenset()
        """Names that nothing in the platform's root may have: see `core/globalnames.py`."""

    def changed(self) -> None:
        """A directory has another place, mode, owner or expression; a volume came or went."""
        self.generation += 1
        self._directories.clear()
        self._ways.clear()
        self.columns.clear()
        self._knows_snapshots = False

    def directory_gone(self, _: int = 0) -> None:
        """A directory was removed: what is in snapshots of it is judged by those above it now."""
        if self._knows_snapshots:
            self.changed()

    # ---- asking

    def allows_now(self, principal: Principal, volume: Volume, inode: Inode, verb: Verb) -> bool:
        """Whether it is allowed, as far as that is known without waiting. False: ask `allow`.

        Every request of whoever is no unlimited administrator comes through here, so it works with
        numbers: arithmetic with `Verb` costs more than all the rest.
        """
        if principal.is_free:
            return True
        directory = self._directories.get((volume.id, inode.parent))
        if directory is None or inode.links == 0:
            return False
        passage = directory.passages.get(principal)
        if passage is None or not passage.allowed:
            return False
        bits = verb._value_
        if not bits:
            return True
        if principal.is_read_only and bits & CHANGING_BITS:
            return False
        if principal.is_admin:
            return True
        if directory.live is not None:
            return False  # what holds today has to be looked at
        if inode.access or directory.rules:
            return _decide(principal, volume.id, inode, directory.rules, verb, REACH).allowed
        return mode_allows(principal, inode.mode, inode.uid, inode.gid, verb)

    def searches_now(self, principal: Principal, volume: Volume, directory: int) -> bool:
        """Whether names in a directory may be looked up. False: ask `search`."""
        known = self._directories.get((volume.id, directory))
        passage = known.passages.get(principal) if known is not None else None
        return passage is not None and passage.allowed

    async def allow(
        self,
        principal: Principal,
        volume: Volume,
        thing: Inode | int,
        verb: Verb,
        *,
        session: bytes | None = None,
        unit: Unit | None = None,
        code: int = errno.EACCES,
        origin: str = "",
    ) -> None:
        """DENIED, with this errno, unless the principal may. What `session` has open counts.

        A verb of 0 asks for reach alone. NOT_FOUND for an inode that is not there, or that has no
        name and is not open.
        """
        if principal.is_free:
            return
        inode = thing if isinstance(thing, Inode) else await _inode(volume, thing, unit)
        decision = await self._decision(principal, volume, inode, verb, session, unit)
        if not decision.allowed:
            raise await self._denied(principal, volume, inode, verb, decision, unit, code, origin)

    async def allow_below(
        self,
        principal: Principal,
        volume: Volume,
        inode: Inode,
        directory: int,
        verb: Verb,
        unit: Unit,
    ) -> None:
        """As `allow`, of the name that a thing has in a directory where names may be looked up."""
        place = await self._directory(volume, directory, unit)
        if verb & CHANGING and principal.is_read_only:
            decision = _Decision(False, "token")
        else:
            decision = _decide(principal, volume.id, inode, place.rules, verb, REACH)
        if not decision.allowed:
            raise await self._denied(
                principal, volume, inode, verb, decision, unit, errno.EACCES, ""
            )

    async def may(
        self,
        principal: Principal,
        volume: Volume,
        thing: Inode | int,
        verb: Verb,
        *,
        session: bytes | None = None,
        unit: Unit | None = None,
    ) -> bool:
        """Whether `allow` would let it be; nobody is told of a denial."""
        if principal.is_free:
            return True
        is_known = not isinstance(thing, int) and (unit is None or not unit.moves_rules)
        if is_known and self.allows_now(principal, volume, thing, verb):  # type: ignore[arg-type]
            return True
        inode = thing if isinstance(thing, Inode) else await _inode(volume, thing, unit)
        return (await self._decision(principal, volume, inode, verb, session, unit)).allowed

    async def search(
        self,
        principal: Principal,
        volume: Volume,
        directory: int,
        *,
        target: tuple[int, int] | None = None,
        unit: Unit | None = None,
        origin: str = "",
    ) -> None:
        """DENIED (EACCES) unless the principal may look up names in a directory (POSIX: search).

        Above a token's subtree, whoever looks for the `target` (volume and inode; None: there is
        none of that name) may if it leads to the subtree, and learns of nothing else.
        """
        if principal.is_free:
            return
        try:
            found = await self._directory(volume, directory, unit)
        except Invalid:
            await self.allow(principal, volume, directory, REACH, unit=unit, origin=origin)
            raise
        passage = found.passage(principal)
        if passage.allowed:
            return
        if passage.by == "token" and target is not None and found.key not in principal.roots:
            on_the_way = await self._on_the_way(principal)
            if found.key in on_the_way and (target in on_the_way or target in principal.roots):
                return
        inode = await _inode(volume, directory, unit)
        raise await self._denied(
            principal,
            volume,
            inode,
            Verb.EXECUTE,
            _as_decision(passage),
            unit,
            errno.EACCES,
            origin,
        )

    async def _on_the_way(self, principal: Principal) -> frozenset[tuple[int, int]]:
        """The directories above the subtrees of a token."""
        known = self._ways.get(principal)
        if known is not None:
            return known
        generation = self.generation
        keys_: set[tuple[int, int]] = set()
        for volume_id, number in principal.roots:
            assert self._platform is not None
            try:
                volume = await self._platform.acquire(volume_id)
            except NotFound:
                continue  # it was removed
            try:
                inode = await _inode(volume, number, None)
                for place in await self._places(volume, inode, None):
                    at: Directory | None = place
                    while at is not None:
                        keys_.add(at.key)
                        at = at.above
            except NotFound:
                continue
            finally:
                self._platform.release(volume)
        found = frozenset(keys_)
        if generation == self.generation:
            if len(self._ways) >= WAYS_MAX:
                self._ways.clear()
            self._ways[principal] = found
        return found

    def require_admin(self, principal: Principal, what: str, *, changes: bool = True) -> None:
        """DENIED (EPERM) to whoever is no administrator of the whole platform."""
        if not principal.is_admin or principal.roots or (changes and principal.is_read_only):
            raise Denied(
                "only an administrator may do this",
                what=what,
                user=principal.name,
                errno=errno.EPERM,
            )

    async def explain(
        self,
        principal: Principal,
        volume: Volume,
        thing: Inode | int,
        verb: Verb,
        *,
        session: bytes | None = None,
        unit: Unit | None = None,
    ) -> Verdict:
        """Why, or why not."""
        inode = thing if isinstance(thing, Inode) else await _inode(volume, thing, unit)
        decision = await self._decision(principal, volume, inode, verb, session, unit)
        return await self._spelled_out(decision)

    async def rules_of(
        self, volume: Volume, thing: Inode | int, *, unit: Unit | None = None
    ) -> Rules:
        """Which rules hold for it, by the verb's word: its own and those of its ancestors."""
        inode = thing if isinstance(thing, Inode) else await _inode(volume, thing, unit)
        places = await self._places(volume, inode, unit)
        return rules_below(volume.id, inode, places[0].rules if places else NO_RULES)

    def governed_now(self, volume: Volume, inode: Inode) -> Verb | None:
        """The verbs that expressions decide of it; None if its directory has to be read first."""
        directory = self._directories.get((volume.id, inode.parent))
        if directory is None:
            return None
        if directory.live is not None:
            return None
        return verbs_in(rules_below(volume.id, inode, directory.rules))

    async def governed(self, volume: Volume, inode: Inode) -> Verb:
        """The same, whatever has to be read."""
        now = self.governed_now(volume, inode)
        if now is None:
            now = verbs_in(await self.rules_of(volume, inode))
        if volume.source is not None:
            now |= verbs_in(await self._rules_today(volume, volume.source, inode))
        return now

    async def _rules_today(self, volume: Volume, source: Volume, inode: Inode) -> Rules:
        """Those that hold today for something in a snapshot, or for where it was."""
        today = await _inode_today(source, inode.number)
        if today is not None:
            return await self.rules_of(source, today)
        places = await self._places(volume, inode, None)
        nearest = places[0].live if places else None
        return nearest.rules if nearest is not None else NO_RULES

    async def path_of(self, place: tuple[int, int]) -> str:
        """Of a directory or something in it, from the platform's root."""
        volume_id, number = place
        if self._platform is None:
            return f"(inode {number})"
        volume = await self._platform.acquire(volume_id)
        try:
            return await self._platform.path_of(volume, number)
        finally:
            self._platform.release(volume)

    def opened(self, session: bytes | None, volume: Volume, number: int) -> Verb | None:
        """The verbs with which the session has it open; None: it has not."""
        if session is None or self._platform is None:
            return None
        return self._platform.opens.verbs_of(session, volume, number)

    # ---- deciding

    async def _decision(
        self,
        principal: Principal,
        volume: Volume,
        inode: Inode,
        verb: Verb,
        session: bytes | None,
        unit: Unit | None,
    ) -> _Decision:
        held = self.opened(session, volume, inode.number) if session is not None else None
        if inode.links == 0 and held is None and not principal.is_admin:
            raise NotFound("no such file or directory", inode=inode.number)
        for _ in range(TRIES_MAX):
            generation = self.generation
            places = await self._places(volume, inode, unit)
            decision = _verdict(principal, volume, inode, places, verb, held)
            if decision.allowed and volume.source is not None:
                decision = await self._today(principal, volume.source, inode, places, verb, held)
            if generation == self.generation:
                return decision
        raise Unavailable("directories are changing all the time: try again")

    async def _today(
        self,
        principal: Principal,
        source: Volume,
        inode: Inode,
        places: list[Directory],
        verb: Verb,
        held: Verb | None,
    ) -> _Decision:
        """What may be done in a snapshot may be done today with the same thing; or, if that is
        gone, no expression forbids it where it was. (That the way there lets pass today, too, is
        in the passages of `places`.)"""
        today = await _inode_today(source, inode.number)
        if today is not None:
            there = await self._places(source, today, None)
            return _verdict(principal, source, today, there, verb, held)
        nearest = places[0].live if places else None
        rule = nearest.rules.get(verb.word) if nearest is not None and verb else None
        if rule is None or principal.is_admin:
            return _MAY
        return _Decision(holds(rule, principal), "expression", rule)

    async def _places(self, volume: Volume, inode: Inode, unit: Unit | None) -> list[Directory]:
        """The directories that have a name of it; the one of its first name, whose rules hold for
        it, first. None for the platform's root."""
        if not inode.parent:
            if inode.number != ROOT_INODE:
                raise NotFound("no such file or directory", inode=inode.number)
            above = (await self._directory(volume, ROOT_INODE, unit)).above
            return [above] if above is not None else []
        if inode.links == 0:
            return await self._last_place(volume, inode, unit)
        places = [await self._directory(volume, inode.parent, unit)]
        if inode.links > 1 and inode.kind != Kind.DIRECTORY:
            for number in await _further_directories(volume, inode.number, unit):
                places.append(await self._directory(volume, number, unit))
        return places

    async def _last_place(self, volume: Volume, inode: Inode, unit: Unit | None) -> list[Directory]:
        """Of what has no name any more: where it had its last one, if that is still there."""
        try:
            return [await self._directory(volume, inode.parent, unit)]
        except NotFound:
            return []

    async def _directory(self, volume: Volume, number: int, unit: Unit | None) -> Directory:
        """NOT_FOUND if it, or one above it, is not there; INVALID if it is no directory."""
        if unit is not None and unit.moves_rules:
            return await self._load(volume, number, unit)
        known = self._directories.get((volume.id, number))
        return known if known is not None else await self._load(volume, number, unit)

    async def _load(self, volume: Volume, number: int, unit: Unit | None) -> Directory:
        """Read it and all above it that are not known. What a unit changed itself, and may yet
        fail to commit, is not kept."""
        generation = self.generation
        trusted = unit is None or not unit.moves_rules
        chain: list[tuple[Volume, Inode]] = []
        held: list[Volume] = []
        above: Directory | None = None
        try:
            at: Volume | None = volume
            while at is not None:
                if trusted:
                    above = self._directories.get((at.id, number))
                    if above is not None:
                        break
                inode = await _inode(at, number, unit if at is volume else None)
                if inode.kind != Kind.DIRECTORY:
                    raise Invalid("not a directory", inode=number, errno=errno.ENOTDIR)
                if len(chain) > DEPTH_MAX:
                    raise Corrupt("the directories above run in a circle: run dp check")
                chain.append((at, inode))
                if inode.parent:
                    number = inode.parent
                elif inode.number == ROOT_INODE:
                    at, number = await self._above(at, held)
                else:
                    raise NotFound("the directory is gone", inode=inode.number)
        finally:
            for one in held:
                assert self._platform is not None
                self._platform.release(one)
        for at, inode in reversed(chain):
            if at.source is not None:
                above = await self._then(at, at.source, inode, above)
            else:
                above = Directory(at.id, inode, above)
            is_new = unit is not None and inode.number >= at.state.next_inode
            if trusted and not is_new and generation == self.generation:
                self._keep(above)
        assert above is not None
        return above

    async def _then(
        self, volume: Volume, source: Volume, inode: Inode, above: Directory | None
    ) -> Directory:
        """A directory in a snapshot."""
        today = await _inode_today(source, inode.number)
        if today is not None and today.kind == Kind.DIRECTORY:
            live: Directory | None = await self._directory(source, inode.number, None)
        else:
            live = above.live if above is not None else None
        return Directory(volume.id, inode, above, source.id, live)

    async def _above(self, volume: Volume, held: list[Volume]) -> tuple[Volume | None, int]:
        """The directory that a volume is mounted in; its volume is noted in `held`."""
        volume = volume.source or volume
        if self._platform is None or volume.id == ROOT_VOLUME:
            return None, 0
        record = await self._platform.catalog.find(volume.id)
        if record is None:
            raise NotFound("the volume was removed", volume=volume.id)
        parent = await self._platform.acquire(record.parent_volume)
        held.append(parent)
        junction = await parent.find_inode(record.junction)
        if junction is None:
            raise NotFound("the volume was removed", volume=volume.id)
        return parent, junction.parent

    def _keep(self, directory: Directory) -> None:
        if len(self._directories) >= DIRECTORIES_MAX:
            self._directories.clear()
        self._directories[directory.key] = directory
        self._knows_snapshots = self._knows_snapshots or directory.live is not None

    # ---- saying so

    async def _spelled_out(self, decision: _Decision) -> Verdict:
        place = decision.place
        return Verdict(
            decision.allowed,
            decision.by,
            decision.rule.text if decision.rule is not None else None,
            await self.path_of(place) if place is not None else "",
        )

    async def _denied(
        self,
        principal: Principal,
        volume: Volume,
        inode: Inode,
        verb: Verb,
        decision: _Decision,
        unit: Unit | None,
        code: int,
        origin: str,
    ) -> Denied:
        """The error. It names no path that the caller cannot reach."""
        verdict = await self._spelled_out(decision)
        below = await (unit.path_of(inode.number) if unit else volume.path_of(inode.number))
        if self.on_denied is not None:
            origin = origin or (unit.request.origin if unit is not None else "")
            self.on_denied(Denial(principal, origin, volume, inode.number, below, verb, verdict))
        facts: dict[str, object] = {"verb": verb.word or "reach", "user": principal.name}
        if verdict.by == "token":
            return Denied("the token is not good for this", errno=code, **facts)
        if verdict.by == "reach":
            code = errno.EACCES
            return Denied("a directory above does not let you pass", errno=code, **facts)
        path = await self.path_of((volume.id, inode.number)) if self._platform else below
        if verdict.rule is not None:
            facts |= {"rule": verdict.rule, "rule_path": verdict.path}
        return Denied("not allowed", path=path, errno=code, **facts)


class Search:
    """Whether somebody may look up names on a walk in a volume: see `paths.walk`."""

    __slots__ = ("_origin", "_principal", "_unit", "_volume")

    def __init__(
        self, principal: Principal, volume: Volume, *, unit: Unit | None = None, origin: str = ""
    ) -> None:
        self._principal = principal
        self._volume = volume
        self._unit = unit
        self._origin = origin

    def is_sure(self, directory: int) -> bool:
        unit, volume = self._unit, self._volume
        if unit is not None and unit.moves_rules:
            return False
        return volume.guard.searches_now(self._principal, volume, directory)

    async def check(self, directory: int, volume: int, inode: int) -> None:
        target = (volume, ROOT_INODE) if volume else (self._volume.id, inode)
        await self._volume.guard.search(
            self._principal,
            self._volume,
            directory,
            target=target,
            unit=self._unit,
            origin=self._origin,
        )


async def _further_directories(volume: Volume, number: int, unit: Unit | None) -> set[int]:
    """Where an inode has further names."""
    at, end = keys.prefix_range(keys.links(number))
    found: set[int] = set()
    while True:
        page = await (unit.scan(at, end) if unit else volume.storage.engine.scan(at, end))
        if not page:
            return found
        found |= {int.from_bytes(key[9:17], "big") for key, _ in page}
        at = page[-1][0] + b"\x00"


async def _inode_today(source: Volume, number: int) -> Inode | None:
    """What is in a snapshot as it is now, if it still has a name."""
    inode = await source.find_inode(number)
    return inode if inode is not None and inode.links else None


async def _inode(volume: Volume, number: int, unit: Unit | None) -> Inode:
    inode = await (unit if unit is not None else volume).find_inode(number)
    if inode is None:
        raise NotFound("no such file or directory", volume=volume.id, inode=number)
    return inode


def _verdict(
    principal: Principal,
    volume: Volume,
    inode: Inode,
    places: list[Directory],
    verb: Verb,
    held: Verb | None,
) -> _Decision:
    if verb & CHANGING and principal.is_read_only:
        return _Decision(False, "token")
    home = volume.source or volume
    stopped = _stopped(principal, home.id, inode, places, held)
    if stopped is not None:
        return stopped
    rules = places[0].rules if places else NO_RULES
    return _decide(principal, volume.id, inode, rules, verb, held or REACH)


def _stopped(
    principal: Principal,
    volume_id: int,
    inode: Inode,
    places: list[Directory],
    held: Verb | None,
) -> _Decision | None:
    """None if one of its names can be reached, or if it is open and no expression or token keeps
    the principal from all of them."""
    if (volume_id, inode.number) in principal.roots:
        return None
    if not places:
        return _Decision(False, "token") if principal.roots else None
    passages = [place.passage(principal) for place in places]
    if any(p.allowed or (held is not None and p.by == "mode") for p in passages):
        return None
    return _as_decision(next((p for p in passages if p.by != "token"), passages[0]))


def _as_decision(passage: Passage) -> _Decision:
    if passage.by == "token":
        return _Decision(False, "token")
    assert passage.directory is not None
    return _Decision(False, "reach", passage.rule, passage.directory.key)


def _decide(
    principal: Principal, volume_id: int, inode: Inode, rules: Rules, verb: Verb, held: Verb
) -> _Decision:
    """Of what can be reached, by a token that is good for it."""
    if not verb:
        return _MAY
    if principal.is_admin:
        return _Decision(True, "administrator")
    word = verb.word
    own = inode.access.get(word)
    rule = Rule(own, volume_id, inode.number) if own is not None else rules.get(word)
    if rule is not None:
        return _Decision(holds(rule, principal), "expression", rule)
    if held & verb:
        return _Decision(True, "open")
    if mode_allows(principal, inode.mode, inode.uid, inode.gid, verb):
        return _MAY
    return _Decision(False, "mode")
