"""Users, groups and tokens of the cluster, and who one is. Synchronous."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ..identities import TTL
from ..runtime import run
from ..values import Identity, NewToken, TokenInfo, UserGroupInfo, UserInfo
from .base import Operations


class IdentityOperations(Operations):
    """For administrators, apart from `whoami` and one's own tokens; Denied for others."""

    def create_user(
        self,
        name: str,
        *,
        uid: int | None = None,
        groups: Sequence[str] = (),
        admin: bool = False,
    ) -> UserInfo:
        """A new user: letters, digits and `. _ - @`.

        Without `uid`: that of the server's system for this name, else the next free one from
        10000. An `admin` may do everything. Raises Exists, Invalid, NotFound (a group).
        """
        return run(self._aio.create_user(name, uid=uid, groups=groups, admin=admin))

    def users(self) -> list[UserInfo]:
        """Every user, by name."""
        return run(self._aio.users())

    def set_user(
        self,
        name: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        admin: bool | None = None,
        disabled: bool | None = None,
    ) -> UserInfo:
        """Put a user into groups and out of them, and so on; None leaves something as it is.

        A disabled user may do nothing, at once, and his tokens are revoked for good.
        """
        changed = self._aio.set_user(name, add=add, remove=remove, admin=admin, disabled=disabled)
        return run(changed)

    def remove_user(self, name: str) -> None:
        """Remove a user and his tokens. What he owns stays, and is owned by his uid."""
        run(self._aio.remove_user(name))

    def create_group(self, name: str, *, gid: int | None = None) -> UserGroupInfo:
        """A new group of users; the gid as the uid of `create_user`."""
        return run(self._aio.create_group(name, gid=gid))

    def groups(self) -> list[UserGroupInfo]:
        """Every group of users, by name."""
        return run(self._aio.groups())

    def set_group(
        self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> UserGroupInfo:
        """Users that belong to the group from now on, and that do not any more."""
        return run(self._aio.set_group(name, add=add, remove=remove))

    def remove_group(self, name: str) -> None:
        """Remove a group; its users stay."""
        run(self._aio.remove_group(name))

    def create_token(
        self,
        user: str,
        *,
        ttl: timedelta = TTL,
        read_only: bool = False,
        paths: Sequence[str] = (),
        speak: bool = False,
    ) -> NewToken:
        """A token, by which its holder is `user` for as long as `ttl`. It is in `.token` of what
        this returns, and nowhere else: the server does not keep it.

        `read_only`: it allows no change. `paths`: it is good for these subtrees only. `speak`: its
        holder may say whom a request is for, as a mount that many users share has to.
        """
        made = self._aio.create_token(user, ttl=ttl, read_only=read_only, paths=paths, speak=speak)
        return run(made)

    def tokens(self, user: str | None = None) -> list[TokenInfo]:
        """The tokens of a user; of everybody, or, for who is no administrator, one's own."""
        return run(self._aio.tokens(user))

    def revoke_tokens(
        self, id: str | None = None, *, user: str | None = None, everything: bool = False
    ) -> int:
        """Revoke one token, or all of a user, or `everything` by a new signing key; how many. It
        takes effect at once, on open connections too. Everybody may revoke what is his own."""
        return run(self._aio.revoke_tokens(id, user=user, everything=everything))

    def whoami(self) -> Identity:
        """Who this connection acts for."""
        return run(self._aio.whoami())
