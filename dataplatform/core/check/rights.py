"""Who may do what: access expressions that can be read, users, groups and tokens that can be.

Names that nobody has are no damage, since a rule may be set before its users are there: they are
warnings, of the check of the whole platform, which alone knows everybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Corrupt, Invalid
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, GroupRecord, Inode, TokenRecord, UserRecord
from ..access.expressions import parse
from .picture import read_record

if TYPE_CHECKING:
    from .context import Check

USER, GROUP = "u", "g"


async def check_expressions(check: Check, inode: Inode) -> None:
    """Those of one file, directory, table or stream."""
    for verb, text in inode.access.items():
        path = await check.path_of(inode.number)
        try:
            expression = parse(text)
        except Invalid:
            problem = f"the access expression for {verb} cannot be read: it is nobody's"
            check.add(path, problem)
            continue
        for name in expression.users:
            check.named.setdefault((USER, name), check.findings.shown(path))
        for name in expression.groups:
            check.named.setdefault((GROUP, name), check.findings.shown(path))


async def check_identities(check: Check) -> None:
    """Of the root volume, where they stand."""
    if check.volume.id != ROOT_VOLUME:
        return
    for prefix, record, noun in (
        (keys.USER, UserRecord, "user"),
        (keys.GROUP, GroupRecord, "group"),
        (keys.TOKENS, TokenRecord, "token"),
    ):
        async for page in check.pages(prefix, "users, groups and tokens"):
            for key, value in page:
                name = key.removeprefix(prefix).decode("utf-8", "backslashreplace")
                try:
                    found = read_record(record, value)
                except Corrupt:
                    check.add("/", f"the record of {noun} {name} cannot be read")
                    continue
                check.counts[f"{noun}s of the cluster"] += 1
                if isinstance(found, UserRecord):
                    for group in found.groups:
                        check.named.setdefault((GROUP, group), f"user {name}")
                elif isinstance(found, TokenRecord):
                    check.named.setdefault((USER, found.user), f"token {name}")
