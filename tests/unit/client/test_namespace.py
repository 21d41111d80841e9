"""Names: listings in pages, trees, and what a request says."""

from __future__ import annotations

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.sync import Client
from dataplatform.client.values import Entry

from .fakes import FakeServer, async_channel, blocking_channel

PAGE = 3


class Tree(FakeServer):
    """Directories that are sets of paths."""

    def __init__(self, *paths: str) -> None:
        super().__init__()
        self.paths = {"/", *paths}
        self.volumes = pb.VolumesReply(volumes=[pb.VolumeInfo(path="/"), pb.VolumeInfo(path="/b")])
        self.handlers |= {
            "Namespace.Stat": lambda m, data: self.node(m.target.path),
            "Namespace.List": self.list,
            "Namespace.Remove": self.remove,
            "Namespace.SetAttributes": lambda m, data: pb.Node(),
            "Namespace.Path": lambda m, data: pb.PathReply(path="/a"),
            "Volumes.List": lambda m, data: self.volumes,
        }

    def node(self, path: str) -> pb.Node:
        if path not in self.paths:
            raise NotFound("no such file or directory", path=path)
        has_children = any(p.startswith(path.rstrip("/") + "/") and p != path for p in self.paths)
        kind = pb.DIRECTORY if has_children or path.endswith("d") else pb.FILE
        return pb.Node(name=path.rpartition("/")[2], kind=kind, mtime_ns=1_500_000_000)

    def list(self, message: pb.ListRequest, data: bytes) -> pb.ListReply:
        above = message.target.path.rstrip("/") + "/"
        children = sorted(p for p in self.paths if p.startswith(above) and p != above)
        names = [p[len(above) :] for p in children if "/" not in p[len(above) :]]
        names = [name for name in names if name > message.after]
        nodes = [self.node(above + name) for name in names[:PAGE]]
        return pb.ListReply(nodes=nodes, end=len(names) <= PAGE)

    def remove(self, message: pb.RemoveRequest, data: bytes) -> pb.Empty:
        path = message.target.path
        if any(p.startswith(path + "/") for p in self.paths):
            raise Invalid("the directory is not empty", path=path)
        self.paths.discard(path)
        return pb.Empty()


FILES = [f"/a/f{n}" for n in range(10)]


@pytest.fixture
def server() -> Tree:
    return Tree("/a", *FILES, "/a/d", "/a/d/x", "/a/d/d", "/b")


@pytest.fixture
def dp(server: Tree) -> Client:
    return Client(AsyncClient(blocking_channel(server)))


def test_listings_come_in_pages(server: Tree, dp: Client) -> None:
    assert dp.listdir("/a") == ["d", *(f"f{n}" for n in range(10))]
    assert len(server.received("Namespace.List")) == 4
    first = next(dp.scandir("/a"))
    assert isinstance(first, Entry)
    assert (first.path, first.name, first.is_dir(), first.mtime) == ("/a/d", "d", True, 1.5)
    assert [entry.path for entry in dp.scandir()] == ["/a", "/b"]


def test_walks(dp: Client) -> None:
    down = [(path, [d.name for d in ds], len(rest)) for path, ds, rest in dp.walk("/a")]
    assert down == [("/a", ["d"], 10), ("/a/d", ["d"], 1), ("/a/d/d", [], 0)]
    up = [path for path, _, _ in dp.walk("/a", topdown=False)]
    assert up == ["/a/d/d", "/a/d", "/a"]
    pruned = []
    for path, directories, _ in dp.walk("/"):
        pruned.append(path)
        directories.clear()
    assert pruned == ["/"]


def test_rmtree(server: Tree, dp: Client) -> None:
    assert dp.rmtree("/a") == 14
    assert server.paths == {"/", "/b"}
    assert dp.rmtree("/a", missing_ok=True) == 0
    with pytest.raises(NotFound):
        dp.rmtree("/a")
    assert dp.rmtree("/b") == 1


def test_rmtree_stays_out_of_volumes(server: Tree, dp: Client) -> None:
    server.volumes.volumes.add(path="/a/d")
    before = set(server.paths)
    with pytest.raises(Invalid, match="dp volume remove"):
        dp.rmtree("/a")
    assert server.paths == before


def test_exists(dp: Client) -> None:
    assert dp.exists("/a")
    assert not dp.exists("/nowhere")


def test_only_what_is_named_is_set(server: Tree, dp: Client) -> None:
    dp.chown("/a", gid=5)
    dp.chmod("/a", 0)
    dp.utime("/a", (1.5, 2))
    dp.truncate("/b", 0)
    fields = [
        {f.name for f, _ in m.ListFields()} - {"target", "follow", "request"}
        for m in server.received("Namespace.SetAttributes")
    ]
    assert fields == [{"gid"}, {"mode"}, {"atime_ns", "mtime_ns"}, {"size"}]
    with pytest.raises(Invalid):
        dp.truncate("/b", -1)
    with pytest.raises(Invalid):
        dp.utime("/b", (1, 2), ns=(1, 2))


async def test_the_same_with_await(server: Tree) -> None:
    dp = AsyncClient(async_channel(server))
    assert [entry.name async for entry in dp.scandir("/")] == ["a", "b"]
    assert await dp.rmtree("/a") == 14
