"""Requests for what other clusters have: found by their targets, passed on, answered (D9).

A path whose first name is a known cluster is that cluster's, and so is a volume whose number bears
its slot. The request goes there as it is, apart from the names (`mapping`), with the client's own
request id, over the client's own link (`links`); so it may be repeated as any other.

Whom it is for: if the token that the other cluster gave us may speak for others, the user who asks,
by name; an administrator here acts by the token's own right, as root does on a mount. Without that
everybody is the token's user, apart from who shows nothing here: he shows nothing there.

What comes from another cluster's server is not passed on: to it, clusters are no names.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import BULK_FIELD, METHODS, Method
from dataplatform.base.errors import Denied, PlatformError, Unavailable
from dataplatform.core.clusters import SLOT_SHIFT
from dataplatform.core.globalnames import Elsewhere, first_name
from dataplatform.core.platform import Platform
from dataplatform.core.principals import NOBODY
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME
from dataplatform.transport.addresses import parse

from ..areas import area_of
from ..calls import FIRST_TARGETS, TARGETS, Call
from ..identity import ANONYMOUS
from ..packing import shared_bytes, write_parts
from . import mapping, mirrored
from .links import Link
from .remotes import CLUSTER, Remote, away

ALL_VERBS = 1023
"""A mount is to ask about everything: its kernel knows nothing of users elsewhere."""

_LOCATE = METHODS["Files.Locate"].number
SYNC = METHODS["Files.Sync"]


class Destination(NamedTuple):
    cluster: str
    slot: int


class Routes:
    """Of one server."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._clusters = platform.clusters
        self._remotes: dict[str, Remote] = {}
        self._links: dict[bytes, dict[tuple[str, bool], Link]] = {}
        self._closing: set[Any] = set()
        self.any = bool(self._clusters)
        """There are clusters to which anything could go."""
        self._clusters.on_changed.append(self._clusters_changed)

    # ---- where to

    def find(self, call: Call, message: Any) -> Destination | None:
        """The cluster that has what the message is about; None: it is ours."""
        if call.cluster:
            return None
        for name in TARGETS.get(type(message), ()):
            slot, _ = self._place(getattr(message, name))
            if slot:
                cluster = self._clusters.of_volume(slot << SLOT_SHIFT)
                if cluster is not None:
                    return Destination(cluster, slot)
        return None

    def turn(self, call: Call, message: Any, error: Elsewhere) -> Destination:
        """Where a request goes whose path led to a symbolic link that leads to another cluster.
        The error, if it cannot."""
        names = TARGETS[type(message)]
        if call.cluster or len(names) != 1:
            raise error
        target = getattr(message, names[0])
        target.path, target.volume, target.inode = error.path, 0, 0
        found = self.find(call, message)
        if found is None:
            raise error
        return found

    def _place(self, target: pb.Target) -> tuple[int, str]:
        """The slot of a target's cluster, 0 for our own, and the target's path there."""
        volume, path = target.volume, target.path
        slot = volume >> SLOT_SHIFT
        if slot or (volume and volume != ROOT_VOLUME) or target.inode > ROOT_INODE:
            return slot, path
        name = first_name(path)
        record = self._clusters.find(name) if name else None
        if record is None:
            return 0, path
        if target.inode:
            target.inode = target.volume = 0
        return record.slot, path.lstrip("/")[len(name) :] or "/"

    # ---- passing on

    async def forward(
        self,
        destination: Destination,
        call: Call,
        method: Method,
        message: Any,
        data: bytes | memoryview,
    ) -> tuple[Any, Any] | None:
        """The other cluster's answer as it is to be understood here. DENIED to whoever may not use
        it; UNAVAILABLE (EHOSTDOWN), soon, while it cannot be reached; or whatever it says.

        None: the request is about a mirror here now, since the cluster cannot be reached and the
        caller allows it.
        """
        cluster, slot = destination
        principal = call.principal
        if not self._clusters.may_use(cluster, principal):
            raise Denied("you may not use this cluster", cluster=cluster, user=principal.name)
        if principal.is_read_only and not mirrored.only_reads(method, message):
            raise Denied("the token allows no change", user=principal.name)
        if method.number == _LOCATE:
            message.length = 0  # its files are not on this machine: only whether one may is asked
        mapping.make_local(message, TARGETS[type(message)], self._place, cluster, slot)
        if type(message) is pb.WriteRequest:
            # The client sends again what its own server lost, and hears of no other one's restart.
            message.durability = pb.DURABLE
        if type(message) is pb.WriteRequest and message.area:
            data = _taken_from_area(call, message, data)
        elif method.request_bulk:
            message.ClearField(BULK_FIELD)
        try:
            remote = await self._ready(cluster)
            self._speak(remote, call, message)
            link = await self._link(remote, call)
            reply, bulk = await link.ask(call.keeper, method, message, data)
        except PlatformError as error:
            if isinstance(error, Unavailable):
                if await self._turn(cluster, call, method, message):
                    return None
                if CLUSTER in error.facts:
                    raise
                raise away(cluster, error) from error
            raise mapping.global_error(_ours(error), cluster) from error
        except ValueError:
            raise away(cluster, Unavailable("it is not known any more")) from None
        mapping.make_global(reply, cluster, slot)
        if call.speaks:
            _govern(reply)
        if method.number == _LOCATE:
            return pb.LocateReply(elsewhere=True), b""
        if type(reply) in (pb.WriteReply, pb.SyncReply):
            reply.verifier = call.server.instance  # it is durable already
        return reply, bulk

    async def _turn(self, cluster: str, call: Call, method: Method, message: Any) -> bool:
        """Have a request that only reads go to a mirror here, if that is allowed."""
        names = TARGETS[type(message)]
        target = getattr(message, names[0])
        if len(names) > 1 or not target.stale_ok or not mirrored.only_reads(method, message):
            return False
        identity = self._clusters.get(cluster).identity
        as_of_ns = await mirrored.turn(self._platform, identity, target)
        if as_of_ns is None:
            return False
        call.as_of_ns = as_of_ns
        return True

    def _speak(self, remote: Remote, call: Call, message: Any) -> None:
        """Say for whom the request is."""
        first = getattr(message, FIRST_TARGETS[type(message)])
        first.ClearField("caller")
        principal = call.principal
        if remote.welcome.may_speak and not principal.is_admin:
            first.caller.user = principal.name if principal.uid != NOBODY else ANONYMOUS.name
            first.caller.uid = NOBODY
            first.caller.read_only = principal.is_read_only

    async def _ready(self, cluster: str) -> Remote:
        remote = self._remotes.get(cluster)
        if remote is None:
            remote = self._remotes[cluster] = Remote(
                self._platform,
                cluster,
                lambda: self._lost(cluster),
                lambda: self._has_links(cluster),
            )
        await remote.ready()
        return remote

    async def own_link(self, cluster: str, session: bytes) -> Link:
        """A way there for the server itself, by the right of the token. UNAVAILABLE, DENIED."""
        remote = await self._ready(cluster)
        links = self._links.setdefault(session, {})
        link = links.get((cluster, True))
        if link is None:
            link = links[cluster, True] = Link(
                remote, self._platform.cluster, self._platform.identity, session, with_token=True
            )
        return link

    async def _link(self, remote: Remote, call: Call) -> Link:
        is_anonymous = call.principal.uid == NOBODY and not call.principal.is_admin
        with_token = remote.welcome.may_speak or not is_anonymous
        if not with_token and parse(remote.access.address).is_unix:
            raise Denied("who shows nothing may not use this cluster", cluster=remote.name)
        links = self._links.setdefault(call.session.id, {})
        link = links.get((remote.name, with_token))
        if link is None:
            link = links[remote.name, with_token] = Link(
                remote,
                self._platform.cluster,
                self._platform.identity,
                call.session.id,
                with_token=with_token,
            )
        return link

    # ---- what a sync of everything covers

    async def sync(self, call: Call) -> None:
        """What this session changed in other clusters is durable. UNAVAILABLE."""
        for (cluster, _), link in list(self._links.get(call.session.id, {}).items()):
            if not link.is_changed:
                continue
            link.is_changed = False
            try:
                await link.call(SYNC, pb.SyncRequest())
            except BaseException as error:
                link.is_changed = True
                if isinstance(error, Unavailable) and CLUSTER not in error.facts:
                    raise away(cluster, error) from error
                raise

    # ---- the end

    def end_session(self, session: bytes) -> None:
        """The client is gone."""
        for link in self._links.pop(session, {}).values():
            self._close(link)

    async def close(self) -> None:
        remotes, self._remotes = self._remotes, {}
        for remote in remotes.values():
            await remote.close()
        for session in list(self._links):
            self.end_session(session)
        for task in list(self._closing):
            await task

    def _close(self, link: Link | Remote) -> None:
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _has_links(self, cluster: str) -> bool:
        return any(name == cluster for links in self._links.values() for name, _ in links)

    def _lost(self, cluster: str) -> None:
        for links in self._links.values():
            for (name, _), link in links.items():
                if name == cluster:
                    link.cut()

    def _clusters_changed(self) -> None:
        """Those that are reached in another way now are left."""
        self.any = bool(self._clusters)
        for name, remote in list(self._remotes.items()):
            record = self._clusters.find(name)
            if record is not None and record.slot == remote.slot and remote.is_as_in(record):
                continue
            del self._remotes[name]
            self._close(remote)
            for links in self._links.values():
                for key in [key for key in links if key[0] == name]:
                    self._close(links.pop(key))


def _ours(error: PlatformError) -> PlatformError:
    """Without what would make our client believe that its own credential was refused."""
    facts = {k: v for k, v in error.facts.items() if k != "credential"}
    return PlatformError(error.kind, error.message, **facts)


def _govern(reply: Any) -> None:
    if type(reply) is pb.Node:
        reply.governed = ALL_VERBS
    elif type(reply) is pb.ListReply:
        for node in reply.nodes:
            node.governed = ALL_VERBS


def _taken_from_area(call: Call, message: pb.WriteRequest, data: Any) -> Any:
    """The bytes of a write that lie in memory which only we share with the client."""
    area = area_of(call.session.area, message.area)
    if message.parts:
        found: Any = b"".join(part for _, part in write_parts(message, data, area))
        for part in message.parts:
            part.at = 0
    else:
        found = bytes(shared_bytes(area, message, data))
    message.area = message.at = message.length = 0
    return found
