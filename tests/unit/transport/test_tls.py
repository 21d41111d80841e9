"""The same two connections over TLS."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Denied, Unavailable
from dataplatform.transport.addresses import Address
from dataplatform.transport.connections import AsyncConnection, BlockingConnection

from .fakes import ServerThread, drive, serving
from .test_connections import BUG, CHECKS

# Of localhost, self-signed, for these tests only; valid until 2126.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUHRpNxN8ybXFQToPTKmMcwJmT5sUwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjE2MDc1OFoYDzIxMjYxMDI5
MTYwNzU4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASRSxxvmuRoNHEsse4VjIHdz1E+yei3z0wgvBZZWwtFobsZ3XM23RKO
PzgmIlN1zywPLDeK/zHmyOu20LhTD6hNo28wbTAdBgNVHQ4EFgQUxpPvQiOkeChx
JRn4HjNM0zyWltIwHwYDVR0jBBgwFoAUxpPvQiOkeChxJRn4HjNM0zyWltIwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIgEYc8ZOX8MV7qXzToIlEGQNUsBw0JBRqXvJK/RewLJ7sCIQDi
RCMyoJxaKbx7puGK8JmL4jKBfxB2tqjg6ydWuH2Fhg==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgr62k/saFVP+4ZhG2
Io9McuO0cyrajecbAxW+QIUEuW2hRANCAASRSxxvmuRoNHEsse4VjIHdz1E+yei3
z0wgvBZZWwtFobsZ3XM23RKOPzgmIlN1zywPLDeK/zHmyOu20LhTD6hN
-----END PRIVATE KEY-----
"""


def server_context(directory: Path) -> ssl.SSLContext:
    file = directory / "server.pem"
    file.write_text(CERTIFICATE + KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


TRUSTING = ssl.create_default_context(cadata=CERTIFICATE)


@BUG
@pytest.mark.parametrize("check", CHECKS)
async def test_async(tmp_path: Path, check: Any) -> None:
    async with serving(tmp_path) as (server, _, _):
        host, port = await server.listen_tcp("127.0.0.1", 0, server_context(tmp_path))
        connection = await AsyncConnection.open(Address("dps", host, port), tls=TRUSTING)
        await check(connection)
        await connection.close()


@contextmanager
def tls_thread(directory: Path) -> Iterator[Address]:
    with ServerThread(directory) as thread:
        context = server_context(directory)
        host, port = thread.run(thread.server.listen_tcp("127.0.0.1", 0, context))
        yield Address("dps", host, port)


@BUG
@pytest.mark.parametrize("check", CHECKS)
def test_blocking(tmp_path: Path, check: Any) -> None:
    with tls_thread(tmp_path) as address:
        connection = drive(BlockingConnection.open(address, tls=TRUSTING))
        drive(check(connection))
        drive(connection.close())


@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
async def test_trust(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_thread(tmp_path) as address:
        with pytest.raises(Denied, match="certificate"):
            await kind.open(address)
        (tmp_path / "ca.pem").write_text(CERTIFICATE)
        monkeypatch.setenv("DP_CA_FILE", str(tmp_path / "ca.pem"))
        await (await kind.open(address)).close()


@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
def test_tls_where_none_is(tmp_path: Path, kind: Any) -> None:
    import asyncio

    with ServerThread(tmp_path) as thread:
        host, port = thread.run(thread.server.listen_tcp("127.0.0.1", 0))
        with pytest.raises(Unavailable):
            asyncio.run(kind.open(Address("dps", host, port), tls=TRUSTING))
