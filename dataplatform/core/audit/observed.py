"""What the audit is told that leaves no commit: denials, reads, failed logins.

It is gathered in memory and written within half a second by the trail; a killed server loses that.
Memory is bounded. What repeats itself within such a moment is one record with a count, and beyond
DENIALS_MAX and READS_MAX different ones the rest is counted by user, volume and verb: a flood costs
records per moment, not per attempt, and a flood of reads displaces no denial.

Reads of one file, fetches of one stream and copies of one volume, by one session, are told once a
minute.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...base.clock import Clock
from ..encoding import Line
from ..principals import Principal
from . import records

DENIALS_MAX = 1000
READS_MAX = 10_000
"""Different records between two writes of the trail."""

KEYS_MAX = 32
"""Row keys that one record of reads names."""

AGAIN_NS = 60 * 10**9
"""How long a session's further reads of the same thing are not told again."""

RECENT_MAX = 100_000
"""Reads that are remembered for that."""

ONCE_A_MINUTE = frozenset(("read", "fetched", "replicated"))


@dataclass(slots=True)
class _Seen:
    volume: int
    time_ns: int
    said: dict[str, Any]
    count: int = 1
    keys: list[str] = field(default_factory=list)

    def line(self) -> Line:
        said = self.said
        if self.keys:
            facts = {**said.get("facts", {}), "keys": self.keys}
            if self.count > len(self.keys):
                facts["and_more"] = self.count - len(self.keys)
            said = {**said, "facts": facts}
        elif self.count > 1:
            said = {**said, "count": self.count}
        return records.line(self.time_ns, said)


class Observed:
    """Denials and reads that are not written yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._denials: dict[Hashable, _Seen] = {}
        self._reads: dict[Hashable, _Seen] = {}
        self._recent: dict[Hashable, int] = {}

    def __bool__(self) -> bool:
        return bool(self._denials or self._reads)

    # ---- telling

    def denied(
        self,
        principal: Principal,
        origin: str,
        volume: int,
        *,
        verb: str,
        path: str,
        rule: str = "",
        op: str = records.DENIED,
        kind: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """`path` counts from the platform's root."""
        key = (
            principal.name,
            principal.spoken_for_by,
            principal.token,
            origin,
            volume,
            verb,
            path,
            rule,
            op,
        )
        seen = self._denials.get(key)
        if seen is not None:
            seen.count += 1
            return
        said = {
            "user": principal.name,
            "by": principal.spoken_for_by,
            "token": principal.token,
            "origin": origin,
            "op": op,
            "kind": kind,
            "path": path,
            "verdict": records.DENIED,
            "verb": verb,
            "rule": rule,
            "volume": volume,
            "facts": facts,
        }
        self._add(self._denials, DENIALS_MAX, key, volume, said)

    def is_told(self, session: bytes, op: str, volume: int, inode: int) -> bool:
        """Whether this session's read of this thing needs no record any more."""
        if op not in ONCE_A_MINUTE:
            return False
        now_ns = self._clock.now_ns()
        key = (session, op, volume, inode)
        last_ns = self._recent.get(key)
        if last_ns is not None and now_ns - last_ns < AGAIN_NS:
            return True
        self._recent.pop(key, None)
        self._recent[key] = now_ns
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]
        return False

    def read_again(
        self,
        principal: Principal,
        origin: str,
        volume: int,
        inode: int,
        op: str,
        keys: Sequence[bytes] = (),
    ) -> bool:
        """Count a read of what is told anyhow at the next moment; False if it is not: `read`."""
        seen = self._reads.get((principal, origin, volume, inode, op))
        if seen is None:
            return False
        seen.count += len(keys) or 1
        if keys and len(seen.keys) < KEYS_MAX:
            seen.keys += map(_text, keys[: KEYS_MAX - len(seen.keys)])
        return True

    def read(
        self,
        principal: Principal,
        origin: str,
        volume: int,
        inode: int,
        op: str,
        keys: Sequence[bytes] = (),
        *,
        path: str,
        kind: str = "",
    ) -> None:
        """`path` counts from the platform's root; `keys` are those of rows."""
        said = {
            "user": principal.name,
            "by": principal.spoken_for_by,
            "token": principal.token,
            "origin": origin,
            "op": op,
            "kind": kind,
            "path": path,
            "verdict": records.ALLOWED,
            "right": "admin" if principal.is_admin else "",
            "volume": volume,
        }
        key = (principal, origin, volume, inode, op)
        added = self._add(self._reads, READS_MAX, key, volume, said)
        if added is not None and keys:
            added.count = len(keys)
            added.keys = list(map(_text, keys[:KEYS_MAX]))

    def _add(
        self,
        among: dict[Hashable, _Seen],
        most: int,
        key: Hashable,
        volume: int,
        said: dict[str, Any],
    ) -> _Seen | None:
        now_ns = self._clock.now_ns()
        if len(among) < most:
            seen = among[key] = _Seen(volume, now_ns, said)
            return seen
        # Folded: as many records as there are users and verbs, and of those a bounded number, too.
        folded: Hashable = ("more", said["user"], volume, said.get("verb", said["op"]))
        if folded not in among and len(among) >= most + most // 10:
            folded = ("more", "", volume, "")
            said = {**said, "user": "(several)"}
        rest_seen = among.get(folded)
        if rest_seen is None:
            kept = ("user", "op", "verdict", "verb", "volume")
            rest = {name: said[name] for name in kept if name in said}
            among[folded] = _Seen(volume, now_ns, rest | {"facts": {"folded": "and more of these"}})
        else:
            rest_seen.count += 1
        return None

    # ---- for the trail

    def take(self) -> dict[int, list[Line]]:
        """What was gathered, by volume, in the order of its times; it is forgotten here."""
        taken = sorted([*self._denials.values(), *self._reads.values()], key=lambda s: s.time_ns)
        self._denials, self._reads = {}, {}
        found: dict[int, list[Line]] = {}
        for seen in taken:
            found.setdefault(seen.volume, []).append(seen.line())
        return found


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
