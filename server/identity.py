"""Who a caller is. No authentication yet: the uid on a Unix socket, else nobody in particular."""

from __future__ import annotations

import functools
import os
import pwd

from dataplatform.core.principals import Principal

ANONYMOUS = Principal("anonymous", is_admin=True)


@functools.lru_cache(maxsize=1024)
def principal_of_uid(uid: int) -> Principal:
    """The user of this machine, or `uid:N` if it has no name."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return Principal(f"uid:{uid}", uid=uid, is_admin=True)
    return Principal(
        user.pw_name,
        uid=uid,
        gids=frozenset(os.getgrouplist(user.pw_name, user.pw_gid)),
        is_admin=True,
    )
