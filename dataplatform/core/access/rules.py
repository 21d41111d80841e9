"""Directories as verdicts see them: modes, owners, and which rule holds there for which verb.

A `Directory` knows the directory above it, across volumes by way of junctions, up to the platform's
root. Its `rules` are those that hold for what stands in it: its own, and for every other verb that
of the nearest ancestor that sets it. So finding a rule is one look into a dict, whatever the depth,
and where no expression was ever set all directories share one empty dict.

Directories are kept by the guard until any of them changes (`Guard.changed`).
"""

from __future__ import annotations

from typing import NamedTuple

from ...base.errors import Invalid
from ...keyspace.records import Inode
from ..principals import NOBODY, Principal
from .expressions import parse
from .verbs import MODE_BITS, NUMBERS, REACH, Verb

PASSAGES_MAX = 1000
"""Principals that one directory remembers to let pass."""


class Rule(NamedTuple):
    """An expression, and where it is set."""

    text: str
    volume: int
    inode: int


Rules = dict[str, Rule]
"""By the verb's word."""

NO_RULES: Rules = {}
"""Of every directory where nothing is set above: never changed."""


def holds(rule: Rule, principal: Principal) -> bool:
    """Whether the expression says yes to the principal. One that cannot be read is nobody's."""
    try:
        expression = parse(rule.text)
    except Invalid:
        return False
    return expression.allows(principal)


def mode_allows(principal: Principal, mode: int, uid: int, gid: int, verb: Verb) -> bool:
    """POSIX.1-2017 §4.5: the owner's bits, or the group's, or the others', and only those. Nobody
    in particular owns nothing."""
    if principal.modes_checked:
        return True
    owns = principal.uid == uid and uid != NOBODY
    if verb is Verb.ADMIN:
        return owns
    if owns:
        mode >>= 6
    elif gid in principal.gids or (principal.gid == gid and gid != NOBODY):
        mode >>= 3
    return mode & MODE_BITS[verb._value_] != 0


class Passage(NamedTuple):
    """Whether names in a directory may be looked up: it and all above it let the principal pass."""

    allowed: bool
    by: str = "mode"  # "mode", "expression" or "token"
    rule: Rule | None = None  # that decided
    directory: Directory | None = None  # that stopped it


PASSED = Passage(True)


class Directory:
    """One directory; see the module. Only the guard makes them."""

    __slots__ = ("above", "gid", "home", "key", "live", "mode", "passages", "rules", "uid")

    rules: Rules

    def __init__(
        self,
        volume: int,
        inode: Inode,
        above: Directory | None,
        home: int = 0,
        live: Directory | None = None,
    ) -> None:
        """In a snapshot of the volume `home`, `live` is the same directory today; or, if it is
        gone, the nearest one above it that is there."""
        self.key = (volume, inode.number)
        self.home = (home or volume, inode.number)  # by which a token's subtree is named
        self.live = live
        self.mode, self.uid, self.gid = inode.mode, inode.uid, inode.gid
        self.above = above
        inherited = above.rules if above is not None else NO_RULES
        self.rules = rules_below(volume, inode, inherited)
        self.passages: dict[Principal, Passage] = {}

    def passage(self, principal: Principal) -> Passage:
        """Remembered as long as this object is good, like everything that it is made of."""
        known = self.passages.get(principal)
        if known is not None:
            return known
        unknown: list[Directory] = []
        at: Directory | None = self
        while at is not None and known is None:
            unknown.append(at)
            if at.home in principal.roots:
                known = PASSED  # what is above a token's subtree does not matter
                break
            at = at.above
            if at is not None:
                known = at.passages.get(principal)
        if known is None:
            known = Passage(False, "token") if principal.roots else PASSED
        for directory in reversed(unknown):
            if known.allowed or known.by == "mode":
                own = directory._let_pass(principal)
                if own.allowed and directory.live is not None:
                    own = directory.live.passage(principal)
                if known.allowed or own.by == "expression":  # which descriptors do not get past
                    known = own
            if len(directory.passages) >= PASSAGES_MAX:
                directory.passages.clear()
            directory.passages[principal] = known
        return known

    def _let_pass(self, principal: Principal) -> Passage:
        if principal.is_admin:
            return PASSED
        rule = self.rules.get("execute")
        if rule is not None:
            allowed = holds(rule, principal)
            return PASSED if allowed else Passage(False, "expression", rule, self)
        if mode_allows(principal, self.mode, self.uid, self.gid, Verb.EXECUTE):
            return PASSED
        return Passage(False, "mode", None, self)


def verbs_in(rules: Rules) -> Verb:
    """The verbs that these decide, those of single columns included (`read:COLUMN`)."""
    verbs = REACH
    for word in rules:
        verbs |= NUMBERS.get(word.partition(":")[0], REACH)
    return verbs


def rules_below(volume: int, inode: Inode, inherited: Rules) -> Rules:
    """The rules that hold for what stands below, or for the thing itself."""
    if not inode.access:
        return inherited
    own = {word: Rule(text, volume, inode.number) for word, text in inode.access.items()}
    return {**inherited, **own}
