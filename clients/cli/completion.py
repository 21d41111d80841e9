"""Completion of remote paths in the shell. Never in the way: no server, no names, no message."""

from __future__ import annotations

from itertools import islice

import typer

NAMES_MAX = 1000
"""Offered at a time: more than anybody reads, few enough to come at once."""


def complete_path(context: typer.Context, incomplete: str) -> list[str]:
    """Paths that continue `incomplete`; directories end in a slash, and `:` asks for topics."""
    if incomplete and not incomplete.startswith("/"):
        return []
    directory = incomplete.rpartition("/")[0]
    stream, colon, topic = incomplete.rpartition(":")
    options = context.find_root().params
    try:
        import dataplatform

        with dataplatform.connect(
            options.get("server") or None, options.get("token") or None, patience_s=0
        ) as client:
            if colon and "/" not in topic:
                topics = (f"{stream}:{found.name}" for found in client.stream(stream).topics())
                return [path for path in topics if path.startswith(incomplete)]
            paths = (
                f"{directory}/{entry.name}" + ("/" if entry.is_dir() else "")
                for entry in client.scandir(directory or "/")
            )
            return list(islice((path for path in paths if path.startswith(incomplete)), NAMES_MAX))
    except Exception:
        return []
