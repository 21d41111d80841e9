"""Another cluster as a door: the same requests, of users of the same names, passed on to the server
of the matrix by one that knows it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dataplatform.aio
from dataplatform.core.units import SYSTEM
from dataplatform.engine.memory import MemoryStorages
from dataplatform_server.calls import TARGETS
from dataplatform_server.clusters.mapping import plan_of
from dataplatform_server.servers import Server

from .cells import ANA_UID, World, settings
from .doors import Frames


class Relay(Frames):
    """`tokens`: of the other cluster, by those of the matrix."""

    def __init__(self, address: str, tokens: dict[str, str]) -> None:
        super().__init__("cluster", address)
        self._tokens = tokens

    async def call(self, token: str, method: str, message: Any, data: bytes) -> str:
        return await super().call(self._tokens[token], method, named_globally(message), data)


def is_passed_on(message: Any) -> bool:
    return any(message.HasField(name) for name in TARGETS.get(type(message), ()))


def named_globally(message: Any) -> Any:
    """A copy, with its paths as they are at the other cluster."""
    copy = type(message).FromString(message.SerializeToString())
    for name in TARGETS[type(copy)]:
        target = getattr(copy, name)
        if target.path.startswith("/"):
            target.path = f"/local{target.path}"
    plan = plan_of(copy.DESCRIPTOR)
    for name, is_repeated in plan.paths if plan is not None else ():
        path = getattr(copy, name)
        if not is_repeated and path.startswith("/"):
            setattr(copy, name, f"/local{path}")
    return copy


@contextlib.asynccontextmanager
async def relay_of(world: World, directory: Path) -> AsyncIterator[Relay]:
    """A cluster that knows the server of the matrix by a token that may speak for others."""
    there = world.server.platform.identities
    await there.create_user(SYSTEM, "link", is_admin=True)
    link = there.text_of(await there.create_token(SYSTEM, "link", ttl_s=600, may_speak=True))
    directory.mkdir()
    server = await Server.start(replace(settings(directory), cluster="home"), MemoryStorages())
    try:
        here = server.platform.identities
        await here.create_group(SYSTEM, "staff")
        await here.create_user(SYSTEM, "ana", uid=ANA_UID + 5, groups=["staff"])
        tokens = {}
        limits: dict[str, dict[str, Any]] = {
            "ana": {},
            "reader": {"is_read_only": True},
            "inmate": {"roots": [(1, 1)], "paths": ["/"]},
        }
        for name, given in limits.items():
            token_id = await here.create_token(SYSTEM, "ana", ttl_s=600, **given)
            tokens[world.tokens[name]] = here.text_of(token_id)
        async with dataplatform.aio.connect(server.endpoints.socket) as dp:
            await dp.add_cluster("local", world.server.endpoints.frames, token=link)
        door = Relay(server.endpoints.frames, tokens)
        try:
            yield door
        finally:
            await door.close()
    finally:
        await server.stop(0)
