"""The source of a mirror: in the same process, over gRPC, over TLS, and over frames."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from dataplatform.core.clusters import Access
from dataplatform.core.platform import Platform
from dataplatform.core.replication.seam import Source
from dataplatform.core.replication.source import LocalSource
from dataplatform.keyspace.records import ROOT_VOLUME
from dataplatform.transport.addresses import parse
from dataplatform.transport.tls import ServerTls
from dataplatform_server.replication.remote import RemoteSource
from dataplatform_server.replication.wires import FramesWire, GrpcWire, Wire
from dataplatform_server.servers import Server
from tests import certificates
from tests.model.platform_driver import Place
from tests.unit.server.servers import admin_token, settings_in

from .sources import SourceContract


class TestLocalSource(SourceContract):
    async def connect(self, platform: Platform, volume: int = ROOT_VOLUME) -> Source:
        return LocalSource(platform, volume)


class TestLocalSourceOnRocks(TestLocalSource):
    engine = "rocks"


class TestSourceOverGrpc(SourceContract):
    tls: ServerTls | None = None
    server: Server
    token: str

    @contextlib.asynccontextmanager
    async def serving(self, place: Place, tmp_path: Path) -> AsyncIterator[Platform]:
        settings = settings_in(tmp_path, grpc=("127.0.0.1", 0), tls=self.tls)
        self.server = await Server.start(settings, await place.storages(), clock=place.clock)
        yield self.server.platform
        await self.server.stop(0)

    def wire(self) -> Wire:
        return GrpcWire(parse(self.server.endpoints.grpc), self.token)

    async def connect(self, platform: Platform, volume: int = ROOT_VOLUME) -> Source:
        self.token = await admin_token(self.server)  # the clock may be another one by now
        path = await platform.catalog.mount_path(volume)
        return RemoteSource(self.wire(), path, store=platform.identity)


class TestSourceOverGrpcOnRocks(TestSourceOverGrpc):
    engine = "rocks"


class TestSourceOverTls(TestSourceOverGrpc):
    authority: str

    @contextlib.asynccontextmanager
    async def serving(self, place: Place, tmp_path: Path) -> AsyncIterator[Platform]:
        made = certificates.authority(tmp_path / "certs")
        self.authority = (made / "ca.pem").read_text()
        self.tls = ServerTls(str(made / "server.pem"), str(made / "server.key"))
        async with super().serving(place, tmp_path) as platform:
            yield platform

    def wire(self) -> Wire:
        return GrpcWire(parse(self.server.endpoints.grpc), self.token, self.authority)


class TestSourceOverFrames(TestSourceOverGrpc):
    def wire(self) -> Wire:
        access = Access("other", self.server.endpoints.socket, "", "", b"", 0)
        return FramesWire(access, "mine")
