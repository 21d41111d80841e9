"""Where in a bucket a volume's database and segments are: `volumes/<number>/volume.json`.

A volume begins in a place of its own, ``volumes/<number>/{db,segments}``. When the storage of
another volume takes its place, it gets that one's places before its own: the database of the first
place is the live one, those of the others are kept for their checkpoints. A clone reads, where they
are, the segments that the source had when it was cloned.

On disk; the fields must not change their meaning:

- ``places``: numbers of ``volumes/<number>`` directories that belong to the volume, the live one
  first; its own alone where the field is missing.
- ``reads``: ``[number, end]``: segments below ``end`` are also read there; they belong to others.
- ``epoch``: later segments are numbered in a higher epoch (see objects.py).
- ``removed``: the volume is being removed: it is none any more.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from ..base.errors import Corrupt

NAME = "volume.json"


class Place(NamedTuple):
    """One directory of a bucket."""

    number: int
    end: int | None  # of another volume: segments below this are read there

    @property
    def prefix(self) -> str:
        return f"volumes/{self.number}"

    @property
    def database(self) -> str:
        return f"{self.prefix}/db"

    @property
    def segments(self) -> str:
        return f"{self.prefix}/segments"


class Places(NamedTuple):
    """The directories of one volume."""

    owned: tuple[Place, ...]
    read: tuple[Place, ...] = ()
    epoch: int = 0
    removed: bool = False

    @property
    def all(self) -> tuple[Place, ...]:
        return self.owned + self.read

    @staticmethod
    def new(volume: int) -> Places:
        return Places((Place(volume, None),))

    def encode(self) -> bytes:
        fields: dict[str, object] = {}
        if len(self.owned) > 1 or self.read or self.epoch or self.removed:
            fields["places"] = [place.number for place in self.owned]
        if self.read:
            fields["reads"] = [[place.number, place.end] for place in self.read]
        if self.epoch:
            fields["epoch"] = self.epoch
        if self.removed:
            fields["removed"] = True
        return json.dumps(fields).encode() + b"\n"


def decode(data: bytes, volume: int, path: str) -> Places:
    """CORRUPT if that is not readable."""
    try:
        fields = json.loads(data)
        return Places(
            tuple(Place(int(number), None) for number in fields.get("places", [volume])),
            tuple(Place(int(number), int(end)) for number, end in fields.get("reads", [])),
            int(fields.get("epoch", 0)),
            bool(fields.get("removed", False)),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise Corrupt(f"{NAME} is not readable", path=path, cause=error) from error


def replaced(old: Places, new: Places) -> Places:
    """What a volume at `old` has after the storage at `new` took its place."""
    mine = {place.number for place in old.owned}
    return Places(
        new.owned + old.owned,
        tuple(dict.fromkeys(p for p in new.read + old.read if p.number not in mine)),
        max(old.epoch, new.epoch),
    )
