"""Users, groups and tokens of the cluster, and the principals that they make.

They stand in the root volume, are changed in its units, and are all in memory, which is exact: it
changes when the unit is committed, before any other unit. `generation` counts the changes, so that
whoever holds a principal knows by one comparison that it is still what it was.

Only an administrator with all his rights changes them; everybody may see and revoke what is his
own. Names are such that they can stand in access expressions.
"""

from __future__ import annotations

import errno
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..base.errors import (
    Conflict,
    Corrupt,
    Denied,
    Exhausted,
    Exists,
    Invalid,
    NotFound,
    PlatformError,
)
from ..base.names import check_user_name
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_VOLUME,
    GroupRecord,
    Record,
    SigningKeyRecord,
    TokenRecord,
    UserRecord,
)
from .principals import NOBODY, OVERFLOW, Principal
from .tokens import SECRET_BYTES, SigningKey, refused, verify
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .platform import Platform
    from .volumes import Volume

T = TypeVar("T")
R = TypeVar("R", bound=Record)

log = logging.getLogger(__name__)

RESERVED = frozenset(("anonymous", "system"))

FIRST_FREE = 10_000
"""The first uid or gid of those that the operating system does not know."""

NUMBER_MAX = 2**32 - 2
"""Of a uid or gid; the next one means "leave it" to chown(2)."""

USERS_MAX = 100_000
TOKENS_MAX = 100_000
"""All are in memory, at some 500 bytes each."""

TTL_S_MAX = 10 * 365 * 86_400
"""Of a token. One that never ends could never be forgotten, either."""

KEPT_NS = 86_400 * 10**9
"""How long a token that is over stays listed."""

SWEEP_MAX = 1000
"""Tokens that one sweep forgets."""

PRINCIPALS_MAX = 10_000
"""Principals that are remembered, so that the same caller is the same one."""

TOKEN_ID_BYTES = 8

_SIGNING = b"key that signs tokens"  # what its protection is bound to: stored


class Accounts(Protocol):
    """What the server's operating system knows: uid and gid of a new user or group."""

    def uid_of(self, name: str) -> int | None: ...

    def gid_of(self, name: str) -> int | None: ...

    def has_uid(self, uid: int) -> bool: ...

    def has_gid(self, gid: int) -> bool: ...


class NoAccounts:
    def uid_of(self, name: str) -> int | None:
        return None

    def gid_of(self, name: str) -> int | None:
        return None

    def has_uid(self, uid: int) -> bool:
        return False

    def has_gid(self, gid: int) -> bool:
        return False


class Account(NamedTuple):
    """A user of the operating system, at the other end of a Unix socket."""

    name: str  # empty: it has none
    uid: int
    gid: int = NOBODY
    gids: frozenset[int] = frozenset()
    groups: frozenset[str] = frozenset()


class Identities:
    """See the module's text."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.accounts: Accounts = NoAccounts()
        self.generation = 0
        self.on_changed: list[Callable[[], None]] = []
        self._users: dict[str, UserRecord] = {}
        self._groups: dict[str, GroupRecord] = {}
        self._tokens: dict[str, TokenRecord] = {}
        self._keys: dict[str, SigningKey] = {}
        self._names: dict[int, str] = {}  # of users, by uid
        self._principals: OrderedDict[tuple[Any, ...], Principal] = OrderedDict()

    async def load(self, root: Volume) -> None:
        """Read all of it. What cannot be read is logged, and gives nobody any right."""
        self._users = await _read(root, keys.USER, UserRecord)
        self._groups = await _read(root, keys.GROUP, GroupRecord)
        self._tokens = await _read(root, keys.TOKENS, TokenRecord)
        for record in (await _read(root, keys.SIGNING_KEYS, SigningKeyRecord)).values():
            try:
                key = SigningKey(await self._reveal(record))
            except PlatformError as error:
                log.error("a key that signed tokens cannot be read, so they are void: %s", error)
                continue
            self._keys[key.id] = key
        self._platform.masters.rewrapping.append(self._protect_anew)
        self._names = {user.uid: name for name, user in self._users.items()}
        self.generation += 1

    # ---- looking

    def has_user(self, name: str) -> bool:
        return name in self._users

    def has_group(self, name: str) -> bool:
        return name in self._groups

    def user(self, name: str) -> UserRecord:
        """NOT_FOUND."""
        found = self._users.get(name)
        if found is None:
            raise NotFound("there is no such user", user=name)
        return found

    def users(self, principal: Principal) -> list[tuple[str, UserRecord]]:
        """All of them, by name. DENIED to whoever is no administrator."""
        _check_may_look(principal)
        return sorted(self._users.items())

    def group(self, name: str) -> GroupRecord:
        """NOT_FOUND."""
        found = self._groups.get(name)
        if found is None:
            raise NotFound("there is no such group", group=name)
        return found

    def groups(self, principal: Principal) -> list[tuple[str, GroupRecord]]:
        _check_may_look(principal)
        return sorted(self._groups.items())

    def members(self, group: str) -> list[str]:
        return sorted(name for name, user in self._users.items() if group in user.groups)

    def gids_of(self, user: UserRecord) -> list[int]:
        return [self._groups[name].gid for name in user.groups if name in self._groups]

    def token(self, token_id: str) -> TokenRecord:
        """NOT_FOUND."""
        found = self._tokens.get(token_id)
        if found is None:
            raise NotFound("there is no such token", token=token_id)
        return found

    def tokens(self, principal: Principal, user: str = "") -> list[tuple[str, TokenRecord]]:
        """Of one user, or of all that the principal may see; the newest last."""
        if not user and not _may_look(principal):
            user = principal.name
        if user != principal.name or principal.roots:
            _check_may_look(principal)
        found = [(i, t) for i, t in self._tokens.items() if not user or t.user == user]
        return sorted(found, key=lambda pair: (pair[1].issued_ns, pair[0]))

    # ---- principals

    def verify(self, token: str) -> str:
        """The id of a token that is good now. DENIED."""
        token_id, user, ends_s = verify(token, self._keys, self._platform.identity)
        if self._now_s() >= ends_s:
            raise _expired()
        record = self._tokens.get(token_id)
        if record is not None and record.user != user:
            raise refused("the token is not the one that was made", "forged")
        self.principal_of_token(token_id)
        return token_id

    def principal_of_token(self, token_id: str) -> Principal:
        """DENIED if the token was revoked or is over, or its user may not come any more."""
        record = self._tokens.get(token_id)
        if record is None or record.revoked_ns:
            raise refused("the token was revoked", "revoked")
        if self._platform.clock.now_ns() >= record.expires_ns:
            raise _expired()
        return self.principal_of_user(record.user, token_id)

    def principal_of_user(self, name: str, token_id: str = "") -> Principal:
        """The user, with the limits of a token. DENIED if there is no such user any more."""
        user = self._known(name)
        gids = self.gids_of(user)
        token = self._tokens[token_id] if token_id else None
        return self._principal(
            name=name,
            uid=user.uid,
            gid=gids[0] if gids else NOBODY,
            gids=frozenset(gids),
            groups=frozenset(user.groups),
            is_admin=user.is_admin,
            may_speak=token is not None and token.may_speak,
            is_read_only=token is not None and token.is_read_only,
            roots=tuple((volume, inode) for volume, inode in token.roots) if token else (),
            token=token_id,
            scope=_scope(token) if token else "",
        )

    def principal_of_account(self, account: Account, *, is_admin: bool = False) -> Principal:
        """A user of the operating system: the user of the platform with that uid, else with that
        name, as the system knows him; else himself. DENIED if that user is disabled.

        `is_admin`: the system's rights are enough, whoever it is. What is such an account's own
        stays so when a user with its uid is made or removed: its mounts and programs go on.
        """
        if is_admin:
            has_name = account.name and account.name not in RESERVED
            owner_name = account.name if has_name else f"uid:{account.uid}"
        else:
            owner_name = ""
        name = self._names.get(account.uid, account.name)
        user = self._users.get(name)
        if user is not None and not is_admin:
            self._known(name)
        if not name or (user is None and name in RESERVED):
            name = f"uid:{account.uid}"
        return self._principal(
            name=name,
            uid=user.uid if user is not None else account.uid,
            gid=account.gid,
            gids=account.gids.union(self.gids_of(user) if user is not None else ()),
            groups=account.groups.union(user.groups if user is not None else ()),
            is_admin=is_admin or (user is not None and user.is_admin),
            may_speak=is_admin,
            scope="the server's own" if is_admin else "",
            owner_name=owner_name,
        )

    def grant_of(self, principal: Principal) -> dict[str, Any]:
        """What lets `stand_in` make such a principal again."""
        user = self._users.get(principal.name)
        is_user = user is not None and user.uid == principal.uid
        return {
            "user": is_user,
            "uid": principal.uid,
            "gid": principal.gid,
            "gids": sorted(principal.gids),
            "groups": sorted(principal.groups),
            "own": principal.is_admin and not (user is not None and is_user and user.is_admin),
            "roots": [list(root) for root in principal.roots],
        }

    def stand_in(self, name: str, grant: Mapping[str, Any]) -> Principal:
        """Whoever ordered work that goes on without them: a user as he is now, within the subtrees
        of the token that he came with; somebody else as he was. DENIED if there is no such user
        any more."""
        gids, groups = frozenset(grant["gids"]), frozenset(grant["groups"])
        gid, is_admin = grant["gid"], grant["own"]
        if grant["user"]:
            user = self._known(name)
            if user.uid != grant["uid"]:
                raise refused("the user is another one of that name", "revoked", user=name)
            known = self.gids_of(user)
            gid, gids = known[0] if known else NOBODY, frozenset(known)
            groups = frozenset(user.groups)
            is_admin = is_admin or user.is_admin
        return self._principal(
            name=name,
            uid=grant["uid"],
            gid=gid,
            gids=gids,
            groups=groups,
            is_admin=is_admin,
            roots=tuple((volume, inode) for volume, inode in grant["roots"]),
        )

    def find_by_uid(self, uid: int) -> tuple[str, frozenset[str]] | None:
        """Name and groups of the user with this uid, if there is one. DENIED if he is disabled."""
        name = self._names.get(uid)
        return None if name is None else (name, frozenset(self._known(name).groups))

    def find_by_name(self, name: str) -> Principal | None:
        """The user with this name, if there is one. DENIED if he is disabled."""
        return self.principal_of_user(name) if name in self._users else None

    def _known(self, name: str) -> UserRecord:
        user = self._users.get(name)
        if user is None:
            raise refused("the user does not exist", "revoked", user=name)
        if user.is_disabled:
            raise refused("the user is disabled", "revoked", user=name)
        return user

    def _principal(self, **fields: Any) -> Principal:
        """The one that was made before, if nothing about it has changed."""
        content = tuple(fields.items())
        known = self._principals.get(content)
        if known is None:
            known = self._principals[content] = Principal(**fields)
            if len(self._principals) > PRINCIPALS_MAX:
                self._principals.popitem(last=False)
        return known

    # ---- users and groups

    async def create_user(
        self,
        request: Request,
        name: str,
        *,
        uid: int | None = None,
        groups: Sequence[str] = (),
        is_admin: bool = False,
    ) -> str:
        """Without a uid: that of the system's user of this name, else the next free one. EXISTS,
        INVALID, DENIED; NOT_FOUND for a group."""
        _check_name(name)

        def work(unit: Unit) -> str:
            if name in self._users:
                raise Exists("there is such a user already", user=name)
            if len(self._users) >= USERS_MAX:
                raise Exhausted("too many users", limit_users=USERS_MAX)
            number = self._uid_for(name, uid, is_admin)
            self._check_groups(groups)
            record = UserRecord(number, sorted(set(groups)), is_admin, False, unit.now_ns)
            self._put_user(unit, name, record)
            unit.event("user created", "/", "user", name=name, uid=number, admin=is_admin)
            return name

        return await self._change(request, work)

    def _uid_for(self, name: str, uid: int | None, is_admin: bool) -> int:
        if uid is None:
            uid = self.accounts.uid_of(name)
            if uid is None or uid == OVERFLOW or uid in self._names:
                taken = self._names.keys()
                return _free(lambda n: n in taken or self.accounts.has_uid(n))
        _check_number(uid, "uid")
        if uid == 0 and not is_admin:
            raise Invalid("uid 0 is root's: give another one, or make an administrator", user=name)
        if uid in self._names:
            raise Exists("another user has this uid", uid=uid, user=self._names[uid])
        return uid

    async def set_user(
        self,
        request: Request,
        name: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        is_admin: bool | None = None,
        is_disabled: bool | None = None,
    ) -> str:
        """Change a user; None leaves something as it is. A disabled one has no rights at all, and
        his tokens are revoked. NOT_FOUND, DENIED."""

        def work(unit: Unit) -> str:
            old = self.user(name)
            self._check_groups(add)
            record = UserRecord(
                old.uid,
                sorted((set(old.groups) | set(add)) - set(remove)),
                old.is_admin if is_admin is None else is_admin,
                old.is_disabled if is_disabled is None else is_disabled,
                old.created_ns,
            )
            if record.uid == 0 and not record.is_admin:
                raise Invalid("uid 0 is root's: such a user is an administrator", user=name)
            self._put_user(unit, name, record)
            if is_disabled:
                self._revoke(unit, [i for i, t in self._tokens.items() if t.user == name])
            facts = {"groups": " ".join(record.groups), "admin": record.is_admin}
            unit.event("user set", "/", "user", name=name, disabled=record.is_disabled, **facts)
            return name

        return await self._change(request, work)

    async def remove_user(self, request: Request, name: str) -> str:
        """His tokens go with him; what he owns stays his uid's. NOT_FOUND, DENIED."""

        def work(unit: Unit) -> str:
            record = self.user(name)
            gone = [i for i, t in self._tokens.items() if t.user == name]
            unit.delete(keys.user(name))
            for token_id in gone:
                unit.delete(keys.token(token_id))

            def apply() -> None:
                del self._users[name]
                self._names.pop(record.uid, None)
                for token_id in gone:
                    self._tokens.pop(token_id, None)

            self._on_commit(unit, apply)
            unit.event("user removed", "/", "user", name=name, tokens=len(gone))
            return name

        return await self._change(request, work)

    def _put_user(self, unit: Unit, name: str, record: UserRecord) -> None:
        unit.put(keys.user(name), record.pack())

        def apply() -> None:
            self._users[name] = record
            self._names[record.uid] = name

        self._on_commit(unit, apply)

    def _check_groups(self, names: Iterable[str]) -> None:
        for name in names:
            self.group(name)

    async def create_group(self, request: Request, name: str, *, gid: int | None = None) -> str:
        """As `create_user`."""
        _check_name(name, "group")

        def work(unit: Unit) -> str:
            if name in self._groups:
                raise Exists("there is such a group already", group=name)
            if len(self._groups) >= USERS_MAX:
                raise Exhausted("too many groups", limit_groups=USERS_MAX)
            number = self._gid_for(name, gid)
            record = GroupRecord(number, unit.now_ns)
            unit.put(keys.group(name), record.pack())
            self._on_commit(unit, lambda: self._groups.__setitem__(name, record))
            unit.event("group created", "/", "group", name=name, gid=number)
            return name

        return await self._change(request, work)

    def _gid_for(self, name: str, gid: int | None) -> int:
        taken = {group.gid: other for other, group in self._groups.items()}
        if gid is None:
            gid = self.accounts.gid_of(name)
            if gid is None or gid == OVERFLOW or gid in taken:
                return _free(lambda n: n in taken or self.accounts.has_gid(n))
        _check_number(gid, "gid")
        if gid in taken:
            raise Exists("another group has this gid", gid=gid, group=taken[gid])
        return gid

    async def set_group(
        self, request: Request, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> str:
        """Users that belong to the group from now on, or no longer. NOT_FOUND, DENIED."""

        def work(unit: Unit) -> str:
            self.group(name)
            changed = {user: self.user(user) for user in (*remove, *add)}
            for user, old in changed.items():
                groups = set(old.groups) - {name} | ({name} if user in add else set())
                self._put_user(unit, user, _with_groups(old, groups))
            added, removed = " ".join(add), " ".join(remove)
            unit.event("group set", "/", "group", name=name, added=added, removed=removed)
            return name

        return await self._change(request, work)

    async def remove_group(self, request: Request, name: str) -> str:
        """Its users stay, outside of it. NOT_FOUND, DENIED."""

        def work(unit: Unit) -> str:
            self.group(name)
            for user in self.members(name):
                old = self._users[user]
                self._put_user(unit, user, _with_groups(old, set(old.groups) - {name}))
            unit.delete(keys.group(name))
            self._on_commit(unit, lambda: self._groups.pop(name))
            unit.event("group removed", "/", "group", name=name)
            return name

        return await self._change(request, work)

    # ---- tokens

    async def create_token(
        self,
        request: Request,
        user: str,
        *,
        ttl_s: int,
        is_read_only: bool = False,
        may_speak: bool = False,
        roots: Sequence[tuple[int, int]] = (),
        paths: Sequence[str] = (),
    ) -> str:
        """A new token of a user; its id, by which `text_of` gives it. NOT_FOUND, INVALID, DENIED.

        `roots` and `paths`: the subtrees that it is good for, and their names.
        """
        if not 0 < ttl_s <= TTL_S_MAX:
            raise Invalid("a token lives from a second to ten years", ttl_s=ttl_s)
        new = await self._new_key() if not self._keys else None

        def work(unit: Unit) -> str:
            if self.user(user).is_disabled:
                raise Invalid("the user is disabled", user=user)
            if len(self._tokens) >= TOKENS_MAX:
                raise Exhausted("too many tokens", limit_tokens=TOKENS_MAX)
            key = self._signing_key(unit, new)
            token_id = self._platform.entropy.token(TOKEN_ID_BYTES).hex()
            issued_s = unit.now_ns // 10**9
            record = TokenRecord(
                user,
                issued_s * 10**9,
                (issued_s + ttl_s) * 10**9,
                0,
                is_read_only,
                may_speak,
                [list(root) for root in roots],
                list(paths),
                unit.request.principal.name,
                key.id,
            )
            unit.put(keys.token(token_id), record.pack())
            self._on_commit(unit, lambda: self._tokens.__setitem__(token_id, record))
            unit.event("token created", "/", "token", id=token_id, user=user, ttl_s=ttl_s)
            return token_id

        return await self._change(request, work)

    def text_of(self, token_id: str) -> str:
        """The token itself, for whoever has just made it. NOT_FOUND if it is gone meanwhile."""
        record = self.token(token_id)
        key = self._keys.get(record.key)
        if key is None:
            raise NotFound("the key that signed the token was replaced", token=token_id)
        issued_s, expires_s = record.issued_ns // 10**9, record.expires_ns // 10**9
        return key.sign(self._platform.identity, record.user, token_id, issued_s, expires_s)

    async def _new_key(self) -> tuple[SigningKey, bytes]:
        """A key, and its secret as it is stored."""
        secret = self._platform.entropy.token(SECRET_BYTES)
        return SigningKey(secret), await self._protected(secret)

    async def _protected(self, secret: bytes) -> bytes:
        """Under the master key, if there is one; else as it is, which its length tells."""
        masters = self._platform.masters
        return await masters.protect(secret, _SIGNING) if masters else secret

    async def _reveal(self, record: SigningKeyRecord) -> bytes:
        if len(record.secret) == SECRET_BYTES:
            return record.secret
        return await self._platform.masters.reveal(record.secret, _SIGNING)

    async def _protect_anew(self) -> int:
        """The master key was rotated: how many signing keys it protects from now on."""
        masters, root = self._platform.masters, await self._platform.acquire(ROOT_VOLUME)
        count = 0
        try:
            for record in (await _read(root, keys.SIGNING_KEYS, SigningKeyRecord)).values():
                if len(record.secret) != SECRET_BYTES and masters.is_protected(record.secret):
                    continue
                secret = await self._reveal(record)
                key = keys.signing_key(SigningKey(secret).id)
                new = SigningKeyRecord(await self._protected(secret), record.created_ns)

                async def work(unit: Unit, key: bytes = key, packed: bytes = new.pack()) -> None:
                    unit.quiet = True
                    if await unit.get(key) is not None:  # it was not replaced meanwhile
                        unit.put(key, packed)

                await root.run(SYSTEM, work, durable=True)
                count += 1
        finally:
            self._platform.release(root)
        return count

    def _signing_key(self, unit: Unit, new: tuple[SigningKey, bytes] | None) -> SigningKey:
        """The cluster's, made with the first token."""
        for known in self._keys.values():
            return known
        if new is None:
            raise Conflict("the key that signs tokens was replaced just now: try again")
        key, secret = new
        unit.put(keys.signing_key(key.id), SigningKeyRecord(secret, unit.now_ns).pack())
        self._on_commit(unit, lambda: self._keys.__setitem__(key.id, key))
        return key

    async def revoke(self, request: Request, *, token_id: str = "", user: str = "") -> int:
        """One token, or all of a user; how many there were to revoke. NOT_FOUND, DENIED."""

        def work(unit: Unit) -> int:
            principal = unit.request.principal
            if token_id:
                record = self._tokens.get(token_id)
                if record is None or (user and record.user != user):
                    _check_may_change(principal)  # whether it exists is nobody else's business
                    raise NotFound("there is no such token", token=token_id)
                if principal.token != token_id:
                    _check_may_revoke(principal, record.user)
                chosen = [token_id]
            else:
                _check_may_revoke(principal, user)
                self.user(user)
                chosen = [i for i, token in self._tokens.items() if token.user == user]
            return self._revoke(unit, chosen)

        return await self._change(request, work, checked=True)

    async def revoke_all(self, request: Request) -> int:
        """Every token, by replacing the key that signed them: for when that may be known."""

        def work(unit: Unit) -> int:
            count = self._revoke(unit, list(self._tokens))
            for key_id in self._keys:
                unit.delete(keys.signing_key(key_id))
            self._on_commit(unit, self._keys.clear)
            unit.event("signing key replaced", "/", "token", tokens=count)
            return count

        return await self._change(request, work)

    def _revoke(self, unit: Unit, token_ids: Iterable[str]) -> int:
        count = 0
        for token_id in token_ids:
            old = self._tokens[token_id]
            if old.revoked_ns:
                continue
            record = TokenRecord(*old.fields())
            record.revoked_ns = unit.now_ns
            unit.put(keys.token(token_id), record.pack())
            self._on_commit(unit, _setter(self._tokens, token_id, record))
            unit.event("token revoked", "/", "token", id=token_id, user=old.user)
            count += 1
        return count

    async def run_once(self) -> int:
        """Forget tokens that have been over for a day; how many."""
        before_ns = self._platform.clock.now_ns() - KEPT_NS
        over = [i for i, token in self._tokens.items() if _over_ns(token) < before_ns][:SWEEP_MAX]
        if not over:
            return 0

        def work(unit: Unit) -> int:
            unit.quiet = True
            gone = [i for i in over if i in self._tokens]
            for token_id in gone:
                unit.delete(keys.token(token_id))
                self._on_commit(unit, _remover(self._tokens, token_id))
            return len(gone)

        return await self._change(SYSTEM, work, durable=False)

    # ---- units

    async def _change(
        self,
        request: Request,
        work: Callable[[Unit], T],
        *,
        checked: bool = False,
        durable: bool = True,
    ) -> T:
        """Run it in the root volume. `checked`: it asks itself whether the principal may."""

        async def checking(unit: Unit) -> T:
            if not checked:
                _check_may_change(unit.request.principal)
            return work(unit)

        if not checked:
            _check_may_change(request.principal)  # of a retry, too
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            return await root.run(request, checking, durable=durable)
        finally:
            self._platform.release(root)

    def _on_commit(self, unit: Unit, apply: Callable[[], object]) -> None:
        def committed(_: int) -> None:
            apply()
            self.generation += 1
            for changed in self.on_changed:
                changed()

        unit.on_commit(committed)

    def _now_s(self) -> int:
        return self._platform.clock.now_ns() // 10**9


def _may_look(principal: Principal) -> bool:
    return principal.is_admin and not principal.roots


def _check_may_look(principal: Principal) -> None:
    if not _may_look(principal):
        raise Denied(
            "only an administrator sees the identities of others",
            user=principal.name,
            errno=errno.EPERM,
        )


def _check_may_change(principal: Principal) -> None:
    if not principal.is_free:
        raise Denied(
            "only an administrator changes identities, with a credential that is not limited",
            user=principal.name,
            errno=errno.EPERM,
        )


def _check_may_revoke(principal: Principal, user: str) -> None:
    own = user == principal.name and not principal.is_read_only and not principal.roots
    if not own:
        _check_may_change(principal)


def _check_name(name: str, what: str = "user") -> None:
    check_user_name(name, what)
    if name in RESERVED:
        raise Invalid("this name has a meaning already: choose another", name=name)


def _check_number(number: int, what: str) -> None:
    if not 0 <= number <= NUMBER_MAX or number == OVERFLOW:
        raise Invalid(f"this cannot be a {what}", **{what: number})


def _free(is_taken: Callable[[int], bool]) -> int:
    number = FIRST_FREE
    while number == OVERFLOW or is_taken(number):
        number += 1
    return number


def _with_groups(old: UserRecord, groups: Iterable[str]) -> UserRecord:
    return UserRecord(old.uid, sorted(groups), old.is_admin, old.is_disabled, old.created_ns)


def _over_ns(token: TokenRecord) -> int:
    return token.revoked_ns or token.expires_ns


def _scope(token: TokenRecord) -> str:
    parts = []
    if token.is_read_only:
        parts.append("read-only")
    if token.may_speak:
        parts.append("speaking")
    if token.roots:
        parts.append("below " + " ".join(f"{v}:{i}" for v, i in sorted(map(tuple, token.roots))))
    return ", ".join(parts)


def _expired() -> Denied:
    return refused("the token has expired: make a new one", "expired")


def _setter(table: dict[str, T], key: str, value: T) -> Callable[[], None]:
    return lambda: table.__setitem__(key, value)


def _remover(table: dict[str, T], key: str) -> Callable[[], object]:
    return lambda: table.pop(key, None)


async def _read(root: Volume, prefix: bytes, kind: type[R]) -> dict[str, R]:
    """Records by what stands behind the prefix."""
    found: dict[str, R] = {}
    try:
        async for key, value in scan_all(root.storage.engine, *keys.prefix_range(prefix)):
            try:
                found[key[len(prefix) :].decode("utf-8", "replace")] = kind.unpack(value)
            except Corrupt as error:
                log.error("an identity cannot be read: run dp check: %s", error)
    except Corrupt as error:
        log.error("the identities cannot be read to their end: run dp check: %s", error)
    return found
