"""`dp status` and `dp version`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from . import outputs
from .apps import SYSTEM, Json, app, command
from .connections import connect
from .outputs import Size, Time
from .volumes import HEADERS, cells


@command(app, "status", "dp status", "dp status --json | jq .counters", panel=SYSTEM)
def status(json: Json = False) -> None:
    """Show the server: version, engine, memory, volumes."""
    with connect() as client:
        found = client.status()
    if json:
        outputs.json_line(found)
        return
    up = timedelta(seconds=round((datetime.now(UTC) - found.started).total_seconds()))
    outputs.fields(
        {
            "server": found.address,
            "version": found.version,
            "cluster": found.cluster,
            "engine": found.engine,
            "data": found.data,
            "pid": str(found.pid),
            "started": Time(found.started_ns),
            "up": up,
            "connections": found.connections,
            "memory": Size(found.memory_bytes),
        }
    )
    if outputs.is_terminal():
        outputs.line("")
        outputs.table(HEADERS, map(cells, found.volumes))
    else:
        for item in found.volumes:
            outputs.table((), [("volume", *cells(item))])


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
