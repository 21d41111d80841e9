"""Who a caller is: found out once, when it comes, and looked at again at every request.

A `Credential` is what a caller has shown: a token, a certificate, the uid at the other end of a
Unix socket, or nothing. What it is worth may change while its connection stays: a token expires or
is revoked, a user is put into a group. So whoever answers a request asks the credential, by `now`,
which costs next to nothing as long as no identity has changed.

Whoever shows something wrong is DENIED, and never taken for somebody who showed nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from dataplatform.base.clock import Clock
from dataplatform.core.identities import Identities
from dataplatform.core.principals import Principal
from dataplatform.core.tokens import refused

from .accounts import account_of
from .sessions import Session

ANONYMOUS = Principal("anonymous")
"""Who shows nothing: has what everybody has, wherever he calls from."""

ROOT_UID = 0

TOKENS_MAX = 10_000
"""Whose signatures are remembered to be good: over gRPC a token comes with every request."""

BEARER = "bearer "


class Credential:
    """See the module's text. `by` says what it is, in a word."""

    __slots__ = ("_credentials", "_expires_ns", "_find", "_generation", "_principal", "by")

    def __init__(
        self, credentials: Credentials, by: str, find: Callable[[], Principal], expires_ns: int = 0
    ) -> None:
        """`find` gives the principal as of now; `expires_ns`: 0 if it never does."""
        self.by = by
        self._credentials = credentials
        self._find = find
        self._expires_ns = expires_ns
        self._generation = credentials.identities.generation
        self._principal = find()

    def now(self) -> Principal:
        """Who its holder is at this moment. DENIED if it is not good any more."""
        credentials = self._credentials
        generation = credentials.identities.generation
        if generation != self._generation or (
            self._expires_ns and credentials.clock.now_ns() >= self._expires_ns
        ):
            self._principal = self._find()
            self._generation = generation
        return self._principal


class Credentials:
    """Makes credentials, of whatever a caller shows."""

    def __init__(self, identities: Identities, clock: Clock, own_uid: int | None = None) -> None:
        self.identities = identities
        self.clock = clock
        self._administrators = {ROOT_UID, os.getuid() if own_uid is None else own_uid}
        self._tokens: OrderedDict[bytes, Credential] = OrderedDict()
        self._accounts: dict[int, Credential] = {}  # by uid; of this minute
        self._minute = 0
        self.nobody = Credential(self, "nothing", lambda: ANONYMOUS)

    def of_token(self, text: str) -> Credential:
        """DENIED, with words that say what is wrong with it."""
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        known = self._tokens.get(digest)
        if known is not None:
            self._tokens.move_to_end(digest)
            known.now()
            return known
        token_id = self.identities.verify(text)
        expires_ns = self.identities.token(token_id).expires_ns
        made = Credential(
            self, "token", lambda: self.identities.principal_of_token(token_id), expires_ns
        )
        self._tokens[digest] = made
        if len(self._tokens) > TOKENS_MAX:
            self._tokens.popitem(last=False)
        return made

    def of_authorization(self, header: str) -> Credential:
        """Of `authorization: Bearer TOKEN` (RFC 6750). DENIED."""
        if header[: len(BEARER)].lower() != BEARER:
            raise refused("only `authorization: Bearer TOKEN` is understood", "malformed")
        return self.of_token(header[len(BEARER) :].strip())

    def of_uid(self, uid: int) -> Credential:
        """Of a process on this machine. DENIED if its user is disabled here."""
        minute = int(self.clock.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._accounts.clear()
        known = self._accounts.get(uid)
        if known is None:
            account = account_of(uid)  # as a process keeps the groups with which it began
            is_admin = uid in self._administrators

            def find() -> Principal:
                return self.identities.principal_of_account(account, is_admin=is_admin)

            known = self._accounts[uid] = Credential(self, "socket", find)
        known.now()
        return known

    def of_certificate(self, name: str) -> Credential:
        """Of a client certificate that our authority signed for this user. DENIED."""
        return Credential(self, "certificate", lambda: self.identities.principal_of_user(name))


@dataclass(slots=True, eq=False)
class Attachment:
    """A session, as one connection (over gRPC: one request) reaches it."""

    session: Session
    credential: Credential
    origin: str = ""  # from where: "unix pid 4711 uid 1000", "tcp 10.1.2.3:40000"
    cluster: str = ""  # a server of this cluster passes on what its own clients ask
    principal: Principal = field(init=False)
    """As whom its requests began that are under way."""

    def __post_init__(self) -> None:
        self.principal = self.credential.now()

    def has_changed(self) -> bool:
        """Whether requests that began before act for somebody who is not the same any more: in
        another group, say. True once for each change. DENIED if the credential is not good now."""
        before, self.principal = self.principal, self.credential.now()
        return before is not self.principal
