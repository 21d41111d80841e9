"""What programs do on a mount, one line per operation of the kernel that a right decides about.

An operation of the kernel that is neither here nor in `LOCAL` fails the matrix.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from .doors import OK

ANSWER_S = 60.0

REFUSALS = frozenset({"EACCES", "EPERM", "EROFS"})


class Program(NamedTuple):
    """`work` on the path, which is below the cell's directory. `kernel_first`: the kernel lets
    nobody but the owner, whatever an expression says (docs/mount.md)."""

    about: str
    work: str
    path: str
    changes: bool = False
    kernel_first: bool = False


PROGRAMS: dict[str, Program] = {
    "LOOKUP": Program("reach", "os.stat(path)", "f"),
    "GETATTR": Program("reach", "os.lstat(path)", "d"),
    "READLINK": Program("reach", "os.readlink(path)", "l"),
    "OPENDIR": Program("things", "os.scandir(path).close()", "d"),
    "READDIRPLUS": Program("things", "os.listdir(path)", "d"),
    "OPEN": Program("things", "os.close(os.open(path, os.O_RDONLY))", "f"),
    "READ": Program("things", "open(path, 'rb').read()", "f"),
    "GETXATTR": Program("things", "os.getxattr(path, 'user.x')", "f"),
    "WRITE": Program("things", "open(path, 'ab').write(b'x')", "f", True),
    "SETATTR": Program("things", "os.truncate(path, 3)", "f", True),
    "FALLOCATE": Program(
        "things",
        "file = open(path, 'r+b'); os.posix_fallocate(file.fileno(), 0, 9)",
        "f",
        True,
    ),
    "SETXATTR": Program("things", "os.setxattr(path, 'user.y', b'1')", "f", True),
    "REMOVEXATTR": Program("things", "os.removexattr(path, 'user.x')", "f", True),
    "CREATE": Program(
        "things", "os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))", "new", True
    ),
    "MKDIR": Program("things", "os.mkdir(path)", "made", True),
    "MKNOD": Program("things", "os.mkfifo(path)", "fifo", True),
    "SYMLINK": Program("things", "os.symlink('f', path)", "link", True),
    "UNLINK": Program("things", "os.unlink(path)", "d/old", True),
    "RMDIR": Program("things", "os.rmdir(path)", "d/empty", True),
    "RENAME2": Program("things", "os.rename(path, path + 'er')", "d/old", True),
    "LINK": Program("things", "os.link(path, path + '-2')", "f", True),
    "chmod": Program("things", "os.chmod(path, 0o640)", "f", True, kernel_first=True),
}

LOCAL = {
    "RENAME": "what older kernels send for RENAME2",
    "READDIR": "the same as READDIRPLUS, without attributes",
    "STATFS": "what df shows is for everybody who gets there",
    "LISTXATTR": "names of attributes are shown to whoever reads them: as GETXATTR",
    "RELEASE": "of what is open",
    "RELEASEDIR": "of what is open",
    "FLUSH": "of what is open",
    "FSYNC": "of what is open",
    "FSYNCDIR": "of what is open",
    "SYNCFS": "for everybody: it changes nothing",
    "LSEEK": "of what is open: asked as READ",
    "COPY_FILE_RANGE": "of what is open: asked as READ and WRITE",
}

_WORKER = """
import errno, json, os, sys
uid, gids = int(sys.argv[1]), json.loads(sys.argv[2])
if uid:
    os.setgroups(gids); os.setgid(uid); os.setuid(uid)
for line in sys.stdin:
    work, path = json.loads(line)
    try:
        exec(work, {"os": os, "path": path})
        answer = "OK"
    except OSError as error:
        answer = errno.errorcode.get(error.errno, str(error))
    print(json.dumps(answer), flush=True)
"""


class Worker:
    """A process of one user of this machine, which does what it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, uid: int, gids: Sequence[int]) -> Worker:
        """uid 0 stays root."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _WORKER, str(uid), json.dumps(gids)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def do(self, program: Program, base: str) -> str:
        """`OK`, `DENIED`, or the errno's name."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([program.work, f"{base}/{program.path}"]).encode() + b"\n")
        answer = json.loads(await asyncio.wait_for(stdout.readline(), ANSWER_S))
        return "DENIED" if answer in REFUSALS else str(answer)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), ANSWER_S)


__all__ = ["LOCAL", "OK", "PROGRAMS", "Program", "Worker"]
