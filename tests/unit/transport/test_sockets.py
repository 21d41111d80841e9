"""What the kernel is asked for: that a peer which vanished without a word is noticed. (That the
kernel then does so is not tested here: it takes a network that can be cut.)"""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from dataplatform.transport.addresses import Address
from dataplatform.transport.async_connections import AsyncConnection
from dataplatform.transport.blocking_connections import BlockingConnection
from dataplatform.transport.serving import FrameServer
from dataplatform.transport.sockets import KEEPALIVE_IDLE_S, UNACKNOWLEDGED_MS_MAX

from .fakes import FakeHandler, drive


def check(stream: socket.socket) -> None:
    assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
    timeout_ms = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert timeout_ms == UNACKNOWLEDGED_MS_MAX


@pytest.mark.parametrize("kind", ["asynchronous", "blocking"])
async def test_silence_is_noticed_at_both_ends(kind: str) -> None:
    handler = FakeHandler()
    server = FrameServer(handler.handle, handler.welcome)
    try:
        host, port = await server.listen_tcp("127.0.0.1", 0)
        address = Address("dp", host=host, port=port)
        if kind == "asynchronous":
            connection = await AsyncConnection.open(address)
            assert connection._transport is not None
            check(connection._transport.get_extra_info("socket"))
        else:
            opened: list[BlockingConnection] = []
            thread = threading.Thread(
                target=lambda: opened.append(drive(BlockingConnection.open(address)))
            )
            thread.start()
            await asyncio.to_thread(thread.join)
            (connection,) = opened
            check(connection._socket)
        (accepted,) = server.connections
        assert accepted._transport is not None
        check(accepted._transport.get_extra_info("socket"))
        await connection.close()
    finally:
        await server.close()
