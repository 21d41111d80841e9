"""What every group of operations shares: the channel."""

from __future__ import annotations

from .connection import Channel


class Operations:
    """A group of operations of the asynchronous client; `clients.Client` is all of them."""

    _channel: Channel
