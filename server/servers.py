"""A running server: the platform, everything that listens, and the background tasks.

Started in the order in which each needs the other, stopped in reverse: first nobody new comes in,
then requests under way end, then the tasks, and last the platform makes everything durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from dataplatform.base.clock import Clock, Entropy, SystemClock, SystemEntropy
from dataplatform.base.errors import PlatformError
from dataplatform.core.keys import Masters
from dataplatform.core.platform import Platform
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import Storages
from dataplatform.transport.addresses import Address, join_host_port

from . import (
    handlers as _handlers,  # noqa: F401  registers them
)
from .accounts import SystemAccounts
from .certificates import Certificates
from .dispatch import Dispatcher
from .facts import ServerFacts
from .frames_listener import FramesListener
from .gathering.collecting import Collector
from .grpc_listener import GrpcListener
from .http_listener import HttpListener
from .identity import Credentials
from .metrics import counter, gauge
from .mirroring import Mirroring
from .replication.connecting import connector
from .sessions import Sessions
from .settings import Settings, is_loopback
from .tasks import Task, Tasks, platform_tasks

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long requests under way may take to finish once the server was told to stop."""


REVIEW_S = 0.25
"""How often it is looked whether callers whose requests wait are still who they were. A token that
is over has no effect after a second, whatever goes on."""


@dataclass(slots=True)
class Endpoints:
    """Where the server can be reached: as addresses, empty where nothing listens."""

    frames: str = ""
    socket: str = ""
    grpc: str = ""
    http: str = ""


class Server:
    """`await Server.start(settings, storages)`, then `await server.stop()`."""

    def __init__(self, settings: Settings, platform: Platform) -> None:
        self.settings = settings
        self.platform = platform
        self.endpoints = Endpoints()
        self.sessions = Sessions(
            platform.clock, platform.entropy, self._session_ended, self._session_left
        )
        self.facts = ServerFacts(
            engine=platform.storages.kind,
            data=settings.store or str(settings.data),
            store=platform.identity,
        )
        self.dispatcher = Dispatcher(platform, self.facts)
        platform.identities.accounts = SystemAccounts()
        platform.mirrors.connect = connector(platform)
        self.credentials = Credentials(platform.identities, platform.clock)
        self.frames = FramesListener(
            self.dispatcher, self.sessions, self.facts, platform.cluster, self.credentials
        )
        self.grpc: GrpcListener | None = None
        self.http: HttpListener | None = None
        self.tasks = Tasks(
            [*platform_tasks(platform, self.sessions), Task("credentials", REVIEW_S, self._review)]
        )
        platform.mirrors.connect = connector(platform)
        self.mirroring = Mirroring(platform.mirrors)
        platform.identities.on_changed.append(self._identities_changed)
        self.dispatcher.callers.find_user = platform.identities.find_by_uid
        self.dispatcher.callers.find_named = platform.identities.find_by_name
        self.certificates = Certificates(settings.tls) if settings.tls is not None else None
        self.is_stopping = False
        self.facts.connections = lambda: self.frames.connections
        self.facts.counters = self._counters
        self.collector = Collector(platform, self.dispatcher.routes.own_link)
        self.facts.flows = self.collector.flows
        self.facts.limits_changed = self._limits_changed

    @classmethod
    async def start(
        cls,
        settings: Settings,
        storages: Storages,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        masters: Masters | None = None,
    ) -> Server:
        """Open the platform, then listen. What was opened is closed again if that fails."""
        try:
            platform = await Platform.start(
                storages,
                cluster=settings.cluster,
                clock=clock or SystemClock(),
                entropy=entropy or SystemEntropy(),
                masters=masters,
                encrypt_root=settings.encrypt_root,
            )
        except BaseException:
            await storages.close()
            raise
        try:
            server = cls(settings, platform)
        except BaseException:
            await platform.close()
            raise
        try:
            await server._listen()
        except BaseException:
            await server.stop(0)
            raise
        return server

    async def _listen(self) -> None:
        settings, endpoints = self.settings, self.endpoints
        certificates = self.certificates
        tls = certificates.context if certificates is not None else None
        self.tasks.start()
        self.mirroring.start()
        self.collector.start()
        if settings.http is not None:
            self.http = HttpListener(self._metrics, self._not_ready)
            # Probes of this machine (systemd, a sidecar) need no certificates.
            http_tls = None if is_loopback(settings.http[0]) else tls
            host, port = await self.http.listen(*settings.http, http_tls)
            scheme = "https" if http_tls else "http"
            endpoints.http = f"{scheme}://{join_host_port(host, port)}"
        if settings.grpc is not None:
            self.grpc = GrpcListener(
                self.dispatcher, self.sessions, self.credentials, self.frames.turns
            )
            credentials = certificates.grpc_credentials() if certificates is not None else None
            grpc = await self.grpc.listen(*settings.grpc, credentials)
            endpoints.grpc, self.facts.grpc_port = str(grpc), grpc.port
        if settings.listen is not None:
            endpoints.frames = str(await self.frames.listen_tcp(*settings.listen, tls))
        endpoints.socket = str(await self._listen_unix() or "")

    async def _listen_unix(self) -> Address | None:
        path = self.settings.socket
        if path is None:
            return None
        try:
            is_shared = not self.settings.socket_is_default
            return await self.frames.listen_unix(path, is_shared=is_shared)
        except PlatformError as e:
            if not self.settings.socket_is_default:
                raise
            logger.info("no default Unix socket. reason=`%s`", e)
            return None

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """See the module's text. The first failure is raised after everything was tried."""
        self.is_stopping = True
        self.platform.promises.close()
        self.dispatcher.limits.close()
        if self.http is not None:
            await self.http.close()
        closing = [self.frames.close(grace_s)]
        if self.grpc is not None:
            closing.append(self.grpc.close(grace_s))
        failures = [
            e
            for e in await asyncio.gather(*closing, return_exceptions=True)
            if isinstance(e, BaseException)
        ]
        for step in (
            self.mirroring.stop,
            self.collector.stop,
            self.dispatcher.routes.close,
            self.tasks.stop,
            self.platform.close,
        ):
            try:
                await step()
            except Exception as e:
                failures.append(e)
        if failures:
            raise failures[0]

    def _session_ended(self, session: bytes) -> None:
        self.platform.end_session(session)
        self.dispatcher.routes.end_session(session)

    def _session_left(self, session: bytes) -> None:
        self.platform.promises.leave(session)
        self.dispatcher.routes.end_session(session)

    def _identities_changed(self) -> None:
        self.dispatcher.callers.forget()
        # Not from within the unit that changes them.
        asyncio.get_running_loop().call_soon(self._review_now)

    async def _review(self) -> None:
        self._review_now()

    def _review_now(self) -> None:
        self.frames.review()
        if self.grpc is not None:
            self.grpc.review()

    def _limits_changed(self, volume: Volume) -> None:
        settings = volume.settings
        self.dispatcher.limits.of(volume.id, settings.iops, settings.bandwidth)

    def _counters(self) -> dict[str, int]:
        promises = self.platform.promises.counts()
        counted = {f"promises.{name}": count for name, count in promises.items() if count}
        return self.dispatcher.metrics.counters() | counted

    def _not_ready(self) -> str | None:
        if self.is_stopping:
            return "the server is stopping"
        for volume in self.platform.volumes:
            if volume.lane.broken is not None:
                return f"volume {volume.id}: {volume.lane.broken}"
        return None

    def _metrics(self) -> Iterable[str]:
        volumes = self.platform.volumes
        promises = self.platform.promises.counts()
        labels = {f'volume="{v.id}"': v for v in volumes}
        yield from gauge("dp_connections", "Connections of frames.", {"": self.frames.connections})
        yield from gauge(
            "dp_sessions", "Clients, those in their lease too.", {"": len(self.sessions)}
        )
        yield from gauge(
            "dp_request_bytes", "Memory that requests hold.", {"": self.frames.charged_bytes}
        )
        waiting = self.dispatcher.limits.waiting
        yield from gauge(
            "dp_volume_waiting",
            "Requests that wait for the limits of their volume.",
            {f'volume="{volume}"': count for volume, count in waiting.items()},
        )
        yield from gauge("dp_memory_bytes", "Resident memory.", {"": self.facts.memory_bytes})
        yield from gauge(
            "dp_promises",
            "Caches of clients (keepers), what they keep, what they have not acknowledged.",
            {f'state="{k}"': n for k, n in promises.items() if k in ("keepers", "kept", "told")},
        )
        yield from counter(
            "dp_promises_ended_total",
            "Promises that were broken, and leases that ran out while a change waited.",
            {f'how="{k}"': n for k, n in promises.items() if k in ("broken", "late")},
        )
        yield from gauge("dp_volumes_open", "Open volumes.", {"": len(volumes)})
        yield from gauge(
            "dp_volume_commit",
            "The last commit.",
            {label: volume.state.commit for label, volume in labels.items()},
        )
        mirrors = self.platform.mirrors.behind()
        yield from gauge(
            "dp_mirror_behind_commits",
            "Commits of its source that a mirror has not yet.",
            {f'volume="{volume}"': behind for volume, (behind, _) in mirrors.items()},
        )
        yield from gauge(
            "dp_mirror_failing",
            "Whether a mirror cannot follow: see dp mirror status.",
            {f'volume="{volume}"': int(fails) for volume, (_, fails) in mirrors.items()},
        )
        yield from gauge(
            "dp_volume_used_bytes",
            "Bytes allocated to data.",
            {label: volume.state.used_bytes for label, volume in labels.items()},
        )
        yield from self.dispatcher.metrics.lines()
