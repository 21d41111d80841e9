"""Access expressions beside Python's own `and`, `or`, `not`; what is refused; how long it takes."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplatform.base.errors import Invalid
from dataplatform.base.limits import EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX
from dataplatform.base.names import check_user_name
from dataplatform.core.access.expressions import parse
from dataplatform.core.principals import Principal

USERS = ["ana", "bob", "c.d-e_f@g", "p", "u"]
GROUPS = ["eng", "ops", "p"]

PRINCIPALS = [
    Principal(name, groups=frozenset(group for i, group in enumerate(GROUPS) if chosen >> i & 1))
    for name in [*USERS, "stranger"]
    for chosen in range(1 << len(GROUPS))
]

LEAVES = [f"u:{name}" for name in USERS] + [f"g:{name}" for name in GROUPS] + ["p"]


def ana(*groups: str) -> Principal:
    return Principal("ana", groups=frozenset(groups))


def python_says(text: str, principal: Principal) -> bool:
    """The same words in Python, whose precedence of not, and, or is that of !, &, |."""
    if not text.strip():
        return False

    def word(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "u":
            return str(principal.name == name)
        return str(name in principal.groups) if kind == "g" else "True"

    words = re.sub(r"\b(?:([ug]):([\w.@-]+)|p\b)", word, text)
    words = words.replace("&", " and ").replace("|", " or ").replace("!", " not ")
    words = " ".join(words.split())  # a line's end means nothing to us
    return bool(eval(words))  # only of what the strategies below make


def spaced(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["", " ", "  ", "\t"]).map(lambda space: f"{space}{text}{space}")


LEAF = st.sampled_from(LEAVES).flatmap(spaced)
TEXT = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        inner.map(lambda text: f"!({text})"),
        inner.map(lambda text: f"({text})"),
        st.lists(inner, min_size=2, max_size=5).map("&".join),
        st.lists(inner, min_size=2, max_size=5).map("|".join),
        st.sampled_from(LEAVES).map(lambda leaf: f"!!!{leaf}"),
    ),
    max_leaves=30,
)


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_means_what_python_means(text: str) -> None:
    expression = parse(text)
    for principal in PRINCIPALS:
        assert expression.allows(principal) == python_says(text, principal), principal


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_text_is_the_same_expression_with_even_spaces(text: str) -> None:
    expression = parse(text)
    again = parse(expression.text)
    assert again.text == expression.text
    assert expression.text.replace(" ", "") == re.sub(r"\s", "", text)
    assert [again.allows(p) for p in PRINCIPALS] == [expression.allows(p) for p in PRINCIPALS]


@settings(max_examples=2000, deadline=None)
@given(st.text(alphabet="ugp:|&!() ab.-@_9é\n\x00\ud800", max_size=40))
def test_any_text_parses_or_is_refused_at_a_character(text: str) -> None:
    try:
        expression = parse(text)
    except Invalid as error:
        position = re.search(r"at character (\d+): ", error.message)
        assert position is not None
        assert 1 <= int(position.group(1)) <= len(text) + 1
    else:
        for principal in PRINCIPALS[:4]:
            assert expression.allows(principal) == python_says(text, principal)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_any_unicode_is_taken_or_refused(text: str) -> None:
    with suppress(Invalid):
        parse(text)


def test_precedence() -> None:
    assert parse("u:ana|g:eng&!u:bob").allows(ana())
    assert parse("!u:bob & g:eng | u:zoe").allows(ana("eng"))
    assert not parse("!(u:ana | u:bob)").allows(ana())
    assert not parse("(u:ana | u:bob) & g:eng").allows(ana())
    assert parse("u:ana | u:bob & g:eng").allows(ana())


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_nothing_is_nobody(text: str) -> None:
    assert parse(text).text == ""
    assert not any(parse(text).allows(principal) for principal in PRINCIPALS)


def test_everybody_includes_who_has_no_name() -> None:
    assert parse("p").allows(Principal("anonymous"))
    assert not parse("!p").allows(ana())


def test_users_are_not_groups_and_case_counts() -> None:
    assert not parse("u:eng").allows(ana("eng"))
    assert not parse("g:ana").allows(ana())
    assert not parse("u:Ana").allows(ana())


def test_an_administrator_is_not_asked_for_here() -> None:
    assert not parse("u:bob").allows(Principal("root", is_admin=True))


def test_who_is_named() -> None:
    expression = parse("u:ana | (g:eng & !u:bob) | p")
    assert (expression.users, expression.groups) == ({"ana", "bob"}, {"eng"})


@pytest.mark.parametrize(
    ("text", "character", "why"),
    [
        ("u:ana | u:", 11, "the name of a user is missing"),
        ("g: | p", 3, "the name of a group is missing"),
        ("u:ana |", 8, "it ends"),
        ("u:ana g:eng", 7, "expected &, | or the end"),
        ("u:ana && p", 8, "expected u:USER"),
        ("(u:ana", 1, "not closed"),
        ("(u:ana | (p)", 1, "not closed"),
        ("u:ana)", 6, "not opened"),
        ("()", 2, "expected u:USER"),
        ("!", 2, "it ends"),
        ("ana", 1, "expected u:USER"),
        ("public", 1, "expected u:USER"),
        ("u:-x", 3, "cannot begin like this"),
        ("u:josé", 6, "expected u:USER"),
        ("u:ana:x", 6, "expected u:USER"),
        (f"p | u:{'a' * 129}", 7, "128 characters"),
    ],
)
def test_refused_with_the_character(text: str, character: int, why: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text)
    head, shown, caret = str(caught.value).split("\n")
    assert f"at character {character}: " in head
    assert why in head
    assert len(caret) - 4 == min(character, 42)  # text of before is shown as far as it fits
    assert shown.startswith("    ")


def test_the_caret_is_below_the_character() -> None:
    with pytest.raises(Invalid) as caught:
        parse("u:ana | ? | g:eng")
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^")] == "?"
    with pytest.raises(Invalid) as caught:
        parse("u:ana | " * 1000 + "\x07" + " | u:bob" * 1000)
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^")] == "?"
    assert len(shown) < 80
    assert shown.isprintable()


def test_deep_nesting_is_refused_and_as_deep_as_allowed_is_not() -> None:
    for text in (
        "(" * 10_000 + "p" + ")" * 10_000,
        "!(" * 10_000 + "p" + ")" * 10_000,
        "(" * 60_000,
    ):
        with pytest.raises(Invalid, match="nested"):
            parse(text)
    deep = "!(u:ana | " * EXPRESSION_DEPTH_MAX + "p" + ")" * EXPRESSION_DEPTH_MAX
    assert parse(deep).allows(Principal("bob")) == (EXPRESSION_DEPTH_MAX % 2 == 0)
    with pytest.raises(Invalid, match="nested"):
        parse(f"({deep})")


def long_texts() -> list[str]:
    """Each close to the limit, each its own way of being expensive."""
    size = EXPRESSION_BYTES_MAX

    def many(text: str, between: str) -> str:
        return between.join([text] * ((size - len(text)) // len(text + between)))

    names = [f"u:{i:x}" for i in range(size // 8)]
    return [
        many("u:a", "|"),
        many("!u:a", "&"),
        many("g:a&u:a|(p&!g:b)", "|"),
        many("(u:a|g:a)", "&"),
        "!" * (size - 1) + "p",
        " " * (size - 1) + "p",
        "p" + " " * (size - 1),
        many("(" * 100 + "u:a&g:b" + ")" * 100, "|"),
        "|".join(names)[:size].rpartition("|")[0],
        "&".join(names)[:size].rpartition("&")[0],
        "u:" + "a" * 128 + ("&u:" + "a" * 128) * (size // 131 - 1),
    ]


STEPS_PER_BYTE = 40


class _Steps:
    count = 0


@contextlib.contextmanager
def steps() -> Iterator[_Steps]:
    """Counts calls, of Python and of C: time would say something about the machine, too."""
    counted = _Steps()

    def one(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            counted.count += 1

    before = sys.getprofile()
    sys.setprofile(one)
    try:
        yield counted
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("number", range(len(long_texts())))
def test_the_longest_take_steps_in_proportion(number: int) -> None:
    text = long_texts()[number]
    assert len(text) <= EXPRESSION_BYTES_MAX
    with steps() as parsing:
        expression = parse(text)
    assert parse(expression.text).text == expression.text
    assert len(expression.text) <= EXPRESSION_BYTES_MAX
    assert parsing.count < STEPS_PER_BYTE * EXPRESSION_BYTES_MAX
    with steps() as asking:
        expression.allows(ana("a"))
    assert asking.count < EXPRESSION_BYTES_MAX


@pytest.mark.parametrize("junk", ["?", "|", "(", "u:", "\ud800", "é", "a", ":"])
def test_long_junk_is_refused_as_quickly(junk: str) -> None:
    with steps() as refusing:
        with pytest.raises(Invalid):
            parse(junk * (EXPRESSION_BYTES_MAX // len(junk)))
        with pytest.raises(Invalid):
            parse("p|" * (EXPRESSION_BYTES_MAX // 2 - 2) + junk)
    assert refusing.count < STEPS_PER_BYTE * EXPRESSION_BYTES_MAX


def test_too_long_is_refused() -> None:
    with pytest.raises(Invalid, match="too long"):
        parse("p" + " " * EXPRESSION_BYTES_MAX)


def test_parsed_once() -> None:
    assert parse("u:ana|u:bob") is parse("u:ana|u:bob")


@pytest.mark.parametrize("name", ["ana", "a", "9", "_x", "a.b-c_d@e", "a" * 128])
def test_names_of_users(name: str) -> None:
    assert check_user_name(name) == name
    assert parse(f"u:{name}").users == {name}


@pytest.mark.parametrize("name", ["", "-a", ".a", "@", "a b", "a:b", "é", "a\n", "a/b", "a" * 129])
def test_names_that_no_user_can_have(name: str) -> None:
    with pytest.raises(Invalid):
        check_user_name(name)
