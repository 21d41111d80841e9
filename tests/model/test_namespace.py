"""The namespace beside a real directory: a random walk, results and errno equal at every step.

`--seed N` repeats a run. Where the platform differs on purpose, the walk keeps out:

- `.` and `..` in a path are refused (they mean what POSIX says in the target of a link);
- a trailing `/` says nothing (POSIX: what is named must be a directory);
- a name that is too long is refused before any path is walked, so only the root gets some;
- what is beneath special nodes (opening a FIFO) is the kernel's, not the platform's;
- the root itself is not removed, renamed or linked: INVALID instead of EBUSY;
- a directory's size is the number of its entries;
- tables, streams and volumes, which a local directory does not know.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import PlatformError
from dataplatform.core import compaction, orphans
from dataplatform.core.platform import Platform
from dataplatform.keyspace.records import ROOT_VOLUME, Inode, Kind

from .accounts import assert_accounts
from .local_tree import RENAME_EXCHANGE, RENAME_NOREPLACE, LocalTree
from .platform_driver import Driver, Handle, Place, assert_clean, engines

STEPS = {"memory": 4000, "rocks": 2000, "slate": 400}
STEPS_SYSTEM = 10  # times as many
COMPARE_EVERY = 20
ENTRIES_MAX = 60

NAMES = ["a", "b", "c", "d", "ä", "x" * 255, "A", "a.b", "€"]
XATTRS = ["user.a", "user.b", "user.ü"]
MODES = [0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000]

EXPECTED_ERRORS = (
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ELOOP,
    errno.EPERM,
    errno.ENODATA,
    errno.ENAMETOOLONG,
)
"""Those that a long walk meets."""

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
}


class Failed(tuple[str, int]):
    """An errno, told apart from any other result."""


class Walk:
    def __init__(self, rng: random.Random, place: Place, local: LocalTree) -> None:
        self.rng = rng
        self.place = place
        self.local = local
        self.platform: Platform
        self.driver: Driver
        self.handles: list[tuple[Handle, int]] = []
        self.paths = ["/"]
        self.log: list[str] = []
        self.outcomes: dict[str, int] = {}
        self.repeats = 0
        self.times: dict[int, tuple[int, ...]] = {}  # of inodes, ours: as last compared
        self.set_back: set[int] = set()  # inodes whose mtime was set by utime

    async def start(self) -> None:
        self.platform = await self.place.open()
        session = self.rng.randbytes(16)
        self.driver = Driver(self.platform, session, rng=self.rng, repeat=0.1)

    # ---- choosing

    def path(self) -> str:
        """Mostly something that exists or could exist here."""
        rng = self.rng
        base = rng.choice(self.paths)
        if rng.random() < 0.5:
            return base if base != "/" else self.new_path()
        return base.rstrip("/") + "/" + rng.choice(NAMES)

    def new_path(self) -> str:
        rng = self.rng
        for _ in range(4):
            path = rng.choice(self.paths).rstrip("/") + "/" + rng.choice(NAMES)
            if path.count("/") <= 5:
                return path
        return "/" + rng.choice(NAMES)

    def link_target(self) -> str:
        rng = self.rng
        path = rng.choice([*self.paths, "/" + rng.choice(NAMES)])
        how = rng.randrange(5)
        if how == 0:
            return path
        if how == 1:
            return "../" * rng.randrange(1, 4) + path.strip("/") if path != "/" else ".."
        if how == 2:
            return "./" + (path.rpartition("/")[2] or "x")
        return path.rpartition("/")[2] or rng.choice(NAMES)

    # ---- both sides

    async def both(
        self, what: str, local: Callable[[], Any], ours: Awaitable[Any], *args: object
    ) -> Any:
        """Run a step on both sides; results or errno are equal. The common result."""
        self.log.append(f"{what} {args}")
        try:
            expected = local()
        except OSError as error:
            expected = Failed((what, error.errno or 0))
        try:
            found = await ours
        except PlatformError as error:
            found = Failed((what, error.os_errno))
        assert found == expected, self.tell(f"{what}{args}: {found!r}, expected {expected!r}")
        failed = isinstance(found, Failed)
        outcome = f"{what}: {os.strerror(found[1]) if failed else 'done'}"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return found

    def tell(self, message: str) -> str:
        text = "\n".join([message, "after:", *self.log[-40:]])
        return text.replace("x" * 255, "{x * 255}")

    async def names_only(self, ours: Awaitable[Any]) -> None:
        """A call whose result only we have."""
        await ours

    # ---- steps

    async def step(self) -> None:
        self.place.clock.advance(self.rng.uniform(0.001, 0.4))
        crowded = len(self.paths) > ENTRIES_MAX
        chosen = self.rng.choices(
            ["create", "remove", "rename", "attributes", "bytes", "look", "handle", "background"],
            [5 if crowded else 20, 45 if crowded else 14, 20, 10, 20, 15, 6, 6],
        )[0]
        await getattr(self, f"_{chosen}")()

    async def _create(self) -> None:
        rng, driver, local = self.rng, self.driver, self.local
        path, mode = self.new_path(), rng.choice(MODES)
        too_long = os.strerror(errno.ENAMETOOLONG)
        # Rare, so a walk begins with it: every walk must have met it.
        if rng.random() < 0.02 or not any(too_long in outcome for outcome in self.outcomes):
            path = "/" + rng.choice(["y" * 256, "ä" * 128, "ä" * 127 + "y"])
        how = rng.choice(["file", "file", "directory", "directory", "fifo", "symlink", "link"])
        if how == "file":
            ours = self.names_only(driver.create(path, mode))
            await self.both("create", lambda: local.create(path, mode), ours, path, oct(mode))
        elif how == "directory":
            mode &= 0o1777  # mkdir(2) leaves the set-id bits to the implementation
            ours = self.names_only(driver.mkdir(path, mode))
            await self.both("mkdir", lambda: local.mkdir(path, mode), ours, path, oct(mode))
        elif how == "fifo":
            mode &= 0o777
            ours = self.names_only(driver.mkfifo(path, mode))
            await self.both("mkfifo", lambda: local.mkfifo(path, mode), ours, path, oct(mode))
        elif how == "symlink":
            target = self.link_target()
            ours = self.names_only(driver.symlink(target, path))
            await self.both("symlink", lambda: local.symlink(target, path), ours, target, path)
        else:
            old, path = self.path(), self.new_path()
            ours = driver.link(old, path)
            await self.both("link", lambda: local.link(old, path), ours, old, path)

    async def _remove(self) -> None:
        path = self.path()
        if self.rng.random() < 0.6:
            await self.both(
                "unlink", lambda: self.local.unlink(path), self.driver.unlink(path), path
            )
        else:
            await self.both("rmdir", lambda: self.local.rmdir(path), self.driver.rmdir(path), path)

    async def _rename(self) -> None:
        rng = self.rng
        old = self.path()
        new = self.path() if rng.random() < 0.6 else self.new_path()
        flags = rng.choice([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
        await self.both(
            "rename",
            lambda: self.local.rename(old, new, flags),
            self.driver.rename(
                old,
                new,
                no_replace=flags == RENAME_NOREPLACE,
                exchange=flags == RENAME_EXCHANGE,
            ),
            old,
            new,
            flags,
        )

    async def _attributes(self) -> None:
        rng, driver, local, path = self.rng, self.driver, self.local, self.path()
        how = rng.choice(["chmod", "utime", "set", "set", "remove"])
        if how == "chmod":
            mode = rng.choice(MODES)
            await self.both(
                "chmod", lambda: local.chmod(path, mode), driver.chmod(path, mode), path
            )
        elif how == "utime":
            times = rng.randrange(2**60), rng.randrange(2**60)
            done = await self.both(
                "utime", lambda: local.utime(path, *times), driver.utime(path, *times), path
            )
            if not isinstance(done, Failed):
                inode = await driver.stat(path)
                self.set_back.add(inode.number)
                theirs = local.stat(path)
                assert (inode.atime_ns, inode.mtime_ns) == times
                assert (theirs.st_atime_ns, theirs.st_mtime_ns) == times
        elif not self._is_special(path):
            name = rng.choice(XATTRS)
            if how == "remove":
                ours = driver.remove_xattr(path, name)
                await self.both(
                    "removexattr", lambda: local.remove_xattr(path, name), ours, path, name
                )
                return
            value, create, replace = rng.randbytes(rng.randrange(50)), False, False
            if rng.random() < 0.5:
                create = rng.random() < 0.5
                replace = not create
            await self.both(
                "setxattr",
                lambda: local.set_xattr(path, name, value, create, replace),
                driver.set_xattr(path, name, value, create=create, replace=replace),
                path,
                name,
                create,
                replace,
            )

    def _is_special(self, path: str) -> bool:
        try:
            return stat.S_ISFIFO(self.local.stat(path).st_mode)
        except OSError:
            return False

    async def _bytes(self) -> None:
        rng, driver, local, path = self.rng, self.driver, self.local, self.path()
        if self._is_special(path):
            return
        offset = rng.choice([0, rng.randrange(10_000), rng.randrange(200_000)])
        length = rng.choice([1, rng.randrange(1, 5000), rng.randrange(1, 80_000)])
        how = rng.choice(["write", "write", "append", "truncate", "punch", "read"])
        if how == "write":
            data = rng.randbytes(length)
            ours = self.names_only(driver.write(path, offset, data))
            await self.both(
                "write", lambda: local.write(path, offset, data), ours, path, offset, length
            )
        elif how == "append":
            data = rng.randbytes(length)
            ours = driver.append(path, data)
            await self.both("append", lambda: local.append(path, data), ours, path, length)
        elif how == "truncate":
            ours = driver.truncate(path, offset)
            await self.both("truncate", lambda: local.truncate(path, offset), ours, path, offset)
        elif how == "punch":
            ours = driver.punch(path, offset, length)
            await self.both(
                "punch", lambda: local.punch(path, offset, length), ours, path, offset, length
            )
        else:
            ours = driver.read(path, offset, length)
            await self.both(
                "read", lambda: local.read(path, offset, length), ours, path, offset, length
            )

    async def _look(self) -> None:
        rng, driver, local, path = self.rng, self.driver, self.local, self.path()
        how = rng.choice(["stat", "lstat", "list", "xattrs"])
        if how == "xattrs" and not self._is_special(path):
            await self.both("listxattr", lambda: local.xattrs(path), driver.xattrs(path), path)
        elif how == "list":
            limit = rng.choice([0, 1, 2, 5])

            async def names() -> list[str]:
                return [i.name.decode() for i in await driver.list(path, limit=limit)]

            await self.both("list", lambda: local.names(path), names(), path, limit)
        else:
            follow = how == "stat"
            await self.both(
                how,
                lambda: self.theirs(local.stat(path, follow=follow)),
                self.ours(driver.stat(path, follow=follow)),
                path,
            )

    def theirs(self, found: os.stat_result) -> tuple[int, ...]:
        kind = KINDS[stat.S_IFMT(found.st_mode)]
        is_directory = kind == Kind.DIRECTORY
        links = found.st_nlink if self.local.counts_subdirectories or not is_directory else 0
        size = 0 if is_directory else found.st_size
        return kind, stat.S_IMODE(found.st_mode), links, size, found.st_uid, found.st_gid

    async def ours(self, finding: Awaitable[Inode]) -> tuple[int, ...]:
        inode = await finding
        links = inode.links if self.local.counts_subdirectories or not inode.is_directory else 0
        size = 0 if inode.is_directory else inode.size
        return inode.kind, inode.mode, links, size, inode.uid, inode.gid

    # ---- open files

    async def _handle(self) -> None:
        rng, driver, local = self.rng, self.driver, self.local
        if not self.handles or (len(self.handles) < 8 and rng.random() < 0.3):
            path = self.path()
            if self._is_special(path):
                return
            opened: list[Handle] = []
            fds: list[int] = []

            async def keep() -> None:
                opened.append(await driver.open(path))

            def keep_local() -> None:
                with local.found(path) as proc:
                    fds.append(os.open(proc, os.O_RDWR))

            await self.both("open", keep_local, keep(), path)
            self.handles += zip(opened, fds, strict=True)
            return
        index = rng.randrange(len(self.handles))
        handle, fd = self.handles[index]
        offset, length = rng.randrange(100_000), rng.randrange(1, 70_000)
        how = rng.choice(["close", "read", "write", "stat", "truncate"])
        if how == "close":
            del self.handles[index]
            await self.both("close", lambda: os.close(fd), driver.close(handle), handle)
        elif how == "read":
            ours = driver.read(handle, offset, length)
            await self.both("pread", lambda: os.pread(fd, length, offset), ours, handle)
        elif how == "write":
            data = rng.randbytes(length)
            ours = self.names_only(driver.write(handle, offset, data))

            def write() -> None:
                os.pwrite(fd, data, offset)

            await self.both("pwrite", write, ours, handle)
        elif how == "truncate":
            ours = driver.truncate(handle, offset)
            await self.both("ftruncate", lambda: os.ftruncate(fd, offset), ours, handle, offset)
        else:
            ours = self.ours(driver.stat(handle))
            await self.both("fstat", lambda: self.theirs(os.fstat(fd)), ours, handle)

    async def _background(self) -> None:
        for volume in self.platform.volumes:
            how = self.rng.choice(["sync", "writeback", "compaction", "orphans", "lane", "reopen"])
            self.log.append(how)
            if how == "sync":
                await volume.sync()
            elif how == "writeback":
                await volume.writeback.run_once()
            elif how == "compaction":
                await compaction.run_once(volume)
            elif how == "orphans":
                await orphans.run_once(volume)
            elif how == "lane":
                await volume.lane.run_once()
            elif self.rng.random() < 0.2:
                await self.reopen()

    async def reopen(self) -> None:
        """The server restarts; the client opens again what it had open."""
        await self.platform.close()
        self.repeats += self.driver.repeats
        await self.start()
        for handle, _ in self.handles:
            await self.driver.open(handle)

    def check_reach(self) -> None:
        """The walk came to what it is there for."""
        assert self.repeats + self.driver.repeats
        number = sum(self.outcomes.values())
        if number >= 2000:
            seen = {outcome.partition(": ")[2] for outcome in self.outcomes}
            missed = {os.strerror(e) for e in EXPECTED_ERRORS} - seen
            assert not missed, missed

    # ---- the whole tree

    async def compare(self) -> None:
        self.paths = ["/"]
        numbers: dict[int, int] = {}  # their inodes to ours: hard links are the same ones
        times: dict[int, tuple[int, ...]] = {}
        at = 0
        while at < len(self.paths):
            path = self.paths[at]
            at += 1
            inode = await self.driver.stat(path, follow=False)
            theirs = self.local.stat(path, follow=False)
            assert await self.ours(_given(inode)) == self.theirs(theirs), self.tell(path)
            assert numbers.setdefault(theirs.st_ino, inode.number) == inode.number, self.tell(path)
            times[inode.number] = (
                *(theirs.st_mtime_ns, theirs.st_ctime_ns, theirs.st_ino),
                *(inode.mtime_ns, inode.ctime_ns),
            )
            if inode.kind == Kind.SYMLINK:
                assert inode.symlink == os.fsencode(self.local.read_link(path)), self.tell(path)
                continue
            if inode.kind != Kind.FIFO:
                assert await self.driver.xattrs(path) == self.local.xattrs(path), self.tell(path)
            if inode.kind == Kind.FILE:
                expected = self.local.read(path, 0, 1 << 20)
                assert await self.driver.read(path) == expected, self.tell(path)
            elif inode.is_directory:
                names = self.local.names(path)
                assert await self.driver.names(path) == names, self.tell(path)
                assert inode.size == len(names), self.tell(path)
                self.paths += [path.rstrip("/") + "/" + name for name in names]
        assert len(set(numbers.values())) == len(numbers), self.tell("one inode for two files")
        self._compare_times(times)
        self.times = times
        self.set_back.clear()

    def _compare_times(self, times: dict[int, tuple[int, ...]]) -> None:
        """Ours never run backwards, and change wherever theirs did."""
        for number in times.keys() & self.times.keys():
            mtime, ctime, ino, our_mtime, our_ctime = times[number]
            old_mtime, old_ctime, old_ino, our_old_mtime, our_old_ctime = self.times[number]
            where = self.tell(f"inode {number}")
            assert ino == old_ino, where
            assert our_ctime >= our_old_ctime, where
            assert ctime == old_ctime or our_ctime > our_old_ctime, where
            if number not in self.set_back:
                assert our_mtime >= our_old_mtime or our_old_mtime < 2**60, where
                assert mtime == old_mtime or our_mtime != our_old_mtime, where


async def _given(inode: Inode) -> Inode:
    return inode


@pytest.mark.parametrize("engine", engines())
async def test_a_walk_beside_a_local_directory(engine: str, seed: int, tmp_path: Path) -> None:
    await _walk_beside_a_local_directory(engine, seed, tmp_path, STEPS[engine])


@pytest.mark.system
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", engines())
async def test_a_long_walk_beside_a_local_directory(engine: str, seed: int, tmp_path: Path) -> None:
    await _walk_beside_a_local_directory(engine, seed, tmp_path, STEPS[engine] * STEPS_SYSTEM)


async def _walk_beside_a_local_directory(
    engine: str, seed: int, tmp_path: Path, steps: int
) -> None:
    if not LocalTree.supported(tmp_path):
        pytest.skip("the local file system has no extended attributes, or the kernel no openat2")
    rng = random.Random(seed)
    place = Place(engine, tmp_path / "data")
    local = LocalTree(tmp_path / "local")
    old_umask = os.umask(0)
    walk = Walk(rng, place, local)
    try:
        await walk.start()
        for step in range(steps):
            await walk.step()
            if step % COMPARE_EVERY == 0:
                await walk.compare()
            if step % (COMPARE_EVERY * 10) == 0:
                volume = await walk.platform.acquire(ROOT_VOLUME)
                await assert_accounts(volume)
                walk.platform.release(volume)
        await walk.compare()
        walk.check_reach()
        await assert_clean(walk.platform)
        await walk.platform.close()
    finally:
        os.umask(old_umask)
        for _, fd in walk.handles:
            os.close(fd)
        local.end()
