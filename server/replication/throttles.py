"""So many bytes per second, for one who reads from another cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..limits import Bucket

SHARE_S = 0.25
"""A request asks for no more than comes in so long, so that the rate is even."""

REQUEST_BYTES_MIN = 64 << 10


class Throttle:
    """`bytes_per_s` 0: no limit. It may be set anew at any time."""

    def __init__(self, bytes_per_s: int, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._bucket = Bucket(bytes_per_s, monotonic())
        self._line = asyncio.Lock()

    @property
    def bytes_per_s(self) -> int:
        return self._bucket.rate

    @bytes_per_s.setter
    def bytes_per_s(self, rate: int) -> None:
        if rate != self._bucket.rate:
            self._bucket.set_rate(rate, self._monotonic())

    def most(self, size_bytes: int) -> int:
        """What a request should ask for that would ask for so much."""
        rate = self._bucket.rate
        if not rate:
            return size_bytes
        return max(min(size_bytes, int(rate * SHARE_S)), REQUEST_BYTES_MIN)

    async def take(self, size_bytes: int) -> None:
        """Wait until that much may come; first come, first served."""
        if not self._bucket.rate:
            return
        async with self._line:
            while True:
                left_s = self._bucket.ready_in(size_bytes, self._monotonic())
                if left_s <= 0:
                    break
                await asyncio.sleep(min(left_s, 1.0))  # the rate may be another one by then
            self._bucket.take(size_bytes)

    def correct(self, taken: int, size_bytes: int) -> None:
        """It was another size than was taken for it."""
        self._bucket.take(size_bytes - taken)
