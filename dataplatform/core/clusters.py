"""Other clusters, by the names that they have in paths (D9).

They stand in the root volume, are changed in its units, and are all in memory, which is exact. A
cluster's `slot` is the upper part of the numbers of its volumes as they are known here: it is never
given to another store. Behind an address is one store, known by its identity, for as long as the
cluster is known: whoever connects compares.

A token that the other cluster gave us is stored protected (core/keys.py) and shown to nobody.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..base.errors import Corrupt, Denied, Exhausted, Exists, Invalid, NotFound
from ..base.names import check_cluster_name
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import ROOT_INODE, ROOT_VOLUME, ClusterRecord
from . import namespace
from .access import expressions
from .principals import Principal
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .platform import Platform
    from .volumes import Volume

T = TypeVar("T")

log = logging.getLogger(__name__)

SLOT_SHIFT = 48
"""Numbers of volumes have as many bits; a cluster's slot stands above them."""

SLOT_MAX = (1 << 16) - 1

CLUSTERS_MAX = 1000
"""Each is a name that every path from the root is compared with."""

TOKEN_BYTES_MAX = 16_384
AUTHORITY_BYTES_MAX = 262_144

EVERYBODY = "p"

_TOKEN = b"token of a cluster "  # and its name: what its protection is bound to. Stored


class Asked(NamedTuple):
    """What a server said of itself."""

    cluster: str
    identity: bytes
    may_speak: bool = False
    grpc_port: int = 0
    user: str = ""  # who we are there
    program: str = ""  # its name and version


class Access(NamedTuple):
    """How a cluster is reached."""

    name: str
    address: str
    token: str
    authority: str  # PEM of whom its certificate must be signed by; empty: the system's
    identity: bytes  # of its store; empty: not known yet
    grpc_port: int  # 0: not known, or none

    def __repr__(self) -> str:
        return f"Access({self.name!r}, {self.address!r})"


class Clusters:
    """See the module's text. True if there are any."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._records: dict[str, ClusterRecord] = {}
        self._slots: dict[int, str] = {}
        self.generation = 0
        """Counts the changes."""
        self.on_changed: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._records)

    async def load(self, root: Volume) -> None:
        """Read all of them. What cannot be read is logged, and is not known."""
        start, end = keys.prefix_range(keys.CLUSTER)
        try:
            async for key, value in scan_all(root.storage.engine, start, end):
                name = key[len(keys.CLUSTER) :].decode("utf-8", "replace")
                try:
                    if name:
                        self._set(name, ClusterRecord.unpack(value))
                except Corrupt as error:
                    log.error(
                        "a cluster cannot be read: run dp check: cluster=`%s`, %s", name, error
                    )
        except Corrupt as error:
            log.error("the clusters cannot be read to their end: run dp check: %s", error)
        self._platform.masters.rewrapping.append(self._protect_anew)
        self._changed()

    # ---- looking

    @property
    def names(self) -> list[str]:
        return sorted(self._records)

    def find(self, name: str) -> ClusterRecord | None:
        return self._records.get(name)

    def get(self, name: str) -> ClusterRecord:
        """NOT_FOUND."""
        found = self._records.get(name)
        if found is None:
            raise NotFound("there is no such cluster: see dp cluster ls", cluster=name)
        return found

    def of_volume(self, number: int) -> str | None:
        """The cluster whose volume has this number here; None for a volume of ours, and for one of
        a cluster that is not known any more."""
        return self._slots.get(number >> SLOT_SHIFT)

    def all(self, principal: Principal) -> list[tuple[str, ClusterRecord]]:
        """By name. DENIED to whoever is no administrator."""
        self.check_may_look(principal)
        return sorted(self._records.items())

    async def access(self, name: str) -> Access:
        """How it is reached. NOT_FOUND; DENIED if the token is under a master key that is not
        here."""
        record = self.get(name)
        token = b""
        if record.token:
            token = await self._platform.masters.reveal(record.token, _context(name))
        return Access(
            name,
            record.address,
            token.decode(),
            record.authority,
            record.identity,
            record.grpc_port,
        )

    def may_use(self, name: str, principal: Principal) -> bool:
        """Whether somebody may reach the cluster at all. What he may do there, it decides."""
        if principal.roots:
            return False  # the token is good for something here
        if principal.is_admin:
            return True
        return expressions.parse(self.get(name).access).allows(principal)

    def check_identity(self, name: str, asked: Asked) -> None:
        """DENIED unless that is who answered there."""
        record = self.get(name)
        if asked.cluster != name:
            raise Denied(
                "another cluster answers at the address of this one",
                cluster=name,
                address=record.address,
                answered=asked.cluster,
            )
        if record.identity and asked.identity != record.identity:
            raise Denied(
                "the cluster that answers has another store than the one that was added: if that "
                "is right, remove and add it again",
                cluster=name,
                address=record.address,
            )

    # ---- changing

    @staticmethod
    def check_may_look(principal: Principal) -> None:
        if not principal.is_admin or principal.roots:
            raise Denied(
                "only an administrator sees how clusters are reached",
                user=principal.name,
                errno=errno.EPERM,
            )

    @staticmethod
    def check_may_change(principal: Principal) -> None:
        if not principal.is_free:
            raise Denied(
                "only an administrator changes clusters, with a credential that is not limited",
                user=principal.name,
                errno=errno.EPERM,
            )

    async def add(
        self,
        request: Request,
        name: str,
        address: str,
        *,
        token: str = "",
        authority: str = "",
        access: str | None = None,
        is_secure: bool = False,
        asked: Asked | None = None,
    ) -> str:
        """Know a cluster; its name. `asked`: what its server said of itself just now; None if it
        was not asked. Without `access`: everybody may use it if the token may speak for others,
        else only administrators, as everybody would be the token's user there.

        EXISTS, INVALID (also for one's own name, or oneself behind the address), DENIED.
        """
        self.check_may_change(request.principal)
        self._check(name, token, authority)
        if asked is not None:
            self._check_asked(name, asked)
        if access is None:
            speaks = not token or (asked is not None and asked.may_speak)
            access = EVERYBODY if speaks else ""
        access = expressions.parse(access).text
        protected = await self._protected(name, token)

        async def work(unit: Unit) -> str:
            self.check_may_change(unit.request.principal)
            if name in self._records:
                raise Exists("this cluster is known already: see dp cluster set", cluster=name)
            if len(self._records) >= CLUSTERS_MAX:
                raise Exhausted("too many clusters", limit_clusters=CLUSTERS_MAX)
            if await namespace.find_entry(unit, ROOT_INODE, name.encode()) is not None:
                raise Exists(
                    "something in / has this name: rename it before, or the paths below would mean "
                    "both",
                    path=f"/{name}",
                )
            record = ClusterRecord(
                address,
                await self._next_slot(unit),
                asked.identity if asked is not None else b"",
                protected,
                authority,
                unit.now_ns,
                is_secure,
                access,
                asked.grpc_port if asked is not None else 0,
            )
            self._put(unit, name, record)
            unit.change_rules()  # whoever knows the root does not know this name
            unit.event("cluster added", "/", "cluster", name=name, address=address)
            return name

        return await self._run(request, work)

    async def set(
        self,
        request: Request,
        name: str,
        *,
        address: str | None = None,
        token: str | None = None,
        authority: str | None = None,
        access: str | None = None,
        is_secure: bool | None = None,
        asked: Asked | None = None,
    ) -> str:
        """Change what is given; the store behind it stays the same. NOT_FOUND, INVALID, DENIED."""
        self.check_may_change(request.principal)
        self._check(name, token or "", authority or "")
        if asked is not None:
            self._check_asked(name, asked)
            self.check_identity(name, asked)
        given: dict[str, Any] = {
            "address": address,
            "authority": authority,
            "access": None if access is None else expressions.parse(access).text,
            "is_secure": is_secure,
        }
        if token is not None:
            given["token"] = await self._protected(name, token)
        if asked is not None:
            given |= {"identity": asked.identity, "grpc_port": asked.grpc_port}

        async def work(unit: Unit) -> str:
            self.check_may_change(unit.request.principal)
            changed = {key: value for key, value in given.items() if value is not None}
            self._put(unit, name, replace(self.get(name), **changed))
            unit.change_rules()
            unit.event("cluster changed", "/", "cluster", name=name)
            return name

        return await self._run(request, work)

    async def remove(self, request: Request, name: str) -> None:
        """Know it no more. NOT_FOUND, DENIED."""
        self.check_may_change(request.principal)

        async def work(unit: Unit) -> None:
            self.check_may_change(unit.request.principal)
            self.get(name)
            unit.delete(keys.cluster(name))
            unit.change_rules()
            unit.event("cluster removed", "/", "cluster", name=name)
            unit.on_commit(lambda _: self._forget(name))

        await self._run(request, work)

    async def learn(self, name: str, asked: Asked) -> None:
        """A cluster that was added without being asked has answered: remember who it is. DENIED if
        somebody else did."""
        self.check_identity(name, asked)
        record = self.get(name)
        if record.identity == asked.identity and record.grpc_port == asked.grpc_port:
            return
        self._check_asked(name, asked)

        async def work(unit: Unit) -> None:
            unit.quiet = True
            known = self.get(name)
            if known.identity in (b"", asked.identity):
                self._put(
                    unit,
                    name,
                    replace(known, identity=asked.identity, grpc_port=asked.grpc_port),
                )

        await self._run(SYSTEM, work)

    # ---- inside

    def _check(self, name: str, token: str, authority: str) -> None:
        check_cluster_name(name)
        if name == self._platform.cluster:
            raise Invalid("this is the name of this cluster itself", cluster=name)
        if len(token) > TOKEN_BYTES_MAX or not token.isprintable() or not token.isascii():
            raise Invalid("this is no token", cluster=name)
        if len(authority) > AUTHORITY_BYTES_MAX:
            raise Invalid("the authorities are too long", bytes_max=AUTHORITY_BYTES_MAX)

    def _check_asked(self, name: str, asked: Asked) -> None:
        if asked.identity == self._platform.identity:
            raise Invalid("this cluster itself answers there", cluster=name)
        if asked.cluster != name:
            raise Invalid(
                "another cluster answers there: add it by its own name, which its server was "
                "started with",
                cluster=name,
                answered=asked.cluster,
            )
        for other, record in self._records.items():
            if other != name and asked.identity and record.identity == asked.identity:
                raise Invalid("that store is known by another name", cluster=name, known=other)

    async def _next_slot(self, unit: Unit) -> int:
        stored = await unit.get(keys.cluster(""))
        last = ClusterRecord.unpack(stored).slot if stored is not None else 0
        slot = max((last, *self._slots)) + 1
        if slot > SLOT_MAX:
            raise Exhausted("too many clusters were added, ever", limit_clusters=SLOT_MAX)
        unit.put(keys.cluster(""), ClusterRecord("", slot).pack())
        return slot

    async def _protected(self, name: str, token: str) -> bytes:
        if not token:
            return b""
        return await self._platform.masters.protect(token.encode(), _context(name))

    async def _protect_anew(self) -> int:
        """The master key was rotated: how many tokens it protects from now on."""
        masters, count = self._platform.masters, 0
        for name, record in list(self._records.items()):
            old = record.token
            if not old or masters.is_protected(old):
                continue
            new = await self._protected(name, (await masters.reveal(old, _context(name))).decode())

            async def work(
                unit: Unit, name: str = name, old: bytes = old, new: bytes = new
            ) -> None:
                unit.quiet = True
                known = self._records.get(name)
                if known is not None and known.token == old:
                    self._put(unit, name, replace(known, token=new))

            await self._run(SYSTEM, work)
            count += 1
        return count

    async def _run(self, request: Request, work: Callable[[Unit], Awaitable[T]]) -> T:
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            return await root.run(request, work, durable=True)
        finally:
            self._platform.release(root)

    def _put(self, unit: Unit, name: str, record: ClusterRecord) -> None:
        unit.put(keys.cluster(name), record.pack())

        def committed(_: int) -> None:
            self._set(name, record)
            self._changed()

        unit.on_commit(committed)

    def _set(self, name: str, record: ClusterRecord) -> None:
        self._records[name] = record
        self._slots[record.slot] = name

    def _forget(self, name: str) -> None:
        del self._slots[self._records.pop(name).slot]
        self._changed()

    def _changed(self) -> None:
        taken = (self._platform.cluster, *self._records)
        self._platform.guard.clusters = frozenset(name.encode() for name in taken)
        self.generation += 1
        for changed in self.on_changed:
            changed()


def _context(name: str) -> bytes:
    return _TOKEN + name.encode()
