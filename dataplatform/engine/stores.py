"""Which engine: a data directory means RocksDB, the URL of an object store SlateDB.

The engines are imported only when they are wanted: each brings a large native library.
"""

from __future__ import annotations

import os

from ..base.errors import Invalid
from .base import Storages

SCHEMES = ("s3", "file", "memory")


async def open_storages(data_dir: str | os.PathLike[str], store: str | None = None) -> Storages:
    """The storages in `data_dir`, or at the `store` URL if there is one, held exclusively.

    Errors: those of the engine's `at`; INVALID for a URL of an unknown kind.
    """
    if store is None:
        from .rocks import RocksStorages

        return await RocksStorages.at(data_dir)
    scheme = store.partition("://")[0]
    if scheme not in SCHEMES:
        raise Invalid(
            "unknown kind of object store: use s3://bucket/prefix or file:///directory", store=store
        )
    from .slate import SlateStorages

    return await SlateStorages.at(store)
