"""The steps: what is timed, in system calls, with nothing else in the loop.

Each takes a directory and a count; what it needs, an earlier step has made.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SMALL = os.urandom(4096)
CALL = 1 << 20
BULK = os.urandom(CALL)

FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL
STAT_PASSES = 10


def _names(directory: Path, kind: str, count: int) -> list[str]:
    return [f"{directory}/{kind}{number}" for number in range(count)]


def create(directory: Path, count: int) -> int:
    for name in _names(directory, "c", count):
        os.close(os.open(name, FRESH, 0o644))
    return count


def create_written(directory: Path, count: int) -> int:
    for name in _names(directory, "w", count):
        file = os.open(name, FRESH, 0o644)
        os.write(file, SMALL)
        os.close(file)
    return count


def read(directory: Path, count: int) -> int:
    """Files that `create_written` has made."""
    for name in _names(directory, "w", count):
        file = os.open(name, os.O_RDONLY)
        data = os.read(file, len(SMALL))
        os.close(file)
        if data != SMALL:
            raise ValueError(f"{name} does not hold what was written")
    return count


def stat(directory: Path, count: int) -> int:
    for name in _names(directory, "w", count):
        os.stat(name)
    return count


def stat_again(directory: Path, count: int) -> int:
    names = _names(directory, "w", count)
    for _ in range(STAT_PASSES):
        for name in names:
            os.stat(name)
    return count * STAT_PASSES


def rename(directory: Path, count: int) -> int:
    for name in _names(directory, "c", count):
        os.rename(name, f"{name}-")
    return count


def unlink(directory: Path, count: int) -> int:
    """Files of 4 KiB."""
    for name in _names(directory, "w", count):
        os.unlink(name)
    return count


def mkdir(directory: Path, count: int) -> int:
    for name in _names(directory, "d", count):
        os.mkdir(name)
    return count


def write_synced(directory: Path, count: int) -> int:
    """Append 4 KiB and fsync, again and again."""
    file = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for _ in range(count):
        os.write(file, SMALL)
        os.fsync(file)
    os.close(file)
    return count


def overwrite_synced(directory: Path, count: int) -> int:
    """Write 4 KiB in the middle of a file and fsync, as a database does."""
    file = os.open(directory / "log", os.O_WRONLY)
    size = os.fstat(file).st_size
    for number in range(count):
        os.pwrite(file, SMALL, number * 7919 * len(SMALL) % size)
        os.fsync(file)
    os.close(file)
    return count


def write_bulk(directory: Path, calls: int) -> int:
    """A new file in calls of 1 MiB, then fsync and close; the operations are bytes."""
    file = os.open(directory / "bulk", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(calls):
        if os.write(file, BULK) != CALL:
            raise ValueError("a short write")
    os.fsync(file)
    os.close(file)
    return calls * CALL


def read_bulk(directory: Path, calls: int) -> int:
    """The file that `write_bulk` has made; the operations are bytes."""
    buffer = memoryview(bytearray(CALL))
    file = os.open(directory / "bulk", os.O_RDONLY)
    done = 0
    while length := os.readv(file, [buffer]):
        done += length
    os.close(file)
    if done != calls * CALL or buffer != BULK:
        raise ValueError("it does not hold what was written")
    return done


def entries(directory: Path, count: int) -> int:
    """Empty files, to be listed."""
    for name in _names(directory, "e", count):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644))
    return count


def listdir(directory: Path, count: int) -> int:
    return _counted(len(os.listdir(directory)), count)


def scandir_stat(directory: Path, count: int) -> int:
    """As `ls -l`."""
    with os.scandir(directory) as found:
        return _counted(sum(1 for entry in found if entry.stat().st_size == 0), count)


def _counted(found: int, count: int) -> int:
    if found != count:
        raise ValueError(f"{found} entries instead of {count}")
    return found


def clean(directory: Path, count: int) -> int:
    """Remove everything; not measured."""
    shutil.rmtree(directory)
    return count
