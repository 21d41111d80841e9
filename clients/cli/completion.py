"""Completion of remote paths in the shell. Never in the way: no server, no names, no message."""

from __future__ import annotations

from itertools import islice

import typer

NAMES_MAX = 1000
"""Of one directory: more than anybody reads, few enough to come at once."""

PATIENCE_S = 0.0


def complete_path(context: typer.Context, incomplete: str) -> list[str]:
    """Names that continue `incomplete`; directories end in a slash."""
    directory, slash, _ = incomplete.rpartition("/")
    try:
        import dataplatform

        options = context.find_root().params
        with dataplatform.connect(
            options.get("server") or None, options.get("token") or None, patience_s=PATIENCE_S
        ) as client:
            entries = (e for e in client.scandir(directory or "/") if _name(directory, e.name))
            matching = (
                f"{directory}/{e.name}" + ("/" if e.is_dir() else "")
                for e in entries
                if f"{directory}/{e.name}".startswith(incomplete or "/")
            )
            return list(islice(matching, NAMES_MAX))
    except Exception:
        return []
