"""Setting access expressions, and reading what is set.

An expression stands with the thing that it was set on, under its verb; what stands below inherits
it. So it moves with the thing, and setting it changes one inode, however much lies below. To set it
recursively is to take the same verbs away from all that lies below, so that it holds there, too:
page by page, each of them a unit of its own.

Whoever has `admin` of a thing may set; each of the things below is asked about as well.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import Exhausted, Invalid, NotFound
from ...base.limits import COLUMNS_MAX
from ...keyspace import keys
from ...keyspace.records import ROOT_INODE, Entry, Inode, Kind
from ..audit import protection
from ..principals import Principal
from .columns import MARK, OF_COLUMNS, word_of
from .expressions import parse
from .guard import Verdict
from .verbs import OF_FILES, WORDS, Verb, verb_of, verbs_of

if TYPE_CHECKING:
    from ..platform import Platform
    from ..units import Request, Unit
    from ..volumes import Volume

PAGE_ENTRIES_MAX = 1000
"""Names that one unit looks at when rules below a directory are taken away."""

ACCESS_BYTES_MAX = 256 * 1024
"""All expressions of one thing: they are read with it."""


class SetRule(NamedTuple):
    """A rule as people see it."""

    word: str  # the verb, or verb:column
    text: str
    path: str  # where it is set, from the platform's root


class Rules(NamedTuple):
    """What is set on a thing, and what it inherits: verbs that it does not set itself."""

    own: list[SetRule]
    inherited: list[SetRule]


class Answer(NamedTuple):
    """A verdict on one verb, or one column's."""

    word: str
    verdict: Verdict


class Explanation(NamedTuple):
    """Verdicts on one user. Who is not known is judged by the name alone."""

    user: str
    is_known: bool
    answers: list[Answer]


class Page(NamedTuple):
    """What taking rules away from a page of a directory came to."""

    changed: int  # things that had one
    directories: list[tuple[int, int]]  # (volume, inode) to go on with
    after: str  # the last name
    end: bool


# ---------------------------------------------------------------- words


def split_word(word: str) -> tuple[Verb, str]:
    """(verb, column; "" for the whole thing). INVALID, saying which words there are."""
    name, mark, column = word.partition(MARK)
    verb = verb_of(name)
    if mark and not column:
        raise Invalid("the name of a column is missing", verb=word)
    return verb, column


def _check_word(inode: Inode, word: str) -> None:
    """INVALID if a thing of this kind does not know it."""
    verb, column = split_word(word)
    kind = Kind(inode.kind).word
    if column:
        if inode.kind != Kind.TABLE:
            raise Invalid("only a table has columns", verb=word, kind=kind)
        if verb not in OF_COLUMNS:
            raise Invalid("a column can be read and written", verb=word)
    elif not verb & verbs_of(inode.kind):
        known = " ".join(WORDS[int(one)] for one in verbs_of(inode.kind))
        raise Invalid(f"a {kind} does not know this verb", verb=word, verbs=known)


# ---------------------------------------------------------------- setting


async def set_rules(
    unit: Unit,
    number: int,
    wanted: Mapping[str, str | None],
    *,
    recursive: bool = False,
) -> int:
    """Set expressions by verb (or `read:COLUMN`, `write:COLUMN` of a table), None takes one away;
    1 if anything changed, else 0.

    DENIED without `admin`; INVALID for a verb that the thing does not know, or an expression that
    cannot be read. `recursive`: rules below are going to be taken away, which whoever asks must
    still be allowed to do then.
    """
    if not wanted:
        raise Invalid("there is nothing to set: name a verb and its expression")
    inode = await unit.inode(number)
    await unit.allow(inode, Verb.ADMIN, code=errno.EPERM)
    protection.check_verbs(inode, wanted)
    fresh = dict(inode.access)
    for word, text in wanted.items():
        if text is None:
            split_word(word)
            fresh.pop(word, None)
        else:
            _check_word(inode, word)
            fresh[word] = _parsed(word, text)
    if sum(len(word) + len(text) for word, text in fresh.items()) > ACCESS_BYTES_MAX:
        raise Exhausted(
            "the expressions of one thing are too long: put users into groups",
            bytes_max=ACCESS_BYTES_MAX,
        )
    if len(fresh) > COLUMNS_MAX:
        raise Exhausted("too many expressions on one thing", expressions_max=COLUMNS_MAX)
    changed = await _change(unit, inode, fresh)
    principal = unit.request.principal
    if recursive and not principal.is_free:
        guard = unit.volume.guard
        if not await guard.may(principal, unit.volume, inode, Verb.ADMIN, unit=unit):
            raise Invalid(
                "who sets `admin` recursively has to be among those who have it",
                user=principal.name,
            )
    return int(changed)


def _parsed(word: str, text: str) -> str:
    try:
        return parse(text).text
    except Invalid as error:
        raise Invalid(f"{word}: {error.message}", **error.facts) from None


async def clear_page(
    unit: Unit, directory: int, words: Collection[str], after: str = "", limit: int = 0
) -> Page:
    """Take these verbs' expressions away from what stands in a directory, from the name after
    `after` on. DENIED without `list` of the directory, or `admin` of a thing that has one."""
    inode = await unit.inode(directory)
    if not inode.is_directory:
        raise Invalid("not a directory", path=await unit.path_of(directory), errno=errno.ENOTDIR)
    await unit.allow(inode, Verb.LIST)
    for word in words:
        split_word(word)
    limit = min(limit or PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX)
    start, end = keys.prefix_range(keys.entries(directory))
    if after:
        start = keys.entry(directory, after.encode()) + b"\x00"
    pairs = await unit.scan(start, end, limit=limit)
    changed = 0
    directories: list[tuple[int, int]] = []
    for _, value in pairs:
        entry = Entry.unpack(value)
        if entry.volume:
            directories.append((entry.volume, ROOT_INODE))
            continue
        if entry.kind == Kind.DIRECTORY:
            directories.append((unit.volume.id, entry.inode))
        changed += await _clear(unit, await unit.inode(entry.inode), words)
    last = keys.name_of(pairs[-1][0]).decode() if pairs else after
    return Page(changed, directories, last, not pairs)


async def _clear(unit: Unit, inode: Inode, words: Collection[str]) -> bool:
    if inode.access.keys().isdisjoint(words):
        return False
    await unit.allow(inode, Verb.ADMIN, code=errno.EPERM)
    protection.check_verbs(inode, words)
    fresh = {word: text for word, text in inode.access.items() if word not in words}
    return await _change(unit, inode, fresh)


async def _change(unit: Unit, inode: Inode, fresh: dict[str, str]) -> bool:
    """The event says what is set now, and what no more."""
    old = inode.access
    if fresh == old:
        return False
    facts: dict[str, object] = {}
    if put := {word: text for word, text in fresh.items() if old.get(word) != text}:
        facts["set"] = put
    if gone := sorted(old.keys() - fresh.keys()):
        facts["unset"] = gone
    inode.access = fresh
    inode.ctime_ns = unit.now_ns
    unit.save(inode)
    if inode.is_directory:
        unit.change_rules()
    unit.event("access changed", await unit.path_of(inode.number), inode.kind, **facts)
    return True


# ---------------------------------------------------------------- looking


async def rules_of(volume: Volume, inode: Inode) -> Rules:
    """What holds for a thing, for whoever can reach it."""
    guard = volume.guard
    own, inherited = [], []
    here = await guard.path_of((volume.id, inode.number))
    for word, text in inode.access.items():
        own.append(SetRule(word, text, here))
    known = verbs_of(inode.kind)
    for word, rule in (await guard.rules_of(volume, inode)).items():
        if word not in inode.access and MARK not in word and verb_of(word) & known:
            place = await guard.path_of((rule.volume, rule.inode))
            inherited.append(SetRule(word, rule.text, place))
    return Rules(sorted(own), sorted(inherited))


async def explain(
    platform: Platform,
    volume: Volume,
    inode: Inode,
    request: Request,
    user: str = "",
    words: Collection[str] = (),
) -> Explanation:
    """What somebody may do (no verbs: all that the thing knows), and why.

    Everybody may ask about themselves, whoever has `admin` of the thing about others.
    """
    principal, is_known = request.principal, True
    if user and user != principal.name:
        await volume.allow(principal, inode, Verb.ADMIN, code=errno.EPERM, origin=request.origin)
        principal, is_known = _somebody(platform, user)
    known = OF_FILES if inode.kind == Kind.DIRECTORY else verbs_of(inode.kind)
    asked = list(words) or [WORDS[int(verb)] for verb in known]
    answers = [Answer(word, await _verdict(volume, inode, principal, word)) for word in asked]
    return Explanation(principal.name, is_known, answers)


def _somebody(platform: Platform, name: str) -> tuple[Principal, bool]:
    """A user by name, and whether the platform knows it: else somebody in no group."""
    try:
        platform.identities.user(name)
    except NotFound:
        return Principal(name), False
    return platform.identities.principal_of_user(name), True


async def _verdict(volume: Volume, inode: Inode, principal: Principal, word: str) -> Verdict:
    verb, column = split_word(word)
    guard = volume.guard
    verdict = await guard.explain(principal, volume, inode, verb)
    text = inode.access.get(word) if column else None
    if column and verb is Verb.WRITE:  # who may not read a column may not write it
        seen = inode.access.get(word_of(Verb.READ, column))
        if seen is not None and not parse(seen).allows(principal):
            text = seen
    if text is None or verdict.by in ("token", "reach", "administrator"):
        return verdict
    path = await guard.path_of((volume.id, inode.number))
    return Verdict(parse(text).allows(principal), "expression", text, path)
