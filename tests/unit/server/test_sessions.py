"""Sessions outlive connections by the lease, and no longer."""

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Denied, Exhausted, Invalid
from dataplatform_server import sessions as module
from dataplatform_server.sessions import LEASE_S, Sessions
from tests.principals import admin

ID = b"0123456789abcdef"


class Fixture:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.gone: list[bytes] = []
        self.sessions = Sessions(self.clock, SeededEntropy(1), self.gone.append)


def test_a_session_survives_a_reconnect_within_the_lease() -> None:
    f = Fixture()
    first = f.sessions.attach(ID, admin("ana"), "test")
    f.sessions.detach(first)
    f.clock.advance(LEASE_S - 1)
    assert f.sessions.run_once() == 0
    assert f.sessions.attach(ID, admin("ana")) is first
    assert first.program == "test"
    f.clock.advance(10 * LEASE_S)
    assert f.sessions.run_once() == 0
    f.sessions.detach(first)
    f.clock.advance(LEASE_S)
    assert f.sessions.run_once() == 1
    assert f.gone == [ID]
    assert len(f.sessions) == 0


def test_the_last_connection_counts() -> None:
    f = Fixture()
    session = f.sessions.attach(ID, admin("ana"))
    f.sessions.attach(ID, admin("ana"))
    f.sessions.detach(session)
    f.clock.advance(2 * LEASE_S)
    assert f.sessions.run_once() == 0


def test_requests_without_a_connection_renew_the_lease() -> None:
    f = Fixture()
    f.sessions.touch(ID, admin("ana"))
    f.clock.advance(LEASE_S - 1)
    f.sessions.touch(ID, admin("ana"))
    f.clock.advance(LEASE_S - 1)
    assert f.sessions.run_once() == 0
    f.clock.advance(1)
    assert f.sessions.run_once() == 1


def test_without_an_id_each_connection_has_its_own() -> None:
    f = Fixture()
    assert f.sessions.attach(b"", admin("ana")).id != f.sessions.attach(b"", admin("ana")).id


def test_sessions_of_others_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    f.sessions.attach(ID, admin("ana"))
    with pytest.raises(Denied):
        f.sessions.attach(ID, admin("bob"))
    with pytest.raises(Invalid):
        f.sessions.attach(b"short", admin("ana"))
    monkeypatch.setattr(module, "SESSIONS_MAX", 1)
    with pytest.raises(Exhausted):
        f.sessions.attach(b"", admin("ana"))
