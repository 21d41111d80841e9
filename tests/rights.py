"""Calls as somebody: a platform in memory behind the server's own dispatcher, without a socket."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.core.platform import Platform
from dataplatform.core.principals import Principal
from dataplatform.engine.memory import MemoryStorages
from dataplatform_server import handlers as _handlers  # noqa: F401  registers them
from dataplatform_server.dispatch import Dispatcher
from dataplatform_server.facts import ServerFacts
from dataplatform_server.identity import Attachment
from dataplatform_server.sessions import Session
from tests.principals import Shown

ROOT = Principal("root", uid=0, gid=0, gids=frozenset((0,)), is_admin=True, may_speak=True)
ANA = Principal("ana", uid=1000, gid=1000, gids=frozenset((1000, 50)), groups=frozenset(("eng",)))
BOB = Principal("bob", uid=1001, gid=1001, gids=frozenset((1001, 50)))
EVE = Principal("eve", uid=1002, gid=1002, gids=frozenset((1002,)))
ANYBODY = Principal("anonymous")


class Core:
    """`await core.call(ANA, "Files.Read", message)`. Each principal has one session."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.dispatcher = Dispatcher(platform, ServerFacts(engine="memory", data=""))
        self._attachments: dict[Principal, Attachment] = {}

    @classmethod
    async def start(cls) -> Core:
        return cls(await Platform.start(MemoryStorages()))

    async def close(self) -> None:
        await self.platform.close()

    def attachment(self, who: Principal) -> Attachment:
        known = self._attachments.get(who)
        if known is None:
            number = len(self._attachments) + 1
            session = Session(number.to_bytes(16, "big"), who)
            known = self._attachments[who] = Attachment(session, Shown(who))
        return known

    async def call(self, who: Principal, method: str, message: Any, data: bytes = b"") -> Any:
        """The reply; bulk bytes are put into its `data`. Raises PlatformError."""
        handling = self.dispatcher.handle(self.attachment(who), METHODS[method], message, data)
        reply, bulk = await handling
        if METHODS[method].reply_bulk:
            parts = [bulk] if isinstance(bulk, (bytes, memoryview)) else bulk
            reply.data = b"".join(bytes(part) for part in parts)
        return reply

    # ---- what tests set up

    async def make(
        self, path: str, mode: int, owner: Principal = ROOT, kind: int = pb.FILE, **more: Any
    ) -> pb.Node:
        message = pb.CreateRequest(
            target=pb.Target(path=path),
            kind=kind,  # type: ignore[arg-type]
            mode=mode,
            uid=owner.uid,
            gid=owner.gid,
            **more,
        )
        node: pb.Node = await self.call(ROOT, "Namespace.Create", message)
        return node

    async def make_directory(self, path: str, mode: int, owner: Principal = ROOT) -> pb.Node:
        return await self.make(path, mode, owner, pb.DIRECTORY)
