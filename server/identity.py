"""Who a caller is: found out once, when it comes, and looked at again at every request.

A `Credential` is what a caller has shown. What it is worth may change while its connection stays:
a token expires or is revoked, a user is put into a group. So whoever answers a request asks the
credential, by `now`, which costs next to nothing as long as no identity has changed.
"""

from __future__ import annotations

import functools
import os
import pwd
from dataclasses import dataclass

from dataplatform.core.principals import Principal

from .sessions import Session

ANONYMOUS = Principal("anonymous", is_admin=True, may_speak=True)


def principal_of_certificate(user: str) -> Principal:
    """The user that a verified client certificate names (`transport.tls.user_of`)."""
    return Principal(user, is_admin=True)


@functools.lru_cache(maxsize=1024)
def principal_of_uid(uid: int) -> Principal:
    """The user of this machine, or `uid:N` if it has no name."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return Principal(f"uid:{uid}", uid=uid, is_admin=True, may_speak=True)
    return Principal(
        user.pw_name,
        uid=uid,
        gids=frozenset(os.getgrouplist(user.pw_name, user.pw_gid)),
        is_admin=True,
        may_speak=True,
    )


class Credential:
    """Of somebody who stays who he is. See the module's text."""

    __slots__ = ("_principal",)

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def now(self) -> Principal:
        """Who its holder is at this moment. DENIED if it is not good any more."""
        return self._principal


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """A session, as one connection (over gRPC: one request) reaches it."""

    session: Session
    credential: Credential
    origin: str = ""  # from where: "unix pid 4711 uid 1000", "tcp 10.1.2.3:40000"
