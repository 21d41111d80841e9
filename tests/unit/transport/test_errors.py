"""Errors survive the wire: kind, message, facts, errno."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import ErrorKind, Internal, NotFound, PlatformError
from dataplatform.transport.errors import TEXT_CHARACTERS_MAX, from_info, to_info


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_comes_back_as_its_class(kind: ErrorKind) -> None:
    sent = PlatformError(kind, "why", path="/a", commit=7)
    received = from_info(pb.ErrorInfo.FromString(to_info(sent).SerializeToString()))
    assert type(received) is type(sent)
    assert received.message == "why"
    assert received.facts == {"path": "/a", "commit": "7"}
    assert received.os_errno == sent.os_errno


def test_a_refined_errno_survives() -> None:
    received = from_info(to_info(NotFound("no", errno=errno.ENOTDIR)))
    assert received.os_errno == errno.ENOTDIR
    assert received.errno == errno.ENOTDIR  # type: ignore[attr-defined]


def test_an_unknown_kind_is_internal() -> None:
    assert isinstance(from_info(pb.ErrorInfo(kind=99, message="new")), Internal)


@given(st.text(), st.binary())
def test_any_fact_can_be_sent(text: str, raw: bytes) -> None:
    error = NotFound(text, name=raw.decode("utf-8", "surrogateescape"), raw=raw, text=text)
    assert len(to_info(error).SerializeToString()) > 0


def test_long_texts_are_cut() -> None:
    info = to_info(NotFound("x" * 100_000, key=b"y" * 100_000))
    assert len(info.message) <= TEXT_CHARACTERS_MAX + 1
    assert len(info.facts["key"]) <= TEXT_CHARACTERS_MAX + 1


def test_facts_may_have_the_names_of_parameters() -> None:
    info = pb.ErrorInfo(kind=1, message="m", facts={"kind": "k", "message": "m2", "self": "s"})
    assert from_info(info).facts == {"kind": "k", "message": "m2", "self": "s"}
