"""Changes, volumes and checks: pages and polls become values."""

from __future__ import annotations

import itertools

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.sync import Client
from dataplatform.client.values import CheckProgress

from .fakes import FakeServer, blocking_channel


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def dp(server: FakeServer) -> Client:
    return Client(AsyncClient(blocking_channel(server)))


def feed(message: pb.ChangesRequest, data: bytes) -> pb.ChangesReply:
    """Commits 1 to 7; the third and fourth are of other paths; two commits a page."""
    if message.since >= 7:
        if not message.wait_ms:
            return pb.ChangesReply(next=7, end=7, volume=1, inode=9)
        late = pb.Change(commit=8, time_ns=1_700_000_000_123_456_789, event="removed")
        return pb.ChangesReply(changes=[late], next=8, end=8, volume=1, inode=9)
    commits = range(message.since + 1, min(message.since + 3, 8))
    changes = [pb.Change(commit=n, event="created", path="/a") for n in commits if n not in (3, 4)]
    return pb.ChangesReply(changes=changes, next=commits[-1], end=7, volume=1, inode=9)


def test_changes_up_to_now(server: FakeServer, dp: Client) -> None:
    server.on("Changes.Read")(feed)
    assert [change.commit for change in dp.changes("/a")] == [1, 2, 5, 6, 7]
    assert [change.commit for change in dp.changes("/a", since=5)] == [6, 7]
    assert all(m.wait_ms == 0 for m in server.received("Changes.Read"))
    first, *others = server.received("Changes.Read")[:4]
    assert first.target.path == "/a"
    assert {(m.target.path, m.target.inode) for m in others} == {("", 9)}


def test_changes_to_come(server: FakeServer, dp: Client) -> None:
    server.on("Changes.Read")(feed)
    found = list(itertools.islice(dp.changes("/a", since=6, follow=True), 2))
    assert [change.commit for change in found] == [7, 8]
    assert found[1].time.isoformat() == "2023-11-14T22:13:20.123456+00:00"


def test_what_is_followed_may_go(server: FakeServer, dp: Client) -> None:
    last = pb.Change(commit=8, event="removed")
    replies = iter(
        [
            pb.ChangesReply(changes=[last], next=8, end=8, volume=1, inode=9),
            pb.ChangesReply(next=8, end=8, volume=1, inode=9, over=True),
        ]
    )
    server.on("Changes.Read")(lambda message, data: next(replies))
    feed = dp.changes("/a", follow=True, kinds=["file"], events=["removed"])
    assert next(feed).event == "removed"
    with pytest.raises(NotFound):
        next(feed)
    request = server.received("Changes.Read")[0]
    assert (list(request.kinds), list(request.events)) == (["file"], ["removed"])


def test_words_are_in_a_list(dp: Client) -> None:
    with pytest.raises(Invalid):
        next(dp.changes("/a", kinds="file"))


def test_a_check_is_polled_to_its_end(server: FakeServer, dp: Client) -> None:
    replies = iter(
        [
            pb.CheckReply(job=5, stage="files", checked=1),
            pb.CheckReply(job=5, stage="rows", checked=2),
            pb.CheckReply(
                job=5,
                done=True,
                stage="done",
                checked=3,
                findings=[pb.Finding(path="/a", problem="a count is wrong", repaired=True)],
                counts={"files": 3},
            ),
        ]
    )
    server.on("System.Check")(lambda message, data: next(replies))
    seen: list[CheckProgress] = []
    report = dp.check("/a", repair=True, progress=seen.append)
    assert [m.job for m in server.received("System.Check")] == [0, 5, 5]
    assert all(m.repair and m.target.path == "/a" for m in server.received("System.Check"))
    assert [(p.stage, p.checked) for p in seen] == [("files", 1), ("rows", 2), ("done", 3)]
    assert report.ok
    assert report.counts == {"files": 3}


def test_volumes(server: FakeServer, dp: Client) -> None:
    info = pb.VolumeInfo(path="/v", settings=pb.VolumeSettings(quota_bytes=5), state="ready")
    server.answer("Volumes.Create", info)
    server.answer("Volumes.Set", pb.VolumeInfo(path="/v"))
    server.answer("Volumes.List", pb.VolumesReply(volumes=[info]))
    assert dp.create_volume("/v", quota_bytes=5).quota_bytes == 5
    assert dp.set_volume("/v", quota_bytes=0).quota_bytes is None
    assert [volume.path for volume in dp.volumes()] == ["/v"]
    assert not server.received("Volumes.Create")[0].settings.HasField("compression")
    assert server.received("Volumes.Set")[0].settings.HasField("quota_bytes")
