"""TLS with real processes: certificates of `dp certs`, the server, the client, SIGHUP."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform
from dataplatform.transport.addresses import parse

from ..certificates import authority, expired_server, older, trust
from .servers import ServerProcess

DP = [sys.executable, "-P", "-m", "dataplatform_clients.cli.main"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return authority(tmp_path / "certs", "ana", "bob")


@pytest.fixture
def server(tmp_path: Path, home: Path) -> Iterator[ServerProcess]:
    options = [
        *("--listen", "localhost:0", "--grpc", "localhost:0"),
        *("--tls-cert", str(home / "server.pem"), "--tls-key", str(home / "server.key")),
        *("--tls-ca", str(home / "ca.pem")),
    ]
    process = ServerProcess(tmp_path, "rocks", *options)
    process.ready = process.start()  # type: ignore[attr-defined]
    with dataplatform.connect(process.address) as dp:
        dp.create_user("ana", admin=True)
    yield process
    process.stop()


def address_of(server: ServerProcess, listener: str = "frames") -> str:
    said = parse(server.ready[listener])  # type: ignore[attr-defined]
    return f"{said.scheme}://localhost:{said.port}"


def test_commands_over_tls(server: ServerProcess, home: Path) -> None:
    environment = {
        **os.environ,
        "DP_SERVER": address_of(server),
        "DP_CA": str(home / "ca.pem"),
        "DP_CERT": str(home / "ana.pem"),
        "DP_KEY": str(home / "ana.key"),
    }
    subprocess.run([*DP, "mkdir", "/a"], env=environment, check=True)
    listed = subprocess.run([*DP, "ls", "/"], env=environment, check=True, capture_output=True)
    assert b"a" in listed.stdout.split()
    environment["DP_SERVER"] = environment["DP_SERVER"].replace("dps://", "dp://")
    plain = subprocess.run([*DP, "ls", "/"], env=environment, capture_output=True, timeout=30)
    assert plain.returncode == 2
    assert b"dps://" in plain.stderr
    assert "does not speak TLS" in server.log.read_text()


def test_a_certificate_is_worth_what_its_user_is(server: ServerProcess, home: Path) -> None:
    own = {"ca": str(home / "ca.pem"), "cert": str(home / "bob.pem"), "key": str(home / "bob.key")}
    with dataplatform.connect(server.address) as admin:
        with pytest.raises(dataplatform.Denied):  # nobody knows him
            dataplatform.connect(address_of(server), **own)
        admin.create_user("bob")
        admin.mkdir("/his")
        with dataplatform.connect(address_of(server), **own) as his:
            assert his.whoami().name == "bob"
            admin.set_user("bob", disabled=True)
            with pytest.raises(dataplatform.Denied):
                his.stat("/his")
        with pytest.raises(dataplatform.Denied):
            dataplatform.connect(address_of(server), **own)


def test_files_and_bulk_over_tls(server: ServerProcess, home: Path) -> None:
    content = os.urandom(3 << 20)
    token = server.admin_token()
    with dataplatform.connect(address_of(server), token, ca=str(home / "ca.pem")) as dp:
        dp.write_file("/big", content)
        assert dp.read_file("/big") == content


@pytest.mark.parametrize("listener", ["frames", "grpc"])
def test_only_tls_1_3(server: ServerProcess, home: Path, listener: str) -> None:
    port = parse(address_of(server, listener)).port
    for context, is_welcome in (
        (trust(home).context(), True),
        (older(trust(home).context()), False),
    ):
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("localhost", port), timeout=10) as plain:
            if is_welcome:
                with context.wrap_socket(plain, server_hostname="localhost") as secure:
                    assert secure.version() == "TLSv1.3"
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    context.wrap_socket(plain, server_hostname="localhost")


def test_certificates_are_read_again_on_sighup(server: ServerProcess, home: Path) -> None:
    files = expired_server(home)
    (home / "server.pem").write_bytes(files.certificate.read_bytes())
    (home / "server.key").write_bytes(files.key.read_bytes())
    token = server.admin_token()
    with dataplatform.connect(address_of(server), token, ca=str(home / "ca.pem")) as before:
        os.kill(int(str(server.ready["pid"])), signal.SIGHUP)  # type: ignore[attr-defined]
        deadline = server.log
        while "certificates reloaded" not in deadline.read_text():
            before.exists("/")  # a round trip each
        with pytest.raises(dataplatform.Denied):
            dataplatform.connect(address_of(server), ca=str(home / "ca.pem"))
        before.mkdir("/still")


def test_beyond_loopback_only_with_tls(tmp_path: Path, home: Path) -> None:
    command = [sys.executable, "-m", "dataplatform_server", "start", "--data", str(tmp_path / "d")]
    command += ["--socket", str(tmp_path / "s"), "--listen", "0.0.0.0:0", "--grpc", "none"]
    ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == 5
    assert b"--tls-cert" in ended.stderr
    key = tmp_path / "open.key"
    key.write_bytes((home / "server.key").read_bytes())
    key.chmod(0o604)
    command += ["--tls-cert", str(home / "server.pem"), "--tls-key", str(key)]
    ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == 5
    assert f"chmod 600 {key}".encode() in ended.stderr
