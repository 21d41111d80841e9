"""`connect` and the synchronous `Client`: every group of operations together."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from ...transport.tls import Trust
from ..clients import Client as AsyncClient
from ..clients import blocking_client
from ..runtime import run
from ..tokens import token_source
from .access import AccessOperations
from .changes import ChangeOperations
from .clusters import ClusterOperations
from .files import FileOperations
from .gathers import GatherOperations
from .identities import IdentityOperations
from .mirrors import MirrorOperations
from .namespace import NamespaceOperations
from .quotas import QuotaOperations
from .snapshots import SnapshotOperations
from .streams import StreamOperations
from .system import SystemOperations
from .tables import TableOperations
from .transactions import TransactionOperations
from .volumes import VolumeOperations


class Client(
    NamespaceOperations,
    FileOperations,
    TableOperations,
    StreamOperations,
    TransactionOperations,
    ChangeOperations,
    VolumeOperations,
    SnapshotOperations,
    QuotaOperations,
    IdentityOperations,
    ClusterOperations,
    MirrorOperations,
    GatherOperations,
    SystemOperations,
    AccessOperations,
):
    """A connected client. Made by `connect`; may be shared by threads, each of which gets its own
    connection to the server. Use it in a `with` statement, or call `close()`."""

    def __init__(self, client: AsyncClient) -> None:
        self._aio = client

    @property
    def address(self) -> str:
        """The server's address, for people."""
        return self._aio.address

    @property
    def as_of_ns(self) -> int:
        """As of when the oldest is that was read from mirrors so far; 0: nothing was."""
        return self._aio.as_of_ns

    def close(self) -> None:
        """End every connection. Open files, producers and consumers should be closed before."""
        run(self._aio.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<dataplatform.Client {self.address}>"


def connect(
    address: str | None = None,
    token: str | None = None,
    *,
    patience_s: float | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    stale_ok: bool = False,
) -> Client:
    """Connect to a server.

    `address` is `dp://host:port`, `dps://host:port` or `dp+unix:///path`. Without one it is
    `$DP_SERVER`, else the local socket of a server run by the same user, else
    `dp://127.0.0.1:7222`. `token` identifies the user (`dp token create`), or `token_file`, which
    is read at every connection, so that the token can be renewed; otherwise `$DP_TOKEN`, else the
    file `$DP_TOKEN_FILE`. Without a token, a Unix socket says who you are; TCP does not.

    `patience_s` is how long an operation waits for a server that cannot be reached or that asks
    to try later, before it raises `Unavailable`: 30 s unless given, but only 1 s for this first
    connection. A repeated write is recognised by the server and never happens twice.

    Over `dps://`, `ca` is the PEM file of the authority that the server's certificate must come
    from (`$DP_CA` otherwise, else the system's authorities); `cert` and `key` are the client's own
    (`$DP_CERT`, `$DP_KEY`). The server's host name is always verified.

    `stale_ok`: what belongs to another cluster that cannot be reached may be read from a mirror of
    it here. `.as_of_ns` of a Stat, and of the client, says how old that is.

    Raises Unavailable (no server there), Denied (the token, the server's certificate), Invalid (the
    address, a file).

        with dataplatform.connect() as dp:
            dp.write_file("/hello.txt", b"Hello")
    """
    trust = Trust.from_environment(ca, cert, key)
    source = token_source(token, token_file)
    made = blocking_client(address, source, patience_s, trust, stale_ok=stale_ok)
    return Client(run(made))
