"""fsspec: `dp://` paths for pandas, Arrow, Dask and others.

`dp:///path` is on the default server, `dp://host:port/path` on that one. Options (`storage_options`
in pandas): `address` for any address of `dataplatform.connect`, `token` or `token_file` (which does
not show where file systems are written down), `patience_s`.

    pandas.read_parquet("dp:///projects/cars/x.parquet")
    fsspec.open("dp://east:7222/projects/readme.txt", "rt")
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from .sync import Client, connect
from .values import Entry, Stat

SCHEME = "dp://"
TYPES = {"file": "file", "directory": "directory", "symlink": "link"}


class DataPlatformFileSystem(AbstractFileSystem):
    """The namespace as a file system of fsspec. Tables and streams appear with type "other"."""

    protocol = "dp"
    root_marker = "/"

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        address: str | None = None,
        token: str | None = None,
        token_file: str | None = None,
        patience_s: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if address is None and host is not None:
            address = f"{SCHEME}{host}" if port is None else f"{SCHEME}{host}:{port}"
        self._options = address, token, token_file, patience_s
        self._connected: Client | None = None

    @property
    def client(self) -> Client:
        """The client, connected at the first use."""
        if self._connected is None:
            address, token, file, patience_s = self._options
            self._connected = connect(address, token, token_file=file, patience_s=patience_s)
        return self._connected

    # ----------------------------------------------------------------------------------- urls

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = stringify_path(path)
        if text.startswith(SCHEME):
            text = "/" + text[len(SCHEME) :].partition("/")[2]
        return "/" + text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        if not path.startswith(SCHEME):
            return {}
        parts = urlsplit(path.partition("?")[0])
        found: dict[str, Any] = {}
        if parts.hostname:
            found["host"] = parts.hostname
        if parts.port:
            found["port"] = parts.port
        return found

    @property
    def fsid(self) -> str:
        return f"dp-{self.client.address}"

    # -------------------------------------------------------------------------------- looking

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        return _info(name, self.client.stat(name))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        name = self._strip_protocol(path)
        stat = self.client.stat(name)
        if stat.is_dir():
            entries = [_info(entry.path, entry) for entry in self.client.scandir(name)]
        else:
            entries = [_info(name, stat)]
        return entries if detail else [entry["name"] for entry in entries]

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.client.exists(self._strip_protocol(path))

    def created(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.client.stat(self._strip_protocol(path)).birth, UTC)

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.client.stat(self._strip_protocol(path)).mtime, UTC)

    # ---------------------------------------------------------------------------------- files

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        return self.client.open(path, mode)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        name = self._strip_protocol(path)
        if start is None and end is None:
            return self.client.read_file(name)
        with self.client.open(name, "rb") as file:
            if (start or 0) < 0 or (end or 0) < 0:
                start, end, _ = slice(start, end).indices(file.stat().size)
            start = start or 0
            if end is None:
                file.seek(start)
                return file.read()
            return file.pread(max(end - start, 0), start)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        name = self._strip_protocol(path)
        self.client.write_file(name, value, no_replace=mode == "create")

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.client.stat(source).is_dir():
            self.client.mkdir(target, parents=True, exist_ok=True)
        else:
            self.client.copy(source, target)

    def mv(
        self,
        path1: str,
        path2: str,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.client.rename(self._strip_protocol(path1), self._strip_protocol(path2))

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        name = self._strip_protocol(path)
        if truncate or not self.client.exists(name):
            self.client.write_file(name, b"")
        else:
            self.client.utime(name)

    # ---------------------------------------------------------------------------- directories

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        self.client.mkdir(self._strip_protocol(path), parents=create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.client.mkdir(self._strip_protocol(path), parents=True, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        self.client.rmdir(self._strip_protocol(path))

    def rm_file(self, path: str) -> None:
        self.client.remove(self._strip_protocol(path))

    def rm(
        self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        for each in path if isinstance(path, list) else [path]:
            for name in self.expand_path(each) if "*" in each else [self._strip_protocol(each)]:
                if recursive:
                    self.client.rmtree(name)
                else:
                    self.client.remove(name)


def _info(name: str, stat: Stat | Entry) -> dict[str, Any]:
    return {
        "name": name,
        "size": stat.size if stat.kind == "file" else None,
        "type": TYPES.get(stat.kind, "other"),
        "kind": stat.kind,
        "mode": stat.mode,
        "uid": stat.uid,
        "gid": stat.gid,
        "mtime": stat.mtime,
        "created": stat.birth,
        "version": stat.version,
        "ino": stat.inode,
        "islink": stat.is_symlink(),
        "destination": stat.symlink,
    }
