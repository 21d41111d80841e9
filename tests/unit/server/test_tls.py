"""What a server is told about TLS, and its listeners with it."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Denied, Invalid, Unavailable
from dataplatform.core.units import SYSTEM
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.settings import read_settings

from ...certificates import authority, server_tls, trust
from .servers import running

LOOPBACK = ("127.0.0.1", 0)
PING = METHODS["System.Ping"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("ours") / "certs", "ana")


def flags(home: Path, **changes: Any) -> dict[str, Any]:
    given = {
        "tls_cert": str(home / "server.pem"),
        "tls_key": str(home / "server.key"),
        "tls_ca": str(home / "ca.pem"),
    }
    return given | changes


@pytest.mark.parametrize("name", ["listen", "grpc", "http"])
def test_with_tls_it_may_listen_beyond_loopback(home: Path, name: str) -> None:
    settings = read_settings(flags(home, **{name: "0.0.0.0:0"}), {})
    assert settings.tls is not None
    assert not settings.insecure
    with pytest.raises(Denied, match="--tls-cert"):
        read_settings({name: "0.0.0.0:0"}, {})


@pytest.mark.parametrize(
    "missing",
    [
        {"tls_cert": None},
        {"tls_key": None},
        {"tls_ca": None, "require_client_certificate": True},
        {"tls_cert": None, "tls_key": None, "tls_ca": None, "require_client_certificate": True},
    ],
)
def test_settings_that_belong_together(home: Path, missing: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="--tls"):
        read_settings(flags(home, **missing), {})


def test_a_key_that_others_may_read_keeps_the_server_from_starting(
    home: Path, tmp_path: Path
) -> None:
    key = tmp_path / "server.key"
    key.write_bytes((home / "server.key").read_bytes())
    key.chmod(0o644)
    with pytest.raises(Denied, match=f"chmod 600 {key}"):
        read_settings(flags(home, tls_key=str(key)), {})


async def grpc_ping(address: str, directory: Path, client: str = "") -> Any:
    def pem(name: str) -> bytes:
        return (directory / name).read_bytes()

    own = (pem(f"{client}.key"), pem(f"{client}.pem")) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(pem("ca.pem"), *own)
    where = address.partition("://")[2].replace("127.0.0.1", "localhost")
    async with grpc.aio.secure_channel(where, credentials) as channel:
        stub = channel.unary_unary(PING.grpc_path, PING.request.SerializeToString)
        return await stub(pb.Empty(), timeout=10)


async def test_grpc_speaks_tls_only(tmp_path: Path, home: Path) -> None:
    async with running(tmp_path, grpc=LOOPBACK, tls=server_tls(home)) as server:
        address = server.endpoints.grpc
        assert address.startswith("grpcs://")
        await grpc_ping(address, home)
        host, port = parse(address).host, parse(address).port
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(PING.grpc_path)(b"", timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_grpc_wants_the_certificate_of_a_client(tmp_path: Path, home: Path) -> None:
    async with running(tmp_path, grpc=LOOPBACK, tls=server_tls(home, required=True)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await grpc_ping(server.endpoints.grpc, home, "ana")
        assert "does not exist" in str(caught.value.details())
        await server.platform.identities.create_user(SYSTEM, "ana")
        await grpc_ping(server.endpoints.grpc, home, "ana")
        for client in ("", "server"):
            with pytest.raises(grpc.aio.AioRpcError):
                await grpc_ping(server.endpoints.grpc, home, client)


async def test_http_beyond_loopback(tmp_path: Path, home: Path) -> None:
    async with running(tmp_path, http=("0.0.0.0", 0), tls=server_tls(home)) as server:
        assert server.endpoints.http.startswith("https://")
        port = int(server.endpoints.http.rpartition(":")[2])
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        context = trust(home).context()
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(request)
        assert b"200" in await reader.read()
        writer.close()
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(request)
        assert b"use https://" in await reader.read()
        writer.close()
    async with running(tmp_path, http=LOOPBACK, tls=server_tls(home)) as server:
        assert server.endpoints.http.startswith("http://")


@pytest.mark.allow_warnings("certificates not reloaded")
async def test_certificates_are_replaced_while_it_serves(tmp_path: Path, home: Path) -> None:
    own = authority(tmp_path / "certs")
    tls = server_tls(own)
    async with running(tmp_path, grpc=LOOPBACK, tls=tls) as server:
        assert server.certificates is not None
        address = parse(server.endpoints.frames.replace("127.0.0.1", "localhost"))
        before = await AsyncConnection.open(address, tls=trust(own).context())
        (own / "server.pem").write_bytes(b"damaged")
        server.certificates.reload()
        await (await AsyncConnection.open(address, tls=trust(own).context())).close()
        for name in ("server.pem", "server.key", "ca.pem"):
            (own / name).write_bytes((home / name).read_bytes())
        server.certificates.reload()
        await (await AsyncConnection.open(address, tls=trust(home).context())).close()
        await grpc_ping(server.endpoints.grpc, home)
        await before.call(PING, pb.Empty())
        await before.close()


async def test_the_unix_socket_stays_plain(tmp_path: Path, home: Path) -> None:
    async with running(tmp_path, tls=server_tls(home, required=True)) as server:
        connection = await AsyncConnection.open(parse(server.endpoints.socket))
        await connection.call(PING, pb.Empty())
        await connection.close()
        plain = parse(server.endpoints.frames.replace("dps://", "dp://"))
        with pytest.raises((Invalid, Unavailable), match="dps://"):
            await AsyncConnection.open(plain)
