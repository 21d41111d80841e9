"""One seed: a bit of a stopped server's data is flipped, then everything is read back.

What must hold, whatever the bit:

- No item reads as something that was never written.
- What cannot be read says CORRUPT and names the path.
- Nothing in the other volumes is touched: all of it reads, and each takes new writes.
- The server starts. Only what the whole server stands on may keep it from that, and then it says
  CORRUPT or INVALID and names the file or directory: `format.json`, the root volume's database.
- What cannot be read is in the report of `check`, too.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.keyspace.records import ROOT_VOLUME

from .worlds import VOLUMES, Image, look, open_storages, serving, write

REFUSALS = (ErrorKind.CORRUPT, ErrorKind.INVALID)


@dataclass(frozen=True)
class Flip:
    """One bit of one file, named below the data directory."""

    file: str
    offset: int
    bit: int

    def apply(self, data: Path) -> None:
        path = data / self.file
        stored = bytearray(path.read_bytes())
        stored[self.offset] ^= 1 << self.bit
        path.write_bytes(stored)


def files_of(data: Path) -> list[str]:
    """Every file that is not empty."""
    found = (p for p in data.rglob("*") if p.is_file() and p.stat().st_size)
    return sorted(str(p.relative_to(data)) for p in found)


def choose(rng: random.Random, data: Path, pattern: str = "*") -> Flip:
    """A bit anywhere in a file whose path matches; each file is as likely, whatever its size."""
    file = rng.choice([f for f in files_of(data) if Path(f).match(pattern)])
    size = (data / file).stat().st_size
    return Flip(file, rng.randrange(size), rng.randrange(8))


def volume_of(file: str) -> int:
    """The volume that a file belongs to; 0 if it is the whole server's."""
    parts = Path(file).parts
    return int(parts[1]) if parts[0] == "volumes" and len(parts) > 2 else 0


async def flipped(image: Image, directory: Path, flip: Flip) -> str:
    """What became of it: "unused", "refused" or "noticed". AssertionError: see the top."""
    flip.apply(image.copy(directory))
    try:
        return await _flipped(image, directory, flip)
    except AssertionError as error:
        raise AssertionError(f"{flip}: {error}") from error


async def _flipped(image: Image, directory: Path, flip: Flip) -> str:
    hit = volume_of(flip.file)
    async with contextlib.AsyncExitStack() as stack:
        try:
            storages = await open_storages(image.engine, directory)
            _, client = await stack.enter_async_context(serving(directory, storages))
        except PlatformError as error:
            _check_refusal(error, hit, directory)
            return "refused"
        seen = await look(client)
        for mount in seen.damaged:  # in the root volume, also what it leads to
            assert hit in (image.volumes[mount], ROOT_VOLUME), f"{mount or '/'}: {seen.errors}"
        for mount in VOLUMES:
            if hit not in (image.volumes[mount], ROOT_VOLUME):
                await write(client, mount, "flip")
        await client.volumes()
        found = (await client.check()).findings
        assert found or not seen.errors, f"check finds nothing, and there is {seen.errors}"
        mine = [m or "/" for m, volume in image.volumes.items() if volume == hit]
        for finding in found:
            ours = hit == ROOT_VOLUME or finding.path.startswith(tuple(mine))
            assert ours, f"check blames another volume: {finding}"
        return "noticed" if found or seen.errors else "unused"


def _check_refusal(error: PlatformError, hit: int, directory: Path) -> None:
    assert hit in (0, ROOT_VOLUME), repr(error)
    assert error.kind in REFUSALS, repr(error)
    assert str(directory).lstrip("/") in str(error), repr(error)


class Tally(Counter[tuple[str, str]]):
    """Outcomes by kind of file."""

    def count(self, flip: Flip, outcome: str) -> None:
        name = Path(flip.file).name
        if "segments" in flip.file:
            name = "segment"
        elif name.startswith("LOG"):
            name = "LOG"
        elif "." in name and flip.file.startswith("volumes"):
            name = f"{Path(flip.file).parent.name}/*{Path(flip.file).suffix}"
        self[name.split("-")[0], outcome] += 1
