"""Volumes: `dp volume create | ls | info | set | remove`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, RemotePath, app, command, group
from .connections import connect
from .outputs import Size, Time
from .parsing import parse_iops, parse_keep, parse_quota, parse_rows, parse_ttl
from .quotas import Advisory, AdvisoryEntries, QuotaEntries, limit_cells

if TYPE_CHECKING:
    from dataplatform import VolumeInfo

volume = group(
    app, "volume", "Subtrees with a commit line, a quota and settings of their own.", SYSTEM
)

HEADERS = ("path", "state", "used", "quota", "entries", "commit")

Quota = Annotated[
    int | None,
    typer.Option(
        "--quota", parser=parse_quota, metavar="10GiB", help="Writes beyond it fail; or `none`."
    ),
]
Compression = Annotated[
    str | None, typer.Option("--compression", metavar="lz4|none", help="Of the files' bytes.")
]
Iops = Annotated[
    int | None,
    typer.Option("--iops", parser=parse_iops, metavar="N", help="Requests per second; or `none`."),
]
Bandwidth = Annotated[
    int | None,
    typer.Option(
        "--bandwidth", parser=parse_quota, metavar="100MiB", help="Bytes per second; or `none`."
    ),
]
Audit = Annotated[
    str | None,
    typer.Option(
        "--audit", metavar="off|changes|all", help="What /.audit is told: `all` has reads, too."
    ),
]
AuditTtl = Annotated[
    Any,
    typer.Option(
        "--audit-ttl", parser=parse_ttl, metavar="90d", help="How long that is kept; or `none`."
    ),
]

ChangesKeep = Annotated[
    Any,
    typer.Option(
        "--changes-keep",
        parser=parse_keep,
        metavar="7d",
        help="How long `dp changes` goes back; or `default`.",
    ),
]
ChangesRows = Annotated[
    int | None,
    typer.Option(
        "--changes-rows",
        parser=parse_rows,
        metavar="N",
        help="How many commits it goes back at most; or `default`.",
    ),
]


@command(
    volume,
    "create",
    "dp volume create /projects --quota 10GiB",
    "dp volume create /secret --encrypt",
)
def create(
    path: RemotePath,
    quota: Quota = None,
    quota_entries: QuotaEntries = None,
    advisory: Advisory = None,
    advisory_entries: AdvisoryEntries = None,
    compression: Compression = None,
    iops: Iops = None,
    bandwidth: Bandwidth = None,
    audit: Audit = None,
    audit_ttl: AuditTtl = None,
    changes_keep: ChangesKeep = None,
    changes_rows: ChangesRows = None,
    is_encrypted: Annotated[
        bool, typer.Option("--encrypt", help="With a key that the server's master key wraps.")
    ] = False,
    json: Json = False,
) -> None:
    """Create a volume at PATH, a new name in a directory."""
    import dataplatform

    with connect() as client:
        try:
            made = client.create_volume(
                path,
                quota_bytes=quota,
                compression=compression,
                quota_entries=quota_entries,
                advisory_bytes=advisory,
                advisory_entries=advisory_entries,
                iops=iops,
                bandwidth=bandwidth,
                audit=audit,
                audit_ttl=audit_ttl,
                changes_keep=changes_keep,
                changes_rows=changes_rows,
                encrypt=is_encrypted,
            )
        except dataplatform.Exists as error:
            raise dataplatform.Exists(
                "the name exists already, and what exists cannot become a volume: give a new name",
                path=path,
            ) from error
        if json:
            outputs.json_line(made)


@command(volume, "ls", "dp volume ls")
def ls(json: Json = False) -> None:
    """List every volume: path, state, bytes used, quota, entries, last commit."""
    with connect() as client:
        if json:
            for item in client.volumes():
                outputs.json_line(item)
        else:
            outputs.table(HEADERS, map(cells, client.volumes()))


def cells(item: VolumeInfo) -> tuple[Any, ...]:
    """A volume as a row of a table with `HEADERS`."""
    quota = None if item.quota_bytes is None else Size(item.quota_bytes)
    return item.path, item.state, Size(item.used_bytes), quota, item.entries, item.commit


@command(volume, "info", "dp volume info /projects/cars")
def info(path: RemotePath, json: Json = False) -> None:
    """Show the volume that holds PATH."""
    with connect() as client:
        found = client.volume_info(path)
        if json:
            outputs.json_line(found)
            return
        known = dict(zip(HEADERS, cells(found), strict=True))
        known |= {
            **limit_cells(found),
            "compression": found.compression,
            "iops": found.iops,
            "bandwidth": None if found.bandwidth is None else Size(found.bandwidth),
            "audit": found.audit
            if found.audit == "off"
            else f"{found.audit}, /.audit:{found.audit_topic}",
            "audit kept": found.audit_ttl or "for ever",
            "changes kept": found.changes_keep,
            "changes kept, at most": found.changes_rows,
            "encryption": encryption(found),
            "created": Time(found.created_ns),
            "volume": str(found.volume),
            "open": found.open,
            "snapshots": found.snapshots,
        }
        outputs.fields(known)


@command(
    volume,
    "set",
    "dp volume set /projects --quota 20GiB",
    "dp volume set /projects --iops 500 --bandwidth 100MiB",
    "dp volume set /projects --quota none",
    "dp volume set /projects --changes-keep 30d --changes-rows 5M",
)
def set_(
    path: RemotePath,
    quota: Quota = None,
    quota_entries: QuotaEntries = None,
    advisory: Advisory = None,
    advisory_entries: AdvisoryEntries = None,
    compression: Compression = None,
    iops: Iops = None,
    bandwidth: Bandwidth = None,
    audit: Audit = None,
    audit_ttl: AuditTtl = None,
    changes_keep: ChangesKeep = None,
    changes_rows: ChangesRows = None,
    json: Json = False,
) -> None:
    """Change settings of a volume; what is not named stays."""
    limits = (quota, quota_entries, advisory, advisory_entries)
    kept = (audit_ttl, changes_keep, changes_rows)
    if all(value is None for value in (*limits, *kept, compression, iops, bandwidth, audit)):
        raise typer.BadParameter("nothing to set: give --quota, --iops, --audit or another option")
    with connect() as client:
        changed = client.set_volume(
            path,
            quota_bytes=quota,
            compression=compression,
            quota_entries=quota_entries,
            advisory_bytes=advisory,
            advisory_entries=advisory_entries,
            iops=iops,
            bandwidth=bandwidth,
            audit=audit,
            audit_ttl=audit_ttl,
            changes_keep=changes_keep,
            changes_rows=changes_rows,
        )
        if json:
            outputs.json_line(changed)


@command(volume, "remove", "dp volume remove /projects", "dp volume remove -r /projects")
def remove(
    path: RemotePath,
    is_recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="With everything that it holds.")
    ] = False,
) -> None:
    """Remove an empty volume, or with -r one with everything that it holds."""
    with connect() as client:
        client.remove_volume(path, recursive=is_recursive)


def encryption(item: VolumeInfo) -> str:
    """What of it is encrypted, in words."""
    if not item.encryption:
        return "none"
    if not item.key:
        return item.encryption  # nobody can look further
    words = f"{item.encryption}, key {item.key}, master key {item.master}"
    return f"{words}; rotating: {item.rotating}" if item.rotating else words


@command(volume, "rotate-key", "dp volume rotate-key /secret")
def rotate_key(path: RemotePath, json: Json = False) -> None:
    """Give an encrypted volume a new key.

    What is written from now on is encrypted with it; what is stored follows in the background, and
    then the old key is forgotten. `dp volume info` shows how far that is."""
    with connect() as client:
        changed = client.rotate_volume_key(path)
        if json:
            outputs.json_line(changed)


@command(volume, "lock", "dp volume lock /secret")
def lock(path: RemotePath, json: Json = False) -> None:
    """Close an encrypted volume: nobody, administrators included, reads it until it is unlocked."""
    with connect() as client:
        changed = client.lock_volume(path)
        if json:
            outputs.json_line(changed)


@command(volume, "unlock", "dp volume unlock /secret")
def unlock(path: RemotePath, json: Json = False) -> None:
    """Open a locked volume again."""
    with connect() as client:
        changed = client.unlock_volume(path)
        if json:
            outputs.json_line(changed)
