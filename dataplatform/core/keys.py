"""Master keys: they wrap the keys of volumes, and other secrets that are stored.

A server has none, one, or several while one is being replaced: the first wraps whatever is wrapped
from now on, each unwraps what it wrapped. What is wrapped is bound to a context, so that nothing
wrapped can be put in the place of something else.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Sequence

import msgpack

from ..base.clock import Entropy, SystemEntropy
from ..base.errors import Corrupt, Denied, Invalid
from ..base.masterkeys import MasterKey
from ..engine import ciphers

Wrapped = list[str | bytes]
"""Which master wrapped it, and what it made of it. Stored."""

_PLAIN, _PROTECTED = b"\x00", b"\x01"  # first byte of a protected secret: stored


class Master(abc.ABC):
    """One master key, here or in somebody else's keeping."""

    name: str
    """Tells it from others; stored with what it wrapped."""

    @abc.abstractmethod
    async def wrap(self, key: bytes, context: bytes) -> bytes: ...

    @abc.abstractmethod
    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """CORRUPT if it was not wrapped by this master for this context."""


class LocalMaster(Master):
    """A key in our memory."""

    def __init__(self, key: MasterKey, entropy: Entropy) -> None:
        self.name = key.fingerprint
        self._key = key.key
        self._entropy = entropy

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        nonce = self._entropy.token(ciphers.NONCE_BYTES)
        return ciphers.wrap(self._key, key, context, nonce)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return ciphers.unwrap(self._key, wrapped, context)


class Masters:
    """The master keys of a server."""

    def __init__(
        self,
        load: Callable[[], Sequence[Master]] = tuple,
        entropy: Entropy | None = None,
    ) -> None:
        """`load` reads them from wherever they are kept; it may raise what it likes."""
        self._load = load
        self._entropy = entropy or SystemEntropy()
        self._masters: list[Master] = list(load())
        self.rewrapping: list[Callable[[], Awaitable[int]]] = []
        """Called when the master key was rotated: each wraps anew what it keeps (see `rewrap` and
        `is_current`), and says how many that were."""

    def __bool__(self) -> bool:
        return bool(self._masters)

    def reload(self) -> None:
        """Read them again."""
        self._masters = list(self._load())

    @property
    def names(self) -> list[str]:
        """The first is the one that wraps."""
        return [master.name for master in self._masters]

    async def wrap(self, key: bytes, context: bytes) -> Wrapped:
        """INVALID, saying what to do, without a master key."""
        if not self._masters:
            raise Invalid(
                "this server has no master key: make one with dp keys create-master FILE, then "
                "start the server with --master-key-file FILE"
            )
        master = self._masters[0]
        return [master.name, await master.wrap(key, context)]

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """DENIED if the server does not have the master key, CORRUPT if it does not fit."""
        name, data = wrapped
        for master in self._masters:
            if master.name == name:
                return await master.unwrap(bytes(data), context)  # type: ignore[arg-type]
        raise Denied(
            "the key is wrapped by a master key that this server does not have: start it with "
            "--master-key-file, DP_MASTER_KEY or --master-key-command",
            master=str(name),
        )

    def is_current(self, wrapped: Wrapped) -> bool:
        return bool(self._masters) and wrapped[0] == self._masters[0].name

    # ---- other secrets

    async def protect(self, secret: bytes, context: bytes) -> bytes:
        """The secret as it may be stored: encrypted with a key of its own that the master wraps,
        or as it is if there is no master."""
        if not self._masters:
            return _PLAIN + secret
        key = self._entropy.token(ciphers.KEY_BYTES)
        wrapped = await self.wrap(key, context)
        nonce = self._entropy.token(ciphers.NONCE_BYTES)
        packed: bytes = msgpack.packb([wrapped, ciphers.wrap(key, secret, context, nonce)])
        return _PROTECTED + packed

    async def reveal(self, stored: bytes, context: bytes) -> bytes:
        """What `protect` was given. DENIED without its master key, CORRUPT."""
        if stored[:1] == _PLAIN:
            return stored[1:]
        wrapped, data = _protected(stored)
        return ciphers.unwrap(await self.unwrap(wrapped, context), data, context)

    def is_protected(self, stored: bytes) -> bool:
        """Whether the master that wraps now protects it: else it is to be protected again."""
        if stored[:1] == _PLAIN:
            return not self._masters
        return self.is_current(_protected(stored)[0])


def _protected(stored: bytes) -> tuple[Wrapped, bytes]:
    try:
        if stored[:1] != _PROTECTED:
            raise ValueError("unknown form")
        wrapped, data = msgpack.unpackb(stored[1:])
        name, key = wrapped
        if not (isinstance(name, str) and isinstance(key, bytes) and isinstance(data, bytes)):
            raise ValueError("unknown form")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corrupt("a protected secret cannot be read") from error
    return wrapped, data
