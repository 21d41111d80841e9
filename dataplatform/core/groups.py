"""Consumer groups: what the rest of the platform calls.

Who reads which partition is decided in `memberships`, in memory; how far a group has read is stored
by `group_offsets`.
"""

from __future__ import annotations

from .group_offsets import (
    Commit,
    GroupView,
    MemberView,
    OffsetView,
    commit_offsets,
    delete_group,
    describe,
)
from .memberships import Coordinator, Membership

__all__ = [
    "Commit",
    "Coordinator",
    "GroupView",
    "MemberView",
    "Membership",
    "OffsetView",
    "commit_offsets",
    "delete_group",
    "describe",
]
