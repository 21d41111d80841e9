"""The language of `where`: which rows a scan gives back. For users: docs/tables.md, "Filters".

    expression  = and-terms joined by OR
    and-term    = not-terms joined by AND
    not-term    = NOT not-term | "(" expression ")" | comparison
    comparison  = operand [ operator operand | [NOT] IN "[" literal, … "]" | IS [NOT] NULL ]
    operand     = literal | column
    column      = name { "." name }      a name is a word, or anything between backticks
    literal     = number | string | TRUE | FALSE | NULL | TIMESTAMP string
    operator    = "==" "=" "!=" "<>" "<" "<=" ">" ">="

Words in capitals are keywords in any case. `_key` is the row's key.

A comparison is true only between values of one type (integer and real are one; bytes compare with
a string as its UTF-8); between different types it is false, `!=` included, and a column that is
not there is null. So a filter never fails on a row: every error is found while parsing, is INVALID
and says where.

A text becomes one closure, made of smaller ones, once; scans then call it for each row.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from msgpack import Timestamp

from ..base.errors import Invalid
from .rows import Columns, Test

CHARACTERS_MAX = 16_384
"""Of one filter: a list of many keys after IN fits, and parsing takes milliseconds."""

DEPTH_MAX = 50
"""Parentheses and NOTs within each other: parsing and testing recurse."""

KEY_NAME = "_key"

Reader = Callable[[bytes, Columns], Any]
"""The value of an operand for a row; None for what is not there."""


@lru_cache(maxsize=256)
def parse(text: str) -> Test:
    """The filter that `text` says. INVALID, with the position (from 1) of what is wrong."""
    return _parse(text)[0]


@lru_cache(maxsize=256)
def columns_of(text: str) -> frozenset[str]:
    """The columns that a filter looks at. INVALID as `parse`."""
    return _parse(text)[1]


def _parse(text: str) -> tuple[Test, frozenset[str]]:
    if len(text) > CHARACTERS_MAX:
        raise Invalid("the filter is too long", characters_max=CHARACTERS_MAX)
    parser = _Parser(text)
    return parser.parse(), frozenset(parser.columns)


# ---------------------------------------------------------------- tokens


class _Token(NamedTuple):
    kind: str  # word, name, number, string, symbol, end
    value: Any  # keywords in lower case are compared with word()
    position: int  # of its first character, from 0

    def word(self) -> str:
        """In lower case, if it could be a keyword."""
        return self.value.lower() if self.kind == "word" else ""


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
      | (?P<word>[^\W\d]\w*)
      | (?P<name>`(?:[^`]|``)+`)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<symbol>==|!=|<>|<=|>=|[=<>()\[\],.])
      | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            _fail_at_character(text, position)
        kind, start = match.lastgroup, match.start(match.lastgroup)
        tokens.append(_Token(kind, _value(text, kind, match[kind], start), start))
        if kind == "end":
            return tokens
        position = match.end()


def _value(text: str, kind: str, source: str, position: int) -> Any:
    if kind == "number":
        return float(source) if set(source) & set(".eE") else int(source)
    if kind == "name":
        return source[1:-1].replace("``", "`")
    if kind == "string":
        return _ESCAPE.sub(lambda m: _unescape(text, position, m), source[1:-1])
    return source


def _unescape(text: str, position: int, match: re.Match[str]) -> str:
    code, letter = match.groups()
    if code is not None:
        return chr(int(code, 16))
    if letter not in _ESCAPES:
        _fail(f"a string has an unknown escape \\{letter}", text, position + 1 + match.start())
    return _ESCAPES[letter]


def _fail_at_character(text: str, position: int) -> NoReturn:
    position += len(text[position:]) - len(text[position:].lstrip())
    character = text[position]
    if character in "\"'":
        _fail("a string is not closed", text, position)
    if character == "`":
        _fail("a column's name in backticks is empty or not closed", text, position)
    if character.isdigit() or character == "-":
        _fail("not a number", text, position)
    _fail(f"unexpected character {character}", text, position)


def _fail(message: str, text: str, position: int) -> NoReturn:
    """`position` counts from 0, people from 1."""
    raise Invalid(f"filter: {message}", position=position + 1, where=text)


# ---------------------------------------------------------------- parsing


class _Operand(NamedTuple):
    """Either a literal or a column."""

    read: Reader
    literal: bool
    value: Any
    position: int


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CONSTANTS = {"true": True, "false": False, "null": None}
_KEYWORDS = frozenset(("and", "or", "not", "in", "is", "true", "false", "null"))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._index = 0
        self._depth = 0
        self.columns: set[str] = set()

    def parse(self) -> Test:
        test = self._either()
        if self._next.kind != "end":
            self._unexpected("`and`, `or` or the end")
        return test

    # Looking at tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _take(self) -> _Token:
        token = self._tokens[self._index]
        self._index += 1
        return token

    def _take_word(self, *words: str) -> bool:
        """Take these keywords if they all come next."""
        coming = self._tokens[self._index : self._index + len(words)]
        if [token.word() for token in coming] != list(words):
            return False
        self._index += len(words)
        return True

    def _take_symbol(self, symbol: str) -> bool:
        if self._next.kind != "symbol" or self._next.value != symbol:
            return False
        self._index += 1
        return True

    def _unexpected(self, wanted: str) -> NoReturn:
        token = self._next
        found = "the end" if token.kind == "end" else f"{token.value!r}"
        self._fail(f"expected {wanted}, found {found}", token.position)

    def _fail(self, message: str, position: int) -> NoReturn:
        _fail(message, self._text, position)

    # The grammar

    def _either(self) -> Test:
        tests = [self._every()]
        while self._take_word("or"):
            tests.append(self._every())
        return _any_of(tests)

    def _every(self) -> Test:
        tests = [self._negation()]
        while self._take_word("and"):
            tests.append(self._negation())
        return _all_of(tests)

    def _negation(self) -> Test:
        position = self._next.position
        if self._take_word("not"):
            self._enter(position)
            test = _not(self._negation())
        elif self._take_symbol("("):
            self._enter(position)
            test = self._either()
            if not self._take_symbol(")"):
                self._unexpected("`)`")
        else:
            return self._comparison()
        self._depth -= 1
        return test

    def _enter(self, position: int) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._fail(f"nested deeper than {DEPTH_MAX}", position)

    def _comparison(self) -> Test:
        left = self._operand()
        token = self._next
        if token.kind == "symbol" and token.value in _OPERATORS:
            self._take()
            return _comparison(left, token.value, self._operand())
        if self._take_word("is", "not", "null"):
            return _not(_is_null(left.read))
        if self._take_word("is", "null"):
            return _is_null(left.read)
        if self._take_word("not", "in"):
            return _not(_is_in(left.read, self._list()))
        if self._take_word("in"):
            return _is_in(left.read, self._list())
        if left.literal and type(left.value) is not bool:
            self._unexpected("a comparison")
        return _is_true(left.read)

    def _operand(self) -> _Operand:
        position = self._next.position
        literal, value = self._literal()
        if literal:
            return _Operand(lambda key, row: value, True, value, position)
        names = self._column()
        if not _is_key(names):
            self.columns.add(names[0].value)
        return _Operand(_reader(names), False, None, position)

    def _literal(self) -> tuple[bool, Any]:
        """(True, its value) and taken, if a literal comes next."""
        token = self._next
        if token.kind in ("number", "string"):
            self._index += 1
            return True, token.value
        word = token.word()
        if word in _CONSTANTS:
            self._index += 1
            return True, _CONSTANTS[word]
        if word == "timestamp" and self._tokens[self._index + 1].kind == "string":
            self._index += 1
            return True, self._timestamp(self._take())
        return False, None

    def _timestamp(self, token: _Token) -> Any:
        try:
            time = datetime.fromisoformat(token.value)
            return Timestamp.from_datetime(time if time.tzinfo else time.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            self._fail("not a time as in ISO 8601", token.position)

    def _column(self) -> tuple[_Token, ...]:
        names = [self._name()]
        while self._take_symbol("."):
            names.append(self._name())
        return tuple(names)

    def _name(self) -> _Token:
        token = self._next
        if token.kind not in ("word", "name") or token.word() in _KEYWORDS:
            self._unexpected("a column or a value")
        return self._take()

    def _list(self) -> list[Any]:
        if not self._take_symbol("["):
            self._unexpected("`[`")
        values: list[Any] = []
        while not self._take_symbol("]"):
            if values and not self._take_symbol(","):
                self._unexpected("`,` or `]`")
            literal, value = self._literal()
            if not literal:
                self._unexpected("a value")
            values.append(value)
        return values


# ---------------------------------------------------------------- closures


def _is_key(names: Sequence[_Token]) -> bool:
    return len(names) == 1 and names[0].kind == "word" and names[0].value == KEY_NAME


def _reader(names: Sequence[_Token]) -> Reader:
    first, *rest = [token.value for token in names]
    if _is_key(names):
        return lambda key, row: key
    if not rest:
        return lambda key, row: row.get(first)

    def read(key: bytes, row: Columns) -> Any:
        value = row.get(first)
        for name in rest:
            if type(value) is not dict:
                return None
            value = value.get(name)
        return value

    return read


def _any_of(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        one, other = tests
        return lambda key, row: one(key, row) or other(key, row)

    def test(key: bytes, row: Columns) -> bool:
        for each in tests:  # noqa: SIM110 (a generator costs more than all the tests)
            if each(key, row):
                return True
        return False

    return test


def _all_of(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        one, other = tests
        return lambda key, row: one(key, row) and other(key, row)

    def test(key: bytes, row: Columns) -> bool:
        for each in tests:  # noqa: SIM110
            if not each(key, row):
                return False
        return True

    return test


def _not(test: Test) -> Test:
    return lambda key, row: not test(key, row)


def _is_null(read: Reader) -> Test:
    return lambda key, row: read(key, row) is None


def _is_true(read: Reader) -> Test:
    return lambda key, row: read(key, row) is True


_NUMBERS = (int, float)


def _comparison(left: _Operand, symbol: str, right: _Operand) -> Test:
    if left.literal and not right.literal:
        left, right, symbol = right, left, _MIRRORED.get(symbol, symbol)
    compare = _OPERATORS[symbol]
    if not right.literal:
        return _compare_two(left.read, compare, right.read)
    wanted = right.value
    if wanted is None:
        return _compare_null(left.read, symbol)
    return _compare_one(left.read, compare, wanted)


def _compare_null(read: Reader, symbol: str) -> Test:
    if symbol in ("==", "="):
        return _is_null(read)
    if symbol in ("!=", "<>"):
        return _not(_is_null(read))
    return lambda key, row: False


def _compare_one(read: Reader, compare: Callable[[Any, Any], bool], wanted: Any) -> Test:
    """With a literal: the usual case, so each type has its own closure."""
    kind = type(wanted)
    if kind in _NUMBERS:

        def test_number(key: bytes, row: Columns) -> bool:
            value = read(key, row)
            return type(value) in _NUMBERS and compare(value, wanted)

        return test_number
    if kind is str:
        encoded = _encode(wanted)

        def test_text(key: bytes, row: Columns) -> bool:
            value = read(key, row)
            if type(value) is str:
                return compare(value, wanted)
            return type(value) is bytes and compare(value, encoded)

        return test_text
    if kind is Timestamp:
        moment = _moment(wanted)

        def test_time(key: bytes, row: Columns) -> bool:
            value = read(key, row)
            return type(value) is Timestamp and compare(_moment(value), moment)

        return test_time

    def test_flag(key: bytes, row: Columns) -> bool:
        value = read(key, row)
        return type(value) is bool and compare(value, wanted)

    return test_flag


def _compare_two(read: Reader, compare: Callable[[Any, Any], bool], read_other: Reader) -> Test:
    def test(key: bytes, row: Columns) -> bool:
        value, other = read(key, row), read_other(key, row)
        kind, other_kind = type(value), type(other)
        if kind in _NUMBERS and other_kind in _NUMBERS:
            return compare(value, other)
        if kind is other_kind:
            if kind is Timestamp:
                return compare(_moment(value), _moment(other))
            return kind in _ORDERED and compare(value, other)
        if kind is str and other_kind is bytes:
            return compare(_encode(value), other)
        if kind is bytes and other_kind is str:
            return compare(value, _encode(other))
        return False

    return test


_ORDERED = frozenset((bool, str, bytes))


def _is_in(read: Reader, values: Sequence[Any]) -> Test:
    numbers = frozenset(v for v in values if type(v) in _NUMBERS)
    flags = frozenset(v for v in values if type(v) is bool)
    texts = frozenset(v for v in values if type(v) is str)
    encoded = frozenset(map(_encode, texts))
    times = frozenset(v for v in values if type(v) is Timestamp)
    members: dict[type[Any], frozenset[Any]] = {
        int: numbers,
        float: numbers,
        bool: flags,  # apart, because True == 1
        str: texts,
        bytes: encoded,
        Timestamp: times,
        type(None): frozenset((None,)) if None in values else frozenset(),
    }

    def test(key: bytes, row: Columns) -> bool:
        value = read(key, row)
        found = members.get(type(value))
        return found is not None and value in found

    return test


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _moment(time: Timestamp) -> tuple[int, int]:
    """What a timestamp is compared by: it has no order of its own."""
    return time.seconds, time.nanoseconds
