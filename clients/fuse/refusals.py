"""Why there can be no mount, in one line that says what to do.

The keeper must not load the library, so this is not a `PlatformError` yet: `kind` is the name of an
`ErrorKind`, and whoever tells a person makes one of the other (`cli/mounts.py`, `fstab.py`).
"""

from __future__ import annotations


class MountRefused(Exception):
    """`kind` is the name of an error kind, which decides about the exit code."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
