"""A program that writes bulk: `bulk_writer.py PATH SEED`. Its writes follow from the seed.

A program of its own, since a process that has a file open waits for the server whenever it starts
another process (the copy of its descriptor is closed), so it cannot start that server.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

MIB = 1 << 20
SIZES = [4096, 60_000, 64 << 10, 128 << 10, 300_000, MIB, 3 * MIB]
TOTAL_BYTES = 160 * MIB
STEPS = 4


def writes(seed: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes), some over others."""
    rng = random.Random(seed)
    done = end = 0
    while done < TOTAL_BYTES:
        size = rng.choice(SIZES)
        offset = end if rng.random() < 0.8 else rng.randrange(end + 1)
        yield offset, rng.randbytes(size)
        done += size
        end = max(end, offset + size)


def content(seed: int) -> bytes:
    """Of the file in the end."""
    file = bytearray()
    for offset, data in writes(seed):
        file[offset : offset + len(data)] = data
    return bytes(file)


def main(path: str, seed: int) -> None:
    """Says when a step is done, and when all is synced."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    done = step = 0
    for offset, data in writes(seed):
        assert os.pwrite(descriptor, data, offset) == len(data)
        done += len(data)
        if done * STEPS >= (step + 1) * TOTAL_BYTES:
            step += 1
            print("step", flush=True)  # noqa: T201
    os.fsync(descriptor)
    print("synced", flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
