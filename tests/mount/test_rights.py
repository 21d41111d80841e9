"""What expressions decide holds on a mount, for each program's own user (docs/mount.md)."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform
from tests.integration.servers import ServerProcess

from .mounts import TREE, wait_until

pytestmark = pytest.mark.skipif(bool(TREE), reason="a plain directory knows no expressions")

ANA, BOB = "daemon", "games"
"""Users that every Debian has."""

WITHDRAWN_S = 1.0

_DO = """
import errno, json, os, sys
uid, gid, kind, path, *rest = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))  # by now: not everybody may start this Python
try:
    if kind == "read":
        answer = open(path).read()
    elif kind == "write":
        with open(path, "a") as file: file.write(rest[0])
        answer = "written"
    elif kind == "create":
        with open(path, "x") as file: file.write(rest[0])
        answer = "created"
    elif kind == "list":
        answer = sorted(os.listdir(path))
    elif kind == "stat":
        answer = os.stat(path).st_size
    elif kind == "unlink":
        os.unlink(path); answer = "gone"
    elif kind == "mkdir":
        os.mkdir(path); answer = "made"
    elif kind == "rename":
        os.rename(path, rest[0]); answer = "renamed"
    elif kind == "chmod":
        os.chmod(path, int(rest[0], 8)); answer = "changed"
    elif kind == "follow":
        fd = os.open(path, os.O_RDONLY)
        print("open", flush=True)
        for line in sys.stdin:
            try:
                print(len(os.pread(fd, 10, 0)), flush=True)
            except OSError as error:
                print(errno.errorcode[error.errno], flush=True)
        sys.exit()
except OSError as error:
    answer = errno.errorcode[error.errno]
print(json.dumps(answer))
"""


def _start(user: str, *arguments: object, **more: object) -> subprocess.Popen[str]:
    known = pwd.getpwnam(user)
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", _DO, *map(str, (known.pw_uid, known.pw_gid, *arguments))],
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


def do(user: str, *arguments: object) -> object:
    """What somebody gets: the answer, or the errno's name."""
    with _start(user, *arguments) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[dataplatform.Client]:
    with dataplatform.connect(server.address, patience_s=30) as client:
        yield client


@pytest.fixture
def closed(place: Path) -> Path:
    """A directory of root's that modes close to everybody else, with a file in it."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "f").write_text("secret")
    (closed / "f").chmod(0o600)
    return closed


def test_an_expression_lets_in_whom_modes_keep_out(
    closed: Path, client: dataplatform.Client
) -> None:
    path = f"/{closed.parent.name}/closed"
    assert do(ANA, "read", closed / "f") == "EACCES"
    client.acl.set(path, execute=f"u:{ANA}", read=f"u:{ANA}", list=f"u:{ANA}")
    assert do(ANA, "read", closed / "f") == "secret"
    assert do(ANA, "list", closed) == ["f"]
    for what in ("read", "write", "stat", "unlink"):
        assert do(BOB, what, closed / "f", "x") == "EACCES", what
    assert do(BOB, "list", closed) == "EACCES"
    assert do(ANA, "write", closed / "f", "x") == "EACCES"
    assert do(ANA, "create", closed / "new", "x") == "EACCES"
    assert do(ANA, "unlink", closed / "f") == "EACCES"
    client.acl.set(path, write=f"u:{ANA}", create=f"u:{ANA}", delete=f"u:{ANA}")
    assert do(ANA, "write", closed / "f", "!") == "written"
    assert do(ANA, "create", closed / "new", "x") == "created"
    assert do(ANA, "mkdir", closed / "below") == "made"
    assert do(ANA, "rename", closed / "new", closed / "below" / "newer") == "renamed"
    assert do(ANA, "unlink", closed / "below" / "newer") == "gone"
    assert (closed / "f").read_text() == "secret!"
    assert client.stat(f"{path}/below").uid == pwd.getpwnam(ANA).pw_uid


def test_an_expression_keeps_out_whom_modes_let_in(
    place: Path, client: dataplatform.Client
) -> None:
    (place / "f").write_text("open")
    (place / "f").chmod(0o666)
    assert do(BOB, "read", place / "f") == "open"
    client.acl.set(f"/{place.name}", read=f"!u:{BOB}", delete="")
    assert do(BOB, "read", place / "f") == "EACCES"
    assert do(ANA, "read", place / "f") == "open"
    assert do(ANA, "unlink", place / "f") == "EACCES"
    assert (place / "f").read_text() == "open"  # root acts by its own right
    client.acl.set(f"/{place.name}", unset=["read", "delete"])
    assert do(BOB, "read", place / "f") == "open"


def test_a_withdrawn_right_is_gone_for_an_open_file_within_a_second(
    closed: Path, client: dataplatform.Client
) -> None:
    path = f"/{closed.parent.name}/closed"
    client.acl.set(path, execute="p", read="p")

    def answer() -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("again\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    with _start(ANA, "follow", closed / "f", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "open"
        assert answer() == "6"
        client.acl.set(path, read=f"!u:{ANA}")
        wait_until(lambda: answer() == "EACCES", WITHDRAWN_S, "the right is gone")
        client.acl.set(path, read="p")
        wait_until(lambda: answer() == "6", WITHDRAWN_S, "the right is back")
        assert process.stdin is not None
        process.stdin.close()


def test_a_directory_that_is_moved_comes_under_the_rules_there(
    places: tuple[Path, Path], client: dataplatform.Client
) -> None:
    here, there = places
    for name in ("open", "guarded"):
        (here / name).mkdir()
    (here / "open" / "d").mkdir()
    (here / "open" / "d" / "f").write_text("text")
    client.acl.set(f"/{here.name}/guarded", read=f"u:{ANA}")
    assert do(BOB, "read", there / "open" / "d" / "f") == "text"
    (here / "open" / "d").rename(here / "guarded" / "d")
    for place in places:
        assert do(BOB, "read", place / "guarded" / "d" / "f") == "EACCES"
        assert do(ANA, "read", place / "guarded" / "d" / "f") == "text"
    (here / "guarded" / "d").rename(here / "open" / "d")
    for place in places:
        assert do(BOB, "read", place / "open" / "d" / "f") == "text"


def test_who_changed_something_is_known_by_name(place: Path, client: dataplatform.Client) -> None:
    assert do(ANA, "create", place / "mine", "x") == "created"

    def makers() -> list[str]:
        changes = client.changes(f"/{place.name}")
        return [c.principal for c in changes if c.event == "created" and c.path.endswith("/mine")]

    wait_until(makers, 10, "the change is durable, so it is told")
    assert makers() == [ANA]


def test_a_column_that_somebody_may_not_read_is_not_in_the_row(
    place: Path, client: dataplatform.Client
) -> None:
    table = client.create_table(f"/{place.name}/people")
    table.put("k", {"name": "x", "salary": 5})
    client.acl.set(f"/{place.name}/people", {"read:salary": f"u:{ANA}", "read": "p"})
    row = place / "people" / "k.json"
    assert json.loads(str(do(ANA, "read", row))) == {"name": "x", "salary": 5}
    assert json.loads(str(do(BOB, "read", row))) == {"name": "x"}
    client.acl.set(f"/{place.name}/people", read=f"u:{ANA}")
    assert do(BOB, "read", row) == "EACCES"
    assert do(BOB, "list", place / "people") == "EACCES"


def test_a_stream_is_read_and_written_by_whom_its_expressions_name(
    place: Path, client: dataplatform.Client
) -> None:
    stream = client.create_stream(f"/{place.name}/events")
    stream.create_topic("t", partitions=1)
    client.acl.set(f"/{place.name}/events", produce=f"u:{ANA}", consume=f"u:{BOB}")
    assert do(ANA, "write", place / "events" / "t" / "all", "one\n") == "written"
    assert do(BOB, "write", place / "events" / "t" / "all", "two\n") == "EACCES"
    assert do(BOB, "read", place / "events" / "t" / "0") == "one\n"
    assert do(ANA, "read", place / "events" / "t" / "0") == "EACCES"
    client.remove(f"/{place.name}/events")  # partitions cannot be removed one by one
