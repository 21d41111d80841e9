"""One seed: clients work, the power goes, what survived is verified; and again, a few times."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import PlatformError
from dataplatform.core.platform import Platform
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import FaultyStorages
from dataplatform.keyspace.records import ROOT_VOLUME, VolumePhase
from tests.masters import masters

from ..model.platform_driver import assert_clean
from .clients import Background, Client, FileClient, LogClient, TransactionClient, VolumeClient
from .power import Power, PowerCut
from .puts import PutClient

ROUNDS = 3
POINTS_MAX = 700
SEGMENT_BYTES = 256 << 10


class Campaign:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.is_encrypted = seed % 2 == 1
        self.clock = ManualClock()
        self.disk = MemoryDisk()
        self.storages = MemoryStorages(self.disk, segment_bytes=SEGMENT_BYTES)
        self.trace: list[str] = []
        self.clients: list[Client] = [
            FileClient("file1", self._rng()),
            FileClient("file2", self._rng()),
            TransactionClient("transactions", self._rng()),
            LogClient("log1", self._rng()),
            LogClient("log2", self._rng()),
            VolumeClient("volumes", self._rng()),
            PutClient("puts1", self._rng()),
            PutClient("puts2", self._rng()),
            Background("background", self._rng(), self.clock),
        ]

    def _rng(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))

    async def run(self) -> list[str]:
        """The trace: what happened, the same for the same seed. AssertionError: a bug was found."""
        for _ in range(ROUNDS):
            await self._round()
        return self.trace

    async def _round(self) -> None:
        rng = self.rng
        cut_at = rng.randrange(1, 40 if rng.random() < 0.2 else POINTS_MAX)
        fail_at = rng.randrange(cut_at) if rng.random() < 0.15 else None
        power = Power(self._rng(), self.storages, cut_at, fail_at)
        await self._work(power)
        self.trace.append(f"cut at point {power.points}, {power.where}, failed={power.failed}")
        try:
            platform = await self._start(Power(self._rng(), self.storages, 1 << 60, None))
        except PlatformError as error:
            raise AssertionError(f"it does not start again: {error!r}") from error
        await self._verify(platform)
        await platform.close()
        self.storages = MemoryStorages(self.disk, segment_bytes=SEGMENT_BYTES)

    async def _start(self, power: Power) -> Platform:
        return await Platform.start(
            FaultyStorages(self.storages, power),
            clock=self.clock,
            entropy=SeededEntropy(self.rng.getrandbits(32)),
            masters=masters(self.rng.getrandbits(32)),
            encrypt_root=self.is_encrypted,
        )

    async def _work(self, power: Power) -> None:
        """Until the power is cut; by then, or after a failed write, nobody gets anywhere."""
        try:
            platform = await self._start(power)
        except (PowerCut, PlatformError):
            if not power.off.is_set():
                self._switch_off(power)
            return
        for client in self.clients:
            client.connect(platform)
        tasks = [asyncio.create_task(client.run(), name=client.name) for client in self.clients]
        off = asyncio.create_task(power.off.wait())
        workers = tasks[:-1]  # what the server does by itself never ends
        while not off.done() and (left := [t for t in workers if not t.done()]):
            await asyncio.wait([off, *left], return_when=asyncio.FIRST_COMPLETED)
            self._check_ended(tasks, power)
        off.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(off, *tasks, return_exceptions=True)
        for _ in range(20):
            await asyncio.sleep(0)  # what the clients left behind meets the end of the power
        self._check_ended(tasks, power)
        if not power.off.is_set():
            self._switch_off(power)

    def _switch_off(self, power: Power) -> None:
        with contextlib.suppress(PowerCut):
            power.cut("at the end")

    def _check_ended(self, tasks: list[asyncio.Task[None]], power: Power) -> None:
        """A client ends with the power, or because a write failed; anything else is a bug."""
        for task in tasks:
            if not task.done() or task.cancelled():
                continue
            error = task.exception()
            expected = isinstance(error, PowerCut) or (
                isinstance(error, PlatformError) and (power.failed or power.off.is_set())
            )
            if error is not None and not expected:
                raise AssertionError(f"{task.get_name()} ended with {error!r}") from error

    async def _verify(self, platform: Platform) -> None:
        for client in self.clients:
            client.connect(platform)
        try:
            await self._check_volumes(platform)
            await assert_clean(platform)
        except PlatformError as error:
            raise AssertionError(f"after the crash: {error!r}") from error
        for client in self.clients:
            try:
                found = await client.verify()
                client.driver.forget_last()
            except PlatformError as error:
                raise AssertionError(f"{client.name}: {error!r}") from error
            digest = hashlib.sha256(repr(found).encode()).hexdigest()[:16]
            self.trace.append(f"{client.name}, {client.steps} steps: {digest}")
        await assert_clean(platform)

    async def _check_volumes(self, platform: Platform) -> None:
        """Nothing is half made or half removed, and no bytes are left behind."""
        records = await platform.catalog.records()
        assert all(r.phase == VolumePhase.READY for r in records), records
        assert await self.storages.volumes() == sorted({ROOT_VOLUME, *(r.volume for r in records)})


async def run(seed: int) -> list[str]:
    """One campaign. An error tells its seed."""
    logging.getLogger("dataplatform").setLevel(logging.CRITICAL)
    try:
        return await Campaign(seed).run()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        logging.getLogger("dataplatform").setLevel(logging.NOTSET)
