"""Attacks on tokens, against real servers: none gets in, and none stays in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

import dataplatform
from dataplatform import Client, Denied
from dataplatform.api import platform_pb2 as pb
from tests.integration.servers import ServerProcess
from tests.wires import GrpcWire, failure

EFFECTIVE_S = 1.0
"""After so long a right that was withdrawn has no effect any more."""


class Ground:
    """A server with the users ana and boss, the stream /s that everybody may read, and a token."""

    def __init__(self, directory: Path) -> None:
        self.server = ServerProcess(
            directory, "rocks", "--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0"
        )
        ready = self.server.start()
        self.frames, self.grpc = str(ready["frames"]), str(ready["grpc"])
        self.admin = dataplatform.connect(self.server.address)
        self.admin.create_user("ana")
        self.admin.create_user("boss", admin=True)
        self.admin.create_stream("/s").create_topic("t", partitions=1)
        self.quiet = self.admin.create_volume("/quiet").commit  # nothing happens there
        self.token = self.make("ana")

    def make(self, user: str, **options: Any) -> str:
        return self.admin.create_token(user, **options).token

    def as_(self, token: str, **options: Any) -> Client:
        return dataplatform.connect(self.frames, token, patience_s=0, **options)

    def ask_over_grpc(self, authorization: str) -> Any:
        wire = GrpcWire(self.grpc, authorization=authorization)
        try:
            return wire.call("Identities.WhoAmI", pb.Empty())
        finally:
            wire.close()

    def close(self) -> None:
        self.admin.close()
        self.server.stop()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("tokens"))
    yield made
    made.close()
    checked = made.server.check()
    assert checked.returncode == 0, checked.stdout


def signed_wrong(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{signature[:-4]}{'AAAA' if signature[-4:] != 'AAAA' else 'BBBB'}"


def with_algorithm(token: str, algorithm: str, key: str) -> str:
    said = jwt.decode(token, options={"verify_signature": False})
    head = jwt.get_unverified_header(token)
    return jwt.encode(said, key, algorithm, headers={"kid": head["kid"]})


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "forged": (signed_wrong, "changed"),
    "alg none": (lambda token: with_algorithm(token, "none", ""), "algorithm"),
    "alg HS256": (lambda token: with_algorithm(token, "HS256", "k" * 32), "algorithm"),
    "words": (lambda _: "let-me-in", "no token"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_token_is_refused_and_not_taken_for_none(ground: Ground, name: str) -> None:
    change, words = WRONG[name]
    text = change(ground.token)
    for address in (ground.frames, ground.server.address):
        with pytest.raises(Denied, match=words):
            dataplatform.connect(address, text, patience_s=0)
    assert failure(ground.ask_over_grpc(f"Bearer {text}"))[0] == "DENIED"
    assert text not in ground.server.log.read_text()


def test_other_schemes_of_authorization_are_refused(ground: Ground) -> None:
    for header in ("Basic YTpi", ground.token, "Bearer", "Bearer "):
        assert failure(ground.ask_over_grpc(header))[0] == "DENIED"
    assert ground.ask_over_grpc(f"bearer {ground.token}").name == "ana"


def test_a_token_of_another_cluster_is_refused(ground: Ground, tmp_path: Path) -> None:
    other = Ground(tmp_path)
    try:
        with pytest.raises(Denied, match="another cluster"):
            other.as_(ground.token)
        assert "another cluster" in failure(other.ask_over_grpc(f"Bearer {ground.token}"))[1]
    finally:
        other.close()


def test_who_shows_nothing_is_nobody(ground: Ground) -> None:
    with dataplatform.connect(ground.frames) as client:
        found = client.whoami()
        assert (found.name, found.by) == ("anonymous", "nothing")
    with ground.as_(ground.token) as client:
        found = client.whoami()
        assert (found.name, found.by, found.admin) == ("ana", "token", False)
    assert ground.admin.whoami().admin


class Poll(threading.Thread):
    """Something that waits for news; when and how that ended."""

    def __init__(self, wait: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._wait = wait
        self.outcome: object = None
        self.ended_s = 0.0
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        self.begun.set()
        try:
            self.outcome = self._wait()
        except Exception as error:
            self.outcome = error
        self.ended_s = time.monotonic()


@pytest.mark.parametrize("how", ["token", "user", "disabled", "removed"])
@pytest.mark.parametrize("door", ["frames", "grpc"])
def test_what_is_revoked_ends_within_a_second(ground: Ground, door: str, how: str) -> None:
    user = f"{door}-{how}"
    ground.admin.create_user(user)
    made = ground.admin.create_token(user)
    wire = GrpcWire(ground.grpc, f"{how:16}".encode()[:16], f"Bearer {made.token}")
    client = ground.as_(made.token)

    def ask() -> object:
        if door == "grpc":
            quiet = pb.Target(path="/quiet")
            request = pb.ChangesRequest(target=quiet, since=ground.quiet, wait_ms=30_000)
            return wire.call("Changes.Read", request)
        return client.changes("/quiet", since=ground.quiet, follow=True).__next__()

    assert client.whoami().name == user
    poll = Poll(ask)
    assert poll.begun.wait(10)
    ground.admin.ping()  # the poll's request was before
    withdraw: dict[str, Callable[[], object]] = {
        "token": lambda: ground.admin.revoke_tokens(made.info.id),
        "user": lambda: ground.admin.revoke_tokens(user=user),
        "disabled": lambda: ground.admin.set_user(user, disabled=True),
        "removed": lambda: ground.admin.remove_user(user),
    }
    withdraw[how]()
    withdrawn_s = time.monotonic()
    if door == "frames":
        with pytest.raises(Denied, match=r"revoked|does not exist|disabled"):
            client.whoami()
    else:
        assert failure(wire.call("Identities.WhoAmI", pb.Empty()))[0] == "DENIED"
    assert time.monotonic() - withdrawn_s < EFFECTIVE_S
    poll.join(10)
    assert poll.ended_s - withdrawn_s < EFFECTIVE_S, poll.outcome
    if door == "grpc":
        assert failure(poll.outcome)[0] == "DENIED"
    else:
        assert isinstance(poll.outcome, Denied)
    with pytest.raises(Denied):
        ground.as_(made.token)
    wire.close()
    client.close()


def test_a_token_that_expires_ends_on_open_connections(ground: Ground) -> None:
    made = ground.admin.create_token("ana", ttl=timedelta(seconds=2))
    client = ground.as_(made.token)
    poll = Poll(lambda: client.changes("/quiet", since=ground.quiet, follow=True).__next__())
    poll.join(10)
    late_s = time.time() - made.info.expires_ns / 1e9
    assert isinstance(poll.outcome, Denied)
    assert late_s < EFFECTIVE_S
    with pytest.raises(Denied, match="expired"):
        client.whoami()
    client.close()


def test_a_renewed_token_is_used_without_an_error(ground: Ground, tmp_path: Path) -> None:
    file = tmp_path / "token"
    first = ground.admin.create_token("ana")
    file.write_text(first.token)
    with dataplatform.connect(ground.frames, token_file=file) as client:
        assert client.whoami().token == first.info.id
        second = ground.admin.create_token("ana")
        file.write_text(f"{second.token}\n")
        assert client.whoami().token == first.info.id
        ground.admin.revoke_tokens(first.info.id)
        assert client.whoami().token == second.info.id
        assert client.stat("/s").kind == "stream"


def test_a_weaker_token_gets_neither_the_session_nor_the_reply(ground: Ground) -> None:
    session = b"session-of-ana-1"
    full = GrpcWire(ground.grpc, session, f"Bearer {ground.token}")
    weak = GrpcWire(ground.grpc, session, f"Bearer {ground.make('ana', read_only=True)}")
    other = GrpcWire(ground.grpc, b"another-session1", f"Bearer {ground.make('boss')}")
    assert full.call("Identities.WhoAmI", pb.Empty()).name == "ana"
    assert failure(weak.call("Identities.WhoAmI", pb.Empty()))[0] == "DENIED"
    request = pb.CreateRequest(target=pb.Target(path="/home/x"), kind=pb.FILE)
    request.request.CopyFrom(pb.RequestId(session=session, slot=1, sequence=1))
    ground.admin.mkdir("/home", mode=0o777, exist_ok=True)
    made = full.call("Namespace.Create", request)
    assert full.call("Namespace.Create", request).inode == made.inode
    assert failure(other.call("Namespace.Create", request))[0] == "DENIED"
    for wire in (full, weak, other):
        wire.close()


def test_no_secret_is_told(ground: Ground) -> None:
    made = ground.admin.create_token("ana")
    with ground.as_(made.token) as client:
        client.whoami()
    secrets = [made.token, made.token.split(".")[2]]
    told = [
        ground.server.log.read_text(),
        repr(made),
        str(ground.admin.tokens()),
        str(ground.admin.status()),
        str(list(ground.admin.changes("/"))),
        Path(f"/proc/{ground.admin.status().pid}/environ").read_bytes().decode(),
        Path(f"/proc/{ground.admin.status().pid}/cmdline").read_bytes().decode(),
    ]
    for text in told:
        for secret in secrets:
            assert secret not in text
