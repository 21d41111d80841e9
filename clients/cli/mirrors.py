"""Mirrors: `dp mirror create | status | set | pause | resume | promote | remove`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, RemotePath, app, command, group
from .connections import connect
from .outputs import Size, Time
from .parsing import parse_duration, parse_entries, parse_quota

if TYPE_CHECKING:
    from dataplatform import MirrorInfo

mirror = group(app, "mirror", "Volumes that follow one of another cluster.", SYSTEM)

HEADERS = ("mirror", "source", "state", "commit", "behind", "rate", "")

Every = Annotated[
    Any,
    typer.Option("--every", parser=parse_duration, metavar="10s", help="So often it catches up."),
]
Continuous = Annotated[
    bool, typer.Option("--continuous", help="It catches up as soon as there is something new.")
]
Bandwidth = Annotated[
    int | None,
    typer.Option(
        "--bandwidth",
        parser=parse_quota,
        metavar="100MiB",
        help="Bytes per second from the source at most; or `none`.",
    ),
]
Discard = Annotated[
    bool,
    typer.Option("--discard", help="Give up the commits here that the source does not have."),
]


def _every(every: timedelta | None, *, continuous: bool) -> timedelta | None:
    if continuous and every is not None:
        raise typer.BadParameter("either --every or --continuous")
    return timedelta() if continuous else every


def _text(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}") from None


@command(
    mirror,
    "create",
    "dp mirror create /projects --source /east/projects",
    "dp mirror create /projects --source grpcs://east.example.org:7223/projects --every 10s "
    "--with-token east.token",
)
def create(
    path: RemotePath,
    source: Annotated[
        str,
        typer.Option("--source", metavar="/CLUSTER/PATH", help="Or an address with a path."),
    ],
    every: Every = None,
    continuous: Continuous = False,
    bandwidth: Bandwidth = None,
    token: Annotated[
        Path | None,
        typer.Option(
            "--with-token",
            metavar="FILE",
            show_default=False,
            help="For an address: a token of an administrator there.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            show_default=False,
            help="The authority that its certificate must be signed by; or the system's.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let the token cross a network without TLS.")
    ] = False,
    quota: Annotated[
        int | None,
        typer.Option("--quota", parser=parse_quota, metavar="10GiB", help="Of the mirror itself."),
    ] = None,
    quota_entries: Annotated[
        int | None, typer.Option("--quota-entries", parser=parse_entries, metavar="N")
    ] = None,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="With a key of its own, whatever the source has.")
    ] = False,
    discard: Discard = False,
    json: Json = False,
) -> None:
    """Make a mirror of a volume of another cluster, at a new PATH: copied once, then following.

    It is read only until it is promoted. At the PATH of a volume that has a past in common with the
    source (it was its mirror, or its source), that volume becomes the mirror, and only what differs
    is shipped."""
    with connect() as client:
        made = client.create_mirror(
            path,
            source,
            every=_every(every, continuous=continuous),
            bandwidth=bandwidth,
            token=_text(token),
            ca=_text(ca),
            insecure=insecure,
            quota_bytes=quota,
            quota_entries=quota_entries,
            encrypt=encrypt,
            discard=discard,
        )
        if json:
            outputs.json_line(made)


@command(mirror, "status", "dp mirror status", "dp mirror status /projects --json")
def status(
    path: Annotated[str | None, typer.Argument(metavar="PATH", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Show every mirror of this cluster, or one: how far behind it is, why it does not follow."""
    with connect() as client:
        found = client.mirrors() if path is None else [client.mirror_info(path)]
        if json:
            for item in found:
                outputs.json_line(item)
            return
        if path is not None:
            outputs.fields(_fields(found[0]))
            return
        outputs.table(HEADERS, map(_row, found))
        if found:
            outputs.line("")
            for text in picture(found):
                outputs.line(text)


def _row(item: MirrorInfo) -> tuple[Any, ...]:
    return (
        *(item.path, _source(item), item.state, item.commit, _behind(item)),
        f"{outputs.size_text(item.rate)}/s",
        item.error or _progress(item),
    )


def _source(item: MirrorInfo) -> str:
    """As it was given, with the cluster's name for an address."""
    if "://" in item.source and item.cluster:
        return f"{item.source} ({item.cluster})"
    return item.source


def _behind(item: MirrorInfo) -> str:
    if item.lag_s is None:
        return "not known"
    commits = f"{item.lag_commits} commits" if item.lag_commits != 1 else "1 commit"
    return f"{commits}, {item.lag_s:.1f} s"


def _progress(item: MirrorInfo) -> str:
    if not item.total_bytes:
        return ""
    share = min(100, 100 * item.copied_bytes // item.total_bytes)
    copied, total = outputs.size_text(item.copied_bytes), outputs.size_text(item.total_bytes)
    return f"{copied} of {total} copied, {share} %"


def _fields(item: MirrorInfo) -> dict[str, Any]:
    return {
        "mirror": item.path,
        "source": _source(item),
        "state": item.state,
        "commit": item.commit,
        "commit of the source": item.source_commit,
        "behind": _behind(item),
        "since": Time(item.copied_ns) if item.copied_ns else None,
        "follows": "continuously" if item.every is None else f"every {item.every}",
        "bandwidth": None if item.bandwidth is None else Size(item.bandwidth),
        "rate": f"{outputs.size_text(item.rate)}/s",
        "shipped": f"{item.rows} rows, {item.changes} change rows, {item.extents} extents, "
        f"{outputs.size_text(item.bytes)}",
        "copy": _progress(item) or None,
        "error": item.error or None,
        "at": Time(item.error_ns) if item.error_ns else None,
    }


def picture(found: Sequence[MirrorInfo]) -> Iterator[str]:
    """Sources on the left, what follows them on the right."""
    by_source: dict[str, list[MirrorInfo]] = {}
    for item in found:
        by_source.setdefault(_source(item), []).append(item)
    width = max(map(len, by_source))
    right = max(len(item.path) for item in found)
    for source, mirrors in by_source.items():
        for index, item in enumerate(mirrors):
            is_last = index == len(mirrors) - 1
            if index == 0:
                left, fork = source.ljust(width), "──" if is_last else "┬─"
            else:
                left, fork = " " * width, "└─" if is_last else "├─"
            mark = "✕" if item.state == "failing" else "‖" if item.state == "paused" else "▶"
            lead = "─" if index == 0 else " "
            yield f"{left} {lead}{fork}{mark} {item.path.ljust(right)}  {item.state}"


@command(mirror, "set", "dp mirror set /projects --every 10s --bandwidth 20MiB")
def set_(
    path: RemotePath,
    every: Every = None,
    continuous: Continuous = False,
    bandwidth: Bandwidth = None,
    json: Json = False,
) -> None:
    """Change how a mirror follows; what is not named stays."""
    every = _every(every, continuous=continuous)
    if every is None and bandwidth is None:
        raise typer.BadParameter("nothing to set: give --every, --continuous or --bandwidth")
    with connect() as client:
        changed = client.set_mirror(path, every=every, bandwidth=bandwidth)
        if json:
            outputs.json_line(changed)


@command(mirror, "pause", "dp mirror pause /projects")
def pause(path: RemotePath) -> None:
    """Let a mirror stay what it is."""
    with connect() as client:
        client.pause_mirror(path)


@command(mirror, "resume", "dp mirror resume /projects")
def resume(path: RemotePath, discard: Discard = False) -> None:
    """Let a mirror follow again. With --discard also behind a source that was put back to an
    earlier commit, as by restoring a snapshot there."""
    with connect() as client:
        client.resume_mirror(path, discard=discard)


@command(mirror, "promote", "dp mirror promote /projects")
def promote(path: RemotePath) -> None:
    """Let a mirror be written: it follows nothing any more. Works while the source is away.

    To go back: dp mirror create PATH --source THIS, on the other cluster, at the old source's path.
    """
    with connect() as client:
        commit = client.promote_mirror(path)
        outputs.note(f"{path} has everything up to commit {commit} of its source")


@command(mirror, "remove", "dp mirror remove /projects")
def remove(path: RemotePath) -> None:
    """Remove a mirror with all that it holds. Nothing changes at its source."""
    with connect() as client:
        client.remove_mirror(path)
