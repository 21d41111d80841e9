"""Topics are called as their volumes are mounted, and no two alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.core.audit.names import topic_of
from dataplatform.core.topics import check_topic_name

NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("path", "topic"),
    [
        ("/", "root"),
        ("/projects", "projects"),
        ("/projects/cars", "projects.cars"),
        ("/my_data/v1.2", "my__data.v1_2E2"),
        ("/root", "_72oot"),
        ("/root/x", "root.x"),
        ("/ü", "_C3_BC"),
        ("/.", "_2E"),
    ],
)
def test_names_are_readable(path: str, topic: str) -> None:
    assert topic_of(path) == topic


@given(st.lists(st.lists(NAMES, min_size=0, max_size=4), min_size=2, max_size=8))
def test_no_two_paths_share_a_topic(paths: list[list[str]]) -> None:
    whole = {"/" + "/".join(names) for names in paths}
    topics = {topic_of(path) for path in whole}
    assert len(topics) == len(whole)
    for topic in topics:
        check_topic_name(topic)


def test_long_paths_are_cut_and_stay_apart() -> None:
    first, second = (topic_of("/" + "a" * 250 + "/" + last) for last in "bc")
    assert first != second
    for topic in (first, second):
        assert len(check_topic_name(topic)) == 249
