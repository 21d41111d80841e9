"""Encryption at rest, per volume: its keys, their rotation, and the withdrawal of a volume.

A volume's keys stand wrapped in its settings, the one value that can be read without them:

    id        random, binds the wrapped keys to this volume
    current   number of the key that encrypts what is written from now on
    keys      number -> [name of the master, the wrapped key]
    below     segments below this number hold bytes of older keys; absent: not known yet
    needed    number -> commit, of older keys that nothing in the volume needs since that commit:
              snapshots from before do

Rotating a volume's key adds one. From then on everything is written with it, and `run_once` does
that to what is stored: values where they are, extents by moving them, as compaction does. When
nothing is left the older keys are forgotten, as soon as no snapshot from before needs them. All of
it begins again where it stopped: which key a value was encrypted with stands in the value.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..base.clock import Entropy
from ..base.errors import Conflict, Corrupt, Denied, Invalid, NotFound, PlatformError
from ..engine.base import Storage
from ..engine.ciphers import KEY_BYTES, RUN_BYTES, Keyring
from ..engine.encrypted import EncryptedEngine, encrypted
from ..keyspace import keys
from ..keyspace.records import ROOT_VOLUME, Segment, VolumeRecord, VolumeSettings
from . import compaction
from .keys import Masters, Wrapped
from .rotations import LAST, Rotation
from .units import Request, Unit

if TYPE_CHECKING:
    from .platform import Platform
    from .volumes import Volume

log = logging.getLogger(__name__)

CIPHER = "aes-256-gcm"

RUN_BYTES_MAX = 32 << 20
"""Values that one run looks at, about; and it moves one segment."""

TRIES_MAX = 5
"""Segments of which something stays after so many moves are damaged."""

_ID_BYTES = 16


class State(NamedTuple):
    """What users are told. `cipher` is empty for a volume that is not encrypted."""

    cipher: str = ""
    key: int = 0
    master: str = ""  # that wraps the current key
    rotating: str = ""  # how far a rotation has come


NOT_ENCRYPTED = State()


# ---------------------------------------------------------------- keys


async def new_keys(masters: Masters, entropy: Entropy) -> dict[str, Any]:
    """For a new volume. INVALID without a master key."""
    identity = entropy.token(_ID_BYTES)
    wrapped = await masters.wrap(entropy.token(KEY_BYTES), _context(identity, 1))
    return {"id": identity, "current": 1, "keys": {1: wrapped}}


async def with_keys(
    storage: Storage, settings: VolumeSettings, masters: Masters, entropy: Entropy
) -> tuple[Storage, Keyring | None]:
    """The storage of a volume with these settings as it can be read: itself, or decrypted. DENIED
    without the master key."""
    if not settings.encryption:
        return storage, None
    identity, current, wrapped = _parse(settings)
    plain = await _unwrap_all(masters, identity, wrapped)
    keyring = Keyring(plain, current, entropy.token(RUN_BYTES))
    return encrypted(storage, keyring), keyring


async def stored_settings(storage: Storage) -> VolumeSettings:
    """Of a storage as it was opened. What is no volume has the defaults: opening it says so."""
    value = await storage.engine.get(keys.SETTINGS_KEY)
    return VolumeSettings.unpack(value) if value is not None else VolumeSettings()


def _context(identity: bytes, number: int) -> bytes:
    return b"volume key " + identity + number.to_bytes(4, "big")


def _parse(settings: VolumeSettings) -> tuple[bytes, int, dict[int, Wrapped]]:
    """Nothing authenticates the settings, so they are not trusted to have their form."""
    try:
        found = settings.encryption
        identity, current, wrapped = found["id"], found["current"], found["keys"]
        for number, (name, data) in wrapped.items():
            if not (isinstance(number, int) and isinstance(name, str) and isinstance(data, bytes)):
                raise ValueError(number)
        if current not in wrapped or not isinstance(identity, bytes):
            raise ValueError(current)
        if not 0 < max(wrapped) < 1 << 32:
            raise ValueError(max(wrapped))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt("the volume's wrapped keys are damaged: restore it from a copy") from error
    return identity, current, wrapped


async def _unwrap_all(
    masters: Masters, identity: bytes, wrapped: Mapping[int, Wrapped]
) -> dict[int, bytes]:
    return {
        number: await masters.unwrap(key, _context(identity, number))
        for number, key in wrapped.items()
    }


def engine_of(volume: Volume) -> EncryptedEngine:
    """INVALID for a volume that is not encrypted."""
    engine = volume.storage.engine
    if not isinstance(engine, EncryptedEngine):
        raise Invalid("the volume is not encrypted: that is decided when a volume is created")
    return engine


def state_of(settings: VolumeSettings, rotation: Rotation | None = None) -> State:
    if not settings.encryption:
        return NOT_ENCRYPTED
    try:
        _, current, wrapped = _parse(settings)
    except Corrupt:
        return State(CIPHER)
    rotating = ""
    if _old_keys(settings.encryption):
        rotating = _told(rotation) if rotation is not None else "begins when the volume is opened"
    return State(CIPHER, current, str(wrapped[current][0]), rotating)


def _old_keys(encryption: Mapping[str, Any]) -> list[int]:
    """Keys by which something in the volume itself may be encrypted, the current one apart."""
    needed = encryption.get("needed", {})
    found = encryption.get("keys", {})
    return [number for number in found if number != encryption["current"] and number not in needed]


def _told(rotation: Rotation) -> str:
    if rotation.next is None and rotation.damaged:
        return f"waits: {rotation.damaged} damaged values need the old key, run dp check"
    stuck = sum(tries >= TRIES_MAX for tries in rotation.tries.values())
    if stuck and stuck == rotation.segments_left:
        return f"waits: damaged bytes of {stuck} segments need the old key, run dp check"
    values = f"{rotation.renewed} values encrypted anew"
    if rotation.next is not None:
        return values
    return f"{values}, {rotation.segments_left} segments left"


# ---------------------------------------------------------------- rotating a volume's key


async def rotate_key(platform: Platform, request: Request, volume: Volume) -> None:
    """A new key for everything written from now on; `run_once` sees to the rest. INVALID for a
    volume that is not encrypted, CONFLICT while the last rotation is not done."""
    platform.guard.require_admin(request.principal, "rotate the key of a volume")
    engine_of(volume)
    masters, entropy = platform.masters, platform.entropy
    identity, _, wrapped = _parse(volume.settings)
    number = max(wrapped) + 1
    key = entropy.token(KEY_BYTES)
    new = await masters.wrap(key, _context(identity, number))
    plain = await _unwrap_all(masters, identity, wrapped)

    async def work(unit: Unit) -> None:
        encryption = volume.settings.encryption
        if _old_keys(encryption) or number in encryption["keys"]:
            raise Conflict(
                "the last rotation is not done yet: dp volume info shows how far it is",
                rotating=state_of(volume.settings, volume.rotation).rotating,
            )
        changed = {"id": identity, "current": number}
        changed["keys"] = {**encryption["keys"], number: new}
        if "needed" in encryption:
            changed["needed"] = encryption["needed"]
        _store(unit, changed, plain | {number: key})
        unit.event("volume key rotated", "/", "volume", key=number)

    if volume.settings.mirror:  # its keys are its own, and no commit
        await volume.run_own(work, durable=True)
    else:
        await volume.run(request, work, durable=True)


def _store(unit: Unit, encryption: dict[str, Any], plain: dict[int, bytes] | None = None) -> None:
    """Change the keys in the settings, and, once committed, those that are used."""
    volume = unit.volume
    settings = replace(volume.settings, encryption=encryption)
    unit.put(keys.SETTINGS_KEY, settings.pack())

    def changed(_: int) -> None:
        volume.settings = settings
        if plain is not None and volume.keyring is not None:
            volume.keyring.use(plain, encryption["current"])
            volume.rotation = Rotation()

    unit.on_commit(changed)


async def run_once(volume: Volume) -> bool:
    """Encrypt some of what older keys encrypted anew; whether there is more to do."""
    encryption = volume.settings.encryption
    if len(encryption.get("keys", ())) < 2:
        return False
    if not _old_keys(encryption):
        await _forget_unneeded(volume)
        return False
    rotation = volume.rotation
    if rotation.next is None and rotation.damaged:
        return False  # nothing can be done about those; opening the volume begins again
    if rotation.next is not None:
        await _renew_values(volume, rotation)
    elif not await _move_extents(volume, rotation):
        await _forget_old_keys(volume)
        return False
    return True


async def _renew_values(volume: Volume, rotation: Rotation) -> None:
    engine, looked = engine_of(volume), 0
    while rotation.next is not None and looked < RUN_BYTES_MAX:
        async with volume.lane.between():
            rotation.next, renewed, damaged = await engine.renew(rotation.next, LAST)
        looked += 64 << 10
        rotation.renewed += renewed
        rotation.damaged += len(damaged)
        for key in damaged:
            log.error("volume %d: a damaged value stays: key %s", volume.id, key[:9].hex())


async def _move_extents(volume: Volume, rotation: Rotation) -> bool:
    """Move one segment's extents; whether any older key may still be needed."""
    below = await _below(volume)
    segments = volume.storage.segments
    if segments.open_segment is not None and segments.open_segment < below:
        await segments.seal()
    held_from = compaction.held_from(volume)
    if held_from is not None and held_from < below:
        return True  # what was appended there is about to be named by a commit
    old = [n for n, s in await _accounts(volume) if n < below and s.live_bytes]
    rotation.segments_left = len(old)
    if old:
        turn = min(old, key=lambda number: rotation.tries.get(number, 0))
        if rotation.tries.get(turn, 0) < TRIES_MAX:
            rotation.tries[turn] = rotation.tries.get(turn, 0) + 1
            await compaction.rewrite(volume, turn)
        return True
    await compaction.delete_dead(volume)
    return any(number < below for number, _ in await _accounts(volume))


async def _accounts(volume: Volume) -> list[tuple[int, Segment]]:
    start, end = keys.prefix_range(keys.SEGMENT)
    found: list[tuple[int, Segment]] = []
    while page := await volume.storage.engine.scan(start, end):
        found += [(keys.number_of(key), Segment.unpack(value)) for key, value in page]
        start = page[-1][0] + b"\x00"
    return found


async def _below(volume: Volume) -> int:
    """Sealed once the new key was in use: whatever is appended to later segments is encrypted with
    it, because the key is taken after the segment is chosen."""
    known = volume.settings.encryption.get("below")
    if known is not None:
        return cast(int, known)
    await volume.storage.segments.seal()
    below = max(await volume.storage.segments.sizes(), default=0) + 1

    async def work(unit: Unit) -> None:
        unit.quiet = True
        _store(unit, volume.settings.encryption | {"below": below})

    await volume.run_own(work, durable=True)
    return below


async def _forget_old_keys(volume: Volume) -> None:
    assert volume.keyring is not None

    async def work(unit: Unit) -> None:
        identity, current, wrapped = _parse(volume.settings)
        needed = dict(volume.settings.encryption.get("needed", {}))
        needed |= dict.fromkeys(_old_keys(volume.settings.encryption), unit.commit)
        _store(unit, {"id": identity, "current": current, "keys": wrapped, "needed": needed})
        unit.event("volume key rotation done", "/", "volume", key=current)

    await volume.run_own(work, durable=True)
    await _forget_unneeded(volume)


async def _forget_unneeded(volume: Volume) -> None:
    """Forget older keys that no snapshot needs. While one is being made nobody knows."""
    if not volume.settings.encryption.get("needed") or volume.holds.held_from() == 0:
        return

    done: list[bool] = []

    async def work(unit: Unit) -> None:
        encryption = volume.settings.encryption
        oldest = volume.snapshot_pins.oldest_commit
        needed = {
            number: commit
            for number, commit in encryption["needed"].items()
            if oldest is not None and oldest < commit
        }
        gone = encryption["needed"].keys() - needed.keys()
        if not gone or volume.holds.held_from() == 0:
            return
        left = {n: key for n, key in encryption["keys"].items() if n not in gone}
        changed = {name: value for name, value in encryption.items() if name != "needed"}
        _store(unit, changed | {"keys": left} | ({"needed": needed} if needed else {}))
        done.append(True)

    await volume.run_own(work, durable=True)
    if done:
        assert volume.keyring is not None
        volume.keyring.keep(volume.settings.encryption["keys"].keys())
        log.info("volume %d: nothing is left of its old keys", volume.id)


# ---------------------------------------------------------------- rotating the master key


class Rewrapped(NamedTuple):
    """What a rotation of the master key did."""

    master: str  # that wraps everything now
    volumes: int  # whose keys were wrapped anew
    secrets: int
    unchanged: int
    left: list[str]  # what could not be, and why


async def rotate_master(platform: Platform, request: Request) -> Rewrapped:
    """Read the master keys again and wrap everything with the first of them. It begins again where
    it stopped. INVALID without a master key."""
    platform.guard.require_admin(request.principal, "rotate the master key")
    masters = platform.masters
    masters.reload()
    if not masters:
        await masters.wrap(b"", b"")  # says what to do
    done, unchanged, left = 0, 0, []
    for volume_id in (ROOT_VOLUME, *(r.volume for r in await platform.catalog.records())):
        try:
            if await _rewrap_volume(platform, volume_id):
                done += 1
            else:
                unchanged += 1
        except NotFound:
            continue  # removed, or not made yet
        except PlatformError as error:
            left.append(f"{await platform.catalog.path_for_people(volume_id)}: {error}")
    secrets = 0
    for rewrap in masters.rewrapping:
        secrets += await rewrap()
    return Rewrapped(masters.names[0], done, secrets, unchanged, left)


async def _rewrap_volume(platform: Platform, volume_id: int) -> bool:
    if volume_id in platform.withdrawn:
        return await _rewrap_closed(platform, volume_id)
    volume = await platform.acquire(volume_id)
    try:
        changed = await _rewrapped(platform.masters, volume.settings)
        if changed is None:
            return False
        old = volume.settings.encryption

        async def work(unit: Unit) -> None:
            if volume.settings.encryption["keys"] != old["keys"]:
                raise Conflict("the volume's keys changed meanwhile: try again")
            _store(unit, volume.settings.encryption | {"keys": changed})
            unit.event("volume keys wrapped anew", "/", "volume", master=platform.masters.names[0])

        await volume.run_own(work, durable=True)
    finally:
        platform.release(volume)
    return True


async def _rewrap_closed(platform: Platform, volume_id: int) -> bool:
    """Of a volume that nobody may open: its settings are readable as they are."""
    async with platform.aside(volume_id) as storage:
        settings = await stored_settings(storage)
        changed = await _rewrapped(platform.masters, settings)
        if changed is None:
            return False
        settings.encryption = settings.encryption | {"keys": changed}
        ticket = await storage.engine.commit({keys.SETTINGS_KEY: settings.pack()})
        await storage.engine.durable(ticket)
    return True


async def _rewrapped(masters: Masters, settings: VolumeSettings) -> dict[int, Wrapped] | None:
    """The keys wrapped by the current master; None if all are."""
    if not settings.encryption:
        return None
    identity, _, wrapped = _parse(settings)
    if all(masters.is_current(key) for key in wrapped.values()):
        return None
    plain = await _unwrap_all(masters, identity, wrapped)
    return {n: await masters.wrap(key, _context(identity, n)) for n, key in plain.items()}


# ---------------------------------------------------------------- withdrawing a volume


async def lock(platform: Platform, request: Request, volume_id: int) -> None:
    """Close a volume, and let nobody open it until `unlock`. Locking twice is fine."""
    platform.guard.require_admin(request.principal, "lock a volume")
    if volume_id == ROOT_VOLUME:
        raise Invalid("the root volume cannot be locked: stop the server")
    if volume_id not in platform.withdrawn:
        volume = await platform.acquire(volume_id)
        try:
            engine_of(volume)
        finally:
            platform.release(volume)
    await _set_locked(platform, request, volume_id, is_locked=True)
    await platform.withdraw(volume_id)


async def unlock(platform: Platform, request: Request, volume_id: int) -> None:
    platform.guard.require_admin(request.principal, "unlock a volume")
    await _set_locked(platform, request, volume_id, is_locked=False)
    platform.withdrawn.discard(volume_id)


async def _set_locked(
    platform: Platform, request: Request, volume_id: int, *, is_locked: bool
) -> None:
    path = await platform.catalog.path_for_people(volume_id)

    async def work(unit: Unit) -> int:
        value = await unit.get(keys.volume(volume_id))
        if value is None:
            raise NotFound("no such volume", volume=volume_id)
        record = VolumeRecord.unpack(value)
        record.locked = is_locked
        unit.put(keys.volume(volume_id), record.pack())
        unit.event("volume locked" if is_locked else "volume unlocked", path, "volume")
        return volume_id

    root = await platform.acquire(ROOT_VOLUME)
    try:
        await root.run(request, work, durable=True)
    finally:
        platform.release(root)


def refusal(volume_id: int) -> Denied:
    """What everybody is told about a locked volume."""
    return Denied(
        "the volume is locked, nobody can read it: an administrator may run dp volume unlock",
        volume=volume_id,
    )
