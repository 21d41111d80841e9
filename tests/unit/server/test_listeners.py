"""The same platform through frames, gRPC and HTTP."""

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import ErrorKind, Exists, Invalid, NotFound, Unavailable
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.grpc_listener import ERROR_METADATA, SESSION_METADATA
from dataplatform_server.identity import ANONYMOUS
from dataplatform_server.servers import Server
from dataplatform_server.sessions import LEASE_S

from ..transport.fakes import until
from .servers import admin_token, connect, running, settings_in

LOOPBACK = ("127.0.0.1", 0)
WRITE_FILE, READ, STAT, CREATE = (
    METHODS[n] for n in ("Files.WriteFile", "Files.Read", "Namespace.Stat", "Namespace.Create")
)


def path(text: str) -> pb.Target:
    return pb.Target(path=text)


# ------------------------------------------------------------------------------- frames


async def test_frames_on_tcp_and_unix(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        unix = await connect(server)
        hello = pb.Hello(token=await admin_token(server))
        tcp = await AsyncConnection.open(parse(server.endpoints.frames), hello)
        assert unix.welcome.cluster == "test"
        assert unix.welcome.instance == tcp.welcome.instance != b""
        await unix.call(WRITE_FILE, pb.WriteFileRequest(target=path("/a")), b"content")
        _, data = await tcp.call(READ, pb.ReadRequest(target=path("/a"), length=100))
        assert bytes(data) == b"content"
        with pytest.raises(NotFound) as caught:
            await tcp.call(STAT, pb.StatRequest(target=path("/missing")))
        assert caught.value.facts["path"] == "/missing"
        status, _ = await tcp.call(METHODS["System.Status"], pb.Empty())
        assert (status.connections, status.engine, status.pid) == (2, "memory", os.getpid())
        assert status.counters["requests.Files.Read"] == 1
        await unix.close()
        await tcp.close()


async def test_who_connects(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        unix = await connect(server, pb.Hello(session=b"u" * 16, program="p"))
        await AsyncConnection.open(parse(server.endpoints.frames), pb.Hello(session=b"t" * 16))
        session = server.sessions.attach(b"u" * 16, server.credentials.of_uid(os.getuid()).now())
        assert session.connections == 2
        assert server.sessions.attach(b"t" * 16, ANONYMOUS).connections == 2
        with pytest.raises(Invalid):
            await connect(server, pb.Hello(session=b"short"))
        await unix.close()


async def test_open_files_live_as_long_as_the_session(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock) as server:
        connection = await connect(server, pb.Hello(session=b"s" * 16))
        request = pb.CreateRequest(target=path("/a"), kind=pb.FILE, open=True)
        node, _ = await connection.call(CREATE, request)
        (volume,) = server.platform.volumes
        await connection.close()
        other = await connect(server)
        await until(lambda: server.frames.connections == 1)
        await other.close()
        clock.advance(LEASE_S - 1)
        server.sessions.run_once()
        assert node.inode in volume.opens
        clock.advance(1)
        server.sessions.run_once()
        assert node.inode not in volume.opens


async def test_the_default_socket_is_private(tmp_path: Path) -> None:
    async with running(tmp_path, socket_is_default=True):
        assert stat.S_IMODE((tmp_path / "dp.sock").stat().st_mode) == 0o600


async def test_a_socket_is_for_everybody_and_goes_with_the_server(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        file = tmp_path / "dp.sock"
        assert stat.S_IMODE(file.stat().st_mode) == 0o666
        with pytest.raises(Exists):
            async with running(tmp_path):
                pass
        await server.stop()
    assert not file.exists()


async def test_a_socket_left_by_a_killed_server_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dp.sock"))
    async with running(tmp_path) as server:
        await (await connect(server)).close()
    (tmp_path / "dp.sock").write_text("something else")
    with pytest.raises(Invalid):
        async with running(tmp_path):
            pass


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(LOOPBACK)
        taken.listen()
        where: Any = taken.getsockname()
        for name in ("listen", "grpc", "http"):
            with pytest.raises(Unavailable, match=f"--{name}"):
                async with running(tmp_path, **{name: where}):
                    pass


# --------------------------------------------------------------------------------- gRPC


async def call_grpc(
    channel: grpc.aio.Channel, name: str, message: Any, metadata: Any = None
) -> Any:
    method = METHODS[name]
    stub = channel.unary_unary(
        method.grpc_path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.reply.FromString,
    )
    return await stub(message, metadata=metadata)


def target_of(server: Server) -> str:
    return server.endpoints.grpc.removeprefix("grpc://")


async def test_grpc_carries_bulk_in_the_message(tmp_path: Path) -> None:
    async with (
        running(tmp_path, grpc=LOOPBACK) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        request = pb.WriteFileRequest(target=path("/a"), data=b"content")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_grpc(channel, "Files.WriteFile", request)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        metadata = (("authorization", f"Bearer {await admin_token(server)}"),)
        await call_grpc(channel, "Files.WriteFile", request, metadata)
        reply = await call_grpc(
            channel, "Files.Read", pb.ReadRequest(target=path("/a"), length=100), metadata
        )
        assert (reply.data, reply.size) == (b"content", 7)


async def test_grpc_errors_keep_everything(tmp_path: Path) -> None:
    async with (
        running(tmp_path, grpc=LOOPBACK) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_grpc(channel, "Namespace.Stat", pb.StatRequest(target=path("/missing")))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert "/missing" in str(caught.value.details())
        info = pb.ErrorInfo.FromString(dict(caught.value.trailing_metadata())[ERROR_METADATA])
        assert info.kind == ErrorKind.NOT_FOUND.value
        assert info.facts["path"] == "/missing"
        raw = channel.unary_unary(METHODS["Namespace.Stat"].grpc_path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/dataplatform.v1.Files/Nothing")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_grpc_sessions(tmp_path: Path) -> None:
    async with (
        running(tmp_path, grpc=LOOPBACK) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        await call_grpc(channel, "System.Ping", pb.Empty())
        await call_grpc(channel, "System.Ping", pb.Empty())
        assert len(server.sessions) == 1
        named = ((SESSION_METADATA, b"g" * 16),)
        await call_grpc(channel, "System.Ping", pb.Empty(), named)
        assert len(server.sessions) == 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_grpc(channel, "System.Ping", pb.Empty(), ((SESSION_METADATA, b"g"),))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_grpc_health_and_reflection(tmp_path: Path) -> None:
    async with (
        running(tmp_path, grpc=LOOPBACK) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "dataplatform.v1.Tables"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        replies = [r async for r in reflection.ServerReflectionInfo(iter(asked))]
        names = {s.name for s in replies[0].list_services_response.service}
        assert {m.grpc_path.split("/")[1] for m in METHODS.values()} < names


# --------------------------------------------------------------------------------- HTTP


async def get(server: Server, request: bytes) -> tuple[int, str]:
    host, port = server.endpoints.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    response = (await reader.read()).decode()
    writer.close()
    return int(response.split(" ")[1]), response.partition("\r\n\r\n")[2]


async def page(server: Server, name: str) -> tuple[int, str]:
    return await get(server, f"GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_http_pages(tmp_path: Path) -> None:
    async with running(tmp_path, http=LOOPBACK) as server:
        connection = await connect(server)
        await connection.call(STAT, pb.StatRequest(target=path("/")))
        assert await page(server, "healthz") == (200, "ok\n")
        assert await page(server, "readyz") == (200, "ready\n")
        code, text = await page(server, "metrics")
        assert code == 200
        assert 'dp_request_seconds_count{method="Namespace.Stat"} 1' in text
        assert "dp_connections 1" in text
        assert (await page(server, "other"))[0] == 404
        server.is_stopping = True
        assert await page(server, "readyz") == (503, "the server is stopping\n")
        server.is_stopping = False
        await connection.close()


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", 200),
        (b"nonsense\r\n\r\n", 400),
        (b"\x00\xff" * 20_000, 400),
    ],
    ids=["post", "head", "nonsense", "long"],
)
async def test_http_mistakes(tmp_path: Path, request_bytes: bytes, code: int) -> None:
    async with running(tmp_path, http=LOOPBACK) as server:
        assert (await get(server, request_bytes))[0] == code


# ------------------------------------------------------------------------------ stopping


async def test_stopping_closes_everything_and_keeps_the_data(tmp_path: Path) -> None:
    from dataplatform.engine.memory import MemoryDisk, MemoryStorages

    disk = MemoryDisk()
    server = await Server.start(settings_in(tmp_path, grpc=LOOPBACK), MemoryStorages(disk))
    connection = await connect(server)
    await connection.call(WRITE_FILE, pb.WriteFileRequest(target=path("/a")), b"kept")
    poll = connection.start(
        METHODS["Changes.Read"], pb.ChangesRequest(target=path("/"), since=10**6, wait_ms=30_000)
    )
    await connection.call(METHODS["System.Ping"], pb.Empty())
    await server.stop()
    with pytest.raises((Unavailable, Invalid)):
        await poll
    again = await Server.start(settings_in(tmp_path), MemoryStorages(disk))
    connection = await connect(again)
    _, data = await connection.call(READ, pb.ReadRequest(target=path("/a"), length=9))
    assert bytes(data) == b"kept"
    await again.stop()
