"""Tables and streams as files (see `base`).

A view remembers things that a kernel does not: what is written to a table and is no row yet, and
where the records of a partition stand in its file. So there is one view of a table or stream, found
again for as long as anybody uses it, and for a while after.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakKeyDictionary, WeakValueDictionary

from dataplatform.api import platform_pb2 as pb
from dataplatform.client.clients import Client

from .base import ViewNode
from .streams import StreamView
from .tables import TableView

VIEWS_MAX = 256
"""Kept although nobody uses them."""

View = TableView | StreamView


class _Views:
    """Those of one client."""

    def __init__(self) -> None:
        self._all: WeakValueDictionary[tuple[int, int], View] = WeakValueDictionary()
        self._latest: OrderedDict[tuple[int, int], View] = OrderedDict()

    def of(self, client: Client, node: pb.Node) -> View:
        key = node.volume, node.inode
        view = self._all.get(key)
        if view is None:
            view = self._all[key] = _KINDS[node.kind](client, node)
        view.node = node
        self._latest[key] = view
        self._latest.move_to_end(key)
        if len(self._latest) > VIEWS_MAX:
            self._latest.popitem(last=False)
        return view


_KINDS: dict[int, type[TableView] | type[StreamView]] = {
    pb.TABLE: TableView,
    pb.STREAM: StreamView,
}
_clients: WeakKeyDictionary[Client, _Views] = WeakKeyDictionary()


def view_of(client: Client, node: pb.Node) -> ViewNode:
    """The view of a table or stream, with these attributes from now on."""
    views = _clients.get(client)
    if views is None:
        views = _clients[client] = _Views()
    return views.of(client, node)
