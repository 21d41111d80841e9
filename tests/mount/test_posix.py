"""What a walk does not come to, call by call. Each holds on a local disk too (`DP_TEST_TREE`)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .hands import Hands
from .programs import need, run


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    names = [errno.errorcode[number] for number in numbers]
    assert caught.value.errno in numbers, f"{caught.value!r}, expected {names}"


# ------------------------------------------------------------------------------------ names


def test_names_of_every_length(place: Path) -> None:
    for length in (1, 2, 127, 254, 255):
        (place / ("n" * length)).write_text(str(length))
        assert (place / ("n" * length)).read_text() == str(length)
    assert sorted(map(len, os.listdir(place))) == [1, 2, 127, 254, 255]
    for long in ("n" * 256, "€" * 86, "n" * 4000):
        for call in (os.stat, os.mkdir, os.unlink, os.listdir):
            with refused(errno.ENAMETOOLONG):
                call(place / long)


def test_names_that_are_odd(place: Path) -> None:
    names = [" ", "\n", "\x01\x7f", "a\tb", "…", "\U0010ffff", "*?[", "-rf", "~", ".", "\ufeff"]
    names = [n for n in names if n != "."] + ["...", "..a", "a:b", "a\\b", "e\u0301", "\u00e9"]
    for name in names:
        (place / name).write_bytes(name.encode())
    assert sorted(os.listdir(place)) == sorted(names)
    for name in names:
        assert (place / name).read_bytes() == name.encode()


def test_a_name_that_is_not_utf8_is_refused_or_kept_as_it_is(place: Path) -> None:
    name = os.fsencode(place) + b"/\xff\xfe"
    try:
        os.mkdir(name)
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EILSEQ)  # noqa: PT017  one of two outcomes
    else:
        assert os.listdir(os.fsencode(place)) == [b"\xff\xfe"]
    with pytest.raises(OSError):
        os.stat(name + b"other")


def test_deep_paths(place: Path) -> None:
    """200 directories deep by relative paths, further than a path can say at once."""
    here = os.open(place, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d" * 50, dir_fd=here)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    fd = os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    assert os.write(fd, b"deep") == 4
    os.close(fd)
    assert os.stat("leaf", dir_fd=here).st_size == 4
    os.close(here)
    run(["rm", "-rf", place / ("d" * 50)])


def test_a_loop_of_links(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    (place / "self").symlink_to("self")
    for name in ("a", "self"):
        for call in (os.stat, os.listdir, lambda path: os.open(path, os.O_CREAT | os.O_WRONLY)):
            with refused(errno.ELOOP):
                call(place / name)
    for number in range(41):
        (place / f"l{number}").symlink_to(f"l{number + 1}")
    (place / "l41").write_text("end")
    assert (place / "l2").read_text() == "end"
    with refused(errno.ELOOP):
        os.stat(place / "l0")


def test_a_link_keeps_any_target(place: Path) -> None:
    for number, target in enumerate(["/", "x" * 4095, "../..", "no/such", "€" * 1000, " "]):
        os.symlink(target, place / f"{number}")
        assert os.readlink(place / f"{number}") == target
        assert os.lstat(place / f"{number}").st_size == len(target.encode())
    with refused(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, place / "long")
    with refused(errno.ENOENT):
        os.symlink("", place / "empty")


# ------------------------------------------------------------------------------------ bytes


def test_a_hole_is_found(place: Path) -> None:
    with open(place / "f", "w+b") as file:
        os.ftruncate(file.fileno(), 64 << 20)
        os.pwrite(file.fileno(), b"x" * 65536, 32 << 20)
        os.fsync(file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 32 << 20
        assert os.lseek(file.fileno(), 32 << 20, os.SEEK_HOLE) == (32 << 20) + 65536
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
        with refused(errno.ENXIO):
            os.lseek(file.fileno(), 33 << 20, os.SEEK_DATA)
        with refused(errno.ENXIO):
            os.lseek(file.fileno(), 64 << 20, os.SEEK_HOLE)


def test_a_sparse_file_takes_no_space(place: Path) -> None:
    with open(place / "f", "w+b") as file:
        os.ftruncate(file.fileno(), 1 << 40)
        assert os.fstat(file.fileno()).st_size == 1 << 40
        os.pwrite(file.fileno(), b"end", (1 << 40) - 3)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 10, (1 << 40) - 5) == b"\0\0end"
        assert os.pread(file.fileno(), 4096, 1 << 39) == bytes(4096)
    assert os.stat(place / "f").st_blocks * 512 < 1 << 20


def test_written_blocks_are_counted(place: Path) -> None:
    with open(place / "f", "wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    assert (1 << 20) <= os.stat(place / "f").st_blocks * 512 <= (1 << 20) + 65536


def test_mapped_and_written_bytes_are_the_same(place: Path) -> None:
    with open(place / "f", "w+b") as file:
        fd = file.fileno()
        os.ftruncate(fd, 3 * 4096 + 100)
        with mmap.mmap(fd, 0) as mapped:
            os.pwrite(fd, b"written", 5000)
            assert mapped[5000:5007] == b"written"
            mapped[4090:4100] = b"by mapping"
            assert os.pread(fd, 10, 4090) == b"by mapping"
            mapped.flush()
            with open(place / "f", "rb") as other:
                assert other.read()[4090:4100] == b"by mapping"
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as private:
            private[0:1] = b"p"
            assert os.pread(fd, 1, 0) == b"\0"


def test_a_mapping_outlives_its_descriptor_and_its_name(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"a" * 10000)
    fd = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(fd, 0)
    os.close(fd)
    path.unlink()
    mapped[9000:9003] = b"xyz"
    mapped.flush()
    assert mapped[8999:9004] == b"axyza"
    mapped.close()


def test_touching_a_mapping_beyond_the_end_is_a_bus_error(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 100)
    code = (
        "import mmap, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); m = mmap.mmap(fd, 100);"
        "os.ftruncate(fd, 0); m[50]"
    )
    done = subprocess.run([sys.executable, "-c", code, place / "f"], timeout=60)
    assert done.returncode == -signal.SIGBUS


def test_writers_that_append_at_once_lose_nothing(place: Path) -> None:
    code = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT);"
        "[os.write(fd, f'{sys.argv[2]}:{i:05}\\n'.encode()) for i in range(500)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, place / "log", str(number)])
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = (place / "log").read_text().splitlines()
    for number in range(4):
        own = [line for line in lines if line.startswith(f"{number}:")]
        assert own == [f"{number}:{i:05}" for i in range(500)]


def test_a_file_without_a_name(place: Path) -> None:
    try:
        fd = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017  what programs expect, and cope with
        pytest.skip("O_TMPFILE is not offered")
    os.write(fd, b"nameless")
    assert os.listdir(place) == []
    libc = ctypes.CDLL(None, use_errno=True)
    old, new = f"/proc/self/fd/{fd}".encode(), os.fsencode(place / "named")
    assert libc.linkat(-100, old, -100, new, 0x400) == 0, os.strerror(ctypes.get_errno())
    os.close(fd)
    assert (place / "named").read_bytes() == b"nameless"


def test_an_offset_that_no_file_has(place: Path) -> None:
    with open(place / "f", "w+b") as file:
        with suppress(OSError):  # ext4 refuses it, XFS does not
            os.ftruncate(file.fileno(), (1 << 63) - 1)
        os.ftruncate(file.fileno(), 0)
        with refused(errno.EINVAL):
            os.ftruncate(file.fileno(), -1)
        with refused(errno.EFBIG, errno.EINVAL):
            os.pwrite(file.fileno(), b"x", (1 << 63) - 1)
        assert os.pread(file.fileno(), 1, 1 << 60) == b""
    assert (place / "f").stat().st_size == 0


# -------------------------------------------------------------------------------- directories


def test_a_directory_that_is_read_while_it_is_emptied(place: Path) -> None:
    """As `rm -r` does: what is neither made nor removed meanwhile comes exactly once."""
    for number in range(3000):
        os.close(os.open(place / f"{number:05}", os.O_CREAT | os.O_WRONLY))
    seen = []
    with os.scandir(place) as entries:
        for entry in entries:
            seen.append(entry.name)
            if int(entry.name) % 2:
                os.unlink(entry.path)
    assert len(seen) == len(set(seen))
    assert {f"{n:05}" for n in range(0, 3000, 2)} <= set(seen)
    assert sorted(os.listdir(place)) == [f"{n:05}" for n in range(0, 3000, 2)]


def test_a_directory_that_is_read_while_it_grows(place: Path) -> None:
    for number in range(2000):
        os.close(os.open(place / f"old{number:05}", os.O_CREAT | os.O_WRONLY))
    seen = []
    with os.scandir(place) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number < 2000:
                os.close(os.open(place / f"new{number:05}", os.O_CREAT | os.O_WRONLY))
    assert len(seen) == len(set(seen))
    assert {f"old{n:05}" for n in range(2000)} <= set(seen)
    assert len(os.listdir(place)) == 4000


def test_a_listing_begins_again(place: Path) -> None:
    """rewinddir sees what came since; seekdir goes back to where telldir was."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.opendir.argtypes = [ctypes.c_char_p]
    for function in (libc.readdir, libc.closedir, libc.rewinddir, libc.telldir):
        function.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

    def read() -> str | None:
        entry = libc.readdir(directory)
        return None if entry is None else ctypes.string_at(entry + 19).decode()

    def rest() -> list[str]:
        found = []
        while (name := read()) is not None:
            found.append(name)
        return found

    for number in range(500):
        (place / f"{number:03}").touch()
    directory = libc.opendir(os.fsencode(place))
    first = [read() for _ in range(250)]
    position = libc.telldir(directory)
    second = rest()
    assert sorted(first + second) == sorted(  # type: ignore[type-var]
        [".", "..", *(f"{n:03}" for n in range(500))]
    )
    libc.seekdir(directory, position)
    assert rest() == second
    (place / "late").touch()
    libc.rewinddir(directory)
    assert "late" in rest()
    libc.closedir(directory)


def test_a_directory_that_is_removed_while_open(place: Path) -> None:
    (place / "d").mkdir()
    fd = os.open(place / "d", os.O_RDONLY)
    (place / "d").rmdir()
    assert os.fstat(fd).st_nlink == 0
    assert os.listdir(fd) == []
    for call in (os.mkdir, lambda name, dir_fd: os.open(name, os.O_CREAT, dir_fd=dir_fd)):
        with refused(errno.ENOENT):
            call("x", dir_fd=fd)
    os.close(fd)


def test_syncing_a_directory(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)


def test_links_of_directories_are_counted(place: Path) -> None:
    assert place.stat().st_nlink == 2
    for number in range(3):
        (place / f"{number}").mkdir()
    assert place.stat().st_nlink == 5
    (place / "0").rename(place / "1" / "0")
    assert place.stat().st_nlink == 4
    assert (place / "1").stat().st_nlink == 3


def test_numbers_are_the_same_everywhere(place: Path) -> None:
    """What a listing says of an inode is what stat says; two names of a file have one number."""
    (place / "a").write_text("a")
    os.link(place / "a", place / "b")
    (place / "d").mkdir()
    with os.scandir(place) as entries:
        listed = {e.name: e.inode() for e in entries}
    assert listed == {n: os.stat(place / n).st_ino for n in ("a", "b", "d")}
    assert listed["a"] == listed["b"] != listed["d"]
    assert os.stat(place / "d" / "..").st_ino == place.stat().st_ino


# ------------------------------------------------------------------------------------ rights


def test_a_program_that_runs_is_not_written(place: Path) -> None:
    program = place / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    process = subprocess.Popen([program, "60"])
    try:
        with refused(errno.ETXTBSY):
            os.open(program, os.O_WRONLY)
        program.unlink()
    finally:
        process.kill()
        process.wait()


def test_a_file_without_the_right_to_run(place: Path) -> None:
    (place / "script").write_text("#!/bin/sh\necho ran\n")
    with pytest.raises(PermissionError):
        subprocess.run([place / "script"], check=True)
    (place / "script").chmod(0o755)
    assert run([place / "script"]).stdout == "ran\n"


def test_writing_clears_the_set_id_bits_for_others(place: Path) -> None:
    for size in (0, 10):
        path = place / f"f{size}"
        path.write_bytes(b"x" * size)
        path.chmod(0o6777)
        with Hands([place], 1001, [1001]) as user:
            assert user.do(0, "write_at", path.name, 0, 0, b"new", False) == ("ok", 3)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777, size


def test_root_keeps_the_set_id_bits_when_it_writes(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"x")
    path.chmod(0o6777)
    with open(path, "r+b") as file:
        file.write(b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777


def test_changing_the_owner_clears_the_set_id_bits(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"x")
    path.chmod(0o6755)
    os.chown(path, 1001, 1001)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_group_is_inherited_from_a_set_gid_directory(place: Path) -> None:
    (place / "d").mkdir()
    os.chown(place / "d", 0, 1005)
    (place / "d").chmod(0o2777)
    with Hands([place], 1001, [1001]) as user:
        assert user.do(0, "mkdir", "d/sub", 0o755, 0)[0] == "ok"
        assert user.do(0, "write_new", "d/f", os.O_CREAT, 0o2755, 0, b"")[0] == "ok"
        assert user.do(0, "mknod", "d/p", stat.S_IFIFO | 0o644, 0, 0)[0] == "ok"
        assert user.do(0, "symlink", "x", "d/l")[0] == "ok"
    for name in ("sub", "f", "p", "l"):
        assert os.lstat(place / "d" / name).st_gid == 1005, name
    assert stat.S_IMODE((place / "d" / "sub").stat().st_mode) == 0o2755
    assert not (place / "d" / "f").stat().st_mode & stat.S_ISGID  # it is in no such group


def test_what_is_opened_stays_open_when_the_right_goes(place: Path) -> None:
    with Hands([place], 1001, [1001]) as user:
        assert user.do(0, "open", 0, "f", os.O_CREAT | os.O_RDWR, 0o600, 0)[0] == "ok"
        assert user.do(0, "write", 0, b"mine") == ("ok", 4)
        os.chown(place / "f", 0, 0)
        assert user.do(0, "pread", 0, 10, 0) == ("ok", b"mine")
        assert user.do(0, "pwrite", 0, b"still", 0) == ("ok", 5)
        assert user.do(0, "read_all", "f") == ("error", "EACCES")
        assert user.do(0, "fsync", 0) == ("ok", None)
    assert (place / "f").read_bytes() == b"still"


def test_a_file_that_is_created_without_rights_can_be_written_by_its_maker(place: Path) -> None:
    with Hands([place], 1001, [1001]) as user:
        assert user.do(0, "write_new", "f", os.O_CREAT | os.O_EXCL, 0, 0, b"x") == ("ok", 1)
        assert user.do(0, "read_all", "f") == ("error", "EACCES")


# -------------------------------------------------------------------------- other properties


def test_the_space_of_the_file_system(place: Path) -> None:
    found = os.statvfs(place)
    assert found.f_frsize > 0
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert found.f_namemax == 255
    need("df")
    assert run(["df", "-P", place]).stdout.count("\n") == 2
    run(["df", "-i", place])


def test_large_extended_attributes(place: Path) -> None:
    (place / "f").touch()
    for size in (0, 1, 255, 3000):
        os.setxattr(place / "f", "user.a", b"v" * size)
        assert os.getxattr(place / "f", "user.a") == b"v" * size
    with refused(errno.ENODATA):
        os.getxattr(place / "f", "user.b")
    with refused(errno.E2BIG):
        os.setxattr(place / "f", "user.a", b"v" * 65537)
    assert os.listxattr(place / "f") == ["user.a"]


def test_a_socket_on_the_mount_connects(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(os.fspath(place / "s"))
        listener.listen()
        client.connect(os.fspath(place / "s"))
        accepted, _ = listener.accept()
        client.send(b"hello")
        assert accepted.recv(10) == b"hello"
        accepted.close()


def test_a_fifo_on_the_mount_carries_bytes(place: Path) -> None:
    os.mkfifo(place / "p")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((place / "p").read_bytes()))
    reader.start()
    (place / "p").write_bytes(b"through")
    reader.join(30)
    assert got == [b"through"]
    assert (place / "p").stat().st_size == 0


def test_locks_between_processes(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 100)
    code = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); k = sys.argv[2];"
        "fcntl.flock(fd, 6) if k == 'flock' else fcntl.lockf(fd, 6, 10, 50)"
    )

    def other(kind: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-c", code, place / "f", kind], capture_output=True, timeout=60
        )
        return done.returncode == 0

    with open(place / "f", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not other("flock")
        fcntl.flock(file, fcntl.LOCK_UN)
        assert other("flock")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 55)
        assert not other("posix")
        fcntl.lockf(file, fcntl.LOCK_UN, 10, 55)
        assert other("posix")


def test_times_to_the_nanosecond(place: Path) -> None:
    (place / "f").touch()
    for seconds in (0, 1, -1, -(10**9), 1 << 31, 1 << 33):
        os.utime(place / "f", ns=(seconds * 10**9 + 1, seconds * 10**9 + 123_456_789))
        found = (place / "f").stat()
        assert found.st_mtime_ns == seconds * 10**9 + 123_456_789
        assert found.st_atime_ns == seconds * 10**9 + 1


def test_a_read_does_not_change_the_times_of_writing(place: Path) -> None:
    (place / "f").write_text("text")
    before = (place / "f").stat()
    time.sleep(0.02)  # beyond a tick
    assert (place / "f").read_text() == "text"
    assert os.listdir(place) == ["f"]
    after = (place / "f").stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def test_many_files_are_open_at_once(place: Path) -> None:
    files = [open(place / f"{number}", "w+b") for number in range(1500)]  # noqa: SIM115
    for number, file in enumerate(files):
        file.write(b"%d" % number)
        file.flush()
        os.unlink(file.name)
    for number, file in enumerate(files):
        file.seek(0)
        assert file.read() == b"%d" % number
        file.close()
    assert os.listdir(place) == []


def test_a_watch_tells_of_local_changes(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(fd, os.fsencode(place), 0x100 | 0x200 | 0x8 | 0xC0) >= 0
    (place / "f").write_text("x")
    (place / "f").rename(place / "g")
    (place / "g").unlink()
    told = os.read(fd, 65536)
    os.close(fd)
    assert told.count(b"f\0") >= 2
    assert told.count(b"g\0") >= 2
