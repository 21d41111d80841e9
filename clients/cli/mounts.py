"""`dp mount` and `dp umount`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, app, command
from .completion import complete_path
from .connections import chosen
from .outputs import Size
from .parsing import parse_duration, parse_size

if TYPE_CHECKING:
    from ..fuse.mountinfo import Mounted
    from ..fuse.options import MountOptions

HEADERS = ("mountpoint", "source", "state", "up", "open", "dirty", "hits", "latency", "memory")

STATS_S_MAX = 2.0
"""How long a mount may take to say how it is: one that hangs should not hang the list."""


@command(
    app,
    "mount",
    "dp mount /projects /mnt/projects",
    "dp mount /projects /mnt/projects --read-only --patience 30s -o noatime",
    "dp mount dp://10.0.0.7:7222/projects /mnt/projects",
    "dp mount",
    "dp mount --upgrade /mnt/projects",
    panel=SYSTEM,
)
def mount(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            autocompletion=complete_path,
            show_default=False,
            help="What to mount; with its server as dp://HOST:PORT/PATH or dp+unix:///SOCKET:/PATH.",
        ),
    ] = "",
    mountpoint: Annotated[
        str, typer.Argument(metavar="MOUNTPOINT", show_default=False, help="A local directory.")
    ] = "",
    is_foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay, and log to standard error.")
    ] = False,
    is_read_only: Annotated[bool, typer.Option("--read-only", help="No changes.")] = False,
    cache_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Keep what was read on this disk. Default: no such cache."
        ),
    ] = None,
    cache_size: Annotated[
        Any, typer.Option(metavar="10GiB", parser=parse_size, help="So much of it. Default: 10GiB.")
    ] = None,
    patience: Annotated[
        Any,
        typer.Option(
            metavar="5m",
            parser=parse_duration,
            help="How long programs wait for a server that is away. Default: 5m.",
        ),
    ] = None,
    options: Annotated[
        list[str],
        typer.Option(
            "-o",
            metavar="A,B=C",
            show_default=False,
            help="As in /etc/fstab: allow_other, noatime, … (docs/mount.md).",
        ),
    ] = [],  # noqa: B006 - Typer makes a new one
    log_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Default: /var/log/dp-mount/NAME.log for root,"
            " ~/.local/state/dataplatform/NAME.log for others; NAME is MOUNTPOINT with - for /.",
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="debug|info|warning|error", help="Default: info.")
    ] = None,
    is_upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade", help="Let the program installed now take over a mount; files stay open."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Mount a directory of the server as a local one; alone, list this machine's mounts.

    Ends when the mount works, which goes on in the background until `dp umount`.
    """
    from ..fuse import mountinfo, starting

    with refusals():
        if not path:
            show(json)
        elif is_upgrade:
            starting.upgrade(mountinfo.resolve(path))
        elif not mountpoint:
            raise typer.BadParameter("say where: dp mount PATH MOUNTPOINT")
        else:
            flags = {
                "read_only": is_read_only or None,
                "foreground": is_foreground or None,
                "cache_dir": os.path.abspath(cache_dir) if cache_dir else None,
                "cache_size_bytes": cache_size,
                "patience_s": patience.total_seconds() if patience is not None else None,
                "log_file": os.path.abspath(log_file) if log_file else None,
                "log_level": log_level,
            }
            chosen_options = read(path, mountpoint, options, flags)
            if chosen_options.foreground:
                outputs.flush()
                starting.become_keeper(chosen_options)
            starting.start(chosen_options)


@command(app, "umount", "dp umount /mnt/projects", "dp umount --lazy /mnt/projects", panel=SYSTEM)
def umount(
    mountpoint: Annotated[str, typer.Argument(metavar="MOUNTPOINT", show_default=False)],
    is_lazy: Annotated[
        bool,
        typer.Option("--lazy", "-l", help="Even in use: it ends when the last file is closed."),
    ] = False,
) -> None:
    """Unmount, and wait until everything that was written is with the server."""
    from ..fuse import mountinfo, starting

    with refusals():
        starting.unmount(mountinfo.resolve(mountpoint), is_lazy=is_lazy)


def read(path: str, mountpoint: str, lists: list[str], flags: dict[str, Any]) -> MountOptions:
    """The options of a command line: what -o says, then what the options of their own say."""
    from ..fuse import mountinfo
    from ..fuse.options import MountOptions, parse_options, parse_spec

    address, path = parse_spec(path)
    server, token, file = chosen()
    found: dict[str, Any] = {"address": server or "", "token": token or ""}
    if file:
        found["token_file"] = os.path.abspath(file)
    for name in ("ca", "cert", "key"):  # as the library takes them for every other command
        if file := os.environ.get(f"DP_{name.upper()}"):
            found[name] = os.path.abspath(file)
    found |= parse_options(",".join(lists))
    found |= {name: value for name, value in flags.items() if value is not None}
    if address:
        found["address"] = address
    return MountOptions(mountpoint=mountinfo.resolve(mountpoint), path=path, **found)


@contextmanager
def refusals() -> Iterator[None]:
    """Refusals of the mount as errors of the command."""
    from ..fuse.refusals import MountRefused

    try:
        yield
    except MountRefused as refusal:
        from dataplatform import ErrorKind, PlatformError

        raise PlatformError(ErrorKind[refusal.kind], refusal.message) from refusal


# ------------------------------------------------------------------------------------- list


def show(json: bool) -> None:
    """This machine's mounts, and how they are."""
    from ..fuse import mountinfo
    from ..fuse.options import FILE_SYSTEM

    found = [(mounted, stats_of(mounted)) for mounted in mountinfo.mounts(FILE_SYSTEM)]
    if json:
        for mounted, stats in found:
            outputs.json_line(
                {
                    "mountpoint": mounted.mountpoint,
                    "source": mounted.source,
                    "state": state(mounted, stats),
                    "stats": {name: number(value) for name, value in (stats or {}).items()},
                }
            )
        return
    outputs.table(HEADERS, [row(mounted, stats) for mounted, stats in found])


def state(mounted: Mounted, stats: dict[str, str] | None) -> str:
    if stats is None:
        return "does not answer"
    return "dead" if not stats else "read-only" if mounted.is_read_only else "ok"


def row(mounted: Mounted, stats: dict[str, str] | None) -> list[Any]:
    cells: list[Any] = [mounted.mountpoint, mounted.source, state(mounted, stats)]
    if not stats:
        return [*cells, *[None] * (len(HEADERS) - len(cells))]
    return [
        *cells,
        timedelta(seconds=int(stats.get("up_seconds", 0))),
        int(stats.get("open_files", 0)),
        Size(stats.get("dirty_bytes", 0)),
        stats.get("hit_percent", "-") + "%",
        f"{int(stats.get('latency_us_median', 0)) / 1000:.1f}ms",
        Size(stats.get("memory_bytes", 0)),
    ]


def stats_of(mounted: Mounted) -> dict[str, str] | None:
    """What `.stats` says; empty: the mount is dead; None: it did not answer in time."""
    import threading

    from ..fuse.stats import parse_stats

    answers: list[dict[str, str]] = []

    def ask() -> None:
        try:
            with open(f"{mounted.mountpoint}/.stats", encoding="utf-8", errors="replace") as file:
                answers.append(parse_stats(file.read()))
        except OSError:
            answers.append({})

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(STATS_S_MAX)
    return answers[0] if answers else None


def number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
