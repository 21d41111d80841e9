"""Clients' sessions: what a client holds (open files) outlives a lost connection by a lease.

A session belongs to the principal that began it (`Principal.owner`). It lives while a connection is
attached to it, and for LEASE_S after the last one left or, over gRPC, after its last request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dataplatform.base.clock import Clock, Entropy
from dataplatform.base.errors import Denied, Exhausted, Invalid
from dataplatform.core.principals import Principal

from .areas import Area

LEASE_S = 60.0
"""Long enough for a client to find its server again, short enough to free what a dead one held."""

SESSION_BYTES = 16
SESSIONS_MAX = 100_000
"""Each costs some hundred bytes, those in their lease included."""
SESSIONS_OWNER_MAX = SESSIONS_MAX // 2
"""Of one owner, as all who show nothing are: others find room, whatever that one does."""


@dataclass(slots=True, eq=False)
class Session:
    id: bytes
    principal: Principal
    program: str = ""
    pid: int = 0
    """The process behind its newest connection, if that is a Unix socket; else 0."""
    uid: int = 0
    """That process's user."""
    area: Area | None = None
    """Memory that it shares; while there are connections."""
    volume: int = 0
    """The one that its last request led to."""
    changed: set[int] = field(default_factory=set)
    """Volumes that requests of whoever is no unlimited administrator changed."""
    connections: int = 0
    left_s: float = 0.0
    """When the last connection left, or the last request without one came (monotonic)."""


class Sessions:
    """All sessions of a server. `expired(id)` is called for each that ends, `left(id)` when the
    client itself has closed the last connection of one: it may come back within its lease."""

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        expired: Callable[[bytes], None],
        left: Callable[[bytes], None] | None = None,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._expired = expired
        self._left = left
        self._sessions: dict[bytes, Session] = {}
        self._owned: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def attach(
        self,
        session_id: bytes,
        principal: Principal,
        program: str = "",
        pid: int = 0,
        uid: int = 0,
    ) -> Session:
        """A connection joins the session, which begins if it is new; without an id, a fresh one."""
        session = self._enter(session_id or self._entropy.token(SESSION_BYTES), principal, program)
        session.connections += 1
        session.pid, session.uid = pid, uid
        return session

    def detach(self, session: Session, *, by_client: bool = False) -> None:
        """A connection left; the last one starts the lease. `by_client`: it was closed there, so
        the client knows that, or there is none any more."""
        assert session.connections > 0
        session.connections -= 1
        if not session.connections:
            session.area = None
        session.left_s = self._clock.monotonic()
        if by_client and not session.connections and self._left is not None:
            self._left(session.id)

    def touch(self, session_id: bytes, principal: Principal) -> Session:
        """A request came without a connection that could be attached: the lease starts again."""
        session = self._enter(session_id, principal, "")
        session.left_s = self._clock.monotonic()
        return session

    def run_once(self) -> int:
        """End the sessions whose lease is over; how many."""
        before_s = self._clock.monotonic() - LEASE_S
        self._owned = +self._owned
        over = [s for s in self._sessions.values() if not s.connections and s.left_s <= before_s]
        for session in over:
            del self._sessions[session.id]
            self._owned[session.principal.owner] -= 1
            self._expired(session.id)
        return len(over)

    def _enter(self, session_id: bytes, principal: Principal, program: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            if len(session_id) != SESSION_BYTES:
                raise Invalid("session id is not 16 bytes", length=len(session_id))
            if len(self._sessions) >= SESSIONS_MAX:
                raise Exhausted("too many sessions", limit_sessions=SESSIONS_MAX)
            if self._owned[principal.owner] >= SESSIONS_OWNER_MAX:
                raise Exhausted("too many sessions of yours", limit_sessions=SESSIONS_OWNER_MAX)
            self._owned[principal.owner] += 1
            session = Session(session_id, principal, left_s=self._clock.monotonic())
            self._sessions[session_id] = session
        elif session.principal.owner != principal.owner:
            raise Denied(
                "the session belongs to somebody else, or to a token with other limits",
                principal=principal,
            )
        session.program = program or session.program
        return session
