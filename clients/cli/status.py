"""`dp status` and `dp version`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from . import outputs, quotas
from .apps import SYSTEM, Json, app, command
from .connections import connect
from .outputs import Size, Time
from .volumes import HEADERS, cells

if TYPE_CHECKING:
    from dataplatform import MountInfo


MOUNT_HEADERS = (
    "mountpoint",
    "path",
    "host",
    "pid",
    "since",
    "requests",
    "cached",
    "dirty",
    "open",
    "median us",
    "p99 us",
    "memory",
)


@command(app, "status", "dp status", "dp status --json | jq .counters", panel=SYSTEM)
def status(json: Json = False) -> None:
    """Show the server: version, engine, memory, volumes, mounts."""
    with connect() as client:
        found = client.status()
        over = client.quotas_over()
    if json:
        outputs.json_line(outputs.as_mapping(found) | {"over": over})
        return
    up = timedelta(seconds=round((datetime.now(UTC) - found.started).total_seconds()))
    audit = "none"
    if found.audit_failure:
        audit = f"cannot be written, {found.audit_backlog} commits wait: {found.audit_failure}"
    elif found.audit_is_on:
        audit = f"{found.audit_backlog} commits behind"
    if found.audit_dropped:
        audit += f"; {found.audit_dropped} denials and reads were lost"
    outputs.fields(
        {
            "server": found.address,
            "version": found.version,
            "cluster": found.cluster,
            "engine": found.engine,
            **({"data": found.data, "pid": str(found.pid)} if found.pid else {}),  # administrators
            "started": Time(found.started_ns),
            "up": up,
            "connections": found.connections,
            "memory": Size(found.memory_bytes),
            "audit": audit,
        }
    )
    if outputs.is_terminal():
        outputs.line("")
        outputs.table(HEADERS, map(cells, found.volumes))
        if found.mounts:
            outputs.line("")
            outputs.table(MOUNT_HEADERS, map(mount_cells, found.mounts))
        if over:
            outputs.line("\nAbove an advisory limit:")
            outputs.table(quotas.HEADERS, map(quotas.cells, over))
    else:
        for item in found.volumes:
            outputs.table((), [("volume", *cells(item))])
        for mount in found.mounts:
            outputs.table((), [("mount", *mount_cells(mount))])
        for above in over:
            outputs.table((), [("over", *quotas.cells(above))])


def mount_cells(mount: MountInfo) -> Sequence[Any]:
    rate = mount.hit_rate
    return (
        mount.mountpoint,
        mount.path,
        mount.host,
        str(mount.pid),
        Time(mount.since_ns),
        mount.requests,
        None if rate is None else f"{rate:.1%}",
        Size(mount.dirty_bytes),
        mount.open_files,
        mount.latency_us_median,
        mount.latency_us_p99,
        Size(mount.memory_bytes),
    )


@command(app, "version", "dp version", panel=SYSTEM)
def version(json: Json = False) -> None:
    """Show the version of this program.

    `dp status` shows the server's.
    """
    from importlib.metadata import version as version_of

    number = version_of("dataplatform")
    if json:
        outputs.json_line({"version": number})
    else:
        outputs.line(f"dp {number}")
