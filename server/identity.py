"""Who a caller is. No authentication yet: the uid on a Unix socket, else nobody in particular."""

from __future__ import annotations

import functools
import pwd

ANONYMOUS = "anonymous"


@functools.lru_cache(maxsize=1024)
def principal_of_uid(uid: int) -> str:
    """The user's name, or `uid:N` if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"
