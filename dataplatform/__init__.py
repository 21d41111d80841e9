"""Files, tables and streams side by side in one namespace.

    import dataplatform

    with dataplatform.connect() as dp:
        dp.mkdir("/projects/cars", parents=True, exist_ok=True)
        dp.write_file("/projects/cars/readme.txt", "Hello")

        t = dp.create_table("/projects/cars/vehicles")
        t.put("vin-1", {"model": "ES8", "km": 12})

        s = dp.create_stream("/projects/cars/events", partitions=4)
        with s.producer() as p:
            p.send("telemetry", b"...", key=b"vin-1")

Start at `connect` and `Client`. Errors are `PlatformError`, with `.kind`; `NotFound` is a
`FileNotFoundError` too, `Denied` a `PermissionError`, and so on. `dataplatform.aio` is the same
with `await`.
"""

from . import aio
from .base.errors import (
    Conflict,
    Corrupt,
    Denied,
    ErrorKind,
    Exhausted,
    Exists,
    Internal,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
    Unavailable,
)
from .client.sync import (
    Client,
    Consumer,
    Delivery,
    File,
    Producer,
    Stream,
    Table,
    Transaction,
    TransactionStream,
    TransactionTable,
    connect,
)
from .client.values import (
    AccessRule,
    AccessRules,
    Change,
    CheckProgress,
    CheckReport,
    ClusterInfo,
    Entry,
    Finding,
    GatherInfo,
    GatherSource,
    GroupInfo,
    GroupOffset,
    Identity,
    MasterRotation,
    MemberInfo,
    MirrorInfo,
    MountInfo,
    NewToken,
    PartitionInfo,
    Position,
    Publication,
    Quota,
    Record,
    Row,
    SnapshotInfo,
    SnapshotSchedule,
    Stat,
    Status,
    StreamInfo,
    TableInfo,
    TokenInfo,
    TopicInfo,
    Usage,
    UserGroupInfo,
    UserInfo,
    Verdict,
    VolumeInfo,
)

__all__ = [
    "AccessRule",
    "AccessRules",
    "Change",
    "CheckProgress",
    "CheckReport",
    "Client",
    "ClusterInfo",
    "Conflict",
    "Consumer",
    "Corrupt",
    "Delivery",
    "Denied",
    "Entry",
    "ErrorKind",
    "Exhausted",
    "Exists",
    "File",
    "Finding",
    "GatherInfo",
    "GatherSource",
    "GroupInfo",
    "GroupOffset",
    "Identity",
    "Internal",
    "Invalid",
    "MasterRotation",
    "MemberInfo",
    "MirrorInfo",
    "MountInfo",
    "NewToken",
    "NotFound",
    "PartitionInfo",
    "PlatformError",
    "Position",
    "Producer",
    "Publication",
    "Quota",
    "Record",
    "Row",
    "SnapshotInfo",
    "SnapshotSchedule",
    "Stale",
    "Stat",
    "Status",
    "Stream",
    "StreamInfo",
    "Table",
    "TableInfo",
    "TokenInfo",
    "TopicInfo",
    "Transaction",
    "TransactionStream",
    "TransactionTable",
    "Unavailable",
    "Usage",
    "UserGroupInfo",
    "UserInfo",
    "Verdict",
    "VolumeInfo",
    "aio",
    "connect",
]
