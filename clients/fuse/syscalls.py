"""The system calls that Python has no function for: mount(2), umount2(2), syncfs(2).

Errors are OSError, as from any function of `os`. The C library is opened at the first call, so that
whoever only imports this pays nothing.
"""

from __future__ import annotations

import os
from typing import Any, Final

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_RELATIME: Final = 1 << 21

MNT_DETACH: Final = 2


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    _call("mount", _text(source), _text(target), _text(kind), flags, _text(data), path=target)


def unmount(target: str, flags: int = 0) -> None:
    _call("umount2", _text(target), flags, path=target)


def sync_file_system(descriptor: int) -> None:
    """What the kernel still holds back of the file system that this descriptor is on."""
    _call("syncfs", descriptor)


def _call(name: str, *arguments: Any, path: str | None = None) -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_ulong(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    if getattr(library, name)(*values):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _text(text: str) -> bytes:
    return os.fsencode(text)
