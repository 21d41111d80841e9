"""The server under attack, and how to see that it bears it.

While a test attacks, a witness goes on with honest work. In the end: the witness was served and
found what it wrote, memory stayed bounded, nothing was logged as a failure of ours, the server
stops when told to, the check finds nothing, and the server starts again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.base.limits import MIB
from tests.integration.servers import ServerProcess
from tests.wires import FramesWire, GrpcWire

from .messages import Pool

MEMORY_BYTES_MAX = 1024 * MIB
"""Of the server, whatever is sent to it. The budget of frames is 256 MiB, see `ServingLimits`."""

NAMES = ["", "dir", "dir/deep", "f", "g", "dir/h", "large", "link", "loop"] + 3 * [
    "table",
    "stream",
]

FAILURES = re.compile(r"incident=|Traceback|MemoryError|Exception|stopped after a failed write")


class Subject:
    def __init__(self, server: ServerProcess, addresses: dict[str, str], process: psutil.Process):
        self.server = server
        self.addresses = addresses
        self.process = process
        self.memory_bytes_max = 0
        self._authorization = f"Bearer {server.admin_token()}"

    def frames(self, session: bytes = b"frames-16-bytes!") -> FramesWire:
        return FramesWire(self.server.address, session)

    def grpc(self, session: bytes = b"grpc-of-16-bytes") -> GrpcWire:
        return GrpcWire(self.addresses["grpc"], session, self._authorization)

    def sample(self) -> None:
        memory_bytes = self.process.memory_info().rss
        self.memory_bytes_max = max(self.memory_bytes_max, memory_bytes)
        assert memory_bytes < MEMORY_BYTES_MAX, f"the server holds {memory_bytes >> 20} MiB"


@contextmanager
def under_attack(directory: Path) -> Iterator[Subject]:
    """A server that must stand whatever the body of the `with` does to it."""
    server = ServerProcess(directory, "rocks", "--grpc", "127.0.0.1:0", "--listen", "127.0.0.1:0")
    ready = server.start()
    addresses = {name: str(ready.get(name, "")) for name in ("grpc", "frames", "socket")}
    subject = Subject(server, addresses, psutil.Process(int(str(ready["pid"]))))
    try:
        with dataplatform.connect(server.address) as dp, Witness(dp):
            yield subject
            subject.sample()
        assert subject.process.is_running()
        assert server.stop() == 0
        log = server.log.read_text()
        found = FAILURES.search(log)
        assert found is None, log[max(0, found.start() - 500) : found.start() + 3000]
        checked = server.check()
        assert checked.returncode == 0, checked.stdout + checked.stderr
        server.start()
        with dataplatform.connect(server.address) as dp:
            assert dp.read_file("/witness/file") == b"honest"
    finally:
        server.stop()


class Witness:
    """Somebody else's honest work, all the time: a thread that writes a row and reads it again."""

    def __init__(self, dp: dataplatform.Client) -> None:
        self._dp = dp
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._rounds = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            table = self._dp.table("/witness/rows")
            while not self._done.is_set() or self._rounds < 3:
                self._rounds += 1
                table.put("row", {"n": self._rounds})
                row = table.get("row")
                assert row is not None
                assert row.columns == {"n": self._rounds}
                assert self._dp.read_file("/witness/file") == b"honest"
                self._done.wait(0.01)
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Witness:
        for number in range(8):  # so that the number of its volume is not one of the first
            self._dp.mkdir(f"/first/{number}", parents=True)
        self._dp.create_volume("/witness")
        self._dp.write_file("/witness/file", b"honest")
        self._dp.create_table("/witness/rows")
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._done.set()
        self._thread.join(60)
        if error is None:
            assert not self._thread.is_alive(), "the witness is not served"
            if self._error is not None:
                raise self._error


def lift_quotas(wire: FramesWire) -> None:
    """Whatever the attack has set: honest work needs room."""
    unlimited = pb.VolumeSettings(quota_bytes=0, quota_entries=0)
    limits = pb.QuotaLimits(quota_bytes=0, quota_entries=0)
    for volume in wire.call("Volumes.List", pb.Empty()).volumes:
        target = pb.Target(volume=volume.volume)
        outcome = wire.call("Volumes.Set", pb.VolumeRequest(target=target, settings=unlimited))
        assert isinstance(outcome, pb.VolumeInfo), outcome
        for quota in wire.call("Quotas.List", pb.QuotaRequest(target=target)).quotas:
            at = pb.Target(path=quota.path)
            wire.call("Quotas.Set", pb.QuotaRequest(target=at, limits=limits))


def furnish(subject: Subject, base: str) -> Pool:
    """Something of everything below the new directory `base`, and in a volume there."""
    pool = Pool(base)
    wire = subject.frames()
    lift_quotas(wire)
    with dataplatform.connect(subject.server.address) as dp:
        dp.mkdir(base)
        dp.create_volume(f"{base}/volume")
        for at in (base, f"{base}/volume"):
            dp.mkdir(f"{at}/dir/deep", parents=True)
            for name in ("f", "g", "dir/h"):
                dp.write_file(f"{at}/{name}", b"content" * 1000)
            dp.write_file(f"{at}/large", b"large" * 100_000)
            dp.create_table(f"{at}/table").put("old", {"n": 1})
            dp.create_stream(f"{at}/stream").append("topic", b"0")
            with dp.transaction(at) as tx:
                tx.stream("stream").commit_offset("g", "topic", partition=0, offset=1)
            for name in ("f", "g", "dir"):
                there = pb.Target(path=f"{at}/{name}")
                wire.call("Namespace.SetXattr", pb.XattrRequest(target=there, name="user.a"))
            dp.symlink("dir", f"{at}/link")
            dp.symlink("loop", f"{at}/loop")
            pool.paths += [f"{at}/{name}".rstrip("/") for name in NAMES]
    for path in pool.paths:
        node = wire.call("Namespace.Stat", pb.StatRequest(target=pb.Target(path=path)))
        pool.inodes.append((node.volume, node.inode))
    pool.inodes += [(0, 1), (1, 10**9), (99, 1)]
    wire.close()
    return pool
