"""Opening /dev/fuse, mounting, unmounting; and what can go wrong there, in words.

Root mounts by mount(2). Others ask fusermount3, which is set-user-ID: it mounts, and sends the
descriptor over a socket (_FUSE_COMMFD). A mount whose processes are gone (ENOTCONN) is in nobody's
use any more: it is detached, and the new one takes its place.

Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from . import keepers, mountinfo, syscalls
from .options import FILE_SYSTEM, MountOptions
from .refusals import MountRefused

DEVICE = "/dev/fuse"
FUSERMOUNT = "fusermount3"
FUSE_CONF = "/etc/fuse.conf"

READ_BYTES_MAX = 1 << 20
"""max_read: as much as one request of the kernel can carry (256 pages)."""

READAHEAD_KB = 4096
"""How far the kernel reads ahead of a sequential reader; its default for FUSE is 128."""

_NO_DEVICE = (
    f"this machine has no {DEVICE}: run `modprobe fuse`;"
    f" a container needs --device {DEVICE} --cap-add SYS_ADMIN"
)
_NO_RIGHT = (
    "no right to mount: a container needs --cap-add SYS_ADMIN"
    " (and with AppArmor --security-opt apparmor=unconfined)"
)


def is_root() -> bool:
    return os.geteuid() == 0


# ----------------------------------------------------------------------------------- mounting


def check(options: MountOptions) -> None:
    """MountRefused if it can be seen beforehand that it will not work. Detaches a dead mount."""
    if not os.path.exists(DEVICE):
        raise MountRefused("UNAVAILABLE", _NO_DEVICE)
    if not is_root():
        _check_user(options)
    _make_place(options.mountpoint)


def mount(options: MountOptions) -> int:
    """Mount; the descriptor that the kernel's requests are read from."""
    _make_place(options.mountpoint)
    return _mount_as_root(options) if is_root() else _mount_as_user(options)


def _make_place(mountpoint: str) -> None:
    mounted = mountinfo.find(mountpoint)
    if mounted is not None and mounted.kind == FILE_SYSTEM:
        if keepers.find(mountpoint) is not None or not is_dead(mountpoint):
            raise MountRefused(
                "EXISTS",
                f"{mounted.source} is mounted on {mountpoint} already:"
                f" `dp umount {mountpoint}` first",
            )
        unmount(mountpoint, is_lazy=True)
    try:
        if not os.path.isdir(mountpoint):
            os.stat(mountpoint)
            raise MountRefused("INVALID", f"{mountpoint} is not a directory")
    except FileNotFoundError:
        raise MountRefused(
            "NOT_FOUND", f"there is no {mountpoint} to mount on: `mkdir -p {mountpoint}` first"
        ) from None
    except OSError as error:
        kind = "DENIED" if error.errno in (errno.EACCES, errno.EPERM) else "UNAVAILABLE"
        raise MountRefused(kind, f"cannot use {mountpoint}: {error.strerror}") from None


def is_dead(mountpoint: str) -> bool:
    """Whether the processes of a mount are gone: "Transport endpoint is not connected"."""
    try:
        os.stat(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _flags(options: MountOptions) -> int:
    return (
        syscalls.MS_RDONLY * options.read_only
        | syscalls.MS_NOSUID * (not options.suid)
        | syscalls.MS_NODEV * (not options.dev)
        | syscalls.MS_NOEXEC * (not options.exec)
        | (syscalls.MS_NOATIME if options.atime == "noatime" else syscalls.MS_RELATIME)
    )


def _mount_as_root(options: MountOptions) -> int:
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise MountRefused("DENIED", f"no right to open {DEVICE}: {_NO_RIGHT}") from None
        raise MountRefused("UNAVAILABLE", _NO_DEVICE) from None
    data = [
        f"fd={descriptor}",
        f"rootmode=40000,user_id={options.uid},group_id={options.gid}",
        f"default_permissions,max_read={READ_BYTES_MAX}",
        *["allow_other"] * options.allow_other,
    ]
    try:
        syscalls.mount(
            options.source, options.mountpoint, FILE_SYSTEM, _flags(options), ",".join(data)
        )
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise MountRefused("DENIED", _NO_RIGHT) from None
        if error.errno == errno.ENODEV:
            raise MountRefused("UNAVAILABLE", _NO_DEVICE) from None
        raise MountRefused(
            "INTERNAL", f"cannot mount on {options.mountpoint}: {error.strerror}"
        ) from None
    return descriptor


def remount(mountpoint: str, options: MountOptions) -> None:
    """Change the flags (ro, noatime, nosuid, …) of a mount that is there. Root only."""
    try:
        syscalls.mount("none", mountpoint, FILE_SYSTEM, _flags(options) | syscalls.MS_REMOUNT, "")
    except OSError as error:
        raise MountRefused("INTERNAL", f"cannot remount {mountpoint}: {error.strerror}") from None


# -------------------------------------------------------------------------- through fusermount3


def _check_user(options: MountOptions) -> None:
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise MountRefused("DENIED", f"only root may use {DEVICE}: as root, `chmod 666 {DEVICE}`")
    if options.suid or options.dev:
        raise MountRefused("DENIED", "only root may mount with the options suid and dev")
    if options.allow_other and not _others_are_allowed():
        raise MountRefused(
            "DENIED", f"allow_other: root must first write user_allow_other into {FUSE_CONF}"
        )
    _fusermount()


def _others_are_allowed() -> bool:
    try:
        lines = Path(FUSE_CONF).read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _fusermount() -> str:
    import shutil

    program = shutil.which(FUSERMOUNT)
    if program is None:
        raise MountRefused(
            "UNAVAILABLE",
            f"without root, mounting needs {FUSERMOUNT}: `apt-get install fuse3` (or as root)",
        )
    return program


def _mount_as_user(options: MountOptions) -> int:
    import subprocess

    _check_user(options)
    words = [
        "default_permissions",
        f"max_read={READ_BYTES_MAX}",
        f"subtype={FILE_SYSTEM.partition('.')[2]}",
        "fsname=" + options.source.replace("\\", "\\\\").replace(",", "\\,"),
        "ro" if options.read_only else "rw",
        "nosuid,nodev",
        *["noexec"] * (not options.exec),
        *["noatime"] * (options.atime == "noatime"),
        *["allow_other"] * options.allow_other,
    ]
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            done = subprocess.run(
                [_fusermount(), "-o", ",".join(words), "--", options.mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountRefused("DENIED", _said(done.stderr) or f"{FUSERMOUNT} did not mount")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _said(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


# --------------------------------------------------------------------------------- unmounting


def unmount(mountpoint: str, *, is_lazy: bool = False) -> None:
    """CONFLICT while programs use files there, unless `is_lazy`: then the names go at once, and
    the rest when the last file is closed."""
    if not is_root():
        return _unmount_as_user(mountpoint, is_lazy)
    try:
        syscalls.unmount(mountpoint, syscalls.MNT_DETACH if is_lazy else 0)
    except OSError as error:
        raise _not_unmounted(mountpoint, error.errno or 0, error.strerror or "") from None
    return None


def _unmount_as_user(mountpoint: str, is_lazy: bool) -> None:
    import subprocess

    words = [_fusermount(), "-u", *["-z"] * is_lazy, "--", mountpoint]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = _said(done.stderr)
        number = errno.EBUSY if "busy" in said.lower() else 0
        raise _not_unmounted(mountpoint, number, said)


def _not_unmounted(mountpoint: str, number: int, reason: str) -> MountRefused:
    if number == errno.EBUSY:
        return MountRefused(
            "CONFLICT",
            f"{mountpoint} is in use: end the programs that use it, or `dp umount --lazy`",
        )
    if number in (errno.EINVAL, errno.ENOENT):
        return MountRefused("NOT_FOUND", f"nothing is mounted on {mountpoint}")
    if number == errno.EPERM:
        return MountRefused("DENIED", f"no right to unmount {mountpoint}: only root may")
    return MountRefused("INTERNAL", f"cannot unmount {mountpoint}: {reason}")


def unmount_surely(mountpoint: str) -> bool:
    """Unmount, lazily if it is in use (after what the kernel held back was written); whether it
    had to be lazy."""
    try:
        unmount(mountpoint)
        return False
    except MountRefused as refusal:
        if refusal.kind == "NOT_FOUND":
            return False
    with contextlib.suppress(OSError):  # whoever wrote is told of failures
        descriptor = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syscalls.sync_file_system(descriptor)
        finally:
            os.close(descriptor)
    unmount(mountpoint, is_lazy=True)
    return True


# --------------------------------------------------------------------------------- read-ahead


def raise_readahead(mountpoint: str) -> bool:
    """Let the kernel read far ahead on this mount; whether it could be set (root only). To be
    called when the kernel's INIT is answered, which lowers it to what was agreed there."""
    mounted = mountinfo.find(mountpoint)
    if mounted is None or mounted.kind != FILE_SYSTEM:
        return False
    try:
        Path(f"/sys/class/bdi/{mounted.device}/read_ahead_kb").write_text(str(READAHEAD_KB))
    except OSError:
        return False
    return True
