"""What a checkpoint may be called: a name must be a file name and part of an object key."""

from __future__ import annotations

import re

from ..base.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


def check_checkpoint_name(name: str) -> None:
    """INVALID unless the name is 1 to 100 letters, digits, ``_`` and ``-``."""
    if not _NAME.fullmatch(name):
        raise Invalid("checkpoint name must be 1 to 100 letters, digits, _ and -", name=name)
