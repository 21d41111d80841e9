"""Tables and streams as files."""

from __future__ import annotations

from dataplatform.api import platform_pb2 as pb
from dataplatform.client.clients import Client

from .base import ViewNode


def view_of(client: Client, node: pb.Node) -> ViewNode:
    """The directory that shows a table or stream."""
    return ViewNode()
