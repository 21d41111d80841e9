"""A random walk of several users beside a local directory: the same calls, the same errno.

The kernel is the right answer: each call is made there with that user's effective uid, gid and
groups. In the end both trees have the same names, modes and owners.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError
from dataplatform.core.access.verbs import Verb
from dataplatform.core.principals import Principal
from tests.model.local_tree import RENAME_EXCHANGE, RENAME_NOREPLACE, rename_below
from tests.rights import ANA, BOB, EVE, ROOT, Core

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as several users")

AT_FDCWD = -100
STEPS = 1500
USERS = (ANA, ANA, BOB, BOB, EVE, ROOT)
NAMES = ("a", "b", "c", "d")
MODES = (0o777, 0o755, 0o700, 0o770, 0o711, 0o733, 0o744, 0o1777, 0o2775, 0o3777, 0o070, 0o007)
FILE_MODES = (0o644, 0o600, 0o664, 0o666, 0o440, 0o222, 0o4755, 0o2755, 0o2745, 0o6777, 0o000)
GIDS = (1000, 1001, 1002, 50, 0)


@contextmanager
def acting_as(who: Principal) -> Iterator[None]:
    """The effective ids of this process. Root is root."""
    os.setgroups(sorted(who.gids))
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


class Local:
    """The kernel's side; paths are relative to the current directory, which is the root."""

    def create(self, path: str, mode: int) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, mode))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, old: str, new: str, how: int) -> None:
        rename_below(AT_FDCWD, old, AT_FDCWD, new, how)

    def link(self, old: str, new: str) -> None:
        os.link(old, new, follow_symlinks=False)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, path)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid)

    def truncate(self, path: str) -> None:
        os.truncate(path, 3)

    def read(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.read(fd, 10)
        finally:
            os.close(fd)

    def write(self, path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.pwrite(fd, b"xyz", 0)
        finally:
            os.close(fd)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def stat(self, path: str) -> tuple[int, int, int]:
        found = os.lstat(path)
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid

    def touch(self, path: str) -> None:
        os.utime(path)

    def set_times(self, path: str) -> None:
        os.utime(path, (1, 2))

    def set_xattr(self, path: str, name: str) -> None:
        os.setxattr(path, name, b"v")

    def get_xattr(self, path: str, name: str) -> None:
        os.getxattr(path, name)

    def mknod(self, path: str) -> None:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


class Ours:
    """The platform's side."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.who = ROOT

    async def _call(self, method: str, message: Any, data: bytes = b"") -> Any:
        return await self.core.call(self.who, method, message, data)

    async def create(self, path: str, mode: int) -> None:
        await self._create(path, pb.FILE, mode)

    async def mkdir(self, path: str, mode: int) -> None:
        await self._create(path, pb.DIRECTORY, mode & 0o1777)  # all that mkdir(2) takes

    async def mknod(self, path: str) -> None:
        await self._create(path, pb.CHARACTER_DEVICE, 0o666, rdev=os.makedev(1, 3))

    async def symlink(self, path: str, target: str) -> None:
        await self._create(path, pb.SYMLINK, 0o777, symlink=target)

    async def _create(self, path: str, kind: pb.Kind, mode: int, **more: Any) -> None:
        target = pb.Target(path=path)
        await self._call(
            "Namespace.Create", pb.CreateRequest(target=target, kind=kind, mode=mode, **more)
        )

    async def rmdir(self, path: str) -> None:
        await self._remove(path, pb.RemoveRequest.EMPTY_DIRECTORY)

    async def unlink(self, path: str) -> None:
        await self._remove(path, pb.RemoveRequest.NOT_DIRECTORY)

    async def _remove(self, path: str, expect: pb.RemoveRequest.Expect) -> None:
        target = pb.Target(path=path)
        await self._call("Namespace.Remove", pb.RemoveRequest(target=target, expect=expect))

    async def rename(self, old: str, new: str, how: int) -> None:
        message = pb.RenameRequest(
            source=pb.Target(path=old),
            target=pb.Target(path=new),
            no_replace=how == RENAME_NOREPLACE,
            exchange=how == RENAME_EXCHANGE,
        )
        await self._call("Namespace.Rename", message)

    async def link(self, old: str, new: str) -> None:
        message = pb.LinkRequest(existing=pb.Target(path=old), target=pb.Target(path=new))
        await self._call("Namespace.Link", message)

    async def chmod(self, path: str, mode: int) -> None:
        await self._set(path, mode=mode)

    async def chown(self, path: str, uid: int, gid: int) -> None:
        given = {name: n for name, n in (("uid", uid), ("gid", gid)) if n >= 0}
        await self._set(path, **given)

    async def truncate(self, path: str) -> None:
        await self._set(path, size=3)

    async def touch(self, path: str) -> None:
        await self._set(path, now=True)

    async def set_times(self, path: str) -> None:
        await self._set(path, atime_ns=10**9, mtime_ns=2 * 10**9)

    async def _set(self, path: str, **given: Any) -> None:
        message = pb.SetAttributesRequest(target=pb.Target(path=path), follow=True, **given)
        await self._call("Namespace.SetAttributes", message)

    async def read(self, path: str) -> None:
        await self._opened(path, Verb.READ)

    async def write(self, path: str) -> None:
        await self._opened(path, Verb.WRITE)

    async def _opened(self, path: str, verb: Verb) -> None:
        node = await self._call(
            "Files.Open", pb.OpenRequest(target=pb.Target(path=path), access=int(verb))
        )
        target = pb.Target(volume=node.volume, inode=node.inode)
        try:
            if verb is Verb.READ:
                await self._call("Files.Read", pb.ReadRequest(target=target, length=10))
            else:
                await self._call("Files.Write", pb.WriteRequest(target=target), b"xyz")
        finally:
            await self._call("Files.Close", pb.StatRequest(target=target))

    async def list(self, path: str) -> list[str]:
        reply = await self._call("Namespace.List", pb.ListRequest(target=pb.Target(path=path)))
        return sorted(node.name for node in reply.nodes)

    async def stat(self, path: str) -> tuple[int, int, int]:
        node = await self._call("Namespace.Stat", pb.StatRequest(target=pb.Target(path=path)))
        return node.mode, node.uid, node.gid

    async def set_xattr(self, path: str, name: str) -> None:
        message = pb.XattrRequest(target=pb.Target(path=path), follow=True, name=name, value=b"v")
        await self._call("Namespace.SetXattr", message)

    async def get_xattr(self, path: str, name: str) -> None:
        message = pb.XattrRequest(target=pb.Target(path=path), follow=True, name=name)
        await self._call("Namespace.GetXattr", message)


Step = tuple[str, tuple[Any, ...]]


def a_path(draw: random.Random) -> str:
    return "/".join(draw.choice(NAMES) for _ in range(draw.choice((1, 1, 2, 2, 2, 3, 3, 4))))


def a_step(draw: random.Random) -> Step:
    path = a_path(draw)
    steps: list[tuple[int, Callable[[], Step]]] = [
        (8, lambda: ("create", (path, draw.choice(FILE_MODES)))),
        (8, lambda: ("mkdir", (path, draw.choice(MODES)))),
        (3, lambda: ("rmdir", (path,))),
        (4, lambda: ("unlink", (path,))),
        (10, lambda: ("rename", (path, a_path(draw), draw.choice((0, 0, 0, 1, 2))))),
        (4, lambda: ("link", (path, a_path(draw)))),
        (2, lambda: ("symlink", (path, a_path(draw)))),
        (5, lambda: ("chmod", (path, draw.choice(MODES + FILE_MODES)))),
        (
            4,
            lambda: (
                "chown",
                (path, draw.choice((-1, -1, 0, 1000, 1001)), draw.choice((-1, *GIDS))),
            ),
        ),
        (3, lambda: ("truncate", (path,))),
        (5, lambda: ("read", (path,))),
        (5, lambda: ("write", (path,))),
        (4, lambda: ("list", (path,))),
        (5, lambda: ("stat", (path,))),
        (3, lambda: ("touch", (path,))),
        (3, lambda: ("set_times", (path,))),
        (3, lambda: ("set_xattr", (path, draw.choice(("user.x", "trusted.x"))))),
        (3, lambda: ("get_xattr", (path, draw.choice(("user.x", "trusted.x"))))),
        (1, lambda: ("mknod", (path,))),
    ]
    weights = [weight for weight, _ in steps]
    return draw.choices([make for _, make in steps], weights)[0]()


def locally(who: Principal, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with acting_as(who):
        try:
            return call(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]


async def here(call: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
    try:
        return await call(*arguments)
    except PlatformError as error:
        return errno.errorcode[error.os_errno]


def is_comparable(who: Principal, name: str, arguments: tuple[Any, ...]) -> bool:
    """What this machine adds to POSIX, or leaves open, is not asked."""
    path = arguments[0]
    if name == "chown" and arguments[1:] == (-1, -1):
        return False  # nothing is asked for
    try:
        found = os.lstat(path)
    except OSError:
        return True
    kind = stat.S_IFMT(found.st_mode)
    if name == "link" and who is not ROOT:
        return found.st_uid == who.uid  # fs.protected_hardlinks
    if stat.S_ISCHR(kind):
        return name not in ("read", "write", "truncate", "set_xattr", "get_xattr")
    if stat.S_ISDIR(kind) and name in ("read", "write", "truncate"):
        return False  # a directory is no file of ours
    if name in ("set_xattr", "get_xattr"):
        return stat.S_ISREG(kind) or stat.S_ISDIR(kind)
    return True


def follows_to(name: str, path: str) -> str:
    """What a call through a symbolic link is about."""
    return path if name in ("unlink", "rename", "link", "stat") else os.path.realpath(path)


@pytest.mark.parametrize("seed", range(6))
async def test_users_get_the_errno_that_the_kernel_gives(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    core = await Core.start()
    ours, local = Ours(core), Local()
    root = tmp_path / "root"
    root.mkdir()
    before, mask = os.getcwd(), os.umask(0)
    os.chdir(root)
    trail: list[str] = []
    try:
        os.chmod(".", 0o777)
        await ours.chmod("/", 0o777)
        for _ in range(STEPS):
            who = draw.choice(USERS)
            name, arguments = a_step(draw)
            path = follows_to(name, arguments[0])
            if not is_comparable(who, name, (path, *arguments[1:])):
                continue
            ours.who = who
            wanted = locally(who, getattr(local, name), arguments)
            got = await here(getattr(ours, name), arguments)
            trail.append(f"{who} {name} {arguments} -> {wanted}")
            assert got == wanted, "\n".join([*trail[-40:], f"seed {seed}: got {got}"])
        ours.who = ROOT
        for folder, folders, files in os.walk("."):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                assert await ours.stat(path[2:]) == local.stat(path), path
    finally:
        os.chdir(before)
        os.umask(mask)
        await core.close()
