"""What this machine has mounted, as /proc/self/mountinfo says (proc_pid_mountinfo(5)).

Nothing here touches the file systems themselves: asking one that hangs would hang too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

MOUNTINFO = "/proc/self/mountinfo"

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line. `device` is `MAJOR:MINOR`, `options` those of the mount and of the file system."""

    device: str
    mountpoint: str
    kind: str
    source: str
    options: frozenset[str]

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options


def mounts(kind: str | None = None) -> list[Mounted]:
    """All, or all of one kind, in the order in which they were mounted."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        return [found for found in _parse(file) if kind in (None, found.kind)]


def find(mountpoint: str) -> Mounted | None:
    """What one sees at this path: the mount on it that came last. The path is as `resolve` gives
    it."""
    found = [mounted for mounted in mounts() if mounted.mountpoint == mountpoint]
    return found[-1] if found else None


def resolve(path: str) -> str:
    """The absolute path without symbolic links, without asking what is mounted on it."""
    path = os.path.abspath(path)
    directory, name = os.path.split(path)
    inside = os.path.join(os.path.realpath(directory), name) if name else directory
    if any(mounted.mountpoint == inside for mounted in mounts()):
        return inside
    return os.path.realpath(inside)


def _parse(lines: Iterator[str]) -> Iterator[Mounted]:
    for line in lines:
        head, _, tail = line.rstrip("\n").partition(" - ")
        _, _, device, _, mountpoint, options = head.split(" ")[:6]
        kind, source, super_options = (tail.split(" ") + [""] * 3)[:3]
        yield Mounted(
            device,
            _unescape(mountpoint),
            kind,
            _unescape(source),
            frozenset((*options.split(","), *super_options.split(","))),
        )


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash in octal, byte by byte."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
