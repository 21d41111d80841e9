"""The same two connections over TLS, and everybody who must not get one."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Denied, Invalid, PlatformError, Unavailable
from dataplatform.transport.addresses import Address
from dataplatform.transport.connections import AsyncConnection, BlockingConnection
from dataplatform.transport.serving import ServingLimits
from dataplatform.transport.tls import ServerTls, Trust, user_of

from ...certificates import (
    authority,
    expired_client,
    expired_server,
    older,
    server_of,
    server_tls,
    trust,
)
from .fakes import PATIENCE_S, ServerThread, drive, serving
from .test_connections import BUG, CHECKS

KINDS = pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = authority(tmp_path_factory.mktemp("ours") / "certs", "ana")
    expired_server(made)
    expired_client(made, "late")
    server_of(made, "elsewhere", "example.org")
    return made


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("theirs") / "certs", "ana")


@contextmanager
def tls_thread(
    directory: Path, tls: ServerTls, limits: ServingLimits | None = None
) -> Iterator[tuple[ServerThread, Address]]:
    context = tls.context()
    with ServerThread(directory, limits) as thread:
        _, port = thread.run(thread.server.listen_tcp("localhost", 0, lambda: context))
        yield thread, Address("dps", "localhost", port)


async def refused(kind: Any, address: Address, tls: ssl.SSLContext | None) -> PlatformError:
    """With what it is refused, which must not take long."""
    with pytest.raises(PlatformError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await kind.open(address, tls=tls)
    return caught.value


@BUG
@pytest.mark.parametrize("check", CHECKS)
async def test_async(tmp_path: Path, home: Path, check: Any) -> None:
    async with serving(tmp_path) as (server, _, _):
        _, port = await server.listen_tcp("localhost", 0, server_tls(home).context)
        address = Address("dps", "localhost", port)
        connection = await AsyncConnection.open(address, tls=trust(home).context())
        await check(connection)
        await connection.close()


@BUG
@pytest.mark.parametrize("check", CHECKS)
def test_blocking(tmp_path: Path, home: Path, check: Any) -> None:
    with tls_thread(tmp_path, server_tls(home)) as (_, address):
        connection = drive(BlockingConnection.open(address, tls=trust(home).context()))
        drive(check(connection))
        drive(connection.close())


@KINDS
async def test_the_server_knows_the_user_of_a_certificate(
    tmp_path: Path, home: Path, kind: Any
) -> None:
    with tls_thread(tmp_path, server_tls(home)) as (thread, address):
        for client in ("ana", ""):
            connection = await kind.open(address, tls=trust(home, client).context())
            assert [c.certificate_user for c in thread.server.connections] == [client]
            await connection.close()
            await asyncio.to_thread(thread.run, gone(thread))


async def gone(thread: ServerThread) -> None:
    while thread.server.connections:  # noqa: ASYNC110
        await asyncio.sleep(0)


def test_a_subject_with_two_names_names_nobody() -> None:
    assert user_of({"subject": ((("commonName", "ana"),), (("commonName", "root"),))}) == ""
    assert user_of({"subject": ((("organizationName", "ana"),),)}) == ""
    assert user_of(None) == ""


@KINDS
async def test_the_environment_says_whom_to_trust(
    tmp_path: Path, home: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_thread(tmp_path, server_tls(home, required=True)) as (_, address):
        monkeypatch.setenv("DP_CA", str(home / "ca.pem"))
        monkeypatch.setenv("DP_CERT", str(home / "ana.pem"))
        monkeypatch.setenv("DP_KEY", str(home / "ana.key"))
        await (await kind.open(address)).close()
        monkeypatch.delenv("DP_CA")
        assert isinstance(await refused(kind, address, None), Denied)


# ------------------------------------------------------------- a server that is not the one


@KINDS
async def test_a_server_of_another_authority(
    tmp_path: Path, home: Path, foreign: Path, kind: Any
) -> None:
    with tls_thread(tmp_path, server_tls(foreign)) as (_, address):
        error = await refused(kind, address, trust(home).context())
        assert isinstance(error, Denied), error
        assert "certificate is not trusted" in str(error)


@KINDS
@pytest.mark.parametrize("name", ["old", "ana"])
async def test_a_certificate_that_is_expired_or_a_clients(
    tmp_path: Path, home: Path, kind: Any, name: str
) -> None:
    with tls_thread(tmp_path, server_tls(home, name)) as (_, address):
        assert isinstance(await refused(kind, address, trust(home).context()), Denied)


@KINDS
async def test_another_host_name(tmp_path: Path, home: Path, kind: Any) -> None:
    with tls_thread(tmp_path, server_tls(home, "elsewhere")) as (_, address):
        error = await refused(kind, address, trust(home).context())
        assert isinstance(error, Denied)
        assert "localhost" in str(error)


# ------------------------------------------------------------- a client that is not welcome


@KINDS
@pytest.mark.parametrize("client", ["foreign", "late", "server", "none"])
async def test_certificates_that_are_not_accepted(
    tmp_path: Path, home: Path, foreign: Path, kind: Any, client: str, caplog: Any
) -> None:
    shown = {
        "foreign": trust(home, "ana", of=foreign),
        "late": trust(home, "late"),
        "server": trust(home, "server"),
        "none": trust(home),
    }[client]
    caplog.set_level("INFO")
    with tls_thread(tmp_path, server_tls(home, required=client == "none")) as (thread, address):
        error = await refused(kind, address, shown.context())
        assert isinstance(error, Unavailable)
        assert "DP_CERT" in str(error)
        assert not thread.server.connections
    assert "TLS handshake failed" in caplog.text


async def test_tls_1_2_is_not_spoken(tmp_path: Path, home: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    with tls_thread(tmp_path, server_tls(home)) as (thread, address):
        for kind in (AsyncConnection, BlockingConnection):
            assert await refused(kind, address, older(trust(home).context()))
        assert not thread.server.connections
    assert "unsupported protocol" in caplog.text


@KINDS
async def test_a_server_of_tls_1_2_is_not_spoken_to(tmp_path: Path, home: Path, kind: Any) -> None:
    old = older(server_tls(home).context())
    with ServerThread(tmp_path) as thread:
        _, port = thread.run(thread.server.listen_tcp("localhost", 0, lambda: old))
        error = await refused(kind, Address("dps", "localhost", port), trust(home).context())
        assert isinstance(error, Unavailable)
        assert "TLS 1.3" in str(error)


@KINDS
async def test_a_plain_client_is_told(tmp_path: Path, home: Path, kind: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    with tls_thread(tmp_path, server_tls(home)) as (_, address):
        error = await refused(kind, Address("dp", "localhost", address.port), None)
        assert isinstance(error, Invalid)
        assert "dps://" in str(error)
    assert caplog.text.count("it does not speak TLS") == 1


@KINDS
async def test_tls_where_none_is(tmp_path: Path, home: Path, kind: Any) -> None:
    with ServerThread(tmp_path) as thread:
        host, port = thread.run(thread.server.listen_tcp("127.0.0.1", 0))
        error = await refused(kind, Address("dps", host, port), trust(home).context())
        assert isinstance(error, Unavailable)
        assert "dp://" in str(error)


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_never_ends(tmp_path: Path, home: Path, first: bytes) -> None:
    limits = ServingLimits(handshake_s=0.2)
    with tls_thread(tmp_path, server_tls(home), limits) as (_, address):
        reader, writer = await asyncio.open_connection("localhost", address.port)
        writer.write(first)
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


# ------------------------------------------------------------- files


def test_a_key_that_others_may_read(home: Path, tmp_path: Path) -> None:
    key = tmp_path / "k.key"
    key.write_bytes((home / "server.key").read_bytes())
    key.chmod(0o640)
    with pytest.raises(Denied, match=f"chmod 600 {key}"):
        ServerTls(str(home / "server.pem"), str(key)).context()
    with pytest.raises(Denied, match=f"chmod 600 {key}"):
        Trust("", str(home / "server.pem"), str(key)).context()


@pytest.mark.parametrize(
    ("certificate", "key", "ca"),
    [
        ("server.pem", "ana.key", "ca.pem"),
        ("missing.pem", "server.key", "ca.pem"),
        ("server.pem", "missing.key", "ca.pem"),
        ("server.pem", "server.key", "missing.pem"),
        ("server.pem", "server.key", "server.key"),
    ],
)
def test_files_that_are_wrong_are_named(home: Path, certificate: str, key: str, ca: str) -> None:
    with pytest.raises(Invalid):
        ServerTls(str(home / certificate), str(home / key), str(home / ca)).context()


def test_an_encrypted_key_asks_nobody(home: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((home / "server.key").read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.touch(0o600)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(Invalid, match="encrypted"):
        ServerTls(str(home / "server.pem"), str(encrypted)).context()
