"""Finding the keeper of a mount: by the command lines of this machine's processes.

There is no file to go stale. A keeper names what it mounts where on its command line (see
`keeper.py`), so `ps` shows it too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

MODULE = "dataplatform_clients.fuse.keeper"


def find(mountpoint: str) -> int | None:
    """The process that keeps this mount; never the caller itself."""
    own = os.getpid()
    for pid, words in _command_lines():
        if pid != own and MODULE in words[:-3] and words[words.index(MODULE) + 2] == mountpoint:
            return pid
    return None


def is_alive(keeper: int) -> bool:
    """Whether this process still is a keeper."""
    return MODULE in _words(keeper)


def workers(keeper: int) -> set[int]:
    """Its children: one, two during an upgrade, none between a crash and the successor."""
    return {pid for pid in _processes() if _parent(pid) == keeper}


def users(mountpoint: str) -> dict[int, str]:
    """Processes that have files open there or stand in a directory there, with their names; as far
    as we may see."""
    found = {}
    inside = mountpoint.rstrip("/") + "/"
    for pid in _processes():
        try:
            folder = f"/proc/{pid}/fd"
            links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
            links += [f"{folder}/{name}" for name in os.listdir(folder)]
            if any(_is_inside(_target(path), mountpoint, inside) for path in links):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    found[pid] = file.read().strip()
        except OSError:
            continue  # gone, or not ours to see
    return found


def _is_inside(path: str, mountpoint: str, inside: str) -> bool:
    return path == mountpoint or path.startswith(inside)


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for pid in _processes():
        words = _words(pid)
        if words:
            yield pid, words


def _words(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read()).split("\0")[:-1]
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
