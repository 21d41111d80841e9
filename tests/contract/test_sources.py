"""The source of a mirror: in the same process, over gRPC, and over frames."""

from __future__ import annotations

from pathlib import Path

from dataplatform.core.clusters import Access
from dataplatform.core.platform import Platform
from dataplatform.core.replication.seam import Source
from dataplatform.core.replication.source import LocalSource
from dataplatform.keyspace.records import ROOT_VOLUME
from dataplatform_server.replication.remote import RemoteSource
from dataplatform_server.replication.wires import FramesWire, GrpcWire, Wire
from dataplatform.transport.addresses import parse

from .sources import SourceContract


class TestLocalSource(SourceContract):
    async def connect(self, platform: Platform, volume: int = ROOT_VOLUME) -> Source:
        return LocalSource(platform, volume)


class TestLocalSourceOnRocks(TestLocalSource):
    engine = "rocks"
