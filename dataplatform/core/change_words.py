"""What changes are told in: the kinds of things and the words for what happened to them.

Users filter the feed by these words, so one that is not known is an error, and not a feed without
changes. A test compares the words with what the core says.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from ..base.errors import Invalid
from ..keyspace.records import Event, Kind

MOVES = frozenset(("renamed", "exchanged"))
"""What gives a thing, and all below it, another path."""

OF_NAMES = frozenset(("created", "linked", "removed", "restored", "promoted", *MOVES))

OF_FILES = frozenset(("written", "truncated", "hole punched"))

OF_ATTRIBUTES = frozenset(("attributes set", "attribute set", "attribute removed"))

OF_ROWS = frozenset(
    ("row put", "rows put", "row deleted", "columns deleted", "row incremented", "rows expired")
)
OF_RECORDS = frozenset(
    (
        "records appended",
        "records expired",
        "offsets committed",
        "group deleted",
        "topic created",
        "topic deleted",
        "partitions added",
    )
)
OF_RIGHTS = frozenset(
    (
        "access changed",
        "user created",
        "user set",
        "user removed",
        "group created",
        "group set",
        "group removed",
        "token created",
        "token revoked",
        "signing key replaced",
    )
)
OF_VOLUMES = frozenset(
    (
        "volume set",
        "volume removed",
        "volume cloned",
        "volume restored",
        "volume key rotated",
        "volume key rotation done",
        "volume keys wrapped anew",
        "promoted",
        "volume locked",
        "volume unlocked",
        "quota set",
        "quota removed",
        "advisory limit passed",
        "advisory limit kept again",
        "repaired",
    )
)

OF_FEEDS = frozenset(("changes published", "changes unpublished"))

OF_SNAPSHOTS = frozenset(
    ("snapshot created", "snapshot removed", "snapshots scheduled", "snapshots not scheduled")
)

OF_CLUSTERS = frozenset(
    (
        "cluster added",
        "cluster changed",
        "cluster removed",
        "gathering began",
        "gathering changed",
        "gathering ended",
    )
)

EVENTS = frozenset().union(
    OF_FEEDS,
    OF_NAMES,
    OF_FILES,
    OF_ATTRIBUTES,
    OF_ROWS,
    OF_RECORDS,
    OF_RIGHTS,
    OF_VOLUMES,
    OF_SNAPSHOTS,
    OF_CLUSTERS,
)

KINDS = frozenset((*(kind.word for kind in Kind), "volume", "user", "group", "token", "cluster"))


class Wanted(NamedTuple):
    """Which changes somebody asks for; empty sets: all."""

    kinds: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()

    def takes(self, event: Event) -> bool:
        return (not self.kinds or event.kind in self.kinds) and (
            not self.events or event.verb in self.events
        )

    def may_take(self, row: bytes) -> bool:
        """Whether a stored change row can have such an event: its words stand in it as they are.
        Most rows that nobody asked for need not be unpacked."""
        return (not self.events or any(word.encode() in row for word in self.events)) and (
            not self.kinds or any(word.encode() in row for word in self.kinds)
        )


ALL = Wanted()


def wanted(kinds: Iterable[str], events: Iterable[str]) -> Wanted:
    """INVALID, with the words there are, for one that there is not."""
    found = Wanted(frozenset(kinds), frozenset(events))
    for given, known, what in ((found.kinds, KINDS, "kind"), (found.events, EVENTS, "event")):
        unknown = sorted(given - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], sorted(known), 3, 0.5)
            hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
            raise Invalid(
                f"the change feed knows no such {what}{hint}",
                **{what: unknown[0], f"{what}s": ", ".join(sorted(known))},
            )
    return found
