"""Which engine a place means: a path is a data directory, a URL is an object store.

The engines are imported when they are used: a server on one needs nothing of the other.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..base.errors import Invalid
from .base import Storages

STORE_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "file", "memory")


async def open_storages(place: str | os.PathLike[str]) -> Storages:
    """Open ``/data/dir`` (rocks), or ``s3://bucket/prefix`` or ``file:///dir`` (slate).

    An empty place is made ready. UNAVAILABLE if another server uses it; INVALID if it is newer, if
    it holds something else, or if the URL is not understood.
    """
    text = os.fspath(place)
    scheme, separator, _ = text.partition("://")
    if not separator:
        from .rocks import RocksStorages

        return await RocksStorages.at(Path(text))
    if scheme not in STORE_SCHEMES:
        raise Invalid(
            "store must be a path or a URL of a known kind", url=text, known=STORE_SCHEMES
        )
    from .slate import SlateStorages

    return await SlateStorages.at(text)
