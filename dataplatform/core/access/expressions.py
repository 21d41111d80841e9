"""Access expressions: `u:ana | (g:eng & !u:bob)`.

    expression   alternative ( `|` alternative )*       or nothing at all: nobody
    alternative  condition ( `&` condition )*
    condition    `!` condition  |  `(` expression `)`  |  `u:`NAME  |  `g:`NAME  |  `p`

`u:` is a user, `g:` a group, `p` everybody. `!` binds closest, then `&`, then `|`.

Whoever may set a rule may hand in any text, so neither reading nor asking recurses: an expression
becomes a list of conditions, each of which says where to go on when it holds and when it does not.
Users and groups that stand side by side are one condition: a long list of names costs a look into a
set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from ...base.errors import Invalid
from ...base.limits import (
    EXPRESSION_BYTES_MAX,
    EXPRESSION_DEPTH_MAX,
    USER_NAME_CHARACTERS_MAX,
)
from ...base.names import USER_NAME_PATTERN
from ..principals import Principal


class Condition(NamedTuple):
    """Holds for these users and for members of these groups, or for everybody."""

    users: frozenset[str]
    groups: frozenset[str]
    everybody: bool
    then: int  # where to go on if it holds: a condition, ALLOW or DENY
    otherwise: int


ALLOW = -1
DENY = -2


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. `text` is as it was written, with even spaces; it parses to the same."""

    text: str
    conditions: tuple[Condition, ...] = field(repr=False, compare=False)
    start: int = field(repr=False, compare=False)  # the first condition, ALLOW or DENY

    def allows(self, principal: Principal) -> bool:
        """Whether it holds for this principal. Its administrator's right is not asked here."""
        at = self.start
        conditions = self.conditions
        while at >= 0:
            users, groups, everybody, then, otherwise = conditions[at]
            holds = everybody or principal.name in users or not groups.isdisjoint(principal.groups)
            at = then if holds else otherwise
        return at == ALLOW

    @property
    def users(self) -> frozenset[str]:
        """Every user that it names."""
        return frozenset().union(*(c.users for c in self.conditions))

    @property
    def groups(self) -> frozenset[str]:
        """Every group that it names."""
        return frozenset().union(*(c.groups for c in self.conditions))

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Expression:
    """The expression. INVALID, showing the character, if it is none, or too long or deep."""
    return _parse_short(text) if len(text) <= _SHORT else _parse_long(text)


# ---- from characters to tokens

_TOKEN = re.compile(
    rf"[ \t\r\n]*(?:(?P<who>[ug]):(?P<name>{USER_NAME_PATTERN})|(?P<everybody>p)(?![\w.@:-])"
    r"|(?P<sign>[&|!()]))"
)
_SPACE = re.compile(r"[ \t\r\n]*")


class _Token(NamedTuple):
    sign: str  # "u", "g", "p" or one of `&|!()`
    name: str
    position: int


def _tokens(text: str) -> list[_Token]:
    """INVALID at the first character that begins no token."""
    found = []
    position, match = 0, _TOKEN.match
    while True:
        token = match(text, position)
        if token is None:
            break
        who, name, everybody, sign = token.groups()
        begins = token.start("who" if who else "everybody" if everybody else "sign")
        found.append(_Token(who or everybody or sign, name or "", begins))
        if name and len(name) > USER_NAME_CHARACTERS_MAX:
            raise _wrong(
                text,
                token.start("name"),
                f"a name has {USER_NAME_CHARACTERS_MAX} characters at most",
            )
        position = token.end()
    space = _SPACE.match(text, position)
    assert space is not None
    position = space.end()
    if position < len(text):
        raise _wrong(text, *_why_no_token(text, position))
    return found


def _why_no_token(text: str, position: int) -> tuple[int, str]:
    """(where, what is wrong) with what stands at a position."""
    if text[position : position + 2] in ("u:", "g:"):
        what = "user" if text[position] == "u" else "group"
        position += 2
        if position < len(text) and not text[position].isspace() and text[position] not in "&|!()":
            return position, f"the name of a {what} cannot begin like this"
        return position, f"the name of a {what} is missing"
    return position, _EXPECTED


_EXPECTED = "expected u:USER, g:GROUP, p, !, &, | or parentheses"


# ---- from tokens to a tree
#
# Terms are folded while they are read, so the tree is no deeper than the parentheses.


@dataclass(slots=True)
class _Names:
    """Users and groups, any of them; negated: none of them."""

    users: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    everybody: bool = False
    negated: bool = False


@dataclass(slots=True)
class _Any:
    """Any of the terms, negated: none."""

    terms: list[_Node]
    negated: bool = False


@dataclass(slots=True)
class _All:
    """All terms, negated: not all."""

    terms: list[_Node]
    negated: bool = False


_Node: TypeAlias = _Names | _Any | _All


@dataclass(slots=True)
class _Frame:
    """What was read since an opening parenthesis."""

    position: int  # of the parenthesis
    negated: bool = False  # by a `!` before the parenthesis
    alternatives: list[_Node] = field(default_factory=list)  # before the last `|`
    conditions: list[_Node] = field(default_factory=list)  # since then

    def end_alternative(self) -> None:
        self.alternatives.append(_all(self.conditions))
        self.conditions = []


def _all(terms: list[_Node]) -> _Node:
    terms = _merged(terms, negated=True)
    return terms[0] if len(terms) == 1 else _All(terms)


def _any(terms: list[_Node]) -> _Node:
    terms = _merged(terms, negated=False)
    return terms[0] if len(terms) == 1 else _Any(terms)


def _merged(terms: list[_Node], *, negated: bool) -> list[_Node]:
    """Names as one term: any of `a`, `b` is any of `a, b`; all of `!a`, `!b` is none of `a, b`."""
    merged: list[_Node] = []
    names: _Names | None = None
    for term in terms:
        if not isinstance(term, _Names) or term.negated != negated:
            merged.append(term)
        elif names is None:
            names = term
            merged.append(names)
        else:
            names.users |= term.users
            names.groups |= term.groups
            names.everybody |= term.everybody
    return merged


def _tree(text: str, tokens: list[_Token]) -> _Node:
    frames = [_Frame(position=-1)]
    negated = False  # by the signs just read
    wanted = True  # a condition; otherwise `&`, `|` or `)`
    for sign, name, position in tokens:
        frame = frames[-1]
        if wanted:
            match sign:
                case "!":
                    negated = not negated
                    continue
                case "(":
                    if len(frames) > EXPRESSION_DEPTH_MAX:
                        what = f"parentheses are nested over {EXPRESSION_DEPTH_MAX} deep"
                        raise _wrong(text, position, what)
                    frames.append(_Frame(position, negated))
                    negated = False
                    continue
                case "u":
                    frame.conditions.append(_Names({name}, set(), negated=negated))
                case "g":
                    frame.conditions.append(_Names(set(), {name}, negated=negated))
                case "p":
                    frame.conditions.append(_Names(everybody=True, negated=negated))
                case _:
                    raise _wrong(text, position, "expected u:USER, g:GROUP, p, ! or (")
            negated = wanted = False
        elif sign == "&":
            wanted = True
        elif sign == "|":
            frame.end_alternative()
            wanted = True
        elif sign == ")" and len(frames) > 1:
            frames.pop()
            frame.end_alternative()
            node = _any(frame.alternatives)
            node.negated ^= frame.negated
            frames[-1].conditions.append(node)
        elif sign == ")":
            raise _wrong(text, position, "a parenthesis is closed that was not opened")
        else:
            raise _wrong(text, position, "expected &, | or the end")
    if wanted:
        raise _wrong(text, len(text), "it ends where u:USER, g:GROUP, p or ( is expected")
    if len(frames) > 1:
        raise _wrong(text, frames[-1].position, "a parenthesis is not closed")
    frames[0].end_alternative()
    return _any(frames[0].alternatives)


# ---- from the tree to conditions


def _conditions(root: _Node) -> tuple[tuple[Condition, ...], int]:
    """The conditions and the first of them. Made from the last one to the first, which is why each
    knows where the ones behind it begin."""
    made: list[Condition] = []
    start = ALLOW

    # A stack of work instead of recursion: nodes to make conditions of, and glue between
    # siblings. `start` is the first condition of what was made last.
    work: list[Callable[[], None]] = []

    def make(node: _Node, then: int, otherwise: int) -> None:
        nonlocal start
        if node.negated:
            then, otherwise = otherwise, then
        if isinstance(node, _Names):
            users, groups = frozenset(node.users), frozenset(node.groups)
            made.append(Condition(users, groups, node.everybody, then, otherwise))
            start = len(made) - 1
            return
        is_any = isinstance(node, _Any)
        terms = node.terms

        def sibling(index: int) -> Callable[[], None]:
            def step() -> None:
                # If this one does not decide, what stands behind it does: that begins at `start`.
                last = index == len(terms) - 1
                if index > 0:
                    work.append(sibling(index - 1))
                if is_any:
                    make(terms[index], then, otherwise if last else start)
                else:
                    make(terms[index], then if last else start, otherwise)

            return step

        work.append(sibling(len(terms) - 1))

    work.append(lambda: make(root, ALLOW, DENY))
    while work:
        work.pop()()
    return tuple(made), start


# ---- all of it


def _parse(text: str) -> Expression:
    if len(text) > EXPRESSION_BYTES_MAX:
        raise Invalid(
            "an access expression is too long: put users into a group",
            bytes=len(text),
            bytes_max=EXPRESSION_BYTES_MAX,
        )
    tokens = _tokens(text)
    if not tokens:
        return Expression("", (), DENY)
    conditions, start = _conditions(_tree(text, tokens))
    return Expression(_written(tokens), conditions, start)


def _written(tokens: list[_Token]) -> str:
    """With even spaces; without any if it would be too long with them."""
    words = [f"{t.sign}:{t.name}" if t.name else t.sign for t in tokens]
    spaced = "".join(f" {word} " if word in ("&", "|") else word for word in words)
    return spaced if len(spaced) <= EXPRESSION_BYTES_MAX else "".join(words)


def _wrong(text: str, position: int, why: str) -> Invalid:
    """Shows the text, as far as it fits on a line, with a caret below the character."""
    start = max(0, position - _SHOWN_BEFORE)
    end = min(len(text), position + _SHOWN_BEHIND)
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in text[start:end])
    shown = shown if start == 0 else f"…{shown}"
    caret = " " * (position - start + (start > 0)) + "^"
    shown = shown if end == len(text) else f"{shown}…"
    what = f"an access expression is wrong at character {position + 1}: {why}"
    return Invalid(f"{what}\n    {shown}\n    {caret}")


_SHOWN_BEFORE = 40
_SHOWN_BEHIND = 30

_SHORT = 4096
_parse_short = lru_cache(maxsize=4096)(_parse)
_parse_long = lru_cache(maxsize=64)(_parse)
"""Long ones have a small shelf of their own: each may take a megabyte."""
