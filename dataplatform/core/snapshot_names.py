"""How snapshots are named: `.snapshot/NAME` in every directory, and `PATH@NAME`.

`.snapshot` is found in every directory and listed in none. What stands for it has a number that is
made of the directory's, and nothing is stored under it. `.snapshot/NAME` there is that directory,
the same inode, as it was; a directory that was not there then has no such name.

`PATH@NAME` is what the path's last name led to in its directory; if it led to nothing then, what
stands there now is looked for by its inode. A name that exists literally wins.
"""

from __future__ import annotations

import re

from ..base.errors import Invalid
from ..base.limits import SNAPSHOT_NAME_CHARACTERS_MAX

SNAPSHOT_NAME = ".snapshot"
"""Reserved in every directory."""

AT = "@"

_BIT = 1 << 43
"""On the wire. A mount makes numbers of 44 bits of an inode's."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]*")


def snapshots_of(directory: int) -> int:
    """The number that stands for `.snapshot` in this directory."""
    return directory | _BIT


def directory_of_snapshots(number: int) -> int:
    """The directory whose `.snapshot` the number stands for; 0 if it is an ordinary inode's."""
    return number ^ _BIT if number & _BIT else 0


def check_name(name: str) -> str:
    """The name of a snapshot as it is. INVALID, saying why, if it cannot be one."""
    if not _NAME.fullmatch(name) or len(name) > SNAPSHOT_NAME_CHARACTERS_MAX:
        raise Invalid(
            "the name of a snapshot has letters (a-z), digits and . _ : -, and begins with a "
            f"letter, a digit or _; it has {SNAPSHOT_NAME_CHARACTERS_MAX} characters at most",
            name=name,
        )
    return name
