"""A disk that fails one write or one sync, or a read, below a real server.

What must hold: the failed call is an error of the right kind; nothing is acknowledged on the
strength of a retry, so the volume takes no further write until the server was restarted; reads and
other volumes go on; after the restart everything acknowledged is there, and `check` finds nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dataplatform
from dataplatform.base.errors import ErrorKind, PlatformError

from .disks import FailingServer, build_shim

LARGE = 100_000
SHORT_PATIENCE_S = 0.5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def server(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FailingServer]:
    server = FailingServer(tmp_path, library, monkeypatch)
    server.start()
    yield server
    server.kill()


def connect(server: FailingServer) -> dataplatform.Client:
    return dataplatform.connect(server.address, patience_s=SHORT_PATIENCE_S)


Write = Callable[[dataplatform.Client, int], None]


def put(dp: dataplatform.Client, number: int) -> None:
    dp.table("/vol/table").put(f"k{number}", {"n": number})


def append(dp: dataplatform.Client, number: int) -> None:
    dp.stream("/vol/stream").append("t", b"%d" % number)


def write(dp: dataplatform.Client, number: int) -> None:
    dp.write_file(f"/vol/file{number}", b"%d" % number * LARGE, durable=True)


FAULTS: list[tuple[str, str, int, Write]] = [
    ("write", "db/", errno.EIO, put),
    ("write", "db/", errno.ENOSPC, put),
    ("sync", "db/", errno.EIO, put),
    ("sync", "db/", errno.EIO, append),
    ("sync", "db/", errno.EIO, write),
    ("sync", "db/", errno.ENOSPC, put),
    ("write", "segments/", errno.EIO, write),
    ("write", "segments/", errno.ENOSPC, write),
    ("sync", "segments/", errno.EIO, write),
    ("sync", "segments", errno.EIO, write),
]


@pytest.mark.parametrize(
    "fault",
    FAULTS,
    ids=lambda f: f"{f[0]}-{f[1].strip('/')}-{errno.errorcode[f[2]]}-{f[3].__name__}",
)
def test_one_failure(server: FailingServer, fault: tuple[str, str, int, Write]) -> None:
    call, match, value, work = fault
    with connect(server) as dp:
        dp.create_volume("/vol")
        dp.create_volume("/other")
        dp.create_table("/vol/table")
        dp.create_table("/other/table")
        dp.create_stream("/vol/stream")
        volume = dp.volume_info("/vol").volume
        for number in range(3):
            for each in (put, append, write):
                each(dp, number)
        server.plan(call, f"volumes/{volume}/{match}", 1, value)
        with pytest.raises(PlatformError) as caught:
            work(dp, 3)
        assert server.struck
        kinds = (ErrorKind.EXHAUSTED,) if value == errno.ENOSPC else ()
        assert caught.value.kind in (*kinds, ErrorKind.UNAVAILABLE, ErrorKind.CORRUPT), caught.value
        # The disk works again; what failed is not known to be there, so nothing is acknowledged.
        acknowledged = _acknowledged(dp, work)
        if call == "sync" or match == "db/":
            assert not acknowledged, "acknowledged on the strength of a retry"
        _read(dp, 3)
        dp.table("/other/table").put("k", {"n": 1})
    server.kill()
    server.start()
    with connect(server) as dp:
        _read(dp, 3)
        if acknowledged:
            assert dp.read_file("/vol/file4") == b"4" * LARGE
        assert dp.table("/other/table").get("k").columns == {"n": 1}  # type: ignore[union-attr]
        for each in (put, append, write):
            each(dp, 5)
        assert not dp.check().findings


def _acknowledged(dp: dataplatform.Client, work: Write) -> bool:
    try:
        work(dp, 4)
    except PlatformError as error:
        if error.kind is not ErrorKind.UNAVAILABLE:
            raise
        return False
    return True


def _read(dp: dataplatform.Client, count: int) -> None:
    """What was acknowledged is there, in all three kinds."""
    table = dp.table("/vol/table")
    for number in range(count):
        assert table.get(f"k{number}").columns == {"n": number}  # type: ignore[union-attr]
        assert dp.read_file(f"/vol/file{number}") == b"%d" % number * LARGE
    with dp.stream("/vol/stream").consumer("t", start="earliest", follow=False) as consumer:
        assert [r.value for r in consumer][:count] == [b"%d" % n for n in range(count)]


@pytest.mark.parametrize("match", ["db/", "segments/"])
def test_short_writes(server: FailingServer, match: str) -> None:
    """A short write is no failure: the rest is written by a second call."""
    with connect(server) as dp:
        dp.create_volume("/vol")
        dp.create_table("/vol/table")
        volume = dp.volume_info("/vol").volume
        for number in range(5):
            server.plan("short", f"volumes/{volume}/{match}")
            put(dp, number)
            write(dp, number)
            assert server.struck
    server.kill()
    server.start()
    with connect(server) as dp:
        for number in range(5):
            assert dp.table("/vol/table").get(f"k{number}") is not None
            assert dp.read_file(f"/vol/file{number}") == b"%d" % number * LARGE
        assert not dp.check().findings


def test_an_unreadable_sector(server: FailingServer) -> None:
    """A read that fails once is tried again, and is about nothing else."""
    with connect(server) as dp:
        dp.create_volume("/vol")
        write(dp, 1)
        write(dp, 2)
        volume = dp.volume_info("/vol").volume
        # A read is tried twice, as compaction may have moved the bytes.
        server.plan("read", f"volumes/{volume}/segments/", 1, errno.EIO)
        assert dp.read_file("/vol/file1") == b"1" * LARGE
        assert server.struck
        assert dp.read_file("/vol/file2") == b"2" * LARGE
        write(dp, 3)
        assert not dp.check().findings
