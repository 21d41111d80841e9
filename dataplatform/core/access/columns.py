"""Which columns of a table somebody may read or write.

A table's own expressions for `read:COLUMN` and `write:COLUMN` decide about that column alone; the
verdict on the table decides about all others. So a column may be for fewer people than its table,
or for more: then they see or change that column of every row, and nothing else. Rows come and go
with the right to write the table.

Who may not read a column may not write it either, and may write nothing by way of it: what a
condition, an increment or a filter answers would tell what it holds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import Denied
from ...keyspace.records import Inode
from ..principals import Principal
from .guard import Denial, Verdict
from .rules import Rule, holds
from .verbs import CHANGING, REACH, Verb

if TYPE_CHECKING:
    from ..units import Request, Unit
    from ..volumes import Volume

MARK = ":"
"""Between verb and column, in `Inode.access`: stored. A column's name may hold it, a verb not."""

OF_COLUMNS = Verb.READ | Verb.WRITE
"""What can be set on a column."""


def word_of(verb: Verb, column: str) -> str:
    return f"{verb.word}{MARK}{column}"


class Columns(NamedTuple):
    """A verdict on all columns of a table. Where `others` is true columns without an expression of
    their own are allowed."""

    others: bool
    allowed: frozenset[str] = frozenset()  # those with an expression that holds
    denied: frozenset[str] = frozenset()  # those with one that does not

    @property
    def is_all(self) -> bool:
        return self.others and not self.denied

    def allows(self, column: str) -> bool:
        return column not in self.denied if self.others else column in self.allowed

    def without(self, columns: Iterable[str]) -> Columns:
        """As this, but none of these."""
        gone = frozenset(columns)
        return Columns(self.others, self.allowed - gone, self.denied | gone) if gone else self

    def and_also(self, other: Columns) -> Columns:
        """What both allow."""
        named = self.allowed | self.denied | other.allowed | other.denied
        allowed = frozenset(c for c in named if self.allows(c) and other.allows(c))
        return Columns(self.others and other.others, allowed, named - allowed)

    def chosen(self, wanted: Collection[str]) -> tuple[Collection[str] | None, frozenset[str]]:
        """(columns to show, None for all; columns to hide) of those wanted (none: all)."""
        if wanted:
            return [column for column in wanted if self.allows(column)], frozenset()
        return (None, self.denied) if self.others else (self.allowed, frozenset())


EVERYTHING = Columns(True)


async def check(
    unit: Unit, table: Inode, columns: Columns, names: Iterable[str], verb: Verb = Verb.WRITE
) -> None:
    """DENIED for the first of the names that is not allowed, by this verdict."""
    if not columns.is_all:
        for name in names:
            if not columns.allows(name):
                path = await unit.path_of(table.number)
                raise denied(unit.volume, unit.request, table, path, name, verb)


async def check_read(
    volume: Volume, request: Request, table: Inode, columns: Columns, names: Iterable[str]
) -> None:
    """The same outside of a unit."""
    if not columns.is_all:
        for name in names:
            if not columns.allows(name):
                path = await volume.path_of(table.number)
                raise denied(volume, request, table, path, name, Verb.READ)


def denied(
    volume: Volume, request: Request, table: Inode, path: str, column: str, verb: Verb
) -> Denied:
    """The error, of which the audit hears."""
    rule = table.access.get(word_of(verb, column))
    if rule is None and verb is Verb.WRITE:  # it may not be read, hence not be written
        rule = table.access.get(word_of(Verb.READ, column))
    if volume.guard.on_denied is not None:
        verdict = Verdict(False, "expression", rule, path)
        volume.guard.on_denied(
            Denial(request.principal, request.origin, volume, table.number, path, verb, verdict)
        )
    return Denied(
        "not allowed",
        table=path,
        verb=verb.word,
        column=column,
        user=request.principal.name,
        rule=rule,
    )


async def readable(volume: Volume, table: Inode, request: Request) -> Columns:
    """DENIED if there is nothing of the table that the request's principal may read."""
    principal = request.principal
    if principal.is_free:
        return EVERYTHING
    if volume.source is not None:
        return await _readable_then(volume, volume.source, table, request)
    known = _find(volume, table, principal, "read")
    if known is not None:
        return known
    generation = volume.guard.generation
    columns = await _readable(volume, table, request)
    _keep(volume, table, principal, "read", columns, generation)
    return columns


async def _readable(volume: Volume, table: Inode, request: Request) -> Columns:
    principal = request.principal
    guard, origin = volume.guard, request.origin
    if not _has_columns(table, Verb.READ):
        await volume.allow(principal, table, Verb.READ, origin=origin)
        return EVERYTHING
    others = await guard.may(principal, volume, table, Verb.READ)
    columns = _columns(table, Verb.READ, request, others=others)
    if not others and not columns.allowed:
        await volume.allow(principal, table, Verb.READ, origin=origin)
    await volume.allow(principal, table, REACH, origin=origin)
    return columns


async def _readable_then(volume: Volume, source: Volume, table: Inode, request: Request) -> Columns:
    """In a snapshot: what could be read then, and may be read today if the table is still there."""
    then = await _readable(volume, table, request)
    today = await source.find_inode(table.number)
    if today is None or not today.links:
        return then
    both = then.and_also(await _readable(source, today, request))
    if not both.others and not both.allowed:
        path = await volume.path_of(table.number)
        raise denied(volume, request, table, path, "", Verb.READ)
    return both


async def readable_in(unit: Unit, table: Inode) -> Columns:
    """As `readable`, in a unit."""
    if unit.request.principal.is_free:
        return EVERYTHING
    return await _known_within(unit, table, "read", _within_readable)


async def writable_in(unit: Unit, table: Inode) -> Columns:
    """What the unit's principal may write. DENIED if there is nothing."""
    if unit.request.principal.is_free:
        return EVERYTHING
    return await _known_within(unit, table, "write", _within_writable)


async def _within_readable(unit: Unit, table: Inode) -> Columns:
    return await _within(unit, table, Verb.READ)


async def _within_writable(unit: Unit, table: Inode) -> Columns:
    columns = await _within(unit, table, Verb.WRITE)
    if not _has_columns(table, Verb.READ):
        return columns
    unseen = _columns(table, Verb.READ, unit.request, others=True).denied
    return columns.without(unseen)


# ---- verdicts that are known


class Known(NamedTuple):
    """A verdict about this very object: what is stored of a table is unpacked once, and changed
    tables are others. The guard forgets all of them whenever anything above may have changed."""

    table: Inode
    columns: Columns


KNOWN_MAX = 10_000
"""Verdicts that are kept, at some 200 bytes each; twice that many with columns of their own."""


def _find(volume: Volume, table: Inode, principal: Principal, word: str) -> Columns | None:
    known = volume.guard.columns.get((volume.id, table.number, principal, word))
    return known.columns if known is not None and known.table is table else None


def _keep(
    volume: Volume,
    table: Inode,
    principal: Principal,
    word: str,
    columns: Columns,
    generation: int,
) -> None:
    guard = volume.guard
    if generation != guard.generation:
        return
    if len(guard.columns) >= KNOWN_MAX:
        guard.columns.clear()
    guard.columns[volume.id, table.number, principal, word] = Known(table, columns)


async def _known_within(
    unit: Unit, table: Inode, word: str, ask: Callable[[Unit, Inode], Awaitable[Columns]]
) -> Columns:
    """What a unit changed itself, and may yet fail to commit, is neither believed nor kept."""
    if unit.moves_rules or unit.known_inode(table.number) is not None:
        return await ask(unit, table)
    volume, principal = unit.volume, unit.request.principal
    known = _find(volume, table, principal, word)
    if known is not None:
        return known
    generation = volume.guard.generation
    columns = await ask(unit, table)
    _keep(volume, table, principal, word, columns, generation)
    return columns


async def _within(unit: Unit, table: Inode, verb: Verb) -> Columns:
    principal, volume = unit.request.principal, unit.volume
    guard = volume.guard
    if not _has_columns(table, verb):
        if unit.moves_rules or not guard.allows_now(principal, volume, table, verb):
            await unit.allow(table, verb)
        return EVERYTHING
    others = await guard.may(principal, volume, table, verb, unit=unit)
    columns = _columns(table, verb, unit.request, others=others)
    if not others and not columns.allowed:
        await unit.allow(table, verb)
    await unit.allow(table, REACH)
    return columns


def _has_columns(table: Inode, verb: Verb) -> bool:
    start = word_of(verb, "")
    return any(word.startswith(start) for word in table.access)


def _columns(table: Inode, verb: Verb, request: Request, *, others: bool) -> Columns:
    """By the table's own expressions, whether or not it can be reached."""
    principal = request.principal
    if verb & CHANGING and principal.is_read_only:
        return Columns(False)
    if principal.is_admin:
        return Columns(others)
    start = word_of(verb, "")
    allowed: set[str] = set()
    denied: set[str] = set()
    for word, text in table.access.items():
        if word.startswith(start):
            rule = Rule(text, 0, table.number)
            (allowed if holds(rule, principal) else denied).add(word[len(start) :])
    return Columns(others, frozenset(allowed), frozenset(denied))
