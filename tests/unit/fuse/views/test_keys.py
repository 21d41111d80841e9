"""Row keys as file names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform_clients.fuse.views.keys import key_of, name_of, names_row


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"vin-1", "vin-1.json"),
        ("ä €".encode(), "ä €.json"),
        (b"a/b", "a%2Fb.json"),
        (b"100%", "100%25.json"),
        (b".hidden", "%2Ehidden.json"),
        (b"a.b", "a.b.json"),
        (b"..", "%2E..json"),
        (b"a\x00\n\x7f", "a%00%0A%7F.json"),
        (b"\xff\xfe", "%FF%FE.json"),
        (b"\xc3", "%C3.json"),
        (b"a.json", "a.json.json"),
    ],
)
def test_names(key: bytes, name: str) -> None:
    assert name_of(key) == name
    assert key_of(name) == key


@given(st.binary(min_size=1, max_size=80) | st.text(min_size=1, max_size=40).map(
    lambda text: text.encode("utf-8", "surrogatepass")
))  # fmt: skip
def test_every_key_has_one_name_that_can_stand_in_a_directory(key: bytes) -> None:
    name = name_of(key)
    assert name is not None
    assert key_of(name) == key
    assert names_row(name)
    encoded = name.encode()  # valid UTF-8
    assert len(encoded) <= 255
    assert not set(encoded) & {0, ord("/"), ord("\n")}


@given(st.text(st.sampled_from("a%2fF4e.\udcc3\udca4ä"), max_size=8))
def test_a_name_means_a_key_only_if_it_is_its_name(stem: str) -> None:
    key = key_of(stem + ".json")
    if key is not None:
        assert name_of(key) == stem + ".json"


@pytest.mark.parametrize(
    "name", ["a%2fb.json", "%41.json", "%.json", "a%G0.json", "%C3%A4.json", "\udcff.json"]
)
def test_other_spellings_name_nothing(name: str) -> None:
    assert names_row(name)
    assert key_of(name) is None


@pytest.mark.parametrize("name", ["sedAbC", ".k.json.swp", "4913", ".json", ".k.json", "k.json~"])
def test_names_of_no_row(name: str) -> None:
    assert not names_row(name)
    assert key_of(name) is None


def test_too_long() -> None:
    assert name_of(b"k" * 250) is not None
    assert name_of(b"k" * 251) is None
    assert name_of(b"\xff" * 84) is None
    assert key_of("k" * 251 + ".json") is None
