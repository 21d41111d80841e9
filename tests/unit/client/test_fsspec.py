"""`dp://` in fsspec: urls, and the file operations that libraries rely on."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest

from dataplatform.client import fsspec as door
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.fsspec import DataPlatformFileSystem
from dataplatform.client.sync import Client

from .fakes import blocking_channel
from .test_files import Disk


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where clients connect to; all of them to the same disk."""
    disk, used = Disk(), []

    def connect(
        address: str | None, token: str | None, *, token_file: str | None, patience_s: float | None
    ) -> Client:
        used.append((address, token, patience_s))
        return Client(AsyncClient(blocking_channel(disk, session=None)))

    monkeypatch.setattr(door, "connect", connect)
    DataPlatformFileSystem.clear_instance_cache()
    fsspec.register_implementation("dp", DataPlatformFileSystem, clobber=True)
    return used


@pytest.mark.parametrize(
    ("url", "path", "options"),
    [
        ("dp:///a/b", "/a/b", {}),
        ("dp://east:7/a/b/", "/a/b", {"host": "east", "port": 7}),
        ("dp://east/a", "/a", {"host": "east"}),
        ("dp://east", "/", {"host": "east"}),
        ("dp:///", "/", {}),
        ("/a/b", "/a/b", {}),
        ("a", "/a", {}),
    ],
)
def test_urls(url: str, path: str, options: dict[str, Any]) -> None:
    assert DataPlatformFileSystem._strip_protocol(url) == path
    assert DataPlatformFileSystem._get_kwargs_from_urls(url) == options


def test_files_by_url(addresses: list[Any]) -> None:
    with fsspec.open("dp://east:7/f", "wt") as file:
        file.write("ä\nb\n")
    with fsspec.open("dp://east:7/f", "rt") as file:
        assert file.readlines() == ["ä\n", "b\n"]
    with fsspec.open("dp:///f", "rb", token="secret") as file:
        assert file.read() == "ä\nb\n".encode()
    assert addresses == [("dp://east:7", None, None), (None, "secret", None)]


def test_whole_files_and_parts(addresses: list[Any]) -> None:
    fs = fsspec.filesystem("dp")
    fs.pipe("/f", b"0123456789")
    assert fs.cat("/f") == b"0123456789"
    assert fs.cat_file("/f", 2, 5) == b"234"
    assert fs.cat_file("/f", 7) == b"789"
    assert fs.cat_file("/f", -3, -1) == b"78"
    assert fs.cat_file("/f", 5, 2) == b""
    info = fs.info("dp:///f")
    assert (info["name"], info["type"], info["size"]) == ("/f", "file", 10)
    fs.mv("/f", "/g")
    assert not fs.exists("/f")
    fs.rm("/g")
    with pytest.raises(FileNotFoundError):
        fs.info("/g")


def test_it_is_registered() -> None:
    assert issubclass(fsspec.get_filesystem_class("dp"), DataPlatformFileSystem)
