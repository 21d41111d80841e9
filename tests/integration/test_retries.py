"""A request whose reply was lost is repeated under its id and gets the reply of then, whatever
became meanwhile of what it names: for every method that changes something, over both transports.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from tests.streaming import build_batch
from tests.wires import FramesWire, GrpcWire, Wire, failure

from .servers import ServerProcess

DP = str(Path(sys.executable).with_name("dp"))

COLUMNS = msgpack.packb({"n": 1})
BATCH = build_batch([b"a", b"b"])


def at(path: str) -> pb.Target:
    return pb.Target(path=path)


@dataclass
class Case:
    """`make(base)` is a request that changes something below the directory `base`."""

    make: Callable[[str], Any]
    data: bytes = b""
    before: Callable[[dataplatform.Client, Wire, str], object] = lambda dp, wire, base: None


def _transaction(base: str) -> pb.TransactionRequest:
    operation = pb.TransactionRequest.Operation
    return pb.TransactionRequest(
        base=at(base),
        operations=[operation(put=pb.PutRequest(table=at("t"), key=b"k", data=COLUMNS))],
    )


def _commit(base: str) -> pb.CommitOffsetsRequest:
    part = pb.CommitOffsetsRequest.Part(topic="topic", partition=0, offset=1)
    return pb.CommitOffsetsRequest(stream=at(f"{base}/s"), group="g", parts=[part])


def _quota(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.set_quota(base, quota_bytes=1 << 30)


def _published(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.publish_changes(f"{base}/f", f"{base}/s", "feed")


def _volume(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.create_volume(f"{base}/v")


def _xattr(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    wire.call("Namespace.SetXattr", pb.XattrRequest(target=at(f"{base}/f"), name="user.old"))


def _group(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    with dp.transaction(base) as tx:
        tx.stream("s").commit_offset("g", "topic", partition=0, offset=1)


def named(base: str) -> str:
    """A user or group of the case's own."""
    return base.rpartition("/")[2]


def _user(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.create_user(named(base))
    dp.create_token(named(base))


def _user_group(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.create_user(named(base))
    dp.create_group(named(base))


CASES: dict[str, Case] = {
    "Namespace.Create": Case(
        lambda b: pb.CreateRequest(target=at(f"{b}/new"), kind=pb.FILE, mode=0o640, open=True)
    ),
    "Namespace.Link": Case(
        lambda b: pb.LinkRequest(existing=at(f"{b}/f"), target=at(f"{b}/linked"))
    ),
    "Namespace.Remove": Case(lambda b: pb.RemoveRequest(target=at(f"{b}/f"))),
    "Namespace.Rename": Case(
        lambda b: pb.RenameRequest(source=at(f"{b}/f"), target=at(f"{b}/renamed"))
    ),
    "Namespace.SetAttributes": Case(
        lambda b: pb.SetAttributesRequest(target=at(f"{b}/f"), mode=0o600)
    ),
    "Namespace.SetXattr": Case(
        lambda b: pb.XattrRequest(target=at(f"{b}/f"), name="user.a", value=b"1", create=True)
    ),
    "Namespace.RemoveXattr": Case(
        lambda b: pb.XattrRequest(target=at(f"{b}/f"), name="user.old"),
        before=_xattr,
    ),
    "Files.Open": Case(lambda b: pb.OpenRequest(target=at(f"{b}/f"), truncate=True)),
    "Files.Write": Case(lambda b: pb.WriteRequest(target=at(f"{b}/f"), append=True), b"more"),
    "Files.Allocate": Case(
        lambda b: pb.AllocateRequest(
            target=at(f"{b}/f"), length=2, mode=pb.AllocateRequest.PUNCH_HOLE
        )
    ),
    "Files.WriteFile": Case(
        lambda b: pb.WriteFileRequest(target=at(f"{b}/whole"), no_replace=True), b"x" * 100_000
    ),
    "Files.CopyRange": Case(
        lambda b: pb.CopyRangeRequest(source=at(f"{b}/f"), target=at(f"{b}/g"), length=4)
    ),
    "Tables.Put": Case(lambda b: pb.PutRequest(table=at(f"{b}/t"), key=b"k"), COLUMNS),
    "Tables.PutMany": Case(
        lambda b: pb.PutManyRequest(table=at(f"{b}/t")), msgpack.packb(b"k") + COLUMNS
    ),
    "Tables.Delete": Case(
        lambda b: pb.DeleteRequest(table=at(f"{b}/t"), key=b"old"),
    ),
    "Tables.Increment": Case(
        lambda b: pb.IncrementRequest(table=at(f"{b}/t"), key=b"old", column="n", integer=5)
    ),
    "Streams.CreateTopic": Case(
        lambda b: pb.TopicRequest(stream=at(f"{b}/s"), topic="new", partitions=3)
    ),
    "Streams.DeleteTopic": Case(lambda b: pb.TopicRequest(stream=at(f"{b}/s"), topic="topic")),
    "Streams.InitProducer": Case(lambda b: pb.ProducerRequest(stream=at(f"{b}/s"))),
    "Streams.Append": Case(
        lambda b: pb.AppendRequest(
            stream=at(f"{b}/s"),
            parts=[pb.AppendRequest.Part(topic="topic", partition=0, length=len(BATCH))],
        ),
        BATCH,
    ),
    "Groups.Commit": Case(_commit),
    "Groups.Delete": Case(
        lambda b: pb.DeleteGroupRequest(stream=at(f"{b}/s"), group="g"), before=_group
    ),
    "Transactions.Commit": Case(_transaction),
    "Changes.Publish": Case(
        lambda b: pb.PublishRequest(target=at(f"{b}/f"), stream=at(f"{b}/s"), topic="feed")
    ),
    "Changes.Unpublish": Case(
        lambda b: pb.UnpublishRequest(stream=at(f"{b}/s"), topic="feed"), before=_published
    ),
    "Quotas.Set": Case(
        lambda b: pb.QuotaRequest(target=at(b), limits=pb.QuotaLimits(quota_bytes=1 << 30))
    ),
    "Quotas.Remove": Case(lambda b: pb.QuotaRequest(target=at(b)), before=_quota),
    "Volumes.Create": Case(lambda b: pb.VolumeRequest(target=at(f"{b}/volume"))),
    "Volumes.Set": Case(
        lambda b: pb.VolumeRequest(
            target=at(f"{b}/v"), settings=pb.VolumeSettings(quota_bytes=1 << 30)
        ),
        before=_volume,
    ),
    "Volumes.Remove": Case(
        lambda b: pb.VolumeRequest(target=at(f"{b}/v")),
        before=_volume,
    ),
}


OTHERS: dict[str, Case] = {
    "Identities.CreateUser": Case(lambda b: pb.CreateUserRequest(name=named(b))),
    "Identities.SetUser": Case(
        lambda b: pb.SetUserRequest(name=named(b), admin=True), before=_user
    ),
    "Identities.RemoveUser": Case(lambda b: pb.IdentityRequest(name=named(b)), before=_user),
    "Identities.CreateGroup": Case(lambda b: pb.CreateGroupRequest(name=named(b))),
    "Identities.SetGroup": Case(
        lambda b: pb.SetGroupRequest(name=named(b), add=[named(b)]), before=_user_group
    ),
    "Identities.RemoveGroup": Case(lambda b: pb.IdentityRequest(name=named(b)), before=_user_group),
    "Identities.CreateToken": Case(
        lambda b: pb.CreateTokenRequest(user=named(b), ttl_ms=60_000), before=_user
    ),
    "Identities.RevokeTokens": Case(lambda b: pb.RevokeTokensRequest(user=named(b)), before=_user),
    "Access.Set": Case(
        lambda b: pb.SetRulesRequest(target=at(b), set={"read": "p"}),
        before=lambda dp, wire, b: dp.mkdir(b),
    ),
}
"""What stands in no directory, or is described as it is now."""


def _history(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    """A volume with a snapshot of before, a clone of that with a part of its own, a schedule."""
    dp.create_volume(f"{base}/v")
    dp.mkdir(f"{base}/v/d")
    dp.write_file(f"{base}/v/d/f", b"then")
    dp.create_snapshot(f"{base}/v", "old")
    dp.clone_snapshot(f"{base}/v", "old", f"{base}/c")
    dp.write_file(f"{base}/c/d/f", b"promoted")
    dp.set_snapshot_schedule(f"{base}/v", every=timedelta(hours=1), keep=2, name="hourly")


def _known_cluster(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.add_cluster(_cluster(base), "dp://127.0.0.1:1", unchecked=True)


def _cluster(base: str) -> str:
    return named(base).lower().replace(".", "-")


def _source(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.create_volume(f"{base}/v")


def _mirrored(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    _source(dp, wire, base)
    dp.create_mirror(f"{base}/m", f"/local{base}/v")
    while dp.mirror_info(f"{base}/m").state == "copying":
        time.sleep(0.05)


def _to_gather(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    dp.mkdir(base)
    dp.create_stream(f"{base}/s")
    _known_cluster(dp, wire, base)


def _gathered(dp: dataplatform.Client, wire: Wire, base: str) -> None:
    _to_gather(dp, wire, base)
    dp.gather(f"{base}/s", "all", [f"/{_cluster(base)}/s:topic"])


def _snapshot(name: str, path: str = "/v") -> Callable[[str], pb.SnapshotRequest]:
    return lambda b: pb.SnapshotRequest(target=at(f"{b}{path}"), name=name)


def _mirror(b: str) -> pb.MirrorRequest:
    return pb.MirrorRequest(target=at(f"{b}/m"))


def _gather(b: str) -> pb.GatherRequest:
    return pb.GatherRequest(stream=at(f"{b}/s"), topic="all")


def _begin(b: str) -> pb.GatherRequest:
    source = pb.GatherRequest.Source(cluster=_cluster(b), path="/s", topic="topic")
    return pb.GatherRequest(stream=at(f"{b}/s"), topic="all", sources=[source])


FAR: dict[str, Case] = {
    "Snapshots.Create": Case(_snapshot("new"), before=_history),
    "Snapshots.Remove": Case(_snapshot("old"), before=_history),
    "Snapshots.Clone": Case(
        lambda b: pb.CloneRequest(target=at(f"{b}/v"), name="old", new=at(f"{b}/c2")),
        before=_history,
    ),
    "Snapshots.Restore": Case(_snapshot("old"), before=_history),
    "Snapshots.Promote": Case(lambda b: pb.PromoteRequest(target=at(f"{b}/c/d")), before=_history),
    "Snapshots.SetSchedule": Case(
        lambda b: pb.SnapshotScheduleRequest(
            target=at(f"{b}/v"), schedule=pb.SnapshotSchedule(name="daily", every_s=86400, keep=7)
        ),
        before=_history,
    ),
    "Snapshots.RemoveSchedule": Case(
        lambda b: pb.SnapshotScheduleRequest(
            target=at(f"{b}/v"), schedule=pb.SnapshotSchedule(name="hourly")
        ),
        before=_history,
    ),
    "Clusters.Add": Case(
        lambda b: pb.AddClusterRequest(name=_cluster(b), address="dp://127.0.0.1:1", unchecked=True)
    ),
    "Clusters.Set": Case(
        lambda b: pb.SetClusterRequest(name=_cluster(b), access="p", unchecked=True),
        before=_known_cluster,
    ),
    "Clusters.Remove": Case(lambda b: pb.ClusterRequest(name=_cluster(b)), before=_known_cluster),
    "Mirrors.Create": Case(
        lambda b: pb.CreateMirrorRequest(target=at(f"{b}/m"), source=f"/local{b}/v"),
        before=_source,
    ),
    "Mirrors.Set": Case(_mirror, before=_mirrored),
    "Mirrors.Pause": Case(_mirror, before=_mirrored),
    "Mirrors.Resume": Case(_mirror, before=_mirrored),
    "Mirrors.Promote": Case(_mirror, before=_mirrored),
    "Mirrors.Remove": Case(_mirror, before=_mirrored),
    "Gathers.Begin": Case(_begin, before=_to_gather),
    "Gathers.Pause": Case(
        lambda b: pb.GatherRequest(stream=at(f"{b}/s"), topic="all", paused=True), before=_gathered
    ),
    "Gathers.End": Case(_gather, before=_gathered),
}
"""What is done in several volumes, or goes on by itself afterwards."""

KEYED = ("Volumes.RotateKey", "Volumes.Lock", "Volumes.Unlock")
"""Of an encrypted volume, on which work goes on in the background afterwards."""


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a server with a volume: of frames ("socket") and of gRPC ("grpc")."""
    directory = tmp_path_factory.mktemp("retries")
    key = directory / "master.key"
    subprocess.run([DP, "keys", "create-master", key], check=True)
    keyed = ("--master-key-file", str(key))
    server = ServerProcess(directory, "rocks", "--grpc", "127.0.0.1:0", *keyed)
    grpc = str(server.start()["grpc"])
    with dataplatform.connect(server.address) as dp:
        dp.create_volume("/v")
    token = server.admin_token()
    yield {"socket": server.address, "grpc": grpc, "authorization": f"Bearer {token}"}
    assert server.stop() == 0
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def dp(addresses: dict[str, str]) -> Iterator[dataplatform.Client]:
    with dataplatform.connect(addresses["socket"]) as client:
        yield client


@pytest.fixture(params=["frames", "grpc"])
def wire(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Iterator[Wire]:
    wire: Wire = (
        FramesWire(addresses["socket"])
        if request.param == "frames"
        else GrpcWire(addresses["grpc"], authorization=addresses["authorization"])
    )
    yield wire
    wire.close()


_sequences = itertools.count(1)


def furnish(dp: dataplatform.Client, base: str) -> None:
    """A file, a table and a stream for every case, so that one directory serves each method."""
    dp.mkdir(base, parents=True)
    for name in ("f", "g"):
        dp.write_file(f"{base}/{name}", b"content")
    dp.create_table(f"{base}/t").put("old", {"n": 1})
    dp.create_stream(f"{base}/s").append("topic", b"0")


def _commits(dp: dataplatform.Client) -> dict[str, int]:
    return {volume.path: volume.commit for volume in dp.volumes()}


def test_every_method_that_changes_something_has_a_case() -> None:
    assert set(CASES) | set(OTHERS) | set(FAR) | set(KEYED) == {
        m.name for m in METHODS.values() if not m.read_only
    }


@pytest.mark.parametrize("name", CASES)
def test_a_retry_gets_the_reply_of_then(name: str, dp: dataplatform.Client, wire: Wire) -> None:
    case = CASES[name]
    sequence = next(_sequences)
    base = f"/v/{name}-{sequence}"
    furnish(dp, base)
    case.before(dp, wire, base)
    message = case.make(base)
    message.request.CopyFrom(pb.RequestId(session=wire.session, slot=7, sequence=sequence))

    first = wire.call(name, message, case.data)
    assert not isinstance(first, pb.ErrorInfo), first
    commits = _commits(dp)

    def again() -> Any:
        reply = wire.call(name, message, case.data)
        if name in ("Volumes.Create", "Volumes.Set"):  # a volume is described as it is now
            assert reply.volume == first.volume, reply
            return first
        return reply

    assert again() == first
    assert _commits(dp) == commits, "the retry did something"

    dp.rename(base, f"{base}-elsewhere")  # what the request names is not there any more
    assert again() == first
    dp.write_file(base, b"in the way")  # a name on the path is no directory
    assert again() == first

    for volume in ("v", "volume"):
        if dp.exists(f"{base}-elsewhere/{volume}"):
            dp.remove_volume(f"{base}-elsewhere/{volume}")
    dp.rmtree(f"{base}-elsewhere")  # nothing of it exists
    if name == "Volumes.Set":
        assert failure(wire.call(name, message))[0] == "NOT_FOUND"  # its volume knew, and is gone
    else:
        assert again() == first

    message.request.sequence += 1_000_000  # another request
    kind, _ = failure(wire.call(name, message, case.data))
    assert kind in ("NOT_FOUND", "INVALID"), kind


@pytest.mark.parametrize("name", OTHERS)
def test_a_retry_of_others_changes_nothing(name: str, dp: dataplatform.Client, wire: Wire) -> None:
    case = OTHERS[name]
    sequence = next(_sequences)
    base = f"/{name}-{sequence}"
    case.before(dp, wire, base)
    message = case.make(base)
    message.request.CopyFrom(pb.RequestId(session=wire.session, slot=8, sequence=sequence))
    first = wire.call(name, message)
    assert not isinstance(first, pb.ErrorInfo), first
    commits = _commits(dp)
    assert wire.call(name, message) == first
    assert _commits(dp) == commits, "the retry did something"


@pytest.mark.parametrize("name", FAR)
def test_a_retry_of_what_goes_on_is_answered(
    name: str, dp: dataplatform.Client, wire: Wire
) -> None:
    case = FAR[name]
    sequence = next(_sequences)
    base = f"/{name}-{sequence}"
    case.before(dp, wire, base)
    message = case.make(base)
    message.request.CopyFrom(pb.RequestId(session=wire.session, slot=10, sequence=sequence))
    first, second = (wire.call(name, message) for _ in range(2))
    assert not isinstance(first, pb.ErrorInfo), first
    assert not isinstance(second, pb.ErrorInfo), second
    if name in ("Snapshots.Create", "Snapshots.Clone", "Mirrors.Create"):
        assert first.volume == second.volume


@pytest.mark.parametrize("name", KEYED)
def test_a_retry_about_a_key_changes_no_key(name: str, dp: dataplatform.Client, wire: Wire) -> None:
    sequence = next(_sequences)
    path = f"/{name}-{sequence}"
    dp.create_volume(path, encrypt=True)
    if name == "Volumes.Unlock":
        dp.lock_volume(path)
    message = pb.VolumeRequest(target=at(path))
    message.request.CopyFrom(pb.RequestId(session=wire.session, slot=9, sequence=sequence))
    first, second = (wire.call(name, message) for _ in range(2))
    assert not isinstance(first, pb.ErrorInfo), first
    assert not isinstance(second, pb.ErrorInfo), second
    assert (second.state, second.encryption.key) == (first.state, first.encryption.key)
    if name == "Volumes.Lock":
        dp.unlock_volume(path)
    dp.remove_volume(path)
