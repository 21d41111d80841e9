"""A program that works on files and keeps a journal, outside of the mount, of what was confirmed.

`python -m tests.mount.load DIRECTORY JOURNAL SEED` runs until it is told to stop by SIGTERM, or for
ever. Each round writes a new file or changes one, now and then renames or removes one, and syncs;
what fsync confirmed is a line in the journal: name and digest. Any error ends it, with a traceback.
`verify` compares what is there with the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path

FILES = 30


class Stopped(Exception):
    pass


class Load:
    def __init__(self, directory: Path, journal: Path, seed: int) -> None:
        self._directory = directory
        self._journal = journal.open("a", buffering=1)
        self._rng = random.Random(seed)
        self._contents: dict[str, bytes] = {}
        self._is_stopping = False

    def stop(self, *_: object) -> None:
        self._is_stopping = True

    def run(self) -> None:
        while not self._is_stopping:
            self._round()

    def _round(self) -> None:
        rng = self._rng
        name = f"f{rng.randrange(FILES)}"
        chosen = rng.random()
        if name not in self._contents or chosen < 0.3:
            self._replace(name)
        elif chosen < 0.7:
            self._change(name)
        elif chosen < 0.8:
            self._remove(name)
        elif chosen < 0.9:
            self._rename(name, f"f{rng.randrange(FILES)}")
        else:
            read = (self._directory / name).read_bytes()
            assert read == self._contents[name], f"{name} is not what was written"

    def _data(self) -> bytes:
        length = self._rng.choice([0, 10, 4000, 70_000, 400_000])
        return self._rng.randbytes(16) * (length // 16)

    def _replace(self, name: str) -> None:
        data = self._data()
        self._intend(name, data)
        new = self._directory / f"{name}.new"
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._directory / name)
        self._sync_names()
        self._confirm(name, data)

    def _change(self, name: str) -> None:
        before = self._contents[name]
        at, part = self._rng.randrange(len(before) + 1), self._data()[:9000]
        data = before[:at] + part + before[at + len(part) :]
        self._intend(name, data)
        with (self._directory / name).open("r+b") as file:
            file.seek(at)
            file.write(part)
            file.flush()
            os.fsync(file.fileno())
        self._confirm(name, data)

    def _remove(self, name: str) -> None:
        self._intend(name, None)
        (self._directory / name).unlink()
        self._sync_names()
        self._confirm(name, None)

    def _rename(self, name: str, new: str) -> None:
        if name == new:
            return
        data = self._contents[name]
        self._intend(new, data)
        self._intend(name, None)
        (self._directory / name).rename(self._directory / new)
        self._sync_names()
        self._confirm(new, data)
        self._confirm(name, None)

    def _sync_names(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    # ---- the journal

    def _intend(self, name: str, data: bytes | None) -> None:
        self._say("intended", name, data)

    def _confirm(self, name: str, data: bytes | None) -> None:
        self._say("confirmed", name, data)
        if data is None:
            self._contents.pop(name, None)
        else:
            self._contents[name] = data

    def _say(self, what: str, name: str, data: bytes | None) -> None:
        self._journal.write(json.dumps([what, name, _digest(data)]) + "\n")


def _digest(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def count(journal: Path) -> int:
    """Confirmed changes so far."""
    return journal.read_text().count('"confirmed"') if journal.exists() else 0


def verify(directory: Path, journal: Path) -> int:
    """Every file is as it was last confirmed, or as it was last going to be; how many are."""
    confirmed: dict[str, str | None] = {}
    intended: dict[str, str | None] = {}
    for line in journal.read_text().split("\n")[:-1]:
        what, name, digest = json.loads(line)
        if what == "confirmed":
            confirmed[name] = digest
            intended.pop(name, None)
        else:
            intended[name] = digest
    for name, digest in confirmed.items():
        path = directory / name
        found = _digest(path.read_bytes()) if path.exists() else None
        if name in intended:  # it was under way when the program ended; anything but a loss will do
            if intended[name] is not None and digest is not None:
                assert path.exists(), f"{name} was lost"
            continue
        assert found == digest, f"{name} is not what was confirmed"
    return len(confirmed)


def main() -> None:
    load = Load(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    signal.signal(signal.SIGTERM, load.stop)
    load.run()


if __name__ == "__main__":
    main()
