"""A random walk of file operations on a tree and on a local directory: results and errno, equal.

Each step is done by root or by one of two other users, in their own processes (`hands`), on the
reference and on the subject. With two subjects, which are two mounts of one tree, every step goes
to one of them at random, and only operations that open and close within the step are chosen: then
close-to-open consistency means that the result is the reference's at once, whichever mount did
what before. Some steps are watched: whatever time moved in the reference must have moved in the
subject, and no other. Now and then, and at the end, the whole trees are compared.

Where file systems may differ, the walk keeps out or looks away: access times, a directory's size
and positions in it, blocks, holes (what is called one must read as zeros), O_TMPFILE where it is
not offered. Names are UTF-8 and not `.snapshot`.

A failing seed by hand, on any two directories that all users can reach:
`python -m tests.mount.walk --seed N REFERENCE SUBJECT [SECOND]`.
"""

from __future__ import annotations

import argparse
import os
import random
import stat
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .hands import (
    AT_SYMLINK_NOFOLLOW,
    KEEP_SIZE,
    PUNCH_HOLE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    UTIME_NOW,
    UTIME_OMIT,
    ZERO_RANGE,
    Answer,
    Hands,
    Silent,
)

STEPS = 2500
COMPARE_EVERY = 150
ENTRIES_MAX = 60
SIZE_MAX = 2 << 20
LOG_SHOWN = 300
TICK_NS = 20 * 10**6
"""A kernel that keeps a file's times itself keeps them to a tick of its clock."""

USERS: list[tuple[int, list[int]]] = [(0, [0]), (1001, [1001, 1005]), (1002, [1002, 1005])]
IDS = [-1, -1, 0, 1001, 1002, 1005]
HELD = 5

NAMES = ["a", "b", "c", "d", "ä€", "x" * 255, " .\n\\*", "𝄞" * 63, "e\u0301", "\u00e9", ".h"]
LONG_NAMES = [name for name in NAMES if len(name) > 60] + ["y" * 256, "€" * 86, "n" * 250]
TOO_LONG = ["y" * 256, "€" * 86]
XATTRS = ["user.a"] * 6 + ["user.b", "user.b", "user.ü", "user." + "n" * 250]
XATTRS_ODD = ["user." + "n" * 251, "user.", "odd.a"]
MODES = [0o644, 0o600, 0o755, 0o4755, 0o2755, 0o2775, 0o1777, 0o3777, 0o777, 0o000, 0o040, 0o111]
UMASKS = [0, 0, 0o022, 0o077, 0o027]
EDGES = [512, 4096, 8192, 64 << 10, 128 << 10, 256 << 10, 1 << 20]
SPECIAL = [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK]
FALLOCATE = [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE]
TIMES = [
    (0, 0),
    (1, 999_999_999),
    (1_000_000_000, 123_456_789),
    (-86_400, 500),
    (4_294_967_296, 1),
    (0, UTIME_OMIT),
    (0, UTIME_NOW),
    (0, 1_000_000_000),  # EINVAL
]
DEEP = 6
"""Directories between a tree and what is shared, so that `..` in links meets only what is alike."""

Step = tuple[str, tuple[Any, ...]]


class Mismatch(AssertionError):
    pass


class Walk:
    """One seed. `subjects`: one directory, or the same one through two mounts."""

    def __init__(
        self,
        seed: int,
        reference: Path,
        subjects: Sequence[Path],
        stack: ExitStack,
        work: str = "Work",
        compare_every: int = COMPARE_EVERY,
    ) -> None:
        self.seed = seed
        self.compare_every = compare_every
        self.rng = random.Random(seed)
        self.is_pair = len(subjects) > 1
        self.log: list[str] = []
        self.counts: Counter[str] = Counter()
        self._known: list[tuple[str, str]] = []
        self._known_at = -1
        self._open: set[tuple[int, int]] = set()  # user, number of what is held open
        trees = self._make(reference, subjects)
        self.trees = range(len(trees))
        self.users = [stack.enter_context(Hands(trees, uid, groups, work)) for uid, groups in USERS]
        self.root = self.user = self.users[0]
        self.choices = list(SOLE) if self.is_pair else SOLE + HELD_OPEN
        self.modes = list(FALLOCATE)
        self._probe()

    def _probe(self) -> None:
        """Leave out what a tree does not offer at all: O_TMPFILE, and on tmpfs to zero a range."""
        for tree in (0, 1):
            if self.root.do(tree, "tmpfile", 0, ".", os.O_RDWR, 0, 0) == ("error", "ENOTSUP"):
                self.choices = [choice for choice in self.choices if choice[1] is not _tmpfile]
            self.root.do(tree, "open", 0, "probe", os.O_CREAT | os.O_RDWR, 0o600, 0)
            if self.root.do(tree, "fallocate", 0, ZERO_RANGE, 0, 4096) == ("error", "ENOTSUP"):
                self.modes = [mode for mode in self.modes if not mode & ZERO_RANGE]
            self.root.do(tree, "close", 0)
            self.root.do(tree, "unlink", "probe")

    def _make(self, reference: Path, subjects: Sequence[Path]) -> list[Path]:
        unique = uuid.uuid4().hex[:8]
        below = "/".join([f"walk-{unique}", *["up"] * DEEP, "tree"])
        mode = self.rng.choice([0o777, 0o1777, 0o2777])
        for place in (reference, subjects[0]):
            (place / below).mkdir(parents=True)
            (place / below).chmod(mode)
        return [place / below for place in (reference, *subjects)]

    # ---- walking

    def run(self, steps: int) -> None:
        for number in range(steps):
            if number % self.compare_every == self.compare_every - 1:
                self._compare()
            self._step(number)
        self._compare()

    def _step(self, number: int) -> None:
        self.user = self.rng.choices(self.users, [3, 1, 1])[0]
        weights = [weight for weight, _ in self.choices]
        choose = self.rng.choices([choose for _, choose in self.choices], weights)[0]
        name, arguments = choose(self)
        user = self.user
        subject = 1 + (self.rng.randrange(2) if self.is_pair else 0)
        watched = self._watched(name, arguments) if self.rng.random() < 0.25 else []
        line = f"{number}: {user.uid} {'AB'[subject - 1]} {name}{_brief(arguments)}"

        before = [self._times(tree, watched) for tree in (0, subject)]
        started_ns = time.time_ns()
        expected = self._do(user, 0, name, arguments, line)
        got = self._do(user, subject, name, arguments, line)
        self.log.append(f"{line} -> {_brief(expected)}")
        self.counts[f"{name} {expected[1] if expected[0] == 'error' else 'ok'}"] += 1
        if got != expected:
            found = self._look(arguments)
            self._fail(f"expected {_brief(expected)}, got {_brief(got)}\n{found}")
        if name in ("open", "tmpfile", "close"):
            held = user.uid, arguments[0]
            if expected[1] is True:
                self._open.add(held)
            else:
                self._open.discard(held)
        after = [self._times(tree, watched) for tree in (0, subject)]
        for path, *found in zip(watched, *before, *after, strict=True):
            self._compare_times(path, started_ns, *found)

    def _do(self, user: Hands, tree: int, name: str, arguments: Any, line: str) -> Answer:
        try:
            return user.do(tree, name, *arguments)
        except Silent as silent:
            self.log.append(line)
            self._fail(str(silent))
            raise

    def _fail(self, what: str) -> None:
        mounts = "two mounts" if self.is_pair else "one mount"
        log = "\n  ".join(self.log[-LOG_SHOWN:])
        last = self.log[-1] if self.log else "no step"
        said = f"seed {self.seed}, {mounts}: {what}\nin {last}\nafter:\n  {log}"
        for name in LONG_NAMES:
            said = said.replace(name, f"{name[0]}*{len(name)}")
        raise Mismatch(said)

    def _look(self, arguments: tuple[Any, ...]) -> str:
        """What root finds along the paths of a step, in every tree."""
        paths = [a for a in arguments if isinstance(a, str) and len(a) < 2000]
        lines = []
        for path in paths:
            names = path.split("/")
            for length in range(1, len(names) + 1):
                prefix = "/".join(names[:length])
                found = [self.root.do(tree, "lstat", prefix)[1] for tree in self.trees]
                lines.append(f"  {prefix!r}: {' | '.join(map(_brief, found))}")
        return "\n".join(lines)

    # ---- comparing

    def _compare(self) -> None:
        expected = self._do(self.root, 0, "everything", (), "compare")[1]
        for subject in range(1, 3 if self.is_pair else 2):
            got = self._do(self.root, subject, "everything", (), "compare")[1]
            if got == expected:
                continue
            if not isinstance(got, dict):
                self._fail(f"reading everything: {got}")
            differing = [
                f"{path!r}: {_unlike(expected.get(path), got.get(path))}"
                + self._difference(path, subject)
                for path in sorted(expected.keys() | got.keys())
                if expected.get(path) != got.get(path)
            ]
            self._fail(f"mount {'AB'[subject - 1]} differs:\n  " + "\n  ".join(differing))

    def _difference(self, path: str, subject: int) -> str:
        """Where the contents begin to differ."""
        a, b = (self.root.do(tree, "bytes_of", path) for tree in (0, subject))
        if a[0] != "ok" or b[0] != "ok" or a[1] == b[1]:
            return ""
        x, y = a[1], b[1]
        at = next((i for i in range(min(len(x), len(y))) if x[i] != y[i]), min(len(x), len(y)))
        return f"; from offset {at}: expected {x[at : at + 8]!r}, got {y[at : at + 8]!r}"

    def _watched(self, name: str, arguments: tuple[Any, ...]) -> list[str]:
        """The paths whose times the step may change, and the directories they are in.

        Some leave the ctime alone when an extended attribute has that value already, and the times
        of a file that is truncated to the size that it has (POSIX allows both).
        """
        if name in ("setxattr", "truncate"):
            return []
        paths = [a for a in arguments if isinstance(a, str) and "/" not in (a[:1], a[-1:])]
        if name == "symlink":
            paths = [arguments[1]]
        above = [os.path.dirname(path) or "." for path in paths]
        return sorted({*paths, *above})

    def _times(self, tree: int, watched: list[str]) -> Any:
        return self.root.do(tree, "times", watched)[1] if watched else []

    def _compare_times(
        self, path: str, started_ns: int, was: Any, subject_was: Any, now: Any, subject_now: Any
    ) -> None:
        if None in (was, subject_was, now, subject_now):
            return
        if was[0] != now[0]:  # another file has the name now
            return
        for kind, index in (("mtime", 1), ("ctime", 2)):
            moved = now[index] != was[index]
            is_fresh = subject_now[index] >= started_ns - TICK_NS
            subject_moved = subject_now[index] != subject_was[index]
            if moved and not subject_moved and not (is_fresh and now[index] >= started_ns):
                self._fail(f"the {kind} of {path!r} did not move")
            is_coarse = now[index] >= started_ns - TICK_NS  # tmpfs may give the same time twice
            if subject_moved and not moved and not is_coarse:
                self._fail(f"the {kind} of {path!r} moved")
            if kind == "ctime" and subject_moved and not is_fresh:
                self._fail(f"the ctime of {path!r} is older than the step")

    # ---- choosing

    def known(self, letters: str = "dfls") -> list[str]:
        """What there is, as of some steps ago."""
        if self._known_at < 0 or len(self.log) - self._known_at > 10:
            self._known = self.root.do(0, "entries")[1]
            self._known_at = len(self.log)
        return [path for path, letter in self._known if letter in letters]

    def path(self, letters: str = "dfls") -> str:
        """Mostly of something that there is."""
        if self.rng.random() < 0.75 and (known := self.known(letters)):
            found = self.rng.choice(known)
            return self.odd(found)
        return self.new()

    def new(self) -> str:
        """A path in a directory that there probably is; full trees get fewer new names."""
        known = self.known("d")
        above = self.rng.choice(["", "", *known]) if known else ""
        if self.rng.random() < 0.03 and (files := self.known("fl")):
            above = self.rng.choice(files)  # a file as a directory, a link as one
        if above.count("/") > 4:
            above = os.path.dirname(above)
        name = self.rng.choice(NAMES if self.rng.random() < 0.97 else TOO_LONG)
        return self.odd(f"{above}/{name}" if above else name)

    def odd(self, path: str) -> str:
        """Seldom: a slash at the end, dots and slashes between."""
        chosen = self.rng.random()
        if chosen < 0.02:
            return path + "/"
        if chosen < 0.03:
            return "./" + path
        if chosen < 0.04:
            return path.replace("/", "//")
        if chosen < 0.05:
            return path + "/.."
        return path

    def file(self) -> str:
        return self.path("f" if self.rng.random() < 0.9 else "dfls")

    def mode(self) -> int:
        return self.rng.choice(MODES)

    def umask(self) -> int:
        return self.rng.choice(UMASKS)

    def offset(self) -> int:
        rng = self.rng
        if rng.random() < 0.4:
            return rng.randrange(5000)
        edge = rng.choice(EDGES)
        return min(max(edge * rng.randrange(4) + rng.choice([-1, 0, 0, 1, 77]), 0), SIZE_MAX)

    def length(self) -> int:
        rng = self.rng
        if rng.random() < 0.5:
            return rng.randrange(200)
        return min(max(rng.choice(EDGES) + rng.choice([-1, 0, 0, 1, 99]), 0), 300_000)

    def data(self) -> bytes:
        length = self.length()
        if self.rng.random() < 0.1:
            return bytes(length)
        return (self.rng.randbytes(16) * (length // 16 + 1))[:length]

    def held(self) -> int:
        """The number of something that the user holds open; if there is nothing, another user."""
        if self.rng.random() < 0.03 or not self._open:
            return self.rng.randrange(HELD)
        if all(uid != self.user.uid for uid, _ in self._open):
            uid, _ = self.rng.choice(sorted(self._open))
            self.user = next(user for user in self.users if user.uid == uid)
        return self.rng.choice([h for uid, h in sorted(self._open) if uid == self.user.uid])

    def create_flags(self) -> int:
        return self.rng.choice(
            [
                os.O_CREAT,
                os.O_CREAT,
                os.O_CREAT | os.O_EXCL,
                os.O_CREAT | os.O_TRUNC,
                os.O_CREAT | os.O_APPEND,
                os.O_TRUNC,
                os.O_APPEND,
                os.O_CREAT | os.O_NOFOLLOW,
                os.O_NOFOLLOW,
                os.O_DIRECTORY,
                os.O_CREAT | os.O_SYNC,
                0,
            ]
        )

    def owners(self) -> tuple[int, int]:
        """A user, a group or both: POSIX leaves open what a chown of neither does."""
        return self.rng.choice([(u, g) for u in IDS for g in IDS if (u, g) != (-1, -1)])

    def moment(self) -> tuple[int, int]:
        return self.rng.choice(TIMES)


ASPECTS = ("mode", "links", "uid", "gid", "size", "device", "mtime", "content", "xattrs", "same")


def _unlike(expected: Any, got: Any) -> str:
    if expected is None or got is None:
        return f"expected {expected}, got {got}"
    return "; ".join(
        f"{aspect}: expected {_brief(x)}, got {_brief(y)}"
        for aspect, x, y in zip(ASPECTS, expected, got, strict=True)
        if x != y
    )


def _brief(value: Any) -> str:
    """A value for the log; bytes by their length."""
    if isinstance(value, bytes) and len(value) > 24:
        return f"<{len(value)} bytes>"
    if isinstance(value, tuple):
        return f"({', '.join(map(_brief, value))})"
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return repr(value)


# -------------------------------------------------------------------------------- the steps


def _mkdir(w: Walk) -> Step:
    return "mkdir", (w.new(), w.mode() | 0o700 if w.rng.random() < 0.8 else w.mode(), w.umask())


def _remove(w: Walk) -> Step:
    if w.rng.random() < 0.3:
        return "rmdir", (w.path("d"),)
    return "unlink", (w.path(),)


def _trim(w: Walk) -> Step:
    """As `_remove`, so often that the tree stays small."""
    if len(w.known()) > ENTRIES_MAX:
        return _remove(w)
    return "lstat", (w.path(),)


def _rename(w: Walk) -> Step:
    flags = w.rng.choice([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
    return "rename", (w.path(), w.path() if flags or w.rng.random() < 0.5 else w.new(), flags)


def _link(w: Walk) -> Step:
    return "link", (w.path("fls"), w.new())


def _symlink(w: Walk) -> Step:
    rng = w.rng
    target = rng.choice([w.path(), "a", "b", "a/b", "../a", ".", "..", "l" * 300, "t/" * 2047])
    return "symlink", (target.rstrip("\n"), w.new())


def _mknod(w: Walk) -> Step:
    rng = w.rng
    kind = rng.choice(SPECIAL)
    device = os.makedev(240, rng.randrange(3000)) if kind in SPECIAL[3:] else 0
    return "mknod", (w.new(), kind | w.mode(), device, w.umask())


def _write_new(w: Walk) -> Step:
    return "write_new", (w.new(), w.create_flags(), w.mode(), w.umask(), w.data())


def _write_existing(w: Walk) -> Step:
    return "write_new", (w.path(), w.create_flags(), w.mode(), w.umask(), w.data())


def _append(w: Walk) -> Step:
    return "write_new", (w.file(), os.O_APPEND, 0, 0, w.data())


def _write_at(w: Walk) -> Step:
    flags = w.rng.choice([0, 0, 0, os.O_APPEND, os.O_TRUNC, os.O_DSYNC])
    return "write_at", (w.file(), flags, w.offset(), w.data(), w.rng.random() < 0.2)


def _write_mapped(w: Walk) -> Step:
    return "write_mapped", (w.file(), w.offset(), w.data())


def _direct(w: Walk) -> Step:
    rng = w.rng
    where = w.file(), rng.randrange(64), rng.choice([1, 1, 2, 16, 40])
    if rng.random() < 0.5:
        return "read_direct", where
    return "write_direct", (*where, rng.randrange(256))


def _truncate(w: Walk) -> Step:
    return "truncate", (w.file(), w.offset())


def _look(w: Walk) -> Step:
    name = w.rng.choice(["stat", "lstat", "stat", "lstat", "readlink", "statvfs"])
    return name, (w.path("l" if name == "readlink" else "dfls"),)


def _look_for_nothing(w: Walk) -> Step:
    """What is not there is remembered too."""
    return "lstat", (w.new(),)


def _read(w: Walk) -> Step:
    return w.rng.choice(["read_all", "read_all", "extents"]), (w.file(),)


def _list(w: Walk) -> Step:
    return "listdir", (w.path("d") if w.rng.random() < 0.9 else ".",)


def _access(w: Walk) -> Step:
    return "access", (w.path(), w.rng.randrange(8), w.rng.random() < 0.5)


def _chmod(w: Walk) -> Step:
    return "chmod", (w.path(), w.mode())


def _chown(w: Walk) -> Step:
    return "chown", (w.path(), *w.owners(), w.rng.random() < 0.5)


def _utimens(w: Walk) -> Step:
    flags = w.rng.choice([0, 0, AT_SYMLINK_NOFOLLOW])
    return "utimens", (w.path(), w.moment(), w.moment(), flags)


def _xattr(w: Walk) -> Step:
    rng = w.rng
    path = rng.choice(w.known("df")[:3] or ["a"]) if rng.random() < 0.5 else w.path("df")
    name = rng.choice(XATTRS if rng.random() < 0.9 else XATTRS_ODD)
    chosen = rng.choice(["setxattr", "setxattr", "getxattr", "removexattr", "listxattr"])
    if chosen == "setxattr":
        value = rng.randbytes(rng.choice([0, 1, 60, 200]))
        flags = rng.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
        return chosen, (path, name, value, flags, rng.random() < 0.8)
    return (chosen, (path,)) if chosen == "listxattr" else (chosen, (path, name))


SOLE: list[tuple[int, Callable[[Walk], Step]]] = [
    (8, _mkdir),
    (5, _remove),
    (10, _trim),
    (9, _rename),
    (5, _link),
    (5, _symlink),
    (3, _mknod),
    (10, _write_new),
    (6, _write_existing),
    (4, _append),
    (8, _write_at),
    (4, _write_mapped),
    (3, _direct),
    (4, _truncate),
    (10, _look),
    (3, _look_for_nothing),
    (8, _read),
    (6, _list),
    (3, _access),
    (6, _chmod),
    (5, _chown),
    (5, _utimens),
    (6, _xattr),
]


def _open(w: Walk) -> Step:
    access = w.rng.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
    path = w.new() if w.rng.random() < 0.4 else w.path("dff")
    return "open", (
        w.rng.randrange(HELD),
        path,
        access | w.create_flags(),
        w.mode() | 0o600,
        w.umask(),
    )


def _open_directory(w: Walk) -> Step:
    return "open", (w.held(), w.path("d"), os.O_RDONLY | os.O_DIRECTORY, 0, 0)


def _tmpfile(w: Walk) -> Step:
    flags = w.rng.choice([os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_EXCL])
    return "tmpfile", (w.held(), w.path("d"), flags, w.mode() | 0o600, w.umask())


def _close(w: Walk) -> Step:
    return "close", (w.held(),)


def _move_bytes(w: Walk) -> Step:
    rng, h = w.rng, w.held()
    return rng.choice(
        [
            ("read", (h, w.length())),
            ("pread", (h, w.length(), w.offset())),
            ("readv", (h, [w.length(), 0, w.length()])),
            ("write", (h, w.data())),
            ("write", (h, w.data())),
            ("pwrite", (h, w.data(), w.offset())),
            ("writev", (h, [w.data(), b"", w.data()])),
            ("read_mapped", (h, w.offset(), w.length())),
            ("write_held_mapped", (h, w.offset(), w.data())),
        ]
    )


def _position(w: Walk) -> Step:
    whence = w.rng.choice([os.SEEK_SET, os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
    offset = w.offset() if w.rng.random() < 0.7 else -w.rng.randrange(5000)
    return "lseek", (w.held(), offset, whence)


def _about_held(w: Walk) -> Step:
    rng, h = w.rng, w.held()
    return rng.choice(
        [
            ("fstat", (h,)),
            ("fstat", (h,)),
            ("extents_held", (h,)),
            ("fsync", (h,)),
            ("fdatasync", (h,)),
            ("ftruncate", (h, w.offset())),
            ("fchmod", (h, w.mode())),
            ("fchown", (h, *w.owners())),
            ("futimens", (h, w.moment(), w.moment())),
            ("link_held", (h, w.new())),
            ("list_held", (h,)),
            ("lookup_held", (h, rng.choice(NAMES))),
        ]
    )


def _fallocate(w: Walk) -> Step:
    return "fallocate", (w.held(), w.rng.choice(w.modes), w.offset(), w.length())


def _copy_range(w: Walk) -> Step:
    return "copy_range", (w.held(), w.offset(), w.held(), w.offset(), w.length())


HELD_OPEN: list[tuple[int, Callable[[Walk], Step]]] = [
    (16, _open),
    (2, _open_directory),
    (1, _tmpfile),
    (4, _close),
    (40, _move_bytes),
    (6, _position),
    (16, _about_held),
    (5, _fallocate),
    (4, _copy_range),
]


# ------------------------------------------------------------------------------------ runs


def run(
    seed: int,
    reference: Path,
    subjects: Sequence[Path],
    steps: int = STEPS,
    work: str = "Work",
    compare_every: int = COMPARE_EVERY,
) -> Counter[str]:
    """One walk; what came of its steps, counted. `work`: a class of `plants`."""
    with ExitStack() as stack:
        walk = Walk(seed, reference, subjects, stack, work, compare_every)
        walk.run(steps)
        return walk.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.mount.walk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1, help="seeds")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--compare-every", type=int, default=COMPARE_EVERY, help="steps")
    parser.add_argument("reference", type=Path)
    parser.add_argument("subjects", type=Path, nargs="+")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.count):
        started = time.monotonic()
        try:
            total += run(
                seed,
                options.reference,
                options.subjects,
                options.steps,
                compare_every=options.compare_every,
            )
            outcome = "equal"
        except Mismatch as mismatch:
            outcome = str(mismatch)
        sys.stdout.write(f"seed {seed}, {time.monotonic() - started:.1f} s: {outcome}\n")
    for what, count in sorted(total.items()):
        sys.stdout.write(f"{count:7} {what}\n")


if __name__ == "__main__":
    main()
