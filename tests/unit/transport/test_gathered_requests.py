"""Requests that are carried out together with others: no task, but the same bounds and answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import Method
from dataplatform.base.errors import Conflict, PlatformError
from dataplatform.transport.addresses import Address
from dataplatform.transport.connections import AsyncConnection
from dataplatform.transport.serving import FrameServer, ServerConnection, ServingLimits

from .fakes import PING, PUT, FakeHandler, RawClient, until


class Gathering(FakeHandler):
    """Gathers puts until they are let go; one that fails there is handled, and refused at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered: list[asyncio.Future[int]] = []
        self.defect = False

    def gather(
        self, connection: ServerConnection, method: Method, message: Any, data: bytes
    ) -> tuple[asyncio.Future[Any], Callable[[asyncio.Future[Any]], Any]] | None:
        if self.defect:
            raise ZeroDivisionError
        if method is not PUT:
            return None
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.gathered.append(result)
        return result, lambda result: pb.VersionReply(version=result.result())

    async def _answer(self, method: Method, message: Any, data: bytes | memoryview) -> Any:
        if method is PUT:
            raise Conflict("refused")
        return await super()._answer(method, message, data)

    def end(self, error: PlatformError | None = None) -> None:
        gathered, self.gathered = self.gathered, []
        for result in gathered:
            if error is None:
                result.set_result(7)
            else:
                result.set_exception(error)


@contextlib.asynccontextmanager
async def gathering(
    directory: Path, limits: ServingLimits | None = None
) -> AsyncIterator[tuple[FrameServer, Gathering, Address]]:
    handler = Gathering()
    server = FrameServer(handler.handle, handler.welcome, limits=limits, gather=handler.gather)
    address = Address("dp+unix", path=str(directory / "s"))
    await server.listen_unix(address.path)
    try:
        yield server, handler, address
    finally:
        await server.close()


@pytest.mark.parametrize("error", [None, Conflict("refused")], ids=["done", "refused"])
async def test_those_beyond_the_limit_have_their_turn(
    tmp_path: Path, error: PlatformError | None
) -> None:
    async with gathering(tmp_path, ServingLimits(requests_max=4)) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        started = [connection.start(PUT, pb.PutRequest(), b"row") for _ in range(50)]
        answers = asyncio.ensure_future(asyncio.gather(*started, return_exceptions=True))
        while not answers.done():
            await until(lambda: bool(handler.gathered) or answers.done())
            assert len(handler.gathered) <= 4
            handler.end(error)
        for answer in await answers:
            if error is None:
                assert answer[0].version == 7
            else:
                assert isinstance(answer, Conflict)
        assert handler.started == (0 if error is None else 50)
        assert server.budget.used_bytes == 0
        await connection.close()


@pytest.mark.parametrize("error", [None, Conflict("refused")], ids=["done", "refused"])
async def test_a_lost_client_hears_nothing_and_holds_nothing(
    tmp_path: Path, error: PlatformError | None
) -> None:
    async with gathering(tmp_path) as (server, handler, address):
        client = await RawClient.open(address)
        client.request(PUT, 1, pb.PutRequest(), b"row")
        await until(lambda: bool(handler.gathered))
        client.writer.transport.abort()
        await until(lambda: not server.connections)
        handler.end(error)
        await until(lambda: server.budget.used_bytes == 0)
        assert handler.started == 0  # nobody wants to know why


async def test_closing_waits_for_them(tmp_path: Path) -> None:
    async with gathering(tmp_path) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        written = connection.start(PUT, pb.PutRequest(), b"row")
        await until(lambda: bool(handler.gathered))
        closing = asyncio.create_task(server.close(grace_s=30))
        await until(lambda: server.is_stopping)
        handler.end()
        assert (await written)[0].version == 7
        await closing


async def test_a_defect_on_the_way_there_costs_no_connection(tmp_path: Path) -> None:
    async with gathering(tmp_path) as (_, handler, address):
        handler.defect = True
        connection = await AsyncConnection.open(address)
        await connection.call(PING, pb.Empty())
        assert handler.started == 1
        await connection.close()
