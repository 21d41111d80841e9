"""A whole server in this loop, on a memory disk, with every listener on a free port."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dataplatform.base.clock import Clock
from dataplatform.core.units import SYSTEM
from dataplatform.engine.memory import MemoryStorages
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.servers import Server
from dataplatform_server.settings import Settings, read_settings


def settings_in(directory: Path, **changes: Any) -> Settings:
    flags = {
        "data": str(directory / "data"),
        "cluster": "test",
        "listen": "127.0.0.1:0",
        "grpc": "none",
        "http": "none",
        "socket": str(directory / "dp.sock"),
    }
    return dataclasses.replace(read_settings(flags, {}), **changes)


@contextlib.asynccontextmanager
async def running(
    directory: Path, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Server]:
    server = await Server.start(settings_in(directory, **changes), MemoryStorages(), clock)
    try:
        yield server
    finally:
        if not server.is_stopping:
            await server.stop(1.0)


async def connect(server: Server, hello: Any = None) -> AsyncConnection:
    return await AsyncConnection.open(parse(server.endpoints.socket), hello)


async def admin_token(server: Server) -> str:
    """Of an administrator, for whoever comes over TCP."""
    identities = server.platform.identities
    if not identities.has_user("tester"):
        await identities.create_user(SYSTEM, "tester", is_admin=True)
    return identities.text_of(await identities.create_token(SYSTEM, "tester", ttl_s=3600))
