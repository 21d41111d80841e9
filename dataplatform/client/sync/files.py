"""Files: `open` as the builtin, whole files in one step, and copies. Synchronous."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, overload

from ..handles import FileHandle
from ..modes import Mode
from ..paths import Path
from ..runtime import run
from ..values import Stat
from .base import Operations

Buffer = bytes | bytearray | memoryview
BinaryMode = Literal[
    "rb", "br", "wb", "bw", "ab", "ba", "xb", "bx",
    "rb+", "r+b", "+rb", "wb+", "w+b", "ab+", "a+b", "xb+", "x+b",
]  # fmt: skip
TextMode = Literal[
    "r", "w", "a", "x", "rt", "tr", "wt", "tw", "at", "ta", "xt", "tx",
    "r+", "w+", "a+", "x+", "rt+", "r+t", "wt+", "w+t", "at+", "a+t", "xt+", "x+t",
]  # fmt: skip


class File(io.RawIOBase):
    """An open file, seekable, with `read`, `write`, `readinto`, `truncate` as `io` has them.

    Unlike a plain raw file it reads and writes all that is asked for, reads ahead when reading in
    sequence, and gathers writes into large ones that travel while the program goes on. An error of
    such a write is raised by the next `write`, `flush`, `sync` or `close`.

    Written bytes are visible to others after `flush()` or `close()`, and durable after `sync()`,
    otherwise within a second.
    """

    def __init__(self, handle: FileHandle, name: str, mode: str) -> None:
        super().__init__()
        self._handle = handle
        self.name = name
        self.mode = mode

    # ------------------------------------------------------------------------------- reading

    def readable(self) -> bool:
        return self._handle.mode.read

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, fewer only at the end of the file; all that is left without one."""
        return run(self._open().read(-1 if size is None else size))

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to and with the next newline, at most `size` bytes."""
        return run(self._open().readline(-1 if size is None else size))

    def readall(self) -> bytes:
        return run(self._open().read(-1))

    def read1(self, size: int = -1, /) -> bytes:
        """What is there without waiting for more than one reply, at most `size` bytes."""
        return run(self._open().read_some(size))

    def peek(self, size: int = 0, /) -> bytes:
        """Bytes that will be read next, without moving; empty at the end of the file."""
        return run(self._open().peek(size))

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`; the number of bytes, less than its size only at the end of the file."""
        return run(self._open().readinto(memoryview(buffer).cast("B")))

    def readinto1(self, buffer: Any, /) -> int:
        return self.readinto(buffer)

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`, without moving."""
        return run(self._open().pread(size, offset))

    # ------------------------------------------------------------------------------- writing

    def writable(self) -> bool:
        return self._handle.mode.write

    def write(self, data: Any, /) -> int:
        """Write all of `data` at the current position (at the end in mode "a")."""
        return run(self._open().write(memoryview(data).cast("B")))

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write all of `data` at `offset`, without moving."""
        return run(self._open().pwrite(memoryview(data).cast("B"), offset))

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend to `size` bytes (default: the current position); the new size."""
        return run(self._open().truncate(size))

    def flush(self) -> None:
        """Send what is gathered and wait until others see it."""
        if not self.closed:
            run(self._handle.flush())

    def sync(self) -> None:
        """`flush`, and wait until it is on disk (fsync)."""
        run(self._open().sync())

    # -------------------------------------------------------------------------------- moving

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; the new position. `whence`: 0 from the start, 1 from here, 2 from the end."""
        return run(self._open().seek(offset, whence))

    def tell(self) -> int:
        return run(self._open().tell())

    def stat(self) -> Stat:
        """The open file's attributes, whatever its name is by now."""
        return run(self._open().stat())

    def close(self) -> None:
        """Send what is gathered, and let go of the file. Raises what a write met."""
        if self.closed:
            return
        try:
            run(self._handle.close())
        finally:
            super().close()

    def _open(self) -> FileHandle:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        return self._handle

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<dataplatform.File {self.name!r} {self.mode!r}>"


class FileOperations(Operations):
    @overload
    def open(
        self,
        path: Path,
        mode: BinaryMode,
        *,
        buffering: int = -1,
        permissions: int = 0o644,
    ) -> File: ...
    @overload
    def open(
        self,
        path: Path,
        mode: TextMode = "r",
        *,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        permissions: int = 0o644,
    ) -> io.TextIOWrapper: ...
    @overload
    def open(
        self,
        path: Path,
        mode: str,
        *,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        permissions: int = 0o644,
    ) -> Any: ...
    def open(
        self,
        path: Path,
        mode: str = "r",
        *,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        permissions: int = 0o644,
    ) -> Any:
        """Open a file as the builtin `open` does: modes r, w, a, x with +, b and t.

        A binary mode gives a `File` (an `io.RawIOBase`), a text mode an `io.TextIOWrapper` in
        UTF-8 unless `encoding` says otherwise. `buffering=0` sends every write at once and reads
        nothing ahead. `permissions` are those of a file that is created.

        Raises NotFound, Exists (mode x), Invalid when `path` is not a file.

            with dp.open("/projects/cars/front.jpg", "wb") as f:
                f.write(data)
        """
        parsed = Mode.parse(mode, buffering, encoding, errors, newline)
        handle = run(self._aio.open_handle(path, parsed, permissions, gather=buffering != 0))
        file = File(handle, str(path), mode)
        if not parsed.text:
            return file
        text = io.TextIOWrapper(
            file,
            encoding or "utf-8",
            errors,
            newline,
            line_buffering=buffering == 1,
        )
        text.mode = mode  # type: ignore[misc]
        return text

    def read_file(self, path: Path) -> bytes:
        """The whole content of a file. Raises NotFound.

        Example: `json.loads(dp.read_file("/projects/settings.json"))`
        """
        return run(self._aio.read_file(path))

    def write_file(
        self,
        path: Path,
        data: Buffer | str,
        *,
        mode: int = 0o644,
        parents: bool = False,
        no_replace: bool = False,
        durable: bool | None = None,
    ) -> Stat:
        """Create or replace a whole file: a reader sees the old or the new content, never a part.

        Up to 8 MiB are one request; larger content is written beside and renamed. A str is
        stored as UTF-8. `durable=True` waits for the disk; otherwise it is there within a second.
        Raises NotFound when the directory is missing and `parents` is not set, Exists with
        `no_replace`.
        """
        return run(
            self._aio.write_file(
                path, data, mode=mode, parents=parents, no_replace=no_replace, durable=durable
            )
        )

    def copy(
        self,
        source: Path,
        target: Path,
        *,
        recursive: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Copy a file, or with `recursive` a directory and all files below; the bytes copied.

        Within a volume the server copies without moving the bytes through the client. A file at
        `target` is replaced; a directory at `target` takes the copy under the source's name.
        Permission bits and modification times are kept. `progress` is called with the bytes copied
        since its last call. Tables and streams are not copied (Invalid).
        """
        return run(self._aio.copy(source, target, recursive=recursive, progress=progress))

    def sync(self) -> None:
        """Wait until everything written so far, by anyone, is on the server's disk."""
        run(self._aio.sync())
