"""The trail: from the change rows of audited volumes to the audit's stream, exactly once.

A volume that is audited has a cursor in the root volume: the last commit that was told. `run_once`
reads the durable change rows behind it and appends their records to the volume's topic in the unit
that moves the cursor, so a kill loses nothing and repeats nothing. Change rows are trimmed only up
to the cursor (`Volume.audited_commit`), and a volume goes only when all of its own were told.

The cursor is there before the audit is switched on, and until everything before it was switched
off is told: which rows are told, the rows themselves decide (`volume set`, with the fact `audit`).
So the cursors are the list of what has to be looked at after a crash.

The stream's bytes count for no quota. If they cannot be written, nothing is lost: the cursors stay,
`failure` says why, and the change rows wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...base.errors import Corrupt, Exists, NotFound, PlatformError
from ...engine.base import scan_all
from ...keyspace import keys
from ...keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    AuditCursor,
    ChangeRow,
    Inode,
    Kind,
)
from .. import appends, namespace
from ..encoding import Line, batches_of
from ..namespace import Attributes
from ..principals import Principal
from ..snapshot_names import SNAPSHOT_NAME
from ..units import Request, Unit
from . import protection, records
from .names import topic_of
from .observed import Observed

if TYPE_CHECKING:
    from ..access.guard import Denial
    from ..platform import Platform
    from ..volumes import Volume

log = logging.getLogger(__name__)

WRITING = Request(protection.WRITER, origin=protection.ORIGIN)

PAGE_ROWS = 500
PAGE_BYTES = 2 << 20
"""Change rows of one volume in one step."""

STEP_BYTES = 8 << 20
"""Records of one unit, of all volumes, after which it is written."""

LAG_ROWS = 10_000
"""Rows with nothing to tell, behind which the stored cursor may stay: they are read again after a
restart. (Writing it each time would never end: that is a commit of the root volume, too.)"""

UNWRITTEN_MAX = 20_000
"""Records of denials and reads that are kept while the stream cannot be written."""

TTL_MS_MIN = 24 * 3600 * 1000
"""The shortest retention: whoever shortens it, what was done stays for a day."""

ALL = "all"
"""Changes, denials and reads; `changes` are the first two."""

MODES = ("", "changes", ALL)


@dataclass(slots=True)
class _Position:
    """Of one volume: the stored cursor, and how far it was read meanwhile."""

    cursor: AuditCursor
    at: int

    @property
    def is_moved(self) -> bool:
        return self.at - self.cursor.commit >= LAG_ROWS


@dataclass(slots=True)
class _Step:
    """What one unit writes."""

    topics: dict[str, list[Line]] = field(default_factory=dict)
    cursors: dict[int, AuditCursor | None] = field(default_factory=dict)  # None: it goes
    ttls: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0

    def add(self, topic: str, lines: Iterable[Line]) -> int:
        """How many."""
        kept = self.topics.setdefault(topic, [])
        before = len(kept)
        kept += lines
        self.size_bytes += sum(len(value) for _, value in kept[before:])
        return len(kept) - before

    def __bool__(self) -> bool:
        return bool(self.cursors or self.ttls or any(self.topics.values()))


class Audit:
    """The audit of one platform."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._positions: dict[int, _Position] = {}
        self._unopened: set[int] = set()  # since the start: may have rows that were not told
        self._settling: dict[int, int] = {}  # volumes whose settings are being changed, how often
        self._unwritten: dict[str, list[Line]] = {}
        self._lock = asyncio.Lock()
        self.observed = Observed(platform.clock)
        self.failure = ""
        """Why the stream cannot be written; empty: it can."""
        self.dropped = 0
        """Records of denials and reads that were lost because it could not."""

    # ---- what is audited

    async def load(self) -> None:
        """Read the cursors: at the start, before any change row can be trimmed."""
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            await _find_stream(root)
            start, end = keys.prefix_range(keys.AUDIT_CURSOR)
            async for key, value in scan_all(root.storage.engine, start, end):
                cursor = AuditCursor.unpack(value)
                self._positions[keys.number_of(key)] = _Position(cursor, cursor.commit)
        except Corrupt as error:  # that keeps nobody from being served
            self.failure = str(error)
            log.error("the audit's cursors cannot be read: run dp check: %s", error)
        finally:
            self._platform.release(root)
        self._unopened = set(self._positions)
        for volume in self._platform.volumes:
            self.opened(volume)

    def opened(self, volume: Volume) -> None:
        """A volume was opened: its change rows are kept from the cursor on."""
        position = self._positions.get(volume.id)
        volume.audited_commit = position.at if position is not None else None

    def closed(self, volume: Volume) -> None:
        """A volume was closed: if there is something left to tell, it is opened again for that."""
        position = self._positions.get(volume.id)
        if position is not None and position.at < volume.state.commit:
            self._unopened.add(volume.id)

    async def begin(self, volume: Volume) -> None:
        """Before the settings of a volume change: what is behind its commits of now is looked at.
        Give it back to `settled` in any case."""
        self._settling[volume.id] = self._settling.get(volume.id, 0) + 1
        if volume.id in self._positions:
            return
        path = await self._platform.catalog.mount_path(volume.id)
        cursor = AuditCursor(volume.state.commit, path)

        async def work(unit: Unit) -> None:
            unit.put(keys.audit_cursor(volume.id), cursor.pack())

        async with self._lock:
            if volume.id in self._positions:
                return
            root = await self._platform.acquire(ROOT_VOLUME)
            try:
                await root.run(WRITING, work, durable=True)
            finally:
                self._platform.release(root)
            self._positions[volume.id] = _Position(cursor, cursor.commit)
            self.opened(volume)

    def settled(self, volume: Volume) -> None:
        left = self._settling.pop(volume.id) - 1
        if left:
            self._settling[volume.id] = left

    def created(self, volume_id: int, cursor: AuditCursor) -> None:
        """A volume was made whose cursor is stored already."""
        self._positions[volume_id] = _Position(cursor, cursor.commit)

    def skip(self, unit: Unit, volume_id: int, commit: int) -> None:
        """In a unit of the root volume: all up to this commit was told, and its rows may go."""
        position = self._positions.get(volume_id)
        if position is None:
            return
        moved = _Position(replace(position.cursor, commit=commit), commit)
        unit.put(keys.audit_cursor(volume_id), moved.cursor.pack())
        unit.on_commit(lambda _: self._positions.__setitem__(volume_id, moved))

    def forget(self, volume_id: int) -> None:
        """It is gone, and so is its cursor."""
        self._positions.pop(volume_id, None)
        self._unopened.discard(volume_id)

    def backlog(self) -> dict[int, int]:
        """Commits that were not looked at yet, by open volume that is audited."""
        return {
            volume.id: volume.lane.durable_commit - volume.audited_commit
            for volume in self._platform.volumes
            if volume.audited_commit is not None
        }

    def mode_of(self, volume_id: int) -> str:
        """What is audited of an open volume: see MODES."""
        for volume in self._platform.volumes:
            if volume.id == volume_id:
                return volume.settings.audit
        return ""

    # ---- what leaves no commit

    def record(
        self,
        principal: Principal,
        origin: str,
        *,
        op: str,
        path: str = "/",
        rule: str = "",
        verb: str = "",
        volume: int = ROOT_VOLUME,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Something that was refused before it reached the core, as a login: in the topic of the
        root volume, if that is audited."""
        if self.mode_of(volume):
            self.observed.denied(
                principal, origin, volume, verb=verb, path=path, rule=rule, op=op, facts=facts
            )

    def denied(self, denial: Denial) -> None:
        """What the guard refused: see `Guard.on_denied`."""
        volume, verdict = denial.volume, denial.verdict
        home = volume.home
        if not home.settings.audit or home.id not in self._positions:
            return
        rule = verdict.by if verdict.rule is None else f"{verdict.by} {verdict.rule!r}"
        if verdict.path:
            rule += f" at {verdict.path}"
        self.observed.denied(
            denial.principal,
            denial.origin,
            home.id,
            verb=denial.verb.word,
            path=self.path_of(volume, denial.path),
            rule=rule,
        )

    def path_of(self, volume: Volume, below: str) -> str:
        """From the platform's root, by where the volume was mounted when it was last told of."""
        snapshot = self._platform.snapshots.find(volume.id)
        if snapshot is not None:
            below = f"/{SNAPSHOT_NAME}/{snapshot.name}{below}"
        position = self._positions.get(volume.home.id)
        above = position.cursor.path.rstrip("/") if position is not None else ""
        return (above + below).rstrip("/") or "/"

    # ---- writing

    async def run_once(self) -> int:
        """Write all there is; the number of records. Raises what keeps it from that."""
        async with self._lock:
            return await self._run(None)

    async def drain(self, volume: Volume) -> None:
        """Everything that was ever acknowledged of this volume is told after this."""
        if volume.id in self._positions:
            await volume.sync()
            async with self._lock:
                await self._run(volume)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[Callable[[Volume], Awaitable[None]]]:
        """Meanwhile nothing is told, apart from what is asked for: see `drain`. For who keeps
        others out of a volume, which those who tell may want to look at."""

        async def drain(volume: Volume) -> None:
            if volume.id in self._positions:
                await volume.sync()
                await self._run(volume)

        async with self._lock:
            yield drain

    async def _run(self, only: Volume | None) -> int:
        written = 0
        try:
            self._take_observed()
            while True:
                step = _Step()
                advanced = await self._collect(step, only)
                for topic, lines in self._unwritten.items():
                    step.add(topic, lines)
                if step:
                    written += await self._write(step)
                    self._unwritten = {}
                for position, at in advanced:
                    position.at = at
                for volume in self._platform.volumes:
                    self.opened(volume)
                if not advanced:
                    break
        except PlatformError as error:
            if self.failure != str(error):
                log.error("the audit cannot be written, and waits: %s", error)
            self.failure = str(error)
            raise
        if self.failure:
            log.info("the audit is written again")
        self.failure = ""
        return written

    def _take_observed(self) -> None:
        if not self.observed:
            return
        for volume_id, lines in self.observed.take().items():
            position = self._positions.get(volume_id)
            if position is None:
                continue
            kept = self._unwritten.setdefault(topic_of(position.cursor.path), [])
            room = UNWRITTEN_MAX - sum(map(len, self._unwritten.values()))
            kept += lines[:room]
            self.dropped += max(0, len(lines) - room)

    async def _collect(self, step: _Step, only: Volume | None) -> list[tuple[_Position, int]]:
        """Fill the step; how far each volume was read. Empty: nothing is left."""
        advanced = []
        for volume_id in [only.id] if only is not None else list(self._positions):
            if step.size_bytes > STEP_BYTES:
                break
            position = self._positions[volume_id]
            volume = only if only is not None else await self._volume(volume_id)
            if volume is None:
                continue
            try:
                at = await self._read(step, volume, position)
                if at != position.at:
                    advanced.append((position, at))
            finally:
                if only is None:
                    self._platform.release(volume)
        return advanced

    async def _volume(self, volume_id: int) -> Volume | None:
        """If it is open, or may have something to tell since before the start. In use until
        `release`, which does not count as use."""
        for volume in self._platform.volumes:
            if volume.id == volume_id:
                if volume.lane.broken is not None:
                    return None
                volume.users += 1
                self._unopened.discard(volume_id)
                return volume
        if volume_id not in self._unopened:
            return None
        self._unopened.discard(volume_id)
        try:
            return await self._platform.acquire(volume_id)
        except NotFound:
            return None  # it is being removed
        except PlatformError as error:
            log.error("volume %d is audited, and cannot be opened: %s", volume_id, error)
            return None

    async def _read(self, step: _Step, volume: Volume, position: _Position) -> int:
        """Add what the next rows of a volume tell; the last commit that was read."""
        cursor, at = position.cursor, position.at
        last = volume.lane.durable_commit
        if at >= last:
            self._end(step, volume, position)
            return at
        page = await volume.storage.engine.scan(
            keys.change(at + 1), keys.change(last + 1), limit=PAGE_ROWS, size_bytes=PAGE_BYTES
        )
        path = await self._platform.catalog.mount_path(volume.id)
        is_on, topic, told = cursor.is_on, topic_of(path), 0
        moved: list[Line] = []
        if cursor.path != path and is_on:
            moved = self._tell_moved(step, volume, cursor.path, path)
        lines: list[Line] = list(moved)
        for key, value in page:
            number = keys.number_of(key)
            if number > at + 1 and is_on:
                lines.append(self._missing(volume, path, at + 1, number - 1))
            at = number
            try:
                row = ChangeRow.unpack(value)
            except Corrupt:
                if is_on:
                    lines.append(self._missing(volume, path, number, number))
                continue
            if row.origin == protection.ORIGIN:
                continue
            was_on = is_on
            is_on = _switched(row, is_on)
            if was_on or is_on:
                lines += records.lines_of(volume.id, path, number, row)
        if not page:
            at = last
        told = step.add(topic, lines)
        ttl_ms = volume.settings.audit_ttl_ms
        if ttl_ms != cursor.ttl_ms or (moved and ttl_ms):
            step.ttls[topic] = ttl_ms
        fresh = AuditCursor(at, path, is_on, ttl_ms)
        changed = (fresh.path, fresh.is_on, fresh.ttl_ms) != (
            cursor.path,
            cursor.is_on,
            cursor.ttl_ms,
        )
        if told or changed or at - cursor.commit >= LAG_ROWS:
            step.cursors[volume.id] = fresh
        return at

    def _end(self, step: _Step, volume: Volume, position: _Position) -> None:
        """All is told; if the audit is off, its cursor is no longer needed."""
        if (
            not position.cursor.is_on
            and not volume.settings.audit
            and volume.id not in self._settling
        ):
            step.cursors[volume.id] = None

    def _tell_moved(self, step: _Step, volume: Volume, old: str, new: str) -> list[Line]:
        """The topic follows the path: the old one says where it goes on, the new one from where."""
        now_ns = self._platform.clock.now_ns()
        said = {"user": "system", "op": "audit moved", "kind": "volume", "volume": volume.id}
        old_topic, new_topic = topic_of(old), topic_of(new)
        step.add(
            old_topic, [records.line(now_ns, {**said, "path": new, "facts": {"topic": new_topic}})]
        )
        return [records.line(now_ns, {**said, "path": new, "facts": {"from_topic": old_topic}})]

    def _missing(self, volume: Volume, path: str, first: int, last: int) -> Line:
        """Damage took change rows before they were told: that is said, too."""
        log.error("commits %d to %d of %s are lost to the audit", first, last, path)
        return records.line(
            self._platform.clock.now_ns(),
            {
                "user": "system",
                "op": "commits lost to the audit",
                "kind": "volume",
                "path": path,
                "commit": first,
                "volume": volume.id,
                "facts": {"first": first, "last": last},
            },
        )

    async def removed(self, volume_id: int, request: Request) -> None:
        """The last record of a volume that was removed: its cursor goes with it."""
        async with self._lock:
            position = self._positions.get(volume_id)
            if position is None:
                return
            step = _Step(cursors={volume_id: None})
            if position.cursor.is_on:
                user, origin, right, token, by = request.author
                said = {
                    "user": user,
                    "by": by,
                    "token": token,
                    "origin": origin,
                    "op": "volume removed",
                    "kind": "volume",
                    "path": position.cursor.path,
                    "verdict": records.ALLOWED,
                    "right": right,
                    "volume": volume_id,
                }
                now_ns = self._platform.clock.now_ns()
                step.add(topic_of(position.cursor.path), [records.line(now_ns, said)])
            await self._write(step)

    # ---- the stream

    async def _write(self, step: _Step) -> int:
        """One unit of the root volume: the records, and the cursors that stand for them."""
        platform = self._platform
        root = await platform.acquire(ROOT_VOLUME)
        topics = {topic: lines for topic, lines in step.topics.items() if lines}
        parts = [
            appends.Part(topic, 0, b"".join(batches_of(lines))) for topic, lines in topics.items()
        ]
        try:
            with root.holds.append():
                prepared = await appends.prepare(root, parts)

                async def work(unit: Unit) -> None:
                    unit.accepted = True  # outside of quotas
                    if prepared or step.ttls:
                        inode = await _stream(unit, root.audit_stream)
                        # From here on: see `Unit.committed`. A stream that is not committed after
                        # all is found by its name the next time.
                        root.audit_stream = inode.number
                        if step.ttls:
                            _set_ttls(unit, inode, step.ttls)
                        await appends.append(unit, inode.number, prepared)
                    for volume_id, cursor in step.cursors.items():
                        key = keys.audit_cursor(volume_id)
                        if cursor is None:
                            unit.delete(key)
                        else:
                            unit.put(key, cursor.pack())

                await root.run(WRITING, work, durable=True)
        finally:
            platform.release(root)
        for volume_id, cursor in step.cursors.items():
            if cursor is None:
                self.forget(volume_id)
            elif volume_id in self._positions:
                self._positions[volume_id].cursor = cursor
        return sum(map(len, topics.values()))


def _switched(row: ChangeRow, is_on: bool) -> bool:
    """Whether the audit is on after this commit."""
    for verb, _, _, facts in row.events:
        if verb == "volume set" and "audit" in facts:
            is_on = facts["audit"] != "off"
    return is_on


async def _find_stream(root: Volume) -> None:
    """What the audit of before takes: no quota counts it."""
    entry = await root.find_entry(ROOT_INODE, protection.NAME.encode())
    inode = await root.find(entry.inode) if entry is not None else None
    if inode is not None and protection.is_audit(inode):
        root.audit_stream, root.quotas.exempt_bytes = inode.number, inode.used_bytes


async def _stream(unit: Unit, known: int) -> Inode:
    """The audit's stream, made if it is not there. EXISTS if something else has its name."""
    if known:
        inode = await unit.find_inode(known)
        if inode is not None and inode.links:
            return inode
    entry = await namespace.find_entry(unit, ROOT_INODE, protection.NAME.encode())
    if entry is not None:
        inode = await unit.inode(entry.inode)
        if not protection.is_audit(inode):
            raise Exists("something else has the audit's name: rename it", path=protection.PATH)
        return inode
    settings = {
        "partitions": 1,
        "ttl_ms": 0,
        "compression": "lz4",
        "bytes_max": 0,
        protection.MARK: True,
        protection.TTLS: {},
    }
    new = Attributes(Kind.STREAM, 0o600, settings=settings)
    number = await namespace.create(unit, ROOT_INODE, protection.NAME, new)
    inode = await unit.inode(number)
    # Nobody but administrators, whatever is set above; they may say who else.
    inode.access = {protection.READERS: ""}
    unit.save(inode)
    return inode


def _set_ttls(unit: Unit, inode: Inode, ttls: dict[str, int]) -> None:
    kept = {**inode.settings.get(protection.TTLS, {}), **ttls}
    inode.settings[protection.TTLS] = {topic: ms for topic, ms in kept.items() if ms}
    unit.save(inode)
