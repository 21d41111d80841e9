"""Quotas of directories: `dp quota set | get | ls | remove`; `dp volume` has those of volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, RemotePath, app, command, group
from .connections import connect
from .outputs import Size
from .parsing import parse_entries, parse_quota
from .progress import Progress

if TYPE_CHECKING:
    from dataplatform import Quota, VolumeInfo

quota = group(app, "quota", "What directories may hold, in bytes and entries.", SYSTEM)

HEADERS = (
    *("path", "used", "quota", "advisory"),
    *("entries", "quota of entries", "advisory entries", "above"),
)

_SAYS = "Above it `dp status`, the log and `dp changes` say so; or `none`."
_COUNTS = "Of files, directories, links, tables and streams; or `none`."

Bytes = Annotated[
    int | None,
    typer.Option(
        "--bytes", parser=parse_quota, metavar="10GiB", help="Writes beyond it fail; or `none`."
    ),
]
Entries = Annotated[
    int | None, typer.Option("--entries", parser=parse_entries, metavar="N", help=_COUNTS)
]
AdvisoryBytes = Annotated[
    int | None,
    typer.Option("--advisory-bytes", parser=parse_quota, metavar="8GiB", help=_SAYS),
]
QuotaEntries = Annotated[
    int | None, typer.Option("--quota-entries", parser=parse_entries, metavar="N", help=_COUNTS)
]
Advisory = Annotated[
    int | None, typer.Option("--advisory", parser=parse_quota, metavar="8GiB", help=_SAYS)
]
AdvisoryEntries = Annotated[
    int | None,
    typer.Option(
        "--advisory-entries", parser=parse_entries, metavar="N", help="The same for entries."
    ),
]


def limit_cells(item: Quota | VolumeInfo) -> dict[str, Any]:
    """The limits beside that of the bytes, as far as there are any."""
    limits = {
        "quota of entries": item.quota_entries,
        "advisory": _size(item.advisory_bytes),
        "advisory entries": item.advisory_entries,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _size(limit: int | None) -> Size | None:
    return None if limit is None else Size(limit)


def above(item: Quota) -> str | None:
    """What is above its advisory limit."""
    words = [w for w, over in (("bytes", item.over_bytes), ("entries", item.over_entries)) if over]
    return " and ".join(words) or None


def cells(item: Quota) -> tuple[Any, ...]:
    """A quota as a row of a table with `HEADERS`."""
    return (
        item.path,
        Size(item.used_bytes),
        _size(item.quota_bytes),
        _size(item.advisory_bytes),
        item.entries,
        item.quota_entries,
        item.advisory_entries,
        above(item),
    )


@command(
    quota,
    "set",
    "dp quota set /home/ana --bytes 10GiB --entries 100k",
    "dp quota set /home/ana --advisory-bytes 8GiB",
    "dp quota set /home/ana --bytes none",
)
def set_(
    path: RemotePath,
    bytes_: Bytes = None,
    entries: Entries = None,
    advisory_bytes: AdvisoryBytes = None,
    advisory_entries: AdvisoryEntries = None,
    json: Json = False,
) -> None:
    """Limit what the directory PATH may hold; what is not named stays.

    The first time, what it holds is counted, while everybody goes on: some seconds for a million
    things. Only administrators may.
    """
    if (bytes_, entries, advisory_bytes, advisory_entries) == (None,) * 4:
        raise typer.BadParameter("nothing to set: give --bytes, --entries or an advisory limit")
    with connect() as client, Progress("counting what is there", unit="things"):
        found = client.set_quota(
            path,
            quota_bytes=bytes_,
            quota_entries=entries,
            advisory_bytes=advisory_bytes,
            advisory_entries=advisory_entries,
        )
    if json:
        outputs.json_line(found)


@command(quota, "get", "dp quota get /home/ana")
def get(path: RemotePath, json: Json = False) -> None:
    """Show the quota of a directory, or of a volume, and what it holds."""
    with connect() as client:
        found = client.quota(path)
    if json:
        outputs.json_line(found)
        return
    known = {
        "path": found.path,
        "used": Size(found.used_bytes),
        "quota": _size(found.quota_bytes),
        "entries": found.entries,
        **limit_cells(found),
    }
    if above(found):
        known["above advisory"] = above(found)
    outputs.fields(known)


@command(quota, "ls", "dp quota ls", "dp quota ls /home")
def ls(path: RemotePath = "/", json: Json = False) -> None:
    """List the quotas of directories at and below PATH, in its volume."""
    with connect() as client:
        found = client.quotas(path)
    if json:
        for item in found:
            outputs.json_line(item)
    else:
        outputs.table(HEADERS, map(cells, found))


@command(quota, "remove", "dp quota remove /home/ana")
def remove(path: RemotePath) -> None:
    """Remove the quota of a directory. Only administrators may."""
    with connect() as client:
        client.remove_quota(path)
