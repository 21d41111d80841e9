"""AES-256-GCM as it is stored: the keys of one volume, and what encrypts with them.

    version:1  key:4  run:12  counter:8  ciphertext  tag:16        (on disk: must not change)

A nonce is never used twice with one key, whatever crashes: every opening of a volume draws a random
*run*, derives keys of its own from the volume's key (HKDF-SHA-256 over the run and what the key is
for), and counts from zero. Nothing of that has to be stored before it is used, and neither the
number of openings nor that of writes comes near a limit.

What is encrypted is bound to its place by the associated data: the key of a value, segment and
offset of an extent. Bytes that were moved or exchanged are as damaged as those that were changed.

The only module that knows the cipher; threads may use it at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..base.errors import Corrupt

KEY_BYTES = 32
RUN_BYTES = 12
TAG_BYTES = 16
NONCE_BYTES = 12

_VERSION = 1
_PREFIX = Struct(f">BI{RUN_BYTES}s")  # what tells which key was used
_COUNTER = Struct(">Q")
_NONCE = Struct(">IQ")
HEAD_BYTES = _PREFIX.size + _COUNTER.size
OVERHEAD_BYTES = HEAD_BYTES + TAG_BYTES
"""By how much what is stored is longer."""


class _Writer:
    """What the current key encrypts with. Replaced as a whole, so that threads see one or the
    other."""

    __slots__ = ("aes", "prefix")

    def __init__(self, prefix: bytes, aes: AESGCM) -> None:
        self.prefix = prefix
        self.aes = aes


class Cipher:
    """Encrypts and decrypts for one purpose. Made by `Keyring`."""

    def __init__(self, purpose: bytes, run: bytes) -> None:
        self._purpose = purpose
        self._run = run
        self._counter = itertools.count()  # its `next` is one step, also among threads
        self._keys: dict[int, bytes] = {}
        self._readers: dict[bytes, AESGCM] = {}
        self._writer: _Writer

    def encrypt(self, data: bytes | memoryview, place: bytes) -> bytes:
        writer, count = self._writer, next(self._counter)
        sealed = writer.aes.encrypt(_NONCE.pack(0, count), data, place)
        return writer.prefix + _COUNTER.pack(count) + sealed

    def encrypt_into(self, data: bytes | memoryview, place: bytes, into: memoryview) -> None:
        """Fill `into`, which is OVERHEAD_BYTES longer than the data."""
        writer, count = self._writer, next(self._counter)
        into[: _PREFIX.size] = writer.prefix
        into[_PREFIX.size : HEAD_BYTES] = _COUNTER.pack(count)
        writer.aes.encrypt_into(_NONCE.pack(0, count), data, place, into[HEAD_BYTES:])

    def decrypt(self, stored: bytes, place: bytes) -> bytes:
        """CORRUPT unless it is what was encrypted for this place."""
        prefix = stored[: _PREFIX.size]
        aes = self._readers.get(prefix) or self._reader(prefix)
        nonce = b"\x00\x00\x00\x00" + stored[_PREFIX.size : HEAD_BYTES]
        try:
            return aes.decrypt(nonce, stored[HEAD_BYTES:], place)
        except (InvalidTag, ValueError):
            raise _damaged() from None

    def decrypt_into(self, stored: memoryview, place: bytes, into: memoryview) -> None:
        """As `decrypt`, into memory that is OVERHEAD_BYTES shorter than what is stored."""
        prefix = bytes(stored[: _PREFIX.size])
        aes = self._readers.get(prefix) or self._reader(prefix)
        nonce = b"\x00\x00\x00\x00" + bytes(stored[_PREFIX.size : HEAD_BYTES])
        try:
            aes.decrypt_into(nonce, stored[HEAD_BYTES:], place, into)
        except (InvalidTag, ValueError):
            raise _damaged() from None

    def is_current(self, stored: bytes) -> bool:
        """Whether it was encrypted with the key that is used now."""
        return stored[: _PREFIX.size - RUN_BYTES] == self._writer.prefix[:-RUN_BYTES]

    def use(self, keys: Mapping[int, bytes], current: int) -> None:
        self._keys = dict(keys)
        self._readers = {}
        prefix = _PREFIX.pack(_VERSION, current, self._run)
        self._writer = _Writer(prefix, self._reader(prefix))

    def _reader(self, prefix: bytes) -> AESGCM:
        if len(prefix) < _PREFIX.size:
            raise Corrupt("stored bytes are too short to be encrypted ones")
        version, number, run = _PREFIX.unpack(prefix)
        if version != _VERSION:
            raise Corrupt("stored bytes are not encrypted, though all of this volume are")
        if number not in self._keys:
            raise Corrupt("stored bytes name a key that this volume does not have", key=number)
        info = self._purpose + run
        key = HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(self._keys[number])
        self._readers[prefix] = AESGCM(key)
        return self._readers[prefix]


class Keyring:
    """The keys of one open volume, by number, and what works with them."""

    def __init__(self, keys: Mapping[int, bytes], current: int, run: bytes) -> None:
        """`current` is for whatever is written from now on; `run` is random and new."""
        assert len(run) == RUN_BYTES, len(run)
        self.values = Cipher(b"dataplatform values", run)
        self.extents = Cipher(b"dataplatform extents", run)
        self.use(keys, current)

    def keep(self, numbers: Collection[int]) -> None:
        """Forget all other keys."""
        self.use({number: self._keys[number] for number in numbers}, self.current)

    def use(self, keys: Mapping[int, bytes], current: int) -> None:
        """Other keys from now on."""
        self._keys, self.current = dict(keys), current
        assert all(len(key) == KEY_BYTES for key in keys.values())
        self.values.use(keys, current)
        self.extents.use(keys, current)


def wrap(key: bytes, data: bytes, context: bytes, nonce: bytes) -> bytes:
    """A few bytes encrypted with a key directly, bound to `context`. `nonce` is random; on disk."""
    assert len(nonce) == NONCE_BYTES, len(nonce)
    return nonce + AESGCM(key).encrypt(nonce, data, context)


def unwrap(key: bytes, wrapped: bytes, context: bytes) -> bytes:
    """CORRUPT unless it was wrapped with this key for this context."""
    try:
        return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise Corrupt("a wrapped key cannot be unwrapped: it was damaged or exchanged") from None


def _damaged() -> Corrupt:
    return Corrupt("encrypted bytes were damaged or exchanged: their authentication fails")
