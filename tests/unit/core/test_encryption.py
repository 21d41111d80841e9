"""Encrypted volumes: what the disk sees, keys, rotation, withdrawal."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Conflict, Corrupt, Denied, Invalid, NotFound
from dataplatform.base.masterkeys import format_key, master_key, parse_keys
from dataplatform.core import compaction, damages, encryption, files, namespace
from dataplatform.core.check import check_platform
from dataplatform.core.keys import LocalMaster, Master, Masters
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    Kind,
    SigningKeyRecord,
    VolumeSettings,
)
from tests.checking import assert_clean

OLD, NEW = master_key(b"o" * 32), master_key(b"n" * 32)


class World:
    """A disk, the master keys that are configured, and a platform on both."""

    def __init__(self, seed: int) -> None:
        self.disk = MemoryDisk()
        self.keys: list[Any] = [OLD]
        self.seed = seed
        self.rng = random.Random(seed)
        self.starts = 0
        self.platform: Platform
        self.storages: MemoryStorages

    def load(self) -> Sequence[Master]:
        return [LocalMaster(key, SeededEntropy(self.seed)) for key in self.keys]

    async def start(self, **options: Any) -> Platform:
        self.starts += 1
        entropy = SeededEntropy(self.seed * 1000 + self.starts)
        self.storages = MemoryStorages(self.disk, segment_bytes=1 << 20)
        self.platform = await Platform.start(
            self.storages,
            clock=ManualClock(),
            entropy=entropy,
            masters=Masters(self.load, entropy),
            **options,
        )
        return self.platform

    async def restart(self, **options: Any) -> Platform:
        await self.platform.close()
        return await self.start(**options)

    async def cut_power(self) -> Platform:
        self.storages.crash(self.rng)
        self.disk.owner = None
        return await self.start()

    async def end(self) -> None:
        await assert_clean(self.platform)
        await self.platform.close()

    async def create(self, path: str, **settings: Any) -> int:
        at = await self.platform.locate_name(path)
        try:
            return await self.platform.catalog.create(
                SYSTEM, at, VolumeSettings(**settings), encrypt=True
            )
        finally:
            self.platform.release(at.volume)

    def stored(self) -> bytes:
        """Everything that the disk has."""
        parts: list[bytes] = []
        for volume in self.disk.volumes.values():
            for key, value in volume.rows.items():
                parts += [key, value]
            parts += [bytes(segment.data) for segment in volume.segments.values()]
        return b"\x00".join(parts)


def signing_keys(world: World) -> list[SigningKeyRecord]:
    rows = world.disk.volumes[ROOT_VOLUME].rows
    start, end = keys.prefix_range(keys.SIGNING_KEYS)
    return [SigningKeyRecord.unpack(v) for k, v in rows.items() if start <= k < end]


async def write(volume: Volume, name: str, data: bytes) -> int:
    async def work(unit: Unit) -> int:
        return await namespace.create(unit, ROOT_INODE, name, Attributes(Kind.FILE))

    number = await volume.run(SYSTEM, work, durable=False)
    for start in range(0, len(data), 1 << 20):
        await files.write(
            volume, SYSTEM, number, start, data[start : start + (1 << 20)], durable=False
        )
    await volume.sync()
    return number


async def read(volume: Volume, number: int, size: int) -> bytes:
    parts: list[Any] = []
    for start in range(0, size, 1 << 20):
        parts += (await files.read(volume, number, start, min(1 << 20, size - start))).parts
    return b"".join(parts)


SMALL, LARGE = b"a small secret " * 100, b"a large secret " * 300_000


@pytest.fixture
def world(seed: int) -> World:
    return World(seed)


async def test_nothing_written_is_readable_on_the_disk(world: World) -> None:
    await world.start()
    volume = await world.platform.acquire(await world.create("/v"))
    small, large = await write(volume, "small", SMALL), await write(volume, "large", LARGE)
    assert await read(volume, small, len(SMALL)) == SMALL
    assert await read(volume, large, len(LARGE)) == LARGE
    assert b"secret" not in world.stored()
    assert b"large" in world.stored()  # names are not secret
    world.platform.release(volume)
    await world.end()


async def test_without_the_master_key_it_stays_closed(world: World) -> None:
    await world.start()
    number = await world.create("/v")
    world.keys = []
    platform = await world.restart()
    with pytest.raises(Denied, match="--master-key-file"):
        await platform.acquire(number)
    listed = {d.path: d.state for d in await platform.catalog.list()}
    assert listed["/"] == "ready"
    assert listed["/v"].startswith("locked: ")
    world.keys = [NEW]
    with pytest.raises(Denied):
        await (await world.restart()).acquire(number)
    world.keys = [OLD]
    await world.restart()
    await world.end()


async def test_an_encrypted_volume_needs_a_master_key(world: World) -> None:
    await world.start()
    world.keys = []
    await world.restart()
    with pytest.raises(Invalid, match="dp keys create-master"):
        await world.create("/v")
    await world.end()


async def test_exchanged_wrapped_keys_do_not_fit(world: World) -> None:
    await world.start()
    one, two = await world.create("/one"), await world.create("/two")
    await world.platform.close()
    rows = {number: world.disk.volumes[number].rows for number in (one, two)}
    key = b"Msettings"
    settings = {number: VolumeSettings.unpack(rows[number][key]) for number in rows}
    before = rows[two][key]
    settings[two].encryption["keys"] = settings[one].encryption["keys"]
    rows[two][key] = settings[two].pack()
    platform = await world.start()
    with pytest.raises(Corrupt):
        await platform.acquire(two)
    await platform.close()
    rows[two][key] = before
    await world.start()
    await world.end()


async def test_an_encrypted_root(seed: int) -> None:
    world = World(seed)
    platform = await world.start(encrypt_root=True)
    root = await platform.acquire(ROOT_VOLUME)
    number = await write(root, "f", LARGE)
    platform.release(root)
    platform = await world.restart(encrypt_root=True)
    root = await platform.acquire(ROOT_VOLUME)
    assert await read(root, number, len(LARGE)) == LARGE
    platform.release(root)
    assert b"secret" not in world.stored()
    await assert_clean(platform)
    await platform.close()


async def test_the_root_is_encrypted_at_once_or_never(world: World) -> None:
    await world.start()
    await world.platform.close()
    with pytest.raises(Invalid, match="--encrypt-root"):
        await world.start(encrypt_root=True)
    world.disk.owner = None
    await world.start()
    await world.end()


async def rotate(world: World, number: int, runs: int = 1000) -> bool:
    volume = await world.platform.acquire(number)
    try:
        for _ in range(runs):
            await volume.writeback.run_once()
            if not await encryption.run_once(volume):
                return True
        return False
    finally:
        world.platform.release(volume)


@pytest.mark.parametrize("crashes", [False, True])
async def test_rotating_a_key(world: World, crashes: bool) -> None:
    await world.start()
    number = await world.create("/v")
    volume = await world.platform.acquire(number)
    content = {await write(volume, f"f{i}", LARGE[: i * 50_000]): i * 50_000 for i in range(1, 30)}
    old = dict(world.disk.volumes[number].rows)
    old_segments = set(world.disk.volumes[number].segments)
    await encryption.rotate_key(world.platform, SYSTEM, volume)
    with pytest.raises(Conflict):
        await encryption.rotate_key(world.platform, SYSTEM, volume)
    content[await write(volume, "later", SMALL)] = len(SMALL)
    world.platform.release(volume)
    if crashes:
        for _ in range(8):
            if await rotate(world, number, runs=world.rng.randint(1, 3)):
                break
            await world.cut_power()
    assert await rotate(world, number)
    await world.restart()
    volume = await world.platform.acquire(number)
    assert list(volume.settings.encryption["keys"]) == [2]
    assert encryption.state_of(volume.settings, volume.rotation).rotating == ""
    for inode, size in content.items():
        data = await read(volume, inode, size)
        assert data in (LARGE[:size], SMALL)
    await compaction.run_once(volume)
    disk = world.disk.volumes[number]
    assert not old_segments & set(disk.segments)
    assert all(disk.rows.get(k) != v for k, v in old.items())
    world.platform.release(volume)
    await world.end()


async def test_rotating_the_master_key(world: World) -> None:
    await world.start()
    one, two = await world.create("/one"), await world.create("/two")
    await encryption.lock(world.platform, SYSTEM, two)
    world.keys = [NEW, OLD]
    done = await encryption.rotate_master(world.platform, SYSTEM)
    assert (done.master, done.volumes, done.left) == (NEW.fingerprint, 2, [])
    done = await encryption.rotate_master(world.platform, SYSTEM)
    assert (done.volumes, done.unchanged) == (0, 3)  # the root is not encrypted
    world.keys = [NEW]
    platform = await world.restart()
    platform.release(await platform.acquire(one))
    await encryption.unlock(platform, SYSTEM, two)
    platform.release(await platform.acquire(two))
    await world.end()


async def test_what_cannot_be_wrapped_anew_is_named(world: World) -> None:
    await world.start()
    await world.create("/v")
    world.keys = [NEW]
    await world.restart()
    done = await encryption.rotate_master(world.platform, SYSTEM)
    assert len(done.left) == 1
    assert done.left[0].startswith("/v: ")
    world.keys = [OLD]
    await world.restart()
    await world.end()


async def test_a_locked_volume_is_closed_to_everybody(world: World) -> None:
    await world.start()
    number = await world.create("/v")
    volume = await world.platform.acquire(number)
    inode = await write(volume, "f", SMALL)
    world.platform.opens.open(b"s" * 16, volume, inode)
    world.platform.release(volume)
    await encryption.lock(world.platform, SYSTEM, number)
    for _ in range(2):
        assert not any(v.id == number for v in world.platform.volumes)
        with pytest.raises(Denied, match="locked"):
            await world.platform.acquire(number)
        with pytest.raises(Denied, match="locked"):
            await world.platform.locate("/v/f")
        listed = {d.path: d.state for d in await world.platform.catalog.list()}
        assert listed == {"/": "ready", "/v": "locked"}
        assert await world.platform.catalog.find_id("/v/", SYSTEM) == number
        await world.restart()
    await encryption.unlock(world.platform, SYSTEM, number)
    world.platform.end_session(b"s" * 16)
    node = await world.platform.locate("/v/f")
    assert await read(node.volume, node.inode.number, len(SMALL)) == SMALL
    world.platform.release(node.volume)
    await world.end()


async def test_only_encrypted_volumes_are_locked_and_rotated(world: World) -> None:
    await world.start()
    with pytest.raises(Invalid):
        await encryption.lock(world.platform, SYSTEM, ROOT_VOLUME)
    root = await world.platform.acquire(ROOT_VOLUME)
    with pytest.raises(Invalid):
        await encryption.rotate_key(world.platform, SYSTEM, root)
    world.platform.release(root)
    await world.end()


async def test_protected_secrets() -> None:
    masters = Masters(lambda: [LocalMaster(OLD, SeededEntropy(1))])
    stored = await masters.protect(b"secret" * 1000, b"context")
    assert b"secret" not in stored
    assert await masters.reveal(stored, b"context") == b"secret" * 1000
    assert masters.is_protected(stored)
    with pytest.raises(Corrupt):
        await masters.reveal(stored, b"another")
    for at in range(1, len(stored), 97):
        damaged = bytearray(stored)
        damaged[at] ^= 1
        with pytest.raises((Corrupt, Denied)):
            await masters.reveal(bytes(damaged), b"context")
    both = Masters(lambda: [LocalMaster(k, SeededEntropy(1)) for k in (NEW, OLD)])
    assert not both.is_protected(stored)
    assert await both.reveal(stored, b"context") == b"secret" * 1000
    with pytest.raises(Denied):
        await Masters().reveal(stored, b"context")
    plain = await Masters().protect(b"secret", b"context")
    assert await both.reveal(plain, b"context") == b"secret"
    assert not both.is_protected(plain)


@pytest.mark.allow_warnings  # tokens are void without the master key
async def test_the_key_that_signs_tokens_is_under_the_master_key(world: World) -> None:
    await world.start()
    world.keys = []
    identities = (await world.restart()).identities
    await identities.create_user(SYSTEM, "ana")
    token = await identities.create_token(SYSTEM, "ana", ttl_s=1000)
    text = identities.text_of(token)
    (secret,) = [key.secret for key in signing_keys(world)]
    assert len(secret) == 32
    for masters, count in (([OLD], 1), ([NEW, OLD], 1), ([NEW], 0)):
        world.keys = masters
        identities = (await world.restart()).identities
        done = await encryption.rotate_master(world.platform, SYSTEM)
        assert done.secrets == count
        assert secret not in world.stored()
        assert identities.text_of(token) == text
    identities = (await world.restart()).identities
    assert identities.text_of(token) == text
    world.keys = [OLD]
    identities = (await world.restart()).identities
    with pytest.raises(NotFound):
        identities.text_of(token)
    await world.end()


async def test_damage_is_named_by_its_path(world: World) -> None:
    await world.start()
    number = await world.create("/v")
    volume = await world.platform.acquire(number)
    inode = await write(volume, "f", LARGE)
    await volume.lane.settled()
    (segment, *_) = world.disk.volumes[number].segments.values()
    rng = random.Random(world.seed)
    for _ in range(10):
        at, bit = rng.randrange(len(segment.data)), 1 << rng.randrange(8)
        segment.data[at] ^= bit
        with pytest.raises(Corrupt) as caught:
            await read(volume, inode, len(LARGE))
        named = await damages.name(world.platform, caught.value, number, inode)
        assert named.facts["path"] == "/v/f"
        report = await check_platform(world.platform)
        assert [f.path for f in report.findings] == ["/v/f"], report.findings
        segment.data[at] ^= bit
    world.platform.release(volume)
    await world.end()


def test_master_keys_as_text() -> None:
    text = f"# ours\n{format_key(NEW)}  # since May\n\n{format_key(OLD)}\n"
    assert parse_keys(text, "file") == [NEW, OLD]
    assert "nnnn" not in repr(parse_keys(text, "file"))
    line = format_key(OLD)
    mark, fingerprint, encoded = line.split(":")
    for bad in (
        "",
        "# nothing",
        "secret",
        line[:-1],
        f"{mark}:{fingerprint}:{encoded[:-3]}AAA",
        f"{mark}:{NEW.fingerprint}:{encoded}",
        f"dpmk2:{fingerprint}:{encoded}",
        line + "é",
    ):
        with pytest.raises(Invalid) as caught:
            parse_keys(bad, "file")
        assert encoded[:20] not in str(caught.value)


async def test_a_snapshot_keeps_the_keys_that_it_needs(world: World) -> None:
    platform = await world.start()
    number = await world.create("/v")
    volume = await platform.acquire(number)
    inode = await write(volume, "f", LARGE)
    for name, key in (("first", 2), ("second", 3)):
        await platform.snapshots.create(SYSTEM, volume, name)
        await encryption.rotate_key(platform, SYSTEM, volume)
        platform.release(volume)
        assert await rotate(world, number)
        platform = await world.restart()
        volume = await platform.acquire(number)
        assert volume.settings.encryption["current"] == key
        assert encryption.state_of(volume.settings, volume.rotation).rotating == ""
    assert list(volume.settings.encryption["keys"]) == [1, 2, 3]
    for name, left in (("first", [2, 3]), ("second", [3])):
        then = await platform.acquire(platform.snapshots.get(number, name).number)
        assert await read(then, inode, len(LARGE)) == LARGE
        platform.release(then)
        await platform.snapshots.remove(SYSTEM, volume, name)
        await encryption.run_once(volume)
        assert list(volume.settings.encryption["keys"]) == left
    assert await read(volume, inode, len(LARGE)) == LARGE
    platform.release(volume)
    await world.end()


async def test_a_snapshot_outlives_the_master_key_of_its_time(world: World) -> None:
    platform = await world.start()
    number = await world.create("/v")
    volume = await platform.acquire(number)
    inode = await write(volume, "f", LARGE)
    taken = await platform.snapshots.create(SYSTEM, volume, "first")
    platform.release(volume)
    world.keys = [NEW, OLD]
    await encryption.rotate_master(platform, SYSTEM)
    world.keys = [NEW]
    platform = await world.restart()
    then = await platform.acquire(taken.number)
    assert await read(then, inode, len(LARGE)) == LARGE
    platform.release(then)
    await world.end()
