"""One request of every method, about what stands in a directory that the cell made for it.

A method that is not here fails the matrix. What a method is about says how it may be refused:

- `things`: it needs a right on what it names;
- `reach`: it needs no more than to get there;
- `admins`: it is for administrators;
- `own`: everybody may ask, and hears what is theirs, but not by a token for a subtree;
- `anybody`: everybody may ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from dataplatform.api import platform_pb2 as pb
from tests.streaming import build_batch

ROW = msgpack.packb({"n": 1})
BATCH = bytes(build_batch([b"x"]))

Built = tuple[Any, bytes]


class Request(NamedTuple):
    about: str
    build: Callable[[str], Any | Built]
    is_sure: bool = True  # where it is allowed it succeeds; else it may fail for another reason


def at(path: str) -> pb.Target:
    return pb.Target(path=path)


def _transaction(base: str) -> Any:
    put = pb.PutRequest(table=at("t"), key=b"k", data=ROW)
    operation = pb.TransactionRequest.Operation(put=put)
    return pb.TransactionRequest(base=at(base), operations=[operation])


def _append(base: str) -> Built:
    part = pb.AppendRequest.Part(topic="a", partition=0, length=len(BATCH))
    return pb.AppendRequest(stream=at(f"{base}/s"), parts=[part]), BATCH


def _mirror(base: str) -> Any:
    return pb.MirrorRequest(target=at(f"{base}/v"))


REQUESTS: dict[str, Request] = {
    "System.Ping": Request("anybody", lambda p: pb.Empty()),
    "System.Status": Request("anybody", lambda p: pb.Empty()),
    "System.RotateMaster": Request("admins", lambda p: pb.Empty()),
    "System.Check": Request("admins", lambda p: pb.CheckRequest(target=at(p), wait_ms=5000)),
    "Namespace.Stat": Request("reach", lambda p: pb.StatRequest(target=at(f"{p}/f"))),
    "Namespace.List": Request("things", lambda p: pb.ListRequest(target=at(f"{p}/d"))),
    "Namespace.Create": Request(
        "things", lambda p: pb.CreateRequest(target=at(f"{p}/d/new"), kind=pb.FILE)
    ),
    "Namespace.Link": Request(
        "things", lambda p: pb.LinkRequest(existing=at(f"{p}/f"), target=at(f"{p}/d/new"))
    ),
    "Namespace.Remove": Request("things", lambda p: pb.RemoveRequest(target=at(f"{p}/d/old"))),
    "Namespace.Rename": Request(
        "things", lambda p: pb.RenameRequest(source=at(f"{p}/d/old"), target=at(f"{p}/d/new"))
    ),
    "Namespace.SetAttributes": Request(
        "things", lambda p: pb.SetAttributesRequest(target=at(f"{p}/f"), mode=0o640)
    ),
    "Namespace.GetXattr": Request(
        "things", lambda p: pb.XattrRequest(target=at(f"{p}/f"), name="user.x")
    ),
    "Namespace.ListXattrs": Request("reach", lambda p: pb.XattrRequest(target=at(f"{p}/f"))),
    "Namespace.SetXattr": Request(
        "things", lambda p: pb.XattrRequest(target=at(f"{p}/f"), name="user.y", value=b"v")
    ),
    "Namespace.RemoveXattr": Request(
        "things", lambda p: pb.XattrRequest(target=at(f"{p}/f"), name="user.x")
    ),
    "Namespace.Usage": Request("reach", lambda p: pb.StatRequest(target=at(f"{p}/f"))),
    "Namespace.Path": Request("reach", lambda p: pb.StatRequest(target=at(f"{p}/f"))),
    "Namespace.Watch": Request("anybody", lambda p: pb.WatchRequest(begin=True)),
    # Says no, rather than refuse to say.
    "Namespace.Access": Request("reach", lambda p: pb.AccessRequest(target=at(f"{p}/f"), verbs=1)),
    "Files.Open": Request("things", lambda p: pb.OpenRequest(target=at(f"{p}/f"), access=1)),
    "Files.Close": Request("reach", lambda p: pb.StatRequest(target=at(f"{p}/f"))),
    "Files.Read": Request("things", lambda p: pb.ReadRequest(target=at(f"{p}/f"), length=1)),
    "Files.Write": Request("things", lambda p: (pb.WriteRequest(target=at(f"{p}/f")), b"x")),
    "Files.Sync": Request("reach", lambda p: pb.SyncRequest(target=at(f"{p}/f"))),
    "Files.Allocate": Request(
        "things", lambda p: pb.AllocateRequest(target=at(f"{p}/f"), length=10)
    ),
    "Files.Map": Request("things", lambda p: pb.MapRequest(target=at(f"{p}/f"))),
    "Files.WriteFile": Request(
        "things", lambda p: (pb.WriteFileRequest(target=at(f"{p}/d/new")), b"x")
    ),
    "Files.CopyRange": Request(
        "things",
        lambda p: pb.CopyRangeRequest(source=at(f"{p}/f"), target=at(f"{p}/g"), length=1),
    ),
    "Files.Locate": Request("things", lambda p: pb.ReadRequest(target=at(f"{p}/f"), length=1)),
    "Files.Share": Request("anybody", lambda p: pb.ShareRequest(area=1), is_sure=False),
    "Tables.Put": Request("things", lambda p: (pb.PutRequest(table=at(f"{p}/t"), key=b"k"), ROW)),
    "Tables.PutMany": Request(
        "things",
        lambda p: (pb.PutManyRequest(table=at(f"{p}/t")), msgpack.packb(b"k") + ROW),
    ),
    "Tables.Get": Request("things", lambda p: pb.GetRequest(table=at(f"{p}/t"), keys=[b"k"])),
    "Tables.Delete": Request("things", lambda p: pb.DeleteRequest(table=at(f"{p}/t"), key=b"k")),
    "Tables.Increment": Request(
        "things",
        lambda p: pb.IncrementRequest(table=at(f"{p}/t"), key=b"k", column="n", integer=1),
    ),
    "Tables.Scan": Request("things", lambda p: pb.ScanRequest(table=at(f"{p}/t"))),
    "Tables.Info": Request("reach", lambda p: pb.StatRequest(target=at(f"{p}/t"))),
    "Streams.CreateTopic": Request(
        "things", lambda p: pb.TopicRequest(stream=at(f"{p}/s"), topic="b")
    ),
    "Streams.DeleteTopic": Request(
        "things", lambda p: pb.TopicRequest(stream=at(f"{p}/s"), topic="a")
    ),
    "Streams.Topics": Request("things", lambda p: pb.TopicsRequest(stream=at(f"{p}/s"))),
    "Streams.InitProducer": Request("things", lambda p: pb.ProducerRequest(stream=at(f"{p}/s"))),
    "Streams.Append": Request("things", _append),
    "Streams.Fetch": Request(
        "things",
        lambda p: pb.FetchRequest(stream=at(f"{p}/s"), parts=[pb.FetchRequest.Part(topic="a")]),
    ),
    "Streams.Offsets": Request(
        "things", lambda p: pb.OffsetsRequest(stream=at(f"{p}/s"), topic="a", timestamp_ms=-1)
    ),
    "Groups.Join": Request(
        "things",
        lambda p: pb.JoinGroupRequest(stream=at(f"{p}/s"), group="joined", topics=["a"]),
    ),
    "Groups.Heartbeat": Request(
        "things",
        lambda p: pb.HeartbeatRequest(stream=at(f"{p}/s"), group="g", member="m"),
        is_sure=False,
    ),
    "Groups.Commit": Request(
        "things",
        lambda p: pb.CommitOffsetsRequest(
            stream=at(f"{p}/s"), group="g", parts=[pb.CommitOffsetsRequest.Part(topic="a")]
        ),
    ),
    "Groups.Describe": Request("things", lambda p: pb.GroupRequest(stream=at(f"{p}/s"))),
    "Groups.Delete": Request(
        "things", lambda p: pb.DeleteGroupRequest(stream=at(f"{p}/s"), group="g")
    ),
    "Transactions.Commit": Request("things", _transaction),
    "Changes.Read": Request("reach", lambda p: pb.ChangesRequest(target=at(f"{p}/d"))),
    "Replication.Describe": Request("admins", lambda p: pb.SourceRequest(target=at(f"{p}/v"))),
    "Replication.Pin": Request("admins", lambda p: pb.SourceRequest(target=at(f"{p}/v"))),
    "Replication.Unpin": Request("admins", lambda p: pb.PinRequest(pin=1)),
    "Replication.Changed": Request("admins", lambda p: pb.ChangedRequest(pin=1)),
    "Replication.Values": Request("admins", lambda p: pb.ValuesRequest(pin=1)),
    "Replication.Scan": Request("admins", lambda p: pb.PairsRequest(pin=1)),
    "Replication.Extents": Request("admins", lambda p: pb.ExtentsRequest(pin=1)),
    "Changes.Publish": Request(
        "things",
        lambda p: pb.PublishRequest(target=at(f"{p}/d"), stream=at(f"{p}/s"), topic="feed"),
    ),
    "Changes.Unpublish": Request(
        "things", lambda p: pb.UnpublishRequest(stream=at(f"{p}/s"), topic="none"), is_sure=False
    ),
    "Changes.Publications": Request("anybody", lambda p: pb.PublicationsRequest()),
    "Quotas.Set": Request("admins", lambda p: pb.QuotaRequest(target=at(f"{p}/d"))),
    "Quotas.Get": Request("reach", lambda p: pb.QuotaRequest(target=at(f"{p}/d")), is_sure=False),
    "Quotas.List": Request("reach", lambda p: pb.QuotaRequest(target=at(f"{p}/d"))),
    "Quotas.Remove": Request("admins", lambda p: pb.QuotaRequest(target=at(f"{p}/d"))),
    "Quotas.Over": Request("anybody", lambda p: pb.Empty()),
    "Access.Check": Request("reach", lambda p: pb.VerdictsRequest(target=at(f"{p}/f"))),
    "Access.Get": Request("reach", lambda p: pb.RulesRequest(target=at(f"{p}/f"))),
    "Access.Set": Request(
        "things", lambda p: pb.SetRulesRequest(target=at(f"{p}/f"), set={"read": "u:ana"})
    ),
    "Volumes.Create": Request("things", lambda p: pb.VolumeRequest(target=at(f"{p}/d/vol"))),
    "Volumes.List": Request("anybody", lambda p: pb.Empty()),
    "Volumes.Info": Request("reach", lambda p: pb.VolumeRequest(target=at(f"{p}/f"))),
    "Volumes.Set": Request("admins", lambda p: pb.VolumeRequest(target=at(p))),
    "Volumes.Remove": Request(
        "things", lambda p: pb.VolumeRequest(target=at(f"{p}/v"), recursive=True)
    ),
    "Snapshots.Create": Request(
        "things", lambda p: pb.SnapshotRequest(target=at(f"{p}/v"), name="new")
    ),
    "Snapshots.List": Request(
        "reach", lambda p: pb.SnapshotsRequest(target=at(f"{p}/v"), sizes=True)
    ),
    "Snapshots.Info": Request(
        "reach", lambda p: pb.SnapshotRequest(target=at(f"{p}/v"), name="old")
    ),
    "Snapshots.Remove": Request(
        "things", lambda p: pb.SnapshotRequest(target=at(f"{p}/v"), name="old")
    ),
    "Snapshots.Clone": Request(
        "things",
        lambda p: pb.CloneRequest(target=at(f"{p}/v"), name="old", new=at(f"{p}/d/clone")),
    ),
    "Snapshots.Restore": Request(
        "things", lambda p: pb.SnapshotRequest(target=at(f"{p}/v"), name="old")
    ),
    "Snapshots.Promote": Request("things", lambda p: pb.PromoteRequest(target=at(f"{p}/c/x"))),
    "Snapshots.SetSchedule": Request(
        "things",
        lambda p: pb.SnapshotScheduleRequest(
            target=at(f"{p}/v"), schedule=pb.SnapshotSchedule(every_s=86_400, keep=7)
        ),
    ),
    "Snapshots.RemoveSchedule": Request(
        "things",
        lambda p: pb.SnapshotScheduleRequest(
            target=at(f"{p}/v"), schedule=pb.SnapshotSchedule(name="yearly")
        ),
    ),
    "Snapshots.Schedules": Request("reach", lambda p: pb.SnapshotsRequest(target=at(f"{p}/v"))),
    "Volumes.RotateKey": Request("admins", lambda p: pb.VolumeRequest(target=at(f"{p}/v"))),
    "Volumes.Lock": Request("admins", lambda p: pb.VolumeRequest(target=at(f"{p}/v"))),
    "Volumes.Unlock": Request("admins", lambda p: pb.VolumeRequest(target=at(f"{p}/v"))),
    "Identities.CreateUser": Request("admins", lambda p: pb.CreateUserRequest(name="new")),
    "Identities.SetUser": Request("admins", lambda p: pb.SetUserRequest(name="bob", add=[])),
    "Identities.RemoveUser": Request("admins", lambda p: pb.IdentityRequest(name="nobody")),
    "Identities.Users": Request("admins", lambda p: pb.Empty()),
    "Identities.CreateGroup": Request("admins", lambda p: pb.CreateGroupRequest(name="new")),
    "Identities.SetGroup": Request("admins", lambda p: pb.SetGroupRequest(name="eng")),
    "Identities.RemoveGroup": Request("admins", lambda p: pb.IdentityRequest(name="eng")),
    "Identities.Groups": Request("admins", lambda p: pb.Empty()),
    "Identities.CreateToken": Request(
        "admins", lambda p: pb.CreateTokenRequest(user="bob", ttl_ms=1000)
    ),
    "Identities.Tokens": Request("own", lambda p: pb.TokensRequest()),
    "Identities.RevokeTokens": Request("admins", lambda p: pb.RevokeTokensRequest(user="bob")),
    "Identities.WhoAmI": Request("anybody", lambda p: pb.Empty()),
    "Gathers.Begin": Request(
        "admins",
        lambda p: pb.GatherRequest(
            stream=at(f"{p}/s"),
            topic="a",
            sources=[pb.GatherRequest.Source(cluster="east", path="/s", topic="a")],
        ),
    ),
    "Gathers.List": Request("admins", lambda p: pb.Empty()),
    "Gathers.Pause": Request("admins", lambda p: pb.GatherRequest(stream=at(f"{p}/s"), topic="a")),
    "Gathers.End": Request("admins", lambda p: pb.GatherRequest(stream=at(f"{p}/s"), topic="a")),
    "Clusters.Add": Request(
        "admins", lambda p: pb.AddClusterRequest(name="east", address="dp://127.0.0.1:1")
    ),
    "Clusters.Set": Request("admins", lambda p: pb.SetClusterRequest(name="east", access="p")),
    "Clusters.List": Request("admins", lambda p: pb.ClustersRequest()),
    "Clusters.Remove": Request("admins", lambda p: pb.ClusterRequest(name="east")),
    "Mirrors.Create": Request(
        "admins",
        lambda p: pb.CreateMirrorRequest(target=at(f"{p}/d/new"), source="dp://127.0.0.1:1/v"),
        is_sure=False,
    ),
    "Mirrors.List": Request("anybody", lambda p: pb.Empty()),
    "Mirrors.Info": Request(
        "reach", lambda p: pb.MirrorRequest(target=at(f"{p}/f")), is_sure=False
    ),
    "Mirrors.Set": Request("admins", _mirror, is_sure=False),
    "Mirrors.Pause": Request("admins", _mirror, is_sure=False),
    "Mirrors.Resume": Request("admins", _mirror, is_sure=False),
    "Mirrors.Promote": Request("admins", _mirror, is_sure=False),
    "Mirrors.Remove": Request("admins", _mirror, is_sure=False),
}
