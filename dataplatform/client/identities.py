"""Users, groups and tokens: made, listed, changed, removed; and who one is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .messages import build
from .values import Identity, NewToken, TokenInfo, UserGroupInfo, UserInfo

CREATE_USER = METHODS["Identities.CreateUser"]
SET_USER = METHODS["Identities.SetUser"]
REMOVE_USER = METHODS["Identities.RemoveUser"]
USERS = METHODS["Identities.Users"]
CREATE_GROUP = METHODS["Identities.CreateGroup"]
SET_GROUP = METHODS["Identities.SetGroup"]
REMOVE_GROUP = METHODS["Identities.RemoveGroup"]
GROUPS = METHODS["Identities.Groups"]
CREATE_TOKEN = METHODS["Identities.CreateToken"]
TOKENS = METHODS["Identities.Tokens"]
REVOKE_TOKENS = METHODS["Identities.RevokeTokens"]
WHO_AM_I = METHODS["Identities.WhoAmI"]

TTL = timedelta(hours=12)
"""Of a token, unless told otherwise."""


def user_of(user: pb.User) -> UserInfo:
    return UserInfo(
        name=user.name,
        uid=user.uid,
        groups=tuple(user.groups),
        admin=user.admin,
        disabled=user.disabled,
        created_ns=user.created_ns,
    )


def group_of(group: pb.UserGroup) -> UserGroupInfo:
    return UserGroupInfo(group.name, group.gid, tuple(group.users), group.created_ns)


def token_of(token: pb.Token) -> TokenInfo:
    is_over = time.time_ns() >= token.expires_ns
    return TokenInfo(
        id=token.id,
        user=token.user,
        issued_ns=token.issued_ns,
        expires_ns=token.expires_ns,
        revoked_ns=token.revoked_ns,
        read_only=token.read_only,
        speak=token.speak,
        paths=tuple(token.paths),
        issuer=token.issuer,
        state="revoked" if token.revoked_ns else "expired" if is_over else "good",
    )


class IdentityOperations(Operations):
    async def create_user(
        self,
        name: str,
        *,
        uid: int | None = None,
        groups: Sequence[str] = (),
        admin: bool = False,
    ) -> UserInfo:
        request = build(pb.CreateUserRequest, name=name, uid=uid, groups=groups, admin=admin)
        return user_of((await self._channel.call(CREATE_USER, request))[0])

    async def users(self) -> list[UserInfo]:
        reply, _ = await self._channel.call(USERS, pb.Empty())
        return [user_of(user) for user in reply.users]

    async def set_user(
        self,
        name: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        admin: bool | None = None,
        disabled: bool | None = None,
    ) -> UserInfo:
        request = build(
            pb.SetUserRequest, name=name, add=add, remove=remove, admin=admin, disabled=disabled
        )
        return user_of((await self._channel.call(SET_USER, request))[0])

    async def remove_user(self, name: str) -> None:
        await self._channel.call(REMOVE_USER, build(pb.IdentityRequest, name=name))

    async def create_group(self, name: str, *, gid: int | None = None) -> UserGroupInfo:
        request = build(pb.CreateGroupRequest, name=name, gid=gid)
        return group_of((await self._channel.call(CREATE_GROUP, request))[0])

    async def groups(self) -> list[UserGroupInfo]:
        reply, _ = await self._channel.call(GROUPS, pb.Empty())
        return [group_of(group) for group in reply.groups]

    async def set_group(
        self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> UserGroupInfo:
        request = build(pb.SetGroupRequest, name=name, add=add, remove=remove)
        return group_of((await self._channel.call(SET_GROUP, request))[0])

    async def remove_group(self, name: str) -> None:
        await self._channel.call(REMOVE_GROUP, build(pb.IdentityRequest, name=name))

    async def create_token(
        self,
        user: str,
        *,
        ttl: timedelta = TTL,
        read_only: bool = False,
        paths: Sequence[str] = (),
        speak: bool = False,
    ) -> NewToken:
        request = build(
            pb.CreateTokenRequest,
            user=user,
            ttl_ms=ttl // timedelta(milliseconds=1),
            read_only=read_only,
            paths=paths,
            speak=speak,
        )
        reply, _ = await self._channel.call(CREATE_TOKEN, request)
        return NewToken(reply.token, token_of(reply.info))

    async def tokens(self, user: str | None = None) -> list[TokenInfo]:
        request = build(pb.TokensRequest, user=user)
        reply, _ = await self._channel.call(TOKENS, request)
        return [token_of(token) for token in reply.tokens]

    async def revoke_tokens(
        self, id: str | None = None, *, user: str | None = None, everything: bool = False
    ) -> int:
        request = build(pb.RevokeTokensRequest, id=id, user=user, everything=everything)
        reply, _ = await self._channel.call(REVOKE_TOKENS, request)
        return int(reply.revoked)

    async def whoami(self) -> Identity:
        reply: pb.WhoAmIReply
        reply, _ = await self._channel.call(WHO_AM_I, pb.Empty())
        return Identity(
            name=reply.name,
            uid=reply.uid,
            gids=tuple(reply.gids),
            groups=tuple(reply.groups),
            admin=reply.admin,
            speak=reply.speak,
            read_only=reply.read_only,
            paths=tuple(reply.paths),
            token=reply.token,
            expires_ns=reply.expires_ns,
            by=reply.by,
        )
