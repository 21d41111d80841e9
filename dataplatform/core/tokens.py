"""Tokens: what a caller shows over a network to be a user.

A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037). It names a user, its end, and the record
under its id (`jti`), which says what it is good for and whether it was revoked. The algorithm is
fixed: what a token says about it is only compared. Issuer and audience are the store's identity, so
a token of another cluster is good for nothing here.

Whatever is wrong is DENIED with words that say which, and a fact `credential` in one word, so that
a client may try another token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..base.errors import Denied

ALGORITHM = "EdDSA"
SECRET_BYTES = 32
TOKEN_CHARACTERS_MAX = 4096
"""What a token may have that is looked at; ours have some 400."""

_CLAIMS = ("iss", "aud", "sub", "jti", "iat", "exp")


def refused(why: str, word: str, **facts: Any) -> Denied:
    return Denied(why, credential=word, **facts)


class SigningKey:
    """An Ed25519 key and its id: the thumbprint of its public half."""

    __slots__ = ("_private", "_public", "id")

    def __init__(self, secret: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self._public = self._private.public_key()
        public = self._public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = hashlib.sha256(public).hexdigest()[:16]

    def sign(self, store: bytes, user: str, token_id: str, issued_s: int, expires_s: int) -> str:
        """The token. The same claims give the same token (RFC 8032: signatures are determined)."""
        claims = {
            "iss": store.hex(),
            "aud": store.hex(),
            "sub": user,
            "jti": token_id,
            "iat": issued_s,
            "exp": expires_s,
        }
        return jwt.encode(claims, self._private, algorithm=ALGORITHM, headers={"kid": self.id})

    def verify(self, token: str, store: bytes) -> dict[str, Any]:
        """The claims. DENIED. When it ends is for whoever has the clock to say."""
        options: Any = {
            "require": list(_CLAIMS),
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
        }
        try:
            return jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                audience=store.hex(),
                issuer=store.hex(),
                options=options,
            )
        except jwt.InvalidSignatureError:
            raise refused("the token's signature is wrong: it was changed", "forged") from None
        except jwt.InvalidAlgorithmError:
            raise _wrong_algorithm() from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise _of_another() from None
        except jwt.PyJWTError:
            raise _no_token() from None


def verify(token: str, keys: Mapping[str, SigningKey], store: bytes) -> tuple[str, str, int]:
    """(id, user, end in seconds since the epoch) of a token that one of our keys signed. DENIED."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise _no_token()
    try:
        head = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise _no_token() from None
    if head.get("alg") != ALGORITHM:
        raise _wrong_algorithm()
    key = keys.get(str(head.get("kid")))
    if key is None:
        raise _of_another()
    claims = key.verify(token, store)
    token_id, user, ends_s = claims["jti"], claims["sub"], claims["exp"]
    if not (isinstance(token_id, str) and isinstance(user, str) and type(ends_s) is int):
        raise _no_token()
    return token_id, user, ends_s


def _no_token() -> Denied:
    return refused("this is no token: make one with `dp token create`", "malformed")


def _wrong_algorithm() -> Denied:
    return refused("the token is signed by another algorithm than EdDSA", "forged")


def _of_another() -> Denied:
    return refused(
        "the token is of another cluster, or its signing key was replaced: make a new one",
        "foreign",
    )
