"""Addresses: every form, every mistake, and how a server is found when none is named."""

import os
import socket
from pathlib import Path

import pytest

from dataplatform.base.errors import Denied, Invalid
from dataplatform.transport import addresses
from dataplatform.transport.addresses import (
    Address,
    default_address,
    default_socket_path,
    make_private_directory,
    parse,
    parse_host_port,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("dp://h:1", Address("dp", host="h", port=1)),
        ("dp://h", Address("dp", host="h", port=7222)),
        ("DP://h/", Address("dp", host="h", port=7222)),
        ("dps://h", Address("dps", host="h", port=7222)),
        ("grpc://h", Address("grpc", host="h", port=7223)),
        ("dp://[::1]:9", Address("dp", host="::1", port=9)),
        ("dp://", Address("dp", host="127.0.0.1", port=7222)),
        ("dp+unix:///run/dp.sock", Address("dp+unix", path="/run/dp.sock")),
        ("dp+unix:///a%20b", Address("dp+unix", path="/a b")),
    ],
)
def test_parse(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize("text", ["dp://h:1", "dps://[::1]:9", "dp+unix:///run/dp.sock"])
def test_text_comes_back(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h:7222",
        "http://h",
        "dp://h:0",
        "dp://h:99999",
        "dp://h:x",
        "dp://h:1/path",
        "dp://h?x=1",
        "dp://user:secret@h",
        "dp://[::1",
        " dp://h",
        "dp://h\n",
        "dp+unix://run/dp.sock",
        "dp+unix:///run/",
        "dp+unix:///a%00b",
        "dp+unix:///" + "a" * 108,
    ],
)
def test_mistakes_are_named(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text)


def test_host_port_of_listeners() -> None:
    assert parse_host_port("h:0", 7) == ("h", 0)
    assert parse_host_port("h", 7) == ("h", 7)
    assert parse_host_port(":9", 7) == ("127.0.0.1", 9)
    assert parse_host_port("[::]:9", 7) == ("::", 9)
    for wrong in ("h:1/x", "h:-1", "h:99999", "u@h"):
        with pytest.raises(Invalid):
            parse_host_port(wrong, 7)


def test_dp_server_comes_first() -> None:
    assert default_address({"DP_SERVER": "dp://h:5"}) == Address("dp", host="h", port=5)


@pytest.fixture(autouse=True)
def _no_servers_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MACHINE_SOCKET", tmp_path / "machine" / "dp.sock")
    monkeypatch.setattr(addresses, "RUNTIME_DIRECTORIES", str(tmp_path / "users"))
    monkeypatch.setattr(addresses, "PRIVATE_DIRECTORIES", str(tmp_path / "private-"))


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def test_the_own_socket_is_found_whatever_the_environment(tmp_path: Path) -> None:
    """A login has XDG_RUNTIME_DIR, `sudo` and cron have not: they mean the same server."""
    logged_in = {"XDG_RUNTIME_DIR": str(tmp_path / "users" / str(os.getuid()))}
    for server, client in ((logged_in, {}), ({}, logged_in)):
        path = default_socket_path(server)
        make_private_directory(path.parent)
        with listen(path):
            assert default_address(client) == Address("dp+unix", path=str(path))
        path.unlink()


def test_the_machines_socket_comes_before_tcp(tmp_path: Path) -> None:
    path = tmp_path / "machine" / "dp.sock"
    path.parent.mkdir(mode=0o755)
    with listen(path):
        assert default_address({}) == Address("dp+unix", path=str(path))


def test_the_own_socket_comes_before_tcp(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    path = default_socket_path(environment)
    assert path == tmp_path / "dataplatform" / "dp.sock"
    assert default_address(environment) == Address("dp", host="127.0.0.1", port=7222)
    make_private_directory(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert default_address(environment) == Address("dp+unix", path=str(path))
        path.parent.chmod(0o755)  # others could have put it there
        assert default_address(environment) == Address("dp", host="127.0.0.1", port=7222)


def test_without_a_runtime_directory_it_is_in_tmp() -> None:
    assert str(default_socket_path({})) == f"{addresses.PRIVATE_DIRECTORIES}{os.getuid()}/dp.sock"


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "a")
    make_private_directory(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    (tmp_path / "b").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "file").touch()
    for wrong in ("b", "link", "file"):
        with pytest.raises(Denied):
            make_private_directory(tmp_path / wrong)
