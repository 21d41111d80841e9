"""Names: directories, attributes, links, renaming and removing. Synchronous."""

from __future__ import annotations

from collections.abc import Iterator

from ..paths import Path
from ..runtime import iterate, run
from ..values import Entry, Stat, Usage
from .base import Operations


class NamespaceOperations(Operations):
    # ------------------------------------------------------------------------------- looking

    def stat(self, path: Path) -> Stat:
        """What `path` is: kind, size, times, version. Follows a symbolic link.

        Raises NotFound. Example: `dp.stat("/projects/cars").kind == "directory"`
        """
        return run(self._aio.stat(path))

    def lstat(self, path: Path) -> Stat:
        """`stat` of a symbolic link itself."""
        return run(self._aio.lstat(path))

    def exists(self, path: Path) -> bool:
        """Whether there is something at `path` (following symbolic links)."""
        return run(self._aio.exists(path))

    def scandir(self, path: Path = "/") -> Iterator[Entry]:
        """The entries of a directory in the order of their names, fetched in pages.

        Entries that come and go meanwhile may or may not appear. Raises NotFound, or Invalid
        when `path` is not a directory.

            for entry in dp.scandir("/projects"):
                print(entry.name, entry.kind, entry.size)
        """
        return iterate(self._aio.scandir(path))

    def listdir(self, path: Path = "/") -> list[str]:
        """The names in a directory, sorted by their bytes."""
        return run(self._aio.listdir(path))

    def walk(
        self, path: Path, *, topdown: bool = True
    ) -> Iterator[tuple[str, list[Entry], list[Entry]]]:
        """Every directory at and below `path`: (path, directories, other entries).

        With `topdown`, directories taken out of the list are not entered. Symbolic links are
        not followed. Example: `sum(e.size for _, _, files in dp.walk("/a") for e in files)`
        """
        return iterate(self._aio.walk(path, topdown=topdown))

    def usage(self, path: Path = "/") -> Usage:
        """Bytes and entries in use, by the tightest quota that counts for `path`, and what is
        still free."""
        return run(self._aio.usage(path))

    def readlink(self, path: Path) -> str:
        """Where a symbolic link points. Raises Invalid when `path` is not one."""
        return run(self._aio.readlink(path))

    # -------------------------------------------------------------------------------- making

    def mkdir(
        self,
        path: Path,
        mode: int = 0o755,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        durable: bool | None = None,
    ) -> Stat:
        """Make a directory; with `parents` also those above it that are missing.

        Raises Exists unless `exist_ok` (and what is there is a directory), NotFound when the
        parent is missing. Example: `dp.mkdir("/a/b", parents=True, exist_ok=True)`
        """
        return run(self._aio.mkdir(path, mode, parents=parents, exist_ok=exist_ok, durable=durable))

    def link(self, existing: Path, path: Path) -> Stat:
        """Give the file `existing` a second name in the same volume (a hard link)."""
        return run(self._aio.link(existing, path))

    def symlink(self, target: Path, path: Path) -> Stat:
        """Make `path` a symbolic link to `target`, which need not exist."""
        return run(self._aio.symlink(target, path))

    # ------------------------------------------------------------------------------ changing

    def rename(
        self,
        source: Path,
        target: Path,
        *,
        no_replace: bool = False,
        exchange: bool = False,
        durable: bool | None = None,
    ) -> None:
        """Rename anything within a volume, in one step; a file at `target` is replaced.

        `no_replace` raises Exists instead; `exchange` swaps the two names. Raises NotFound, and
        Invalid with errno EXDEV when the names are in different volumes.
        """
        run(
            self._aio.rename(
                source, target, no_replace=no_replace, exchange=exchange, durable=durable
            )
        )

    def remove(self, path: Path, *, missing_ok: bool = False, durable: bool | None = None) -> None:
        """Remove a name: a file, a link, an empty directory, or a table or stream with all it
        holds. Raises NotFound unless `missing_ok`; a directory that is not empty is refused
        (use `rmtree`)."""
        run(self._aio.remove(path, missing_ok=missing_ok, durable=durable))

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        """`remove`, but never of a directory (unlink(2))."""
        run(self._aio.unlink(path, missing_ok=missing_ok))

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        run(self._aio.rmdir(path))

    def rmtree(self, path: Path, *, missing_ok: bool = False) -> int:
        """Remove `path` and everything below it; the number of names removed.

        Not one step: what others add meanwhile makes it fail. Raises NotFound unless
        `missing_ok`.
        """
        return run(self._aio.rmtree(path, missing_ok=missing_ok))

    def chmod(self, path: Path, mode: int, *, follow: bool = True) -> Stat:
        """Set the permission bits. Example: `dp.chmod("/a/run.sh", 0o755)`"""
        return run(self._aio.chmod(path, mode, follow=follow))

    def chown(
        self, path: Path, uid: int | None = None, gid: int | None = None, *, follow: bool = True
    ) -> Stat:
        """Set owner and group; None leaves one as it is."""
        return run(self._aio.chown(path, uid, gid, follow=follow))

    def utime(
        self,
        path: Path,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow: bool = True,
    ) -> Stat:
        """Set (atime, mtime), in seconds or with `ns` in nanoseconds; now if neither is given."""
        return run(self._aio.utime(path, times, ns=ns, follow=follow))

    def truncate(self, path: Path, size: int) -> Stat:
        """Cut a file to `size` bytes, or extend it with zeros that take no space."""
        return run(self._aio.truncate(path, size))

    # ------------------------------------------------------------------- extended attributes

    def getxattr(self, path: Path, name: str, *, follow: bool = True) -> bytes:
        """An extended attribute. Raises NotFound with errno ENODATA when it is not set."""
        return run(self._aio.getxattr(path, name, follow=follow))

    def listxattr(self, path: Path, *, follow: bool = True) -> list[str]:
        """The names of the extended attributes."""
        return run(self._aio.listxattr(path, follow=follow))

    def setxattr(
        self,
        path: Path,
        name: str,
        value: bytes,
        *,
        create: bool = False,
        replace: bool = False,
        follow: bool = True,
    ) -> None:
        """Set an extended attribute; `create`: it must be new, `replace`: it must exist."""
        run(self._aio.setxattr(path, name, value, create=create, replace=replace, follow=follow))

    def removexattr(self, path: Path, name: str, *, follow: bool = True) -> None:
        """Remove an extended attribute."""
        run(self._aio.removexattr(path, name, follow=follow))
