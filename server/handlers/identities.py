"""Identities.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import GroupRecord, TokenRecord, UserRecord

from ..dispatch import Call, rpc
from .namespace import done

MS = 1000


def _user(name: str, record: UserRecord) -> pb.User:
    return pb.User(
        name=name,
        uid=record.uid,
        groups=record.groups,
        admin=record.is_admin,
        disabled=record.is_disabled,
        created_ns=record.created_ns,
    )


def _group(call: Call, name: str, record: GroupRecord) -> pb.UserGroup:
    users = call.platform.identities.members(name)
    return pb.UserGroup(name=name, gid=record.gid, users=users, created_ns=record.created_ns)


def _token(token_id: str, record: TokenRecord) -> pb.Token:
    return pb.Token(
        id=token_id,
        user=record.user,
        issued_ns=record.issued_ns,
        expires_ns=record.expires_ns,
        revoked_ns=record.revoked_ns,
        read_only=record.is_read_only,
        speak=record.may_speak,
        paths=record.paths,
        issuer=record.issuer,
    )


def _made_user(call: Call, message: Any, volume: Volume | None, stored: str) -> pb.User:
    return _user(stored, call.platform.identities.user(stored))


def _made_group(call: Call, message: Any, volume: Volume | None, stored: str) -> pb.UserGroup:
    return _group(call, stored, call.platform.identities.group(stored))


def _made_token(
    call: Call, message: Any, volume: Volume | None, stored: str
) -> pb.CreateTokenReply:
    identities = call.platform.identities
    info = _token(stored, identities.token(stored))
    return pb.CreateTokenReply(info=info, token=identities.text_of(stored))


def _revoked(call: Call, message: Any, volume: Volume | None, stored: int) -> pb.RevokeTokensReply:
    return pb.RevokeTokensReply(revoked=stored)


@rpc("Identities.CreateUser", answer=_made_user)
async def create_user(call: Call, message: pb.CreateUserRequest, data: Any) -> pb.User:
    stored = await call.platform.identities.create_user(
        call.request(message),
        message.name,
        uid=message.uid if message.HasField("uid") else None,
        groups=message.groups,
        is_admin=message.admin,
    )
    return _made_user(call, message, None, stored)


@rpc("Identities.SetUser", answer=_made_user)
async def set_user(call: Call, message: pb.SetUserRequest, data: Any) -> pb.User:
    stored = await call.platform.identities.set_user(
        call.request(message),
        message.name,
        add=message.add,
        remove=message.remove,
        is_admin=message.admin if message.HasField("admin") else None,
        is_disabled=message.disabled if message.HasField("disabled") else None,
    )
    return _made_user(call, message, None, stored)


@rpc("Identities.RemoveUser", answer=done)
async def remove_user(call: Call, message: pb.IdentityRequest, data: Any) -> pb.Empty:
    await call.platform.identities.remove_user(call.request(message), message.name)
    return pb.Empty()


@rpc("Identities.Users")
async def users(call: Call, message: pb.Empty, data: Any) -> pb.UsersReply:
    found = call.platform.identities.users(call.principal)
    return pb.UsersReply(users=[_user(name, record) for name, record in found])


@rpc("Identities.CreateGroup", answer=_made_group)
async def create_group(call: Call, message: pb.CreateGroupRequest, data: Any) -> pb.UserGroup:
    gid = message.gid if message.HasField("gid") else None
    stored = await call.platform.identities.create_group(
        call.request(message), message.name, gid=gid
    )
    return _made_group(call, message, None, stored)


@rpc("Identities.SetGroup", answer=_made_group)
async def set_group(call: Call, message: pb.SetGroupRequest, data: Any) -> pb.UserGroup:
    stored = await call.platform.identities.set_group(
        call.request(message), message.name, add=message.add, remove=message.remove
    )
    return _made_group(call, message, None, stored)


@rpc("Identities.RemoveGroup", answer=done)
async def remove_group(call: Call, message: pb.IdentityRequest, data: Any) -> pb.Empty:
    await call.platform.identities.remove_group(call.request(message), message.name)
    return pb.Empty()


@rpc("Identities.Groups")
async def groups(call: Call, message: pb.Empty, data: Any) -> pb.UserGroupsReply:
    found = call.platform.identities.groups(call.principal)
    return pb.UserGroupsReply(groups=[_group(call, name, record) for name, record in found])


@rpc("Identities.CreateToken", answer=_made_token)
async def create_token(
    call: Call, message: pb.CreateTokenRequest, data: Any
) -> pb.CreateTokenReply:
    nodes = [await call.node(pb.Target(path=path)) for path in message.paths]
    stored = await call.platform.identities.create_token(
        call.request(message),
        message.user,
        ttl_s=-(-message.ttl_ms // MS),
        is_read_only=message.read_only,
        may_speak=message.speak,
        roots=[(node.volume.id, node.inode.number) for node in nodes],
        paths=[await call.platform.path_of(n.volume, n.inode.number) for n in nodes],
    )
    return _made_token(call, message, None, stored)


@rpc("Identities.Tokens")
async def tokens(call: Call, message: pb.TokensRequest, data: Any) -> pb.TokensReply:
    found = call.platform.identities.tokens(call.principal, message.user)
    return pb.TokensReply(tokens=[_token(token_id, record) for token_id, record in found])


@rpc("Identities.RevokeTokens", answer=_revoked)
async def revoke_tokens(
    call: Call, message: pb.RevokeTokensRequest, data: Any
) -> pb.RevokeTokensReply:
    if not (message.id or message.user or message.everything):
        raise Invalid("say which tokens: one by its id, or all of a user")
    identities, request = call.platform.identities, call.request(message)
    if message.everything:
        return _revoked(call, message, None, await identities.revoke_all(request))
    count = await identities.revoke(request, token_id=message.id, user=message.user)
    return _revoked(call, message, None, count)


@rpc("Identities.WhoAmI")
async def who_am_i(call: Call, message: pb.Empty, data: Any) -> pb.WhoAmIReply:
    principal = call.principal
    record = call.platform.identities.token(principal.token) if principal.token else None
    return pb.WhoAmIReply(
        name=principal.name,
        uid=principal.uid,
        gids=sorted(principal.gids),
        groups=sorted(principal.groups),
        admin=principal.is_admin,
        speak=principal.may_speak,
        read_only=principal.is_read_only,
        paths=record.paths if record is not None else (),
        token=principal.token,
        expires_ns=record.expires_ns if record is not None else 0,
        by=call.credential.by,
    )
