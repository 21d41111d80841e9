"""What the groups of synchronous operations share: the asynchronous client that they drive."""

from __future__ import annotations

from ..clients import Client as AsyncClient


class Operations:
    """A group of operations of the synchronous client; `Client` is all of them together."""

    _aio: AsyncClient
